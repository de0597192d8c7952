package api

import (
	"cmp"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// filesServer answers requests for files of instances.
type filesServer struct{ *Server }

// ended are the states of instances of which only files are left.
var ended = []string{wire.StateCrashed, wire.StateStopped}

// getEnded lists the instances whose logs are kept although they have crashed or were
// stopped, the oldest first.
func (s filesServer) getEnded(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	type document struct {
		Instance string `json:"instance"`
		Index    int    `json:"index"`
		State    string `json:"state"` // CRASHED or STOPPED
		Since    int64  `json:"since"` // Unix seconds
		Version  string `json:"version"`
	}
	answers, err := s.Placer.Find(r.Context(), wire.DEAFind{Droplet: model.ID(app), InstanceFilter: wire.InstanceFilter{States: ended}}, math.MaxInt)
	if err != nil {
		return err
	}
	list := []document{}
	for _, f := range answers {
		if slices.Contains(ended, f.State) && f.Staged != nil {
			list = append(list, document{f.Instance, f.Index, f.State, f.StateTimestamp, f.Version})
		}
	}
	slices.SortFunc(list, func(a, b document) int {
		return cmp.Or(cmp.Compare(a.Since, b.Since), cmp.Compare(a.Instance, b.Instance))
	})
	rest.WriteJSON(w, http.StatusOK, map[string]any{"ended": list})
	return nil
}

var indexText = regexp.MustCompile(`^[0-9]{1,10}$`)

// getFiles passes on a file or folder of an instance from the DEA that has it.
func (s filesServer) getFiles(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	name := strings.TrimLeft(r.PathValue("path"), "/")
	if name == "logs/staging.log" {
		return s.getStagingLog(w, r, app)
	}
	which := r.PathValue("instance")
	request := wire.DEAFind{Droplet: model.ID(app)}
	if indexText.MatchString(which) {
		index, err := strconv.Atoi(which)
		if err != nil || index >= app.Instances {
			return model.ErrNoInstance(which)
		}
		if request.Version, err = s.version(r.Context(), app); err != nil {
			return err
		}
		request.Indices = []int{index}
		request.States = []string{wire.StateStarting, wire.StateRunning}
	} else {
		request.Instances = []string{which}
	}
	states := [][]string{request.States}
	if len(request.Indices) > 0 {
		// Why an instance has crashed is asked most often when none runs.
		states = append(states, []string{wire.StateCrashed})
	}
	none, expected := model.ErrNoInstance(which), 1
	switch {
	case app.State != store.Started:
		// Of all that have ended the newest is wanted, whatever its version was.
		states, none, request.Version = [][]string{ended}, model.ErrAppStopped, ""
		if len(request.Indices) > 0 {
			expected = math.MaxInt
		}
	case len(request.Instances) > 0: // in one request: who has none does not answer
		states = [][]string{append([]string{wire.StateStarting, wire.StateRunning}, ended...)}
	}
	for _, request.States = range states {
		answers, err := s.Placer.Find(r.Context(), request, expected)
		if err != nil {
			return err
		}
		slices.SortStableFunc(answers, func(a, b wire.DEAFound) int { return cmp.Compare(b.StateTimestamp, a.StateTimestamp) })
		for _, f := range answers {
			// A DEA that does not read the filter answers for others.
			if f.Staged != nil && (len(request.Indices) > 0 && f.Index == request.Indices[0] || f.Instance == which) {
				return s.passFile(w, r, f, name)
			}
		}
	}
	return none
}

func (s filesServer) getStagingLog(w http.ResponseWriter, r *http.Request, app store.App) error {
	log, err := s.Store.StagingLog(r.Context(), app.ID)
	if errors.Is(err, store.ErrNotFound) {
		return model.ErrFile("logs/staging.log")
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, log) // the client may be gone
	return nil
}

// passFile fetches from the DEA's file server and streams.
func (s filesServer) passFile(w http.ResponseWriter, r *http.Request, f wire.DEAFound, name string) error {
	base, err := url.Parse(f.FileURI)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" {
		return model.ErrFile(name)
	}
	at := base.JoinPath(*f.Staged, "/")
	at.Path = strings.TrimSuffix(at.Path, "/") + path.Join("/", name)
	at.RawPath = ""
	if (name == "" || strings.HasSuffix(name, "/")) && !strings.HasSuffix(at.Path, "/") {
		at.Path += "/"
	}
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, at.String(), nil)
	if err != nil {
		return model.ErrFile(name)
	}
	request.SetBasicAuth(f.Credentials[0], f.Credentials[1])
	if ranges := r.Header.Get("Range"); ranges != "" {
		request.Header.Set("Range", ranges)
	}
	answer, err := s.Client.Do(request)
	if err != nil {
		s.Log.Warn("cannot get a file from a DEA", "dea", f.DEA, "instance", f.Instance, "error", err)
		return model.ErrFile(name)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusPartialContent {
		return model.ErrFile(name)
	}
	for _, header := range []string{"Content-Length", "Content-Range", "Accept-Ranges"} {
		if v := answer.Header.Get(header); v != "" {
			w.Header().Set(header, v)
		}
	}
	// Nothing of an app is shown as what it says it is.
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, answer.Body) // either end may be gone
	return nil
}
