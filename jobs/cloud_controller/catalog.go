package cloudcontroller

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"

	"github.com/clusterworks/deploy/jobs/runtimes"
	"github.com/clusterworks/deploy/jobs/wire"
)

// catalog are the runtimes and frameworks that apps can be made with.
type catalog struct {
	runtimes   map[string]wire.RuntimeInfo
	frameworks map[string]wire.FrameworkInfo
}

// newCatalog reads the original's files, runtimes.yml and a folder with one file
// a framework, or takes the usual ones where there are none.
func newCatalog(runtimesFile, manifests string) (catalog, error) {
	c := catalog{runtimes: map[string]wire.RuntimeInfo{}, frameworks: map[string]wire.FrameworkInfo{}}
	if runtimesFile == "" {
		for _, r := range runtimes.Runtimes() {
			c.runtimes[r.Name] = r
		}
	} else if err := readYAML(runtimesFile, &c.runtimes); err != nil {
		return catalog{}, err
	}
	for name, r := range c.runtimes {
		r.Name = name
		c.runtimes[name] = r
	}
	if manifests == "" {
		for _, f := range runtimes.Frameworks() {
			c.frameworks[f.Name] = f
		}
		return c, nil
	}
	files, err := filepath.Glob(filepath.Join(manifests, "*.yml"))
	if err != nil || len(files) == 0 {
		return catalog{}, fmt.Errorf("cannot read the frameworks: %s has no *.yml", manifests)
	}
	for _, file := range files {
		var f struct {
			wire.FrameworkInfo `yaml:",inline"`
			Disabled           bool `yaml:"disabled"`
		}
		if err := readYAML(file, &f); err != nil {
			return catalog{}, err
		}
		if f.Name != "" && !f.Disabled {
			c.frameworks[f.Name] = f.FrameworkInfo
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

// resolve finds an app's framework and runtime; runtime "" is the framework's
// default. The errors are those of the API.
func (c catalog) resolve(framework, runtime string) (wire.FrameworkInfo, wire.RuntimeInfo, error) {
	f, ok := c.frameworks[framework]
	if !ok {
		return wire.FrameworkInfo{}, wire.RuntimeInfo{}, errInvalidFramework(framework)
	}
	for _, choice := range f.Runtimes {
		for name, r := range choice {
			if info, ok := c.runtimes[name]; ok && (name == runtime || runtime == "" && (r.Default || len(f.Runtimes) == 1)) {
				return f, info, nil
			}
		}
	}
	return wire.FrameworkInfo{}, wire.RuntimeInfo{}, errInvalidRuntime(runtime)
}
