package manifest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// decoder reads apps, and gathers what is not used of them.
type decoder struct{ notices []string }

// keys are those that an app may have, with how each is read.
var keys = map[string]func(*App, *node) error{
	"name":                       text(func(a *App) *string { return &a.Name }),
	"path":                       text(func(a *App) *string { return &a.Path }),
	"runtime":                    text(func(a *App) *string { return &a.Runtime }),
	"command":                    text(func(a *App) *string { return &a.Command }),
	"memory":                     text(func(a *App) *string { return &a.Memory }),
	"mem":                        text(func(a *App) *string { return &a.Memory }), // as older manifests say
	"disk":                       text(func(a *App) *string { return &a.Disk }),
	"disk_quota":                 text(func(a *App) *string { return &a.Disk }),
	"health-check-http-endpoint": text(func(a *App) *string { return &a.Health.Endpoint }),
	"health-check-file":          text(func(a *App) *string { return &a.Health.Endpoint }),
	"health-check-type":          healthType,
	"health":                     health,
	"framework":                  framework,
	"instances":                  instances,
	"timeout":                    timeout,
	"env":                        env,
	"services":                   func(a *App, n *node) (err error) { a.Services, err = names(n); return err },
	"url":                        urls,
	"urls":                       urls,
	"routes":                     routes,
	"no-route":                   noRoute,
	"depends-on":                 func(a *App, n *node) (err error) { a.dependsOn, err = texts(n); return err },
	"properties":                 symbols,
	// These are read together, by hosts.
	"host":        nothing,
	"hosts":       nothing,
	"domain":      nothing,
	"domains":     nothing,
	"no-hostname": nothing,
	// Successors' words for what this cloud has otherwise.
	"buildpack":                            unused,
	"buildpacks":                           unused,
	"stack":                                unused,
	"metadata":                             unused,
	"log-rate-limit-per-second":            unused,
	"health-check-interval":                unused,
	"health-check-invocation-timeout":      unused,
	"random-route":                         unused,
	"default-route":                        unused,
	"lifecycle":                            unused,
	"features":                             unused,
	"sidecars":                             unused,
	"readiness-health-check-type":          unused,
	"readiness-health-check-interval":      unused,
	"readiness-health-check-http-endpoint": unused,
	"readiness-health-check-invocation-timeout": unused,
}

func nothing(*App, *node) error { return nil }

// processes reads the process that serves of those that an app may have at successors.
// What it says goes before what its app says.
func (d *decoder) processes(a *App, n *node) error {
	if n.kind != list {
		return n.errorf("processes: want a list of processes with a type each")
	}
	for _, item := range n.items {
		kind := item.get("type")
		switch {
		case kind == nil || kind.kind != scalar:
			return item.errorf("processes: a process has a type, such as web")
		case kind.text != "web":
			d.note(fmt.Sprintf("the process %s is not started: push it as an app of its own, with its command and no-route", kind.text))
			continue
		}
		for _, f := range item.fields {
			if f.name == "type" {
				continue
			}
			if err := d.key(a, f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *decoder) note(notice string) {
	if !slices.Contains(d.notices, notice) {
		d.notices = append(d.notices, notice)
	}
}

// key reads one key of an app.
func (d *decoder) key(a *App, f field) error {
	read, ok := keys[f.name]
	if !ok {
		return unknown(f)
	}
	switch err := read(a, f.value); {
	case errors.Is(err, errUnused):
		notice := f.name + " is not used by this cloud"
		if strings.HasPrefix(f.name, "buildpack") {
			notice += ": framework and runtime say what an app is run with"
		}
		d.note(notice)
	case err != nil:
		return fmt.Errorf("[%s] %s: %w", f.at, f.name, err)
	}
	return nil
}

// unknown says which key means nothing here, and of one of other clouds what to do.
func unknown(f field) error {
	if f.name == "inherit" {
		return fmt.Errorf("[%s] inherit is not read by this cloud: put what apps share beside applications, or into an anchor (<<: *name)", f.at)
	}
	return fmt.Errorf("[%s] unknown field %q", f.at, f.name)
}

// unused marks the keys that are read and have no effect.
func unused(*App, *node) error { return errUnused }

var errUnused = fmt.Errorf("not used")

// app reads one app.
func (d *decoder) app(n *node) (App, error) {
	var a App
	if n.kind != mapping {
		return a, n.errorf("an application is a map with the key name")
	}
	for _, f := range n.fields {
		if f.name == "processes" {
			continue
		}
		if err := d.key(&a, f); err != nil {
			return a, err
		}
	}
	if p := n.get("processes"); p != nil {
		if err := d.processes(&a, p); err != nil {
			return a, err
		}
	}
	if err := hosts(&a, n); err != nil {
		return a, err
	}
	if a.Health.Type == "" && a.Health.Endpoint != "" {
		a.Health.Type = "http"
		if n.get("health-check-file") != nil {
			a.Health.Type = "file"
		}
	}
	return a, nil
}

// one returns a scalar's text; null is "".
func one(n *node) (string, error) {
	switch n.kind {
	case null:
		return "", nil
	case scalar:
		return n.text, nil
	}
	return "", fmt.Errorf("want text or a number")
}

// text reads a scalar.
func text(into func(*App) *string) func(*App, *node) error {
	return func(a *App, n *node) (err error) {
		*into(a), err = one(n)
		return err
	}
}

// texts reads a scalar, or a list of them; null is none.
func texts(n *node) ([]string, error) {
	if n.kind != list {
		s, err := one(n)
		if err != nil {
			return nil, fmt.Errorf("want text, or a list of it")
		}
		if n.kind == null {
			return nil, nil
		}
		return []string{s}, nil
	}
	var all []string
	for _, item := range n.items {
		s, err := one(item)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func truth(n *node) (bool, error) {
	s, err := one(n)
	switch strings.ToLower(s) {
	case "true", "yes", "on":
		return true, err
	case "false", "no", "off", "":
		return false, err
	}
	return false, fmt.Errorf("want true or false, have %q", s)
}

// framework reads a name; the original writes {name: node, info: {...}}.
func framework(a *App, n *node) (err error) {
	if n.kind == mapping {
		for _, f := range n.fields {
			if f.name != "name" && f.name != "info" {
				return fmt.Errorf("unknown field %q", f.name)
			}
		}
		if n = n.get("name"); n == nil {
			return fmt.Errorf("want the name of a framework")
		}
	}
	a.Framework, err = one(n)
	return err
}

func instances(a *App, n *node) error {
	s, err := one(n)
	if err != nil || s == "" {
		return err
	}
	count, err := strconv.Atoi(s)
	if err != nil {
		return fmt.Errorf("want a number, have %q", s)
	}
	a.Instances = &count
	return nil
}

func timeout(a *App, n *node) error {
	s, err := one(n)
	if err != nil || s == "" {
		return err
	}
	a.Health.Timeout, err = seconds(s)
	return err
}

// healthType reads how an instance's health is found out; none is an older name of
// process.
func healthType(a *App, n *node) error {
	s, err := one(n)
	if err != nil {
		return err
	}
	if s == "none" {
		s = "process"
	}
	if !slices.Contains([]string{"", "port", "http", "process", "file"}, s) {
		return fmt.Errorf("want port, http, process or file, have %q", s)
	}
	a.Health.Type = s
	return nil
}

// health reads how an instance's health is found out in one key: a type, the path of a
// page, or a map of type, endpoint or file, and timeout.
func health(a *App, n *node) error {
	if n.kind == scalar {
		s, err := one(n)
		if err == nil && strings.HasPrefix(s, "/") {
			a.Health.Type, a.Health.Endpoint = "http", s
			return nil
		}
		return errors.Join(err, healthType(a, n))
	}
	if n.kind != mapping {
		return fmt.Errorf("want port, http, process or file, or a map of type, endpoint and timeout")
	}
	for _, f := range n.fields {
		var err error
		switch f.name {
		case "type":
			err = healthType(a, f.value)
		case "endpoint", "path", "file":
			a.Health.Endpoint, err = one(f.value)
		case "timeout":
			err = timeout(a, f.value)
		default:
			err = unknown(f)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if a.Health.Type == "" && n.get("file") != nil {
		a.Health.Type = "file"
	}
	return nil
}

// env reads variables: a map, or a list of NAME=VALUE.
func env(a *App, n *node) error {
	a.Env = []string{}
	switch n.kind {
	case null:
	case list:
		for _, item := range n.items {
			s, err := one(item)
			if err == nil {
				_, err = Variable(s)
			}
			if err != nil {
				return err
			}
			a.Env = append(a.Env, s)
		}
	case mapping:
		for _, f := range n.fields {
			value, err := one(f.value)
			if err != nil {
				return fmt.Errorf("%s: %w; write a document as text, in quotes", f.name, err)
			}
			if f.name == "" || strings.Contains(f.name, "=") {
				return fmt.Errorf("%q is no name of a variable", f.name)
			}
			a.Env = append(a.Env, f.name+"="+value)
		}
		slices.Sort(a.Env)
	case scalar:
		return fmt.Errorf("want variables: a map of names to values")
	}
	return nil
}

// names reads services: names, entries with a name, or a map from names as the
// original writes it.
func names(n *node) ([]string, error) {
	found := []string{}
	switch n.kind {
	case null:
	case list:
		for _, item := range n.items {
			if item.kind == mapping {
				if item = item.get("name"); item == nil {
					return nil, fmt.Errorf("a service has no name")
				}
			}
			s, err := one(item)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(found, s) {
				found = append(found, s)
			}
		}
	case mapping:
		for _, f := range n.fields {
			found = append(found, f.name)
		}
		slices.Sort(found)
	case scalar:
		return nil, fmt.Errorf("want a list of names of services")
	}
	return found, nil
}

func urls(a *App, n *node) error {
	all, err := texts(n)
	for _, s := range all {
		if s == "none" { // as the original's manifests say it
			a.NoRoute = true
			continue
		}
		a.URLs = append(a.URLs, s)
	}
	return err
}

// routes reads a list of {route: HOST}.
func routes(a *App, n *node) error {
	if n.kind != list && n.kind != null {
		return fmt.Errorf("want a list of {route: HOST}")
	}
	for _, item := range n.items {
		if item.kind == mapping {
			if item = item.get("route"); item == nil {
				return fmt.Errorf("a route is {route: HOST}")
			}
		}
		s, err := one(item)
		if err != nil {
			return err
		}
		a.URLs = append(a.URLs, s)
	}
	return nil
}

func noRoute(a *App, n *node) (err error) {
	a.NoRoute, err = truth(n)
	return err
}

func symbols(a *App, n *node) error {
	if n.kind != mapping {
		return fmt.Errorf("want a map of names to text")
	}
	a.Symbols = map[string]string{}
	for _, f := range n.fields {
		value, err := one(f.value)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		a.Symbols[f.name] = value
	}
	return nil
}

// hosts adds the URLs that host, domain and their like make together.
func hosts(a *App, n *node) error {
	gather := func(names ...string) (all []string, err error) {
		for _, name := range names {
			if value := n.get(name); value != nil {
				some, err := texts(value)
				if err != nil {
					return nil, value.errorf("%s: %w", name, err)
				}
				all = append(all, some...)
			}
		}
		return all, nil
	}
	hosts, err := gather("host", "hosts")
	if err != nil {
		return err
	}
	domains, err := gather("domain", "domains")
	if err != nil {
		return err
	}
	if bare := n.get("no-hostname"); bare != nil {
		without, err := truth(bare)
		if err != nil {
			return bare.errorf("no-hostname: %w", err)
		}
		if without {
			a.URLs = append(a.URLs, domains...)
			return nil
		}
	}
	// A domain alone is for apps that say nothing of where they are.
	if len(hosts) == 0 && (len(domains) == 0 || len(a.URLs) > 0) {
		return nil
	}
	if len(hosts) == 0 {
		hosts = []string{"${name}"}
	}
	if len(domains) == 0 {
		domains = []string{"${target-base}"}
	}
	for _, domain := range domains {
		for _, host := range hosts {
			a.URLs = append(a.URLs, host+"."+domain)
		}
	}
	return nil
}
