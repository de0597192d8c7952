package vmc

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/jobs/cloud_controller/vmc/internal/manifest"
)

// pushed are the apps that are meant: the manifest's, or those of them that are
// named, with what the flags say.
func pushed(args []string, flags pushFlags, changed func(string) bool) (apps []manifest.App, notices []string, err error) {
	at := flags.manifest
	if at == "" {
		if at = flags.path; !isFolder(at) {
			at = filepath.Dir(at)
		}
	}
	read, err := manifest.File(at)
	if err != nil {
		return nil, nil, err
	}
	apps = read.Apps
	if len(args) == 1 {
		i := slices.IndexFunc(apps, func(a manifest.App) bool { return a.Name == args[0] })
		switch {
		case i >= 0:
			apps = apps[i : i+1]
		case len(apps) == 1 && flags.manifest == "":
			apps[0].Name = args[0] // the same app under another name
			if !changed("url") {
				apps[0].URLs = withName(apps[0])
			}
		case len(apps) > 1:
			return nil, nil, fmt.Errorf("the manifest has no application %s", args[0])
		default:
			apps = []manifest.App{{Name: args[0], Path: flags.path}}
		}
	}
	if len(apps) == 0 {
		return nil, nil, fmt.Errorf("the app has no name, and there is no %s in %s; use vmc push NAME", manifest.Name, at)
	}
	if len(apps) > 1 {
		for _, flag := range []string{"url", "no-url", "command", "framework", "runtime"} {
			if changed(flag) {
				return nil, nil, fmt.Errorf("--%s is for one app, but the manifest has %d; name one", flag, len(apps))
			}
		}
	}
	for i := range apps {
		a := &apps[i]
		if len(apps) == 1 && !isFolder(flags.path) {
			a.Path = flags.path
		}
		if changed("url") {
			a.URLs, a.NoRoute = flags.urls, false
		}
		if flags.framework != "" {
			a.Framework = flags.framework
		}
		if flags.runtime != "" {
			a.Runtime = flags.runtime
		}
		if flags.command != "" {
			a.Command = flags.command
		}
		if h := flags.health; h.Type != "" {
			a.Health.Type, a.Health.Endpoint = h.Type, h.Endpoint
		} else if h.Endpoint != "" {
			a.Health.Type, a.Health.Endpoint = cmp.Or(a.Health.Type, "http"), h.Endpoint
		}
		a.Health.Timeout = cmp.Or(flags.health.Timeout, a.Health.Timeout)
		if flags.memory != "" {
			a.Memory = flags.memory
		}
		if flags.disk != "" {
			a.Disk = flags.disk
		}
		if changed("instances") {
			a.Instances = &flags.instances
		}
		for _, one := range flags.env {
			name, err := manifest.Variable(one)
			if err != nil {
				return nil, nil, err
			}
			a.Env = append(without(a.Env, name), one)
		}
		for _, one := range flags.services {
			if !slices.Contains(a.Services, one) {
				a.Services = append(a.Services, one)
			}
		}
	}
	return apps, read.Notices, nil
}

// withName are an app's URLs when it is pushed under another name: those that do
// not depend on it are the first app's.
func withName(app manifest.App) (urls []string) {
	for _, one := range app.URLs {
		if strings.Contains(one, "${name}") {
			urls = append(urls, one)
		}
	}
	return urls
}

func isFolder(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// hosts are the names that an app gets, its symbols replaced.
func hosts(app manifest.App, domain string) ([]string, error) {
	if app.NoRoute {
		return []string{}, nil
	}
	words := []string{"${name}", app.Name, "${target-base}", domain}
	for _, name := range slices.Sorted(maps.Keys(app.Symbols)) {
		words = append(words, "${"+name+"}", app.Symbols[name])
	}
	replace := strings.NewReplacer(words...)
	found := []string{}
	for _, one := range app.URLs {
		host, err := hostOf(replace.Replace(one))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(found, host) {
			found = append(found, host)
		}
	}
	return found, nil
}

// hostLabel makes a part of a host name of an app's name: certificates for a
// domain, and many clients, know letters, digits and dashes only.
func hostLabel(name string) string {
	label := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	return strings.Trim(label[:min(len(label), 63)], "-")
}
