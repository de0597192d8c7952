// Package manifest reads the files that describe apps for vmc push: the forms of
// the original's vmc, of its successors, and ours. It is pure but for File. Start
// with Parse; tree.go turns YAML into nodes whose scalars are as they are written.
package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Name is the file that is read in the folder that is pushed.
const Name = "manifest.yml"

// App is an app as a manifest describes it. What is left out is zero.
type App struct {
	Name string
	Path string // of its files, relative to the manifest
	// URLs may have ${name}, ${target-base} and names of Symbols in them.
	URLs         []string
	NoRoute      bool // it is to have no URL at all
	Framework    string
	Runtime      string
	Command      string
	Memory, Disk string   // 64M, 1G
	Instances    *int     // nil: as it is
	Env          []string // NAME=VALUE
	Services     []string // names of those that you have
	Health       Health
	After        []string // names of apps that are pushed first
	Symbols      map[string]string
	dependsOn    []string // names or paths
}

// Health says when an instance counts as running. What is left out is zero.
type Health struct {
	Type     string        // port, http, process or none, file
	Endpoint string        // of http: a path; of file: its name
	Timeout  time.Duration // that a start may take
}

// Manifest describes what a file has.
type Manifest struct {
	Apps    []App
	Notices []string // what is there and not used
}

// File reads a manifest: a file, or the one in a folder. A folder without one has
// no apps. Relative paths of apps are joined to the manifest's folder.
func File(file string) (Manifest, error) {
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		file = filepath.Join(file, Name)
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return Manifest{}, nil
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return Manifest{}, fmt.Errorf("cannot read the manifest: %w", err)
	}
	m, err := Parse(data)
	if err != nil {
		return Manifest{}, fmt.Errorf("cannot use the manifest %s: %w", file, err)
	}
	for i := range m.Apps {
		if !filepath.IsAbs(m.Apps[i].Path) {
			m.Apps[i].Path = filepath.Join(filepath.Dir(file), m.Apps[i].Path)
		}
	}
	return m, nil
}

// Parse reads a manifest: apps as a list or as a map of paths to apps below
// applications, with shared keys beside it; or one app that is the whole file.
func Parse(data []byte) (Manifest, error) {
	root, err := parse(data)
	if err != nil {
		return Manifest{}, err
	}
	if root.kind == null {
		return Manifest{}, errNone
	}
	if root.kind != mapping {
		return Manifest{}, root.errorf("a manifest is a map with the key applications")
	}
	d := &decoder{}
	shared, apps, err := d.split(root)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{}
	for _, entry := range apps {
		app, err := d.app(merge(shared, entry.value))
		if err != nil {
			return Manifest{}, err
		}
		if app.Path == "" {
			app.Path = entry.name
		}
		m.Apps = append(m.Apps, app)
	}
	if m.Apps, err = order(m.Apps); err != nil {
		return Manifest{}, err
	}
	m.Notices = d.notices
	return m, check(m.Apps)
}

var errNone = errors.New("it has no applications")

// split returns what all apps share, and the apps.
func (d *decoder) split(root *node) (shared *node, apps []field, err error) {
	applications := root.get("applications")
	if applications == nil {
		if root.get("name") == nil {
			for _, f := range root.fields {
				if _, known := keys[f.name]; !known && !f.value.anchored {
					return nil, nil, unknown(f)
				}
			}
			return nil, nil, errNone
		}
		return &node{kind: mapping}, []field{{value: root, at: root.at}}, nil
	}
	shared = &node{kind: mapping, at: root.at}
	for _, f := range root.fields {
		_, known := keys[f.name]
		switch {
		case f.name == "applications" || f.name == "version":
		case known:
			shared.fields = append(shared.fields, f)
		case f.value.anchored: // it is there for others to refer to
		default:
			return nil, nil, unknown(f)
		}
	}
	switch applications.kind {
	case list:
		for _, item := range applications.items {
			apps = append(apps, field{value: item, at: item.at})
		}
	case mapping:
		apps = applications.fields
	case scalar:
		return nil, nil, applications.errorf("applications is a list of apps, or a map of paths to apps")
	}
	if len(apps) == 0 {
		return nil, nil, errNone
	}
	return shared, apps, nil
}

// together are keys whose values are joined, where others of an app take the place
// of the shared ones.
var together = []string{"env", "services", "properties"}

// merge returns an app with the keys that all share.
func merge(shared, app *node) *node {
	if app.kind != mapping {
		return app
	}
	all := &node{kind: mapping, at: app.at, fields: slices.Clone(app.fields)}
	for _, f := range shared.fields {
		i := slices.IndexFunc(all.fields, func(own field) bool { return own.name == f.name })
		switch {
		case i < 0:
			if !replaced(f.name, app) {
				all.fields = append(all.fields, f)
			}
		case slices.Contains(together, f.name) && f.value.kind == all.fields[i].value.kind:
			own := all.fields[i].value
			both := &node{kind: own.kind, at: own.at, items: slices.Concat(f.value.items, own.items), fields: slices.Clone(own.fields)}
			for _, one := range f.value.fields {
				if own.get(one.name) == nil {
					both.fields = append(both.fields, one)
				}
			}
			all.fields[i].value = both
		}
	}
	return all
}

// replaced reports whether an app says in another word what a shared key says.
func replaced(shared string, app *node) bool {
	for _, alike := range [][]string{
		{"memory", "mem"}, {"disk", "disk_quota"},
		{"domain", "domains"}, {"url", "urls", "routes", "host", "hosts", "no-route"},
	} {
		if slices.Contains(alike, shared) {
			for _, other := range alike {
				if app.get(other) != nil {
					return true
				}
			}
		}
	}
	return false
}

// order sorts apps so that each comes after those that it depends on, and else
// keeps their order.
func order(apps []App) ([]App, error) {
	for i := range apps {
		for _, wanted := range apps[i].dependsOn {
			j := slices.IndexFunc(apps, func(a App) bool { return a.Name == wanted || filepath.Clean(a.Path) == filepath.Clean(wanted) })
			if j < 0 {
				return nil, fmt.Errorf("application %s depends on %q, which does not exist", apps[i].Name, wanted)
			}
			if i != j {
				apps[i].After = append(apps[i].After, apps[j].Name)
			}
		}
	}
	var sorted []App
	placed := map[string]bool{}
	for len(sorted) < len(apps) {
		n := len(sorted)
		for _, a := range apps {
			waits := slices.ContainsFunc(a.After, func(name string) bool { return !placed[name] })
			if !waits && !placed[a.Name] {
				sorted, placed[a.Name] = append(sorted, a), true
			}
		}
		if len(sorted) == n {
			// Apps of one name are said by check, circles here.
			if slices.ContainsFunc(apps, func(a App) bool { return !placed[a.Name] }) {
				return nil, errors.New("its applications depend on each other in a circle")
			}
			return apps, nil
		}
	}
	return sorted, nil
}

func check(apps []App) error {
	names := map[string]bool{}
	for _, app := range apps {
		if app.Name == "" {
			return errors.New("an application has no name")
		}
		if names[app.Name] {
			return fmt.Errorf("application %s is defined twice", app.Name)
		}
		names[app.Name] = true
		if app.Instances != nil && *app.Instances < 0 {
			return fmt.Errorf("application %s: instances is below 0", app.Name)
		}
	}
	return nil
}

// seconds reads 180, or a time such as 3m.
func seconds(text string) (time.Duration, error) {
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n <= 1<<20 {
		return time.Duration(n) * time.Second, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return d, nil
	}
	return 0, fmt.Errorf("%q is not a time; use seconds, such as 180, or a time such as 3m", text)
}

// Variable checks "NAME=VALUE" and returns its name.
func Variable(text string) (name string, err error) {
	name, _, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return "", fmt.Errorf("%q is not a variable; use NAME=VALUE", text)
	}
	return name, nil
}
