package cloudcontroller

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// What an app has unless its owner says otherwise. vmc always says memory and
// instances.
const (
	defaultMemory    = 256 // MB
	defaultDisk      = 2048
	defaultFDs       = 256
	defaultInstances = 1
)

// Bounds that no account's capacity sets.
const (
	maxInstances = 10_000
	maxMemory    = 1 << 20 // MB, of one instance
	maxDisk      = 1 << 20 // MB
	maxFDs       = 1 << 20
	maxEnv       = 256 << 10 // bytes: it travels in messages
	maxCommand   = 16 << 10
)

var appName = regexp.MustCompile(`^[\w-]{1,255}$`)

// appRequest is an app as clients describe it: when it is created, or as it was
// read, edited. What is absent stays as it is.
type appRequest struct {
	Name    *string `json:"name"`
	Staging *struct {
		Framework *string `json:"framework"`
		Model     *string `json:"model"` // framework, as it is read
		Runtime   *string `json:"runtime"`
		Stack     *string `json:"stack"` // runtime, as it is read
		Command   *string `json:"command"`
	} `json:"staging"`
	URIs      *[]string `json:"uris"`
	Instances *number   `json:"instances"`
	Resources *struct {
		Memory *number `json:"memory"`
		Disk   *number `json:"disk"`
		FDs    *number `json:"fds"`
	} `json:"resources"`
	State    *string         `json:"state"`
	Env      *[]string       `json:"env"`
	Services *[]string       `json:"services"`
	Debug    json.RawMessage `json:"debug"`
	Console  json.RawMessage `json:"console"`
	Meta     *struct {
		Version *number `json:"version"`
		Command *string `json:"command"`
	} `json:"meta"`
}

// number is a whole number, which some manifests have as a string.
type number int

func (n *number) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > math.MaxInt32 {
		return fmt.Errorf("%.40s is no whole number", b)
	}
	*n = number(f)
	return nil
}

// version names what an app's instances run: its droplet, and how often that was
// started.
func version(a store.App) string {
	hash := a.DropletHash
	if hash == "" {
		hash = a.PackageHash
	}
	if hash == "" {
		sum := sha1.Sum(fmt.Appendf(nil, "app %d without a package", a.ID))
		hash = hex.EncodeToString(sum[:])
	}
	return hash + "-" + strconv.Itoa(a.RunCount)
}

// appDocument is an app as clients read it.
type appDocument struct {
	Name             string            `json:"name"`
	Staging          map[string]string `json:"staging"`
	URIs             []string          `json:"uris"`
	Instances        int               `json:"instances"`
	RunningInstances *int              `json:"runningInstances"` // nil: unknown
	Resources        map[string]int    `json:"resources"`
	State            string            `json:"state"`
	Services         []string          `json:"services"`
	Version          string            `json:"version"`
	Env              []string          `json:"env"`
	Meta             appMeta           `json:"meta"`
}

type appMeta struct {
	Debug   *string `json:"debug"`
	Console *bool   `json:"console"`
	Command string  `json:"command,omitempty"`
	Version int     `json:"version"`
	Created int64   `json:"created"`
}

// documents describes a user's apps; the health manager is asked once for all of them.
func (c *Controller) documents(ctx context.Context, apps []store.App) ([]appDocument, error) {
	docs := []appDocument{}
	if len(apps) == 0 {
		return docs, nil
	}
	services, err := c.store.BoundAliases(ctx, apps[0].OwnerID)
	if err != nil {
		return nil, err
	}
	running := c.runningInstances(ctx, apps)
	for _, a := range apps {
		doc := appDocument{
			Name:      a.Name,
			Staging:   map[string]string{"model": a.Framework, "stack": a.Runtime},
			URIs:      notNil(a.URIs),
			Instances: a.Instances,
			Resources: map[string]int{"memory": a.Memory, "disk": a.Disk, "fds": a.FDs},
			State:     a.State,
			Services:  notNil(services[a.ID]),
			Version:   version(a),
			Env:       notNil(a.Environment),
			Meta:      appMeta{Debug: debugMode(a), Console: console(a), Command: a.Command, Version: a.LockVersion, Created: a.CreatedAt},
		}
		if n, ok := running[a.ID]; ok {
			doc.RunningInstances = &n
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func debugMode(a store.App) *string {
	if a.Debug == "" {
		return nil
	}
	return &a.Debug
}

func console(a store.App) *bool {
	if !a.Console {
		return nil
	}
	return &a.Console
}

func (c *Controller) listApps(w http.ResponseWriter, r *http.Request, a account) error {
	apps, err := c.store.Apps(r.Context(), a.ID)
	if err != nil {
		return err
	}
	docs, err := c.documents(r.Context(), apps)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, docs)
	return nil
}

func (c *Controller) getApp(w http.ResponseWriter, r *http.Request, _ account, app store.App) error {
	docs, err := c.documents(r.Context(), []store.App{app})
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, docs[0])
	return nil
}

// createApp answers with a redirect that clients do not follow.
func (c *Controller) createApp(w http.ResponseWriter, r *http.Request, a account) error {
	var body appRequest
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	if body.Name == nil || !appName.MatchString(*body.Name) {
		return because(errInvalidApp, "a name has letters, digits, '_' and '-' only")
	}
	if body.Staging == nil {
		return because(errInvalidApp, "staging is missing")
	}
	app := store.App{
		Identity: store.Identity{OwnerID: a.ID, OwnerEmail: a.Email, Name: *body.Name}, State: store.Stopped,
		Spec: store.Spec{Instances: defaultInstances, Memory: defaultMemory, Disk: defaultDisk, FDs: defaultFDs},
	}
	// It has no files yet that could be started.
	body.State = nil
	if err := c.change(&app, body, a); err != nil {
		return err
	}
	if err := c.store.CreateApp(r.Context(), &app, c.limits(a)); err != nil {
		return appError(err)
	}
	if body.Services != nil {
		if err := c.bindTo(r.Context(), a, app, *body.Services); err != nil {
			return errors.Join(err, c.store.DeleteApp(r.Context(), app))
		}
	}
	c.base.Log().Info("app created", "app", app.ID, "name", app.Name, "owner", a.Email)
	url := "http://" + r.Host + "/apps/" + app.Name
	w.Header().Set("Location", url)
	writeJSON(w, http.StatusFound, map[string]string{"result": "success", "redirect": url})
	return nil
}

// limits refuses a change that exceeds what the account may have. One that was
// above a limit before, lowered since, may go down.
func (c *Controller) limits(a account) store.Limits {
	capacity := c.settings.Load().capacity(a.admin)
	return func(before, after store.Usage) error {
		switch {
		case after.Apps > capacity.Apps && after.Apps > before.Apps:
			return errTooManyApps
		case after.Memory > capacity.Memory && after.Memory > before.Memory:
			return errMemory(capacity.Memory)
		}
		return nil
	}
}

// change applies a request to an app, in memory. The state and the services are
// the caller's concern.
func (c *Controller) change(app *store.App, body appRequest, a account) error {
	if body.State != nil && *body.State != store.Started && *body.State != store.Stopped {
		return because(errInvalidApp, "the state %q is neither STARTED nor STOPPED", *body.State)
	}
	if err := c.changeStaging(app, body); err != nil {
		return err
	}
	for _, n := range []struct {
		name     string
		into     *int
		value    *number
		min, max int
	}{
		{"instances", &app.Instances, body.Instances, 0, maxInstances},
		{"resources.memory", &app.Memory, body.memory(), 1, maxMemory},
		{"resources.disk", &app.Disk, body.disk(), 1, maxDisk},
		{"resources.fds", &app.FDs, body.fds(), 1, maxFDs},
	} {
		if n.value == nil {
			continue
		}
		if v := int(*n.value); v < n.min || v > n.max {
			return because(errInvalidApp, "%s %d is not within %d and %d", n.name, v, n.min, n.max)
		}
		*n.into = int(*n.value)
	}
	if body.URIs != nil {
		uris, err := c.checkURIs(*body.URIs, app.URIs, a)
		if err != nil {
			return err
		}
		app.URIs = uris
	}
	if body.Env != nil {
		if err := checkEnvironment(*body.Env); err != nil {
			return err
		}
		app.Environment = *body.Env
	}
	return c.changeModes(app, body)
}

// changeStaging takes framework, runtime and command. What is made of the
// package depends on them.
func (c *Controller) changeStaging(app *store.App, body appRequest) error {
	framework, runtime, command := app.Framework, app.Runtime, app.Command
	if body.Meta != nil && body.Meta.Command != nil {
		command = *body.Meta.Command
	}
	if s := body.Staging; s != nil {
		for _, name := range []*string{s.Model, s.Framework} {
			if name != nil && *name != framework {
				framework, runtime = *name, ""
			}
		}
		for _, name := range []*string{s.Stack, s.Runtime} {
			if name != nil && *name != "" {
				runtime = *name
			}
		}
		if s.Command != nil {
			command = *s.Command
		}
	}
	if len(command) > maxCommand || strings.ContainsRune(command, 0) {
		return because(errInvalidApp, "the command is too long")
	}
	if app.Runtime != "" && framework == app.Framework && runtime == app.Runtime && command == app.Command {
		return nil
	}
	_, info, err := c.catalog.resolve(framework, runtime)
	if err != nil {
		return err
	}
	app.Framework, app.Runtime, app.Command, app.PackageState = framework, info.Name, command, store.Pending
	return nil
}

// changeModes takes debug and console.
func (c *Controller) changeModes(app *store.App, body appRequest) error {
	if len(body.Debug) > 0 {
		var mode any
		if err := json.Unmarshal(body.Debug, &mode); err != nil {
			return because(errBadRequest, "debug: %v", err)
		}
		switch mode := mode.(type) {
		case nil:
			app.Debug = ""
		case bool:
			app.Debug = ""
			if mode {
				app.Debug = "run"
			}
		case string:
			app.Debug = mode
		default:
			return because(errInvalidApp, "debug is neither null nor a mode")
		}
		if app.Debug != "" {
			if !c.settings.Load().AllowDebug {
				return errDebugDisallowed
			}
			if !slices.Contains(c.catalog.runtimes[app.Runtime].DebugModes, app.Debug) {
				return because(errDebugDisallowed, "runtime %s has no debug mode %q", app.Runtime, app.Debug)
			}
		}
	}
	if len(body.Console) > 0 {
		var console *bool
		if err := json.Unmarshal(body.Console, &console); err != nil {
			return because(errInvalidApp, "console is neither null nor true nor false")
		}
		app.Console = console != nil && *console
	}
	return nil
}

func (b appRequest) memory() *number {
	if b.Resources == nil {
		return nil
	}
	return b.Resources.Memory
}

func (b appRequest) disk() *number {
	if b.Resources == nil {
		return nil
	}
	return b.Resources.Disk
}

func (b appRequest) fds() *number {
	if b.Resources == nil {
		return nil
	}
	return b.Resources.FDs
}

// checkEnvironment refuses what no environment can hold, and the names that are
// the platform's.
func checkEnvironment(list []string) error {
	size := 0
	for _, entry := range list {
		name, _, ok := strings.Cut(entry, "=")
		if !ok || name == "" || strings.ContainsRune(entry, 0) {
			return because(errInvalidApp, "the environment has an entry that is not NAME=value")
		}
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "vcap_") || strings.HasPrefix(lower, "vmc_") {
			return because(errForbidden, "names of variables that begin with vcap_ or vmc_ are reserved")
		}
		size += len(entry)
	}
	if size > maxEnv {
		return because(errInvalidApp, "the environment is larger than %d bytes", maxEnv)
	}
	return nil
}

var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?)*$`)

func validHost(host string) bool { return len(host) <= 253 && hostName.MatchString(host) }

// checkURIs says which host names an app gets. Those that it has stay its own
// whatever the rules are now.
func (c *Controller) checkURIs(wanted, present []string, a account) ([]string, error) {
	settings := c.settings.Load()
	uris := []string{}
	for _, uri := range wanted {
		host := strings.ToLower(strings.TrimSuffix(uri, "/"))
		for _, scheme := range []string{"http://", "https://"} {
			host = strings.TrimPrefix(host, scheme)
		}
		if !validHost(host) {
			return nil, because(errInvalidURI, "%q", uri)
		}
		if slices.Contains(uris, host) {
			continue
		}
		uris = append(uris, host)
		if slices.Contains(present, host) {
			continue
		}
		label, inside := strings.CutSuffix(host, "."+settings.domain())
		switch {
		case !inside && !settings.AppURIs.AllowExternal && !a.admin:
			return nil, because(errExternalURI, "%s does not end in .%s", host, settings.domain())
		case host == settings.ExternalURI, host == settings.domain(),
			inside && (slices.Contains(settings.AppURIs.ReservedList, label) || len(label) <= settings.AppURIs.ReservedLength):
			return nil, because(errURITaken, "%s", host)
		}
	}
	if allowed := settings.capacity(a.admin).AppURIs; len(uris) > allowed && len(uris) > len(present) {
		return nil, because(errTooManyURIs, "%d, allowed %d", len(uris), allowed)
	}
	return uris, nil
}

// putApp changes an app. Starting stages first, if it must, and answers when
// that is done; until then the app stays stopped, so that whatever happens in
// between leaves an app that can be started again.
func (c *Controller) putApp(w http.ResponseWriter, r *http.Request, a account, app store.App) error {
	var body appRequest
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	if body.Name != nil && *body.Name != app.Name {
		return because(errInvalidApp, "an app cannot be renamed")
	}
	if body.Meta != nil && body.Meta.Version != nil && int(*body.Meta.Version) != app.LockVersion {
		return errLocking
	}
	ctx, cancel := c.detached(r)
	defer cancel()
	before := app
	if err := c.change(&app, body, a); err != nil {
		return err
	}
	wanted := app.State
	if body.State != nil {
		wanted = *body.State
	}
	// The capacity is checked for what the app will be.
	starting := wanted == store.Started && before.State != store.Started
	if starting {
		if err := c.mayStart(ctx, app, a); err != nil {
			return err
		}
	}
	app.State = wanted
	if starting {
		app.State = before.State
	}
	if err := c.store.UpdateApp(ctx, &app, c.limits(a)); err != nil {
		return appError(err)
	}
	if body.Services != nil {
		if err := c.bindTo(ctx, a, app, *body.Services); err != nil {
			return err
		}
		var err error
		if app, err = c.store.AppByID(ctx, app.ID); err != nil {
			return appError(err)
		}
	}
	if wanted == store.Started {
		var err error
		if app, err = c.staged(ctx, app); err != nil {
			return err
		}
	}
	if starting {
		app.State = store.Started
		app.RunCount++
		if err := c.store.UpdateApp(ctx, &app, c.limits(a)); err != nil {
			return appError(err)
		}
	}
	if err := c.follow(ctx, before, app); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// mayStart refuses a start that the account has no memory for, before it takes
// the time of a staging.
func (c *Controller) mayStart(ctx context.Context, app store.App, a account) error {
	usage, err := c.store.Usage(ctx, app.OwnerID)
	if err != nil {
		return err
	}
	after := usage
	after.Memory += app.Memory * app.Instances
	return c.limits(a)(usage, after)
}

// follow makes the DEAs do what changed.
func (c *Controller) follow(ctx context.Context, before, app store.App) error {
	switch {
	case app.State != before.State && app.State == store.Started:
		c.log("app started", app)
		if err := c.startInstances(ctx, app, indices(0, app.Instances), false); err != nil {
			return err
		}
		c.tellUpdated(app)
	case app.State != before.State:
		c.log("app stopped", app)
		c.stop(wire.DEAStop{Droplet: appID(app)})
		c.tellUpdated(app)
	case app.State != store.Started:
	case app.Instances > before.Instances:
		c.log("app scaled", app)
		if err := c.startInstances(ctx, app, indices(before.Instances, app.Instances), false); err != nil {
			return err
		}
		c.tellUpdated(app)
	case app.Instances < before.Instances:
		c.log("app scaled", app)
		c.stop(wire.DEAStop{Droplet: appID(app), InstanceFilter: wire.InstanceFilter{
			Version: version(app), Indices: indices(app.Instances, before.Instances),
		}})
		c.tellUpdated(app)
	}
	if app.State == store.Started && before.State == store.Started && !slices.Equal(app.URIs, before.URIs) {
		return c.updateURIs(ctx, app)
	}
	return nil
}

func (c *Controller) log(what string, app store.App) {
	c.base.Log().Info(what, "app", app.ID, "name", app.Name, "version", version(app), "instances", app.Instances)
}

func indices(from, to int) []int {
	list := []int{}
	for i := from; i < to; i++ {
		list = append(list, i)
	}
	return list
}

func appID(a store.App) wire.ID { return wire.ID(strconv.FormatInt(a.ID, 10)) }

func (c *Controller) deleteApp(w http.ResponseWriter, r *http.Request, _ account, app store.App) error {
	ctx, cancel := c.detached(r)
	defer cancel()
	if err := c.removeApp(ctx, app); err != nil {
		return appError(err)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// removeApp unbinds, removes and stops an app. Its files go with the next sweep.
func (c *Controller) removeApp(ctx context.Context, app store.App) error {
	if err := c.unbindAll(ctx, app); err != nil {
		return err
	}
	if err := c.store.DeleteApp(ctx, app); err != nil {
		return err
	}
	c.log("app deleted", app)
	c.stop(wire.DEAStop{Droplet: appID(app)})
	c.tellUpdated(app)
	return nil
}

// getUpdate says how the last update went. Updates are done when they are
// answered.
func (c *Controller) getUpdate(w http.ResponseWriter, _ *http.Request, _ account, app store.App) error {
	writeJSON(w, http.StatusOK, map[string]any{"state": "NONE", "since": app.UpdatedAt})
	return nil
}

// putUpdate takes a running app's new files into use.
func (c *Controller) putUpdate(w http.ResponseWriter, r *http.Request, a account, app store.App) error {
	if app.State != store.Started {
		return errAppStopped
	}
	ctx, cancel := c.detached(r)
	defer cancel()
	app, err := c.staged(ctx, app)
	if err != nil {
		return err
	}
	app.RunCount++
	if err := c.store.UpdateApp(ctx, &app, c.limits(a)); err != nil {
		return appError(err)
	}
	c.log("app updated", app)
	c.stop(wire.DEAStop{Droplet: appID(app)})
	if err := c.startInstances(ctx, app, indices(0, app.Instances), false); err != nil {
		return err
	}
	c.tellUpdated(app)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
