package model

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/goccy/go-yaml"

	"github.com/clusterworks/deploy/jobs/runtimes"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Catalog has the runtimes and frameworks that apps can be made with, by name.
type Catalog struct {
	Runtimes   map[string]wire.RuntimeInfo
	Frameworks map[string]wire.FrameworkInfo
}

// NewCatalog reads the original's files, runtimes.yml and a folder with one file
// a framework, or takes the usual ones where there are none.
func NewCatalog(runtimesFile, manifests string) (Catalog, error) {
	c := Catalog{Runtimes: map[string]wire.RuntimeInfo{}, Frameworks: map[string]wire.FrameworkInfo{}}
	if runtimesFile == "" {
		for _, r := range runtimes.Runtimes() {
			c.Runtimes[r.Name] = r
		}
	} else if err := readYAML(runtimesFile, &c.Runtimes); err != nil {
		return Catalog{}, err
	}
	for name, r := range c.Runtimes {
		r.Name = name
		c.Runtimes[name] = r
	}
	if manifests == "" {
		for _, f := range runtimes.Frameworks() {
			c.Frameworks[f.Name] = f
		}
		return c, nil
	}
	files, err := filepath.Glob(filepath.Join(manifests, "*.yml"))
	if err != nil || len(files) == 0 {
		return Catalog{}, fmt.Errorf("cannot read the frameworks: %s has no *.yml", manifests)
	}
	for _, file := range files {
		var f struct {
			wire.FrameworkInfo `yaml:",inline"`
			Disabled           bool `yaml:"disabled"`
		}
		if err := readYAML(file, &f); err != nil {
			return Catalog{}, err
		}
		if f.Name != "" && !f.Disabled {
			c.Frameworks[f.Name] = f.FrameworkInfo
		}
	}
	return c, nil
}

// readYAML reads a file whose keys are those of the messages, hence by JSON.
func readYAML(file string, into any) error {
	data, err := os.ReadFile(file)
	if err == nil {
		err = yaml.UnmarshalWithOptions(data, into, yaml.UseJSONUnmarshaler())
	}
	if err != nil {
		return fmt.Errorf("cannot read runtimes and frameworks: %s: %w", file, err)
	}
	return nil
}

// Resolve finds an app's framework and runtime; runtime "" is the framework's
// default. A name of 2012 stands for what took its place, unless there is a runtime
// of that name. The errors are the API's.
func (c Catalog) Resolve(framework, runtime string) (wire.FrameworkInfo, wire.RuntimeInfo, error) {
	f, ok := c.Frameworks[framework]
	if !ok {
		return wire.FrameworkInfo{}, wire.RuntimeInfo{}, ErrInvalidFramework(framework, slices.Sorted(maps.Keys(c.Frameworks)))
	}
	if _, known := c.Runtimes[runtime]; !known {
		if successor := runtimes.Successor(runtime); successor != "" {
			runtime = successor
		}
	}
	var has []string
	for _, choice := range f.Runtimes {
		for name, r := range choice {
			info, ok := c.Runtimes[name]
			if ok {
				has = append(has, name)
			}
			if ok && (name == runtime || runtime == "" && (r.Default || len(f.Runtimes) == 1)) {
				return f, info, nil
			}
		}
	}
	return wire.FrameworkInfo{}, wire.RuntimeInfo{}, ErrInvalidRuntime(runtime, framework, has)
}
