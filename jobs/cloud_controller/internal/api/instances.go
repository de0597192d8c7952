package api

import (
	"cmp"
	"context"
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
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// States of an index that no DEA has.
const (
	stateFlapping = "FLAPPING"
	stateDown     = "DOWN"
)

type instanceInfo struct {
	Index       int     `json:"index"`
	State       string  `json:"state"`
	Since       int64   `json:"since"`
	DebugIP     *string `json:"debug_ip"`
	DebugPort   *int    `json:"debug_port"`
	ConsoleIP   *string `json:"console_ip"`
	ConsolePort *int    `json:"console_port"`
}

// getInstances lists the state of each index of an app.
func (s *Server) getInstances(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	list := []instanceInfo{}
	if app.State == store.Started {
		var err error
		if list, err = s.instances(r.Context(), app); err != nil {
			return err
		}
	}
	rest.WriteJSON(w, http.StatusOK, map[string]any{"instances": list})
	return nil
}

func (s *Server) instances(ctx context.Context, app store.App) ([]instanceInfo, error) {
	flapping := map[int]int64{}
	err := s.Placer.HealthStatus(ctx, wire.HealthStatusRequest{Droplet: model.ID(app), Version: model.Version(app), State: wire.StatusFlapping}, func(data []byte) error {
		answer, err := wire.ParseFlappingIndices(data)
		for _, f := range answer.Indices {
			if f.Index >= 0 && f.Index < app.Instances {
				flapping[f.Index] = f.Since
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	found := map[int]wire.DEAFound{}
	version, err := s.version(ctx, app)
	if err != nil {
		return nil, err
	}
	if expected := app.Instances - len(flapping); expected > 0 {
		if version == "" {
			expected *= 2
		}
		answers, err := s.Placer.Find(ctx, wire.DEAFind{Droplet: model.ID(app), InstanceFilter: wire.InstanceFilter{
			Version: version, States: []string{wire.StateStarting, wire.StateRunning},
		}}, expected)
		if err != nil {
			return nil, err
		}
		for _, f := range answers {
			if known, ok := found[f.Index]; !ok || known.State != wire.StateRunning {
				found[f.Index] = f
			}
		}
	}
	list := []instanceInfo{}
	for index := range app.Instances {
		if since, ok := flapping[index]; ok {
			list = append(list, instanceInfo{Index: index, State: stateFlapping, Since: since})
			continue
		}
		f, ok := found[index]
		if !ok {
			list = append(list, instanceInfo{Index: index, State: stateDown, Since: time.Now().Unix()})
			continue
		}
		list = append(list, instanceInfo{
			Index: index, State: f.State, Since: f.StateTimestamp,
			DebugIP: f.DebugIP, DebugPort: f.DebugPort, ConsoleIP: f.ConsoleIP, ConsolePort: f.ConsolePort,
		})
	}
	return list, nil
}

// getStats lists the usage of each running instance.
func (s *Server) getStats(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	type stats struct {
		State string              `json:"state"`
		Since int64               `json:"since,omitempty"`
		Stats *wire.InstanceStats `json:"stats,omitempty"`
	}
	doc := map[string]stats{}
	if app.State == store.Started && app.Instances > 0 {
		version, err := s.version(r.Context(), app)
		if err != nil {
			return err
		}
		answers, err := s.Placer.Find(r.Context(), wire.DEAFind{Droplet: model.ID(app), IncludeStats: true, InstanceFilter: wire.InstanceFilter{
			Version: version, States: []string{wire.StateRunning},
		}}, app.Instances)
		if err != nil {
			return err
		}
		for _, f := range answers {
			if f.Index >= 0 && f.Index < app.Instances {
				doc[strconv.Itoa(f.Index)] = stats{State: f.State, Stats: f.Stats}
			}
		}
		for index := range app.Instances {
			if key := strconv.Itoa(index); doc[key].State == "" {
				doc[key] = stats{State: stateDown, Since: time.Now().Unix()}
			}
		}
	}
	rest.WriteJSON(w, http.StatusOK, doc)
	return nil
}

// getCrashes lists the instances that have crashed.
func (s *Server) getCrashes(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	crashes := []wire.CrashedInstance{}
	err := s.Placer.HealthStatus(r.Context(), wire.HealthStatusRequest{Droplet: model.ID(app), State: wire.StatusCrashed}, func(data []byte) error {
		answer, err := wire.ParseCrashedInstances(data)
		crashes = append(crashes, answer.Instances...)
		return err
	})
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, map[string]any{"crashes": crashes})
	return nil
}

// ended are the states of instances of which only files are left.
var ended = []string{wire.StateCrashed, wire.StateStopped}

// getEnded lists the instances whose logs are kept although they have crashed or were
// stopped, the oldest first.
func (s *Server) getEnded(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
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
func (s *Server) getFiles(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
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
	case len(request.Instances) > 0:
		states = append(states, ended)
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

func (s *Server) getStagingLog(w http.ResponseWriter, r *http.Request, app store.App) error {
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
func (s *Server) passFile(w http.ResponseWriter, r *http.Request, f wire.DEAFound, name string) error {
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
