package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// States of an app and of instances.
const (
	Started  = "STARTED"
	Stopped  = "STOPPED"
	Starting = "STARTING"
	Running  = "RUNNING"
	Down     = "DOWN"
	Flapping = "FLAPPING"
)

// App is an app as the controller describes it.
type App struct {
	Name             string    `json:"name"`
	Staging          Staging   `json:"staging"`
	URIs             []string  `json:"uris"`
	Instances        int       `json:"instances"`
	RunningInstances *int      `json:"runningInstances,omitempty"` // nil: unknown
	Resources        Resources `json:"resources"`
	State            string    `json:"state"`
	Services         []string  `json:"services"`
	Version          string    `json:"version,omitempty"`
	Env              []string  `json:"env"` // "K=V"
	Meta             Meta      `json:"meta"`
	Health           *Health   `json:"health,omitempty"` // nil: a controller that knows none
	// Package is for a start: what Upload has returned. If the app has other files by
	// now, the start is refused. "": whatever it has.
	Package string `json:"package,omitempty"`
}

// Health says when an instance counts as running; what is zero is the cloud's
// choice.
type Health struct {
	Type     string `json:"type"`     // port, http, process, file
	Endpoint string `json:"endpoint"` // of http: a path; of file: its name
	Timeout  int    `json:"timeout"`  // that a start may take, seconds
}

// Staging is an app's kind: framework and runtime, in the names that come back.
type Staging struct {
	Framework string `json:"model"`
	Runtime   string `json:"stack"`
}

// Resources are an instance's limits; 0: the controller's default.
type Resources struct {
	Memory int `json:"memory,omitempty"` // MB
	Disk   int `json:"disk,omitempty"`   // MB
	FDs    int `json:"fds,omitempty"`
}

// Meta describes what else is known of an app.
type Meta struct {
	Debug   *string `json:"debug"`
	Console *bool   `json:"console"`
	Command string  `json:"command,omitempty"`
	// Version is the optimistic lock.
	Version int   `json:"version,omitempty"`
	Created int64 `json:"created,omitempty"` // Unix seconds
}

// Apps lists the user's.
func (c *Client) Apps(ctx context.Context) ([]App, error) {
	var apps []App
	err := c.get(ctx, &apps, "apps")
	return apps, err
}

// App describes one.
func (c *Client) App(ctx context.Context, name string) (App, error) {
	var app App
	err := c.get(ctx, &app, "apps", name)
	return app, named(err, name)
}

// named says which app is not there.
func named(err error, app string) error {
	if Is(err, CodeAppNotFound) {
		return fmt.Errorf("app %q: %w", app, err)
	}
	return err
}

// NewApp describes an app that is to be made.
type NewApp struct {
	Name      string
	Framework string
	Runtime   string // "": the framework's default
	Command   string
	URIs      []string
	Instances int
	Resources Resources
}

// CreateApp makes an app without files, stopped.
func (c *Client) CreateApp(ctx context.Context, app NewApp) error {
	type staging struct {
		Framework string  `json:"framework"`
		Runtime   *string `json:"runtime"`
		Command   string  `json:"command,omitempty"`
	}
	body := struct {
		Name      string    `json:"name"`
		Staging   staging   `json:"staging"`
		URIs      []string  `json:"uris"`
		Instances int       `json:"instances"`
		Resources Resources `json:"resources"`
	}{app.Name, staging{app.Framework, nil, app.Command}, app.URIs, app.Instances, app.Resources}
	if app.Runtime != "" {
		body.Staging.Runtime = &app.Runtime
	}
	if body.URIs == nil {
		body.URIs = []string{}
	}
	return c.call(ctx, true, http.MethodPost, body, nil, "apps")
}

// changeTries is the number of times that a change is made again which met another one.
const changeTries = 5

// ChangeApp changes an app's description. If someone else changes it at the same
// time, change is applied to what that one left. Starting an app returns when it
// is staged.
func (c *Client) ChangeApp(ctx context.Context, name string, change func(*App) error) error {
	_, err := ChangeInstances(ctx, c, name, change)
	return err
}

// ChangeInstances is ChangeApp for changes that start instances. It returns why some of
// them have to wait; "": none has, or the controller does not say.
func ChangeInstances(ctx context.Context, c *Client, name string, change func(*App) error) (noRoom string, err error) {
	for try := 1; ; try++ {
		app, err := c.App(ctx, name)
		if err != nil {
			return "", err
		}
		if err := change(&app); err != nil {
			return "", err
		}
		app.RunningInstances = nil
		var answer []byte
		// Not again by itself: after a cut answer the lock would be another one.
		err = c.call(ctx, true, http.MethodPut, app, &answer, "apps", name)
		if err == nil || try == changeTries || ctx.Err() != nil {
			var said struct {
				NoRoom string `json:"no_room"`
			}
			_ = json.Unmarshal(answer, &said) // the original's answers are empty
			return said.NoRoom, err
		}
		if !Is(err, CodeLocked) && !again(request{}, err) {
			return "", err
		}
		if c.Retrying != nil {
			c.Retrying(err)
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(time.Duration(try) * 200 * time.Millisecond):
		}
	}
}

// DeleteApp removes an app.
func (c *Client) DeleteApp(ctx context.Context, name string) error {
	made := 0
	res, err := c.do(ctx, request{method: http.MethodDelete, path: []string{"apps", name}, made: &made})
	if err == nil {
		return res.Body.Close()
	}
	if made > 1 && Is(err, CodeAppNotFound) {
		return nil // an earlier try did it, though its answer was lost
	}
	return named(err, name)
}

// Resource is a file of an app.
type Resource struct {
	Size int64  `json:"size"`
	SHA1 string `json:"sha1"`
	Name string `json:"fn"` // relative path
}

// MatchResources returns those whose content the controller has.
func (c *Client) MatchResources(ctx context.Context, resources []Resource) ([]Resource, error) {
	var known []Resource
	err := c.call(ctx, false, http.MethodPost, resources, &known, "resources")
	return known, err
}

// Upload gives an app its files: those of a zip archive ("": none) and known ones
// of MatchResources. progress, if set, is told how many bytes of the archive are
// on their way. The sha1 is that of the package that was made, by which two pushes at
// once are told apart; "" from controllers that do not say.
func (c *Client) Upload(ctx context.Context, app, archive string, known []Resource, progress func(sent int64)) (sha1 string, err error) {
	if known == nil {
		known = []Resource{}
	}
	list, err := json.Marshal(known)
	if err != nil {
		return "", err
	}
	var head strings.Builder
	form := multipart.NewWriter(&head)
	err = errors.Join(form.WriteField("_method", "put"), form.WriteField("resources", string(list)))
	var file *os.File
	var size int64
	tail := "\r\n--" + form.Boundary() + "--\r\n"
	if archive != "" {
		if file, err = os.Open(archive); err != nil {
			return "", err
		}
		defer file.Close()
		info, statErr := file.Stat()
		if statErr != nil {
			return "", statErr
		}
		size = info.Size()
		_, err = form.CreateFormFile("application", "application.zip")
	}
	if err != nil {
		return "", err
	}
	res, err := c.do(ctx, request{
		method: http.MethodPost, path: []string{"apps", app, "application"},
		header: http.Header{"Content-Type": {form.FormDataContentType()}},
		body: func() (io.Reader, int64) {
			parts := []io.Reader{strings.NewReader(head.String())}
			if file != nil {
				parts = append(parts, &counter{in: io.NewSectionReader(file, 0, size), progress: progress})
			}
			return io.MultiReader(append(parts, strings.NewReader(tail))...), int64(head.Len()) + size + int64(len(tail))
		},
	})
	if err != nil {
		return "", named(err, app)
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.Header.Get("X-App-Package"), err
}

// counter tells how much was read.
type counter struct {
	in       io.Reader
	read     int64
	progress func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.read += int64(n)
	if c.progress != nil {
		c.progress(c.read)
	}
	return n, err
}

// Instance is one index of an app.
type Instance struct {
	Index int    `json:"index"`
	State string `json:"state"`
	Since int64  `json:"since"` // Unix seconds
}

// Instances describes all indices of a started app.
func (c *Client) Instances(ctx context.Context, app string) ([]Instance, error) {
	var answer struct {
		Instances []Instance `json:"instances"`
	}
	err := c.get(ctx, &answer, "apps", app, "instances")
	slices.SortFunc(answer.Instances, func(a, b Instance) int { return a.Index - b.Index })
	return answer.Instances, named(err, app)
}

// InstanceStats describes what an instance uses.
type InstanceStats struct {
	Index int    `json:"index"`
	State string `json:"state"`
	Stats *struct {
		Host      string  `json:"host"`
		Port      int     `json:"port"`
		Uptime    float64 `json:"uptime"` // s
		MemQuota  int64   `json:"mem_quota"`
		DiskQuota int64   `json:"disk_quota"`
		Cores     int     `json:"cores"`
		Usage     *struct {
			CPU  float64 `json:"cpu"`  // %
			Mem  float64 `json:"mem"`  // KiB
			Disk float64 `json:"disk"` // bytes
		} `json:"usage"`
	} `json:"stats,omitempty"`
}

// Stats describes what the instances of a started app use.
func (c *Client) Stats(ctx context.Context, app string) ([]InstanceStats, error) {
	var answer map[string]InstanceStats
	if err := c.get(ctx, &answer, "apps", app, "stats"); err != nil {
		return nil, named(err, app)
	}
	stats := []InstanceStats{}
	for index, one := range answer {
		var err error
		if one.Index, err = strconv.Atoi(index); err != nil {
			return nil, fmt.Errorf("the controller reports an instance %q, which is not a number", index)
		}
		stats = append(stats, one)
	}
	slices.SortFunc(stats, func(a, b InstanceStats) int { return a.Index - b.Index })
	return stats, nil
}

// Event is something that was done to an app.
type Event struct {
	At    int64  `json:"at"` // Unix seconds
	Actor string `json:"actor"`
	Text  string `json:"text"`
}

// Events lists what was done to an app, the latest last.
func (c *Client) Events(ctx context.Context, app string) ([]Event, error) {
	var answer struct {
		Events []Event `json:"events"`
	}
	err := c.get(ctx, &answer, "apps", app, "events")
	return answer.Events, named(err, app)
}

// Request is one that an instance of an app was asked, by way of a router.
type Request struct {
	At     time.Time `json:"at"`
	ID     string    `json:"id"`
	Client string    `json:"client"`
	Method string    `json:"method"`
	Host   string    `json:"host"`
	URI    string    `json:"uri"`
	Status int       `json:"status"` // 0: the client left before it was known
	Bytes  int64     `json:"bytes"`
	Took   float64   `json:"ms"`
	Index  string    `json:"index"` // of the instance
}

// Requests lists the last requests to an app that the routers remember, the latest
// last. silent is how many routers have not told theirs.
func (c *Client) Requests(ctx context.Context, app string) (requests []Request, silent int, err error) {
	var answer struct {
		Requests []Request `json:"requests"`
		Silent   int       `json:"silent_routers"`
	}
	err = c.get(ctx, &answer, "apps", app, "requests")
	return answer.Requests, answer.Silent, named(err, app)
}

// Crash is an instance that ended by itself.
type Crash struct {
	Instance string `json:"instance"` // its id
	Since    int64  `json:"since"`    // Unix seconds
	Version  string `json:"version"`  // "": the controller does not say
}

// Crashes lists them, the latest last.
func (c *Client) Crashes(ctx context.Context, app string) ([]Crash, error) {
	var answer struct {
		Crashes []Crash `json:"crashes"`
	}
	err := c.get(ctx, &answer, "apps", app, "crashes")
	slices.SortStableFunc(answer.Crashes, func(a, b Crash) int { return int(a.Since - b.Since) })
	return answer.Crashes, named(err, app)
}

// Ended is an instance that runs no more and whose logs are kept.
type Ended struct {
	Instance string `json:"instance"`
	Index    int    `json:"index"`
	State    string `json:"state"` // CRASHED or STOPPED
	Since    int64  `json:"since"` // Unix seconds
	Version  string `json:"version"`
}

// Ended lists the instances that have crashed or were stopped, the latest last. Clouds
// of 2012 do not know it.
func (c *Client) Ended(ctx context.Context, app string) ([]Ended, error) {
	var answer struct {
		Ended []Ended `json:"ended"`
	}
	err := c.get(ctx, &answer, "apps", app, "ended")
	return answer.Ended, named(err, app)
}

// File opens a file of an instance (an index or an id of Crashes or Ended), or the list of
// a folder, from offset on. The caller closes it.
func (c *Client) File(ctx context.Context, app, instance, path string, offset int64) (io.ReadCloser, error) {
	r := request{method: http.MethodGet, path: []string{"apps", app, "instances", instance, "files"}, header: http.Header{"Accept": {"*/*"}}}
	if path = strings.TrimPrefix(path, "/"); path != "" {
		r.path = append(r.path, "/"+path)
	}
	if offset > 0 {
		r.header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	res, err := c.do(ctx, r)
	if err != nil {
		return nil, named(err, app)
	}
	if offset > 0 && res.StatusCode != http.StatusPartialContent {
		// Not every DEA knows parts of files.
		if _, err := io.CopyN(io.Discard, res.Body, offset); err != nil && !errors.Is(err, io.EOF) {
			res.Body.Close()
			return nil, err
		}
	}
	return res.Body, nil
}
