package cloudcontroller

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

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

// getInstances says how each index of an app is.
func (c *Controller) getInstances(w http.ResponseWriter, r *http.Request, _ account, app store.App) error {
	list := []instanceInfo{}
	if app.State == store.Started {
		var err error
		if list, err = c.instances(r.Context(), app); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"instances": list})
	return nil
}

func (c *Controller) instances(ctx context.Context, app store.App) ([]instanceInfo, error) {
	flapping := map[int]int64{}
	err := c.healthStatus(ctx, wire.HealthStatusRequest{Droplet: appID(app), Version: version(app), State: wire.StatusFlapping}, func(data []byte) error {
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
	if expected := app.Instances - len(flapping); expected > 0 {
		answers, err := c.find(ctx, wire.DEAFind{Droplet: appID(app), InstanceFilter: wire.InstanceFilter{
			Version: version(app), States: []string{wire.StateStarting, wire.StateRunning},
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

// getStats says what each running instance uses.
func (c *Controller) getStats(w http.ResponseWriter, r *http.Request, _ account, app store.App) error {
	type stats struct {
		State string              `json:"state"`
		Since int64               `json:"since,omitempty"`
		Stats *wire.InstanceStats `json:"stats,omitempty"`
	}
	doc := map[string]stats{}
	if app.State == store.Started && app.Instances > 0 {
		answers, err := c.find(r.Context(), wire.DEAFind{Droplet: appID(app), IncludeStats: true, InstanceFilter: wire.InstanceFilter{
			Version: version(app), States: []string{wire.StateRunning},
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
	writeJSON(w, http.StatusOK, doc)
	return nil
}

// getCrashes lists the instances that have crashed.
func (c *Controller) getCrashes(w http.ResponseWriter, r *http.Request, _ account, app store.App) error {
	crashes := []wire.CrashedInstance{}
	err := c.healthStatus(r.Context(), wire.HealthStatusRequest{Droplet: appID(app), State: wire.StatusCrashed}, func(data []byte) error {
		answer, err := wire.ParseCrashedInstances(data)
		crashes = append(crashes, answer.Instances...)
		return err
	})
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"crashes": crashes})
	return nil
}

var indexText = regexp.MustCompile(`^[0-9]{1,10}$`)

// getFiles passes on a file or folder of an instance from the DEA that has it.
func (c *Controller) getFiles(w http.ResponseWriter, r *http.Request, _ account, app store.App) error {
	name := strings.TrimLeft(r.PathValue("path"), "/")
	if name == "logs/staging.log" {
		return c.getStagingLog(w, r, app)
	}
	if app.State != store.Started {
		return errAppStopped
	}
	which := r.PathValue("instance")
	request := wire.DEAFind{Droplet: appID(app)}
	if indexText.MatchString(which) {
		index, err := strconv.Atoi(which)
		if err != nil || index >= app.Instances {
			return errNoInstance(which)
		}
		request.Version, request.Indices = version(app), []int{index}
		request.States = []string{wire.StateStarting, wire.StateRunning}
	} else {
		request.Instances = []string{which}
	}
	answers, err := c.find(r.Context(), request, 1)
	if err != nil {
		return err
	}
	for _, f := range answers {
		// A DEA that does not read the filter answers for others.
		if f.Staged != nil && (len(request.Indices) > 0 && f.Index == request.Indices[0] || f.Instance == which) {
			return c.passFile(w, r, f, name)
		}
	}
	return errNoInstance(which)
}

func (c *Controller) getStagingLog(w http.ResponseWriter, r *http.Request, app store.App) error {
	log, err := c.store.StagingLog(r.Context(), app.ID)
	if errors.Is(err, store.ErrNotFound) {
		return errFile("logs/staging.log")
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, log) // the client may be gone
	return nil
}

// passFile fetches from the DEA's file server and streams.
func (c *Controller) passFile(w http.ResponseWriter, r *http.Request, f wire.DEAFound, name string) error {
	base, err := url.Parse(f.FileURI)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" {
		return errFile(name)
	}
	at := base.JoinPath(*f.Staged, "/")
	at.Path = strings.TrimSuffix(at.Path, "/") + path.Join("/", name)
	at.RawPath = ""
	if (name == "" || strings.HasSuffix(name, "/")) && !strings.HasSuffix(at.Path, "/") {
		at.Path += "/"
	}
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, at.String(), nil)
	if err != nil {
		return errFile(name)
	}
	request.SetBasicAuth(f.Credentials[0], f.Credentials[1])
	if ranges := r.Header.Get("Range"); ranges != "" {
		request.Header.Set("Range", ranges)
	}
	answer, err := c.client.Do(request)
	if err != nil {
		c.base.Log().Warn("cannot get a file from a DEA", "dea", f.DEA, "instance", f.Instance, "error", err)
		return errFile(name)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusPartialContent {
		return errFile(name)
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
