package api

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
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
	maxMemory = 1 << 20   // MB, of one instance
	maxEnv    = 256 << 10 // bytes: it travels in messages
	// Linux starts no program with a longer one, its final NUL counted.
	maxEnvEntry = 128<<10 - 1 // bytes
	maxCommand  = 16 << 10
)

var appName = regexp.MustCompile(`^[\w-]{1,255}$`)

// appRequest is an app as clients describe it: when it is created, or as it was
// read, edited. Absent keys change nothing.
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
	Resources struct {
		Memory *number `json:"memory"`
		Disk   *number `json:"disk"`
		FDs    *number `json:"fds"`
	} `json:"resources"`
	State    *string         `json:"state"`
	Package  string          `json:"package"` // ours: the files that are to be started, by sha1
	Env      *[]string       `json:"env"`
	Services *[]string       `json:"services"`
	Debug    json.RawMessage `json:"debug"`
	Console  json.RawMessage `json:"console"`
	Health   *struct {
		Type     *string `json:"type"`
		Endpoint *string `json:"endpoint"`
		Timeout  *number `json:"timeout"`
	} `json:"health"`
	Meta *struct {
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

// change applies a request to an app, in memory, but for the state and the
// services.
func (s *Server) change(app *store.App, body appRequest, a model.Account) error {
	if body.State != nil && *body.State != store.Started && *body.State != store.Stopped {
		return model.Because(model.ErrInvalidApp, "the state %q is neither STARTED nor STOPPED", *body.State)
	}
	if err := s.changeStaging(app, body); err != nil {
		return err
	}
	most := s.Config.Now().AppLimits
	for _, n := range []struct {
		name     string
		into     *int
		value    *number
		min, max int
	}{
		{"instances", &app.Instances, body.Instances, 0, most.Instances},
		{"resources.memory", &app.Memory, body.Resources.Memory, most.MemoryMin, maxMemory},
		{"resources.disk", &app.Disk, body.Resources.Disk, 1, most.Disk},
		{"resources.fds", &app.FDs, body.Resources.FDs, 1, most.FDs},
	} {
		// An app from before the limits were lowered keeps what it has.
		if n.value == nil || int(*n.value) == *n.into {
			continue
		}
		if v := int(*n.value); v < n.min || v > n.max {
			return model.Because(model.ErrInvalidApp, "%s %d is not within %d and %d", n.name, v, n.min, n.max)
		}
		*n.into = int(*n.value)
	}
	if body.URIs != nil {
		uris, err := s.checkURIs(*body.URIs, app.URIs, a)
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
	if err := changeHealth(&app.Health, body); err != nil {
		return err
	}
	return s.changeModes(app, body)
}

// changeStaging takes framework, runtime and command. What is made of the
// package depends on them.
func (s *Server) changeStaging(app *store.App, body appRequest) error {
	framework, runtime, command := app.Framework, app.Runtime, app.Command
	if body.Meta != nil && body.Meta.Command != nil {
		command = *body.Meta.Command
	}
	if told := body.Staging; told != nil {
		for _, name := range []*string{told.Model, told.Framework} {
			if name != nil && *name != framework {
				framework, runtime = *name, ""
			}
		}
		for _, name := range []*string{told.Stack, told.Runtime} {
			if name != nil && *name != "" {
				runtime = *name
			}
		}
		if told.Command != nil {
			command = *told.Command
		}
	}
	if len(command) > maxCommand || strings.ContainsRune(command, 0) {
		return model.Because(model.ErrInvalidApp, "the command is too long")
	}
	if app.Runtime != "" && framework == app.Framework && runtime == app.Runtime && command == app.Command {
		return nil
	}
	_, info, err := s.Catalog.Resolve(framework, runtime)
	if err != nil {
		return err
	}
	app.Framework, app.Runtime, app.Command, app.PackageState = framework, info.Name, command, store.Pending
	return nil
}

// changeModes takes debug and console.
func (s *Server) changeModes(app *store.App, body appRequest) error {
	if len(body.Debug) > 0 {
		var mode any
		if err := json.Unmarshal(body.Debug, &mode); err != nil {
			return model.Because(model.ErrBadRequest, "debug: %v", err)
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
			return model.Because(model.ErrInvalidApp, "debug is neither null nor a mode")
		}
		if app.Debug != "" {
			if !s.Config.Now().AllowDebug {
				return model.ErrDebugDisallowed
			}
			if !slices.Contains(s.Catalog.Runtimes[app.Runtime].DebugModes, app.Debug) {
				return model.Because(model.ErrDebugDisallowed, "runtime %s has no debug mode %q", app.Runtime, app.Debug)
			}
		}
	}
	if len(body.Console) > 0 {
		var console *bool
		if err := json.Unmarshal(body.Console, &console); err != nil {
			return model.Because(model.ErrInvalidApp, "console is neither null nor true nor false")
		}
		app.Console = console != nil && *console
	}
	return nil
}

// checkEnvironment refuses what no environment can hold, and the names that are
// the platform's.
func checkEnvironment(list []string) error {
	size := 0
	for _, entry := range list {
		name, _, ok := strings.Cut(entry, "=")
		if !ok || strings.TrimSpace(name) == "" || strings.ContainsRune(entry, 0) {
			return model.Because(model.ErrInvalidApp, "the environment has an entry that is not NAME=value")
		}
		lower := strings.ToLower(strings.TrimSpace(name))
		for _, prefix := range []string{"vcap_", "vmc_", "deploy_"} {
			if strings.HasPrefix(lower, prefix) {
				return model.Because(model.ErrForbidden, "names of variables that begin with %s are reserved", prefix)
			}
		}
		if len(entry) > maxEnvEntry {
			return model.Because(model.ErrInvalidApp, "the variable %.100s has %d bytes with its name; a program gets %d at most, so put this into a file", name, len(entry), maxEnvEntry)
		}
		size += len(entry)
	}
	if size > maxEnv {
		return model.Because(model.ErrInvalidApp, "the environment is larger than %d bytes", maxEnv)
	}
	return nil
}

var portText = regexp.MustCompile(`^[0-9]{1,5}$`)

// checkURIs says which host names an app gets. Those that it has stay its own
// whatever the rules are now.
func (s *Server) checkURIs(wanted, present []string, a model.Account) ([]string, error) {
	settings := s.Config.Now()
	uris := []string{}
	for _, uri := range wanted {
		host := strings.ToLower(strings.TrimSuffix(uri, "/"))
		for _, scheme := range []string{"http://", "https://"} {
			host = strings.TrimPrefix(host, scheme)
		}
		// Clients of old add the port of the target.
		if name, port, ok := strings.Cut(host, ":"); ok && portText.MatchString(port) {
			host = name
		}
		host = strings.TrimSuffix(host, ".") // the whole name, which they all are
		if !config.ValidHost(host) {
			return nil, model.Because(model.ErrInvalidURI, "%q; letters, digits, - and _ in each part, at most 63 of them in each, other alphabets as xn--", uri)
		}
		if slices.Contains(uris, host) {
			continue
		}
		uris = append(uris, host)
		if slices.Contains(present, host) {
			continue
		}
		label, inside := strings.CutSuffix(host, "."+settings.Domain())
		domain, served := settings.DomainOf(host)
		switch {
		case served && !domain.Apps:
			return nil, model.Because(model.ErrURITaken, "%s does not lead to apps", host)
		case served && !domain.For(strings.ToLower(a.Email), a.Admin):
			return nil, model.Because(model.ErrURITaken, "%s is for the apps of other accounts", host)
		case served && domain.Name == host: // the operator has named it, so no reservation is meant
			if s.Hosts.Registered(host) {
				return nil, model.Because(model.ErrURITaken, "%s", host)
			}
		case served && !inside:
			if s.Hosts.Taken(host) {
				return nil, model.Because(model.ErrURITaken, "%s", host)
			}
		case !inside && !settings.AppURIs.AllowExternal && !a.Admin:
			return nil, model.Because(model.ErrExternalURI, "%s does not end in .%s", host, settings.Domain())
		case !inside && settings.ClaimedIn(host) == host:
			return nil, model.Because(model.ErrURITaken, "%s is a domain in which the public registers names", host)
		case host == settings.Domain(), inside && len(label) <= settings.AppURIs.ReservedLength, s.Hosts.Taken(host):
			return nil, model.Because(model.ErrURITaken, "%s", host)
		}
	}
	if allowed := a.Capacity.AppURIs; len(uris) > allowed && len(uris) > len(present) {
		return nil, model.Because(model.ErrTooManyURIs, "%d, allowed %d", len(uris), allowed)
	}
	return uris, nil
}
