package vmc

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// manifestFile is read in the folder that is pushed.
const manifestFile = "manifest.yml"

// described is an app as a manifest describes it. What is left out is zero.
type described struct {
	Name      string        `yaml:"name"`
	Path      string        `yaml:"path"` // relative to the manifest
	URL       string        `yaml:"url"`
	URLs      []string      `yaml:"urls"`
	Framework frameworkName `yaml:"framework"`
	Runtime   string        `yaml:"runtime"`
	Command   string        `yaml:"command"`
	Memory    scalar        `yaml:"memory"` // 64M, 1G
	Mem       scalar        `yaml:"mem"`    // the same, as older manifests say
	Disk      scalar        `yaml:"disk"`
	Instances *int          `yaml:"instances"`
	Env       envMap        `yaml:"env"`
	Services  serviceNames  `yaml:"services"` // names of those that you have
}

// scalar is text, or a number as its text.
type scalar string

func (s *scalar) UnmarshalYAML(unmarshal func(any) error) error {
	var value any
	if err := unmarshal(&value); err != nil {
		return err
	}
	text, err := scalarText(value)
	*s = scalar(text)
	return err
}

func scalarText(value any) (string, error) {
	switch value := value.(type) {
	case nil:
		return "", nil
	case string:
		return value, nil
	case bool, int, int64, uint64:
		return fmt.Sprint(value), nil
	case float64:
		return strconv.FormatFloat(value, 'f', -1, 64), nil
	}
	return "", fmt.Errorf("want text or a number, have %T", value)
}

// frameworkName is a name; the original writes {name: node, info: {...}}.
type frameworkName string

func (f *frameworkName) UnmarshalYAML(unmarshal func(any) error) error {
	var name string
	if err := unmarshal(&name); err == nil {
		*f = frameworkName(name)
		return nil
	}
	var full struct {
		Name string         `yaml:"name"`
		Info map[string]any `yaml:"info"`
	}
	if err := unmarshal(&full); err != nil {
		return errors.New("want the name of a framework")
	}
	*f = frameworkName(full.Name)
	return nil
}

// envMap are variables, as a map or a list of K=V.
type envMap []string

func (e *envMap) UnmarshalYAML(unmarshal func(any) error) error {
	var list []string
	if err := unmarshal(&list); err == nil {
		for _, one := range list {
			if name, _, ok := strings.Cut(one, "="); !ok || name == "" {
				return fmt.Errorf("%q is no variable: want NAME=VALUE", one)
			}
		}
		*e = list
		return nil
	}
	var values map[string]scalar
	if err := unmarshal(&values); err != nil {
		return errors.New("want variables: a map of names to values")
	}
	*e = envMap{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		*e = append(*e, name+"="+string(values[name]))
	}
	return nil
}

// serviceNames is a list, or a map as the original writes it.
type serviceNames []string

func (n *serviceNames) UnmarshalYAML(unmarshal func(any) error) error {
	var list []string
	if err := unmarshal(&list); err == nil {
		*n = list
		return nil
	}
	var full map[string]any
	if err := unmarshal(&full); err != nil {
		return errors.New("want a list of names of services")
	}
	*n = slices.Sorted(maps.Keys(full))
	return nil
}

// readManifest reads the apps of a manifest: a list, or a map of paths to apps as
// the original writes it, or one app that is the whole file. file may be a folder
// with a manifest.yml. Without one, there are no apps.
func readManifest(file string) ([]described, error) {
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		file = filepath.Join(file, manifestFile)
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the manifest: %w", err)
	}
	apps, err := parseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("cannot use the manifest %s: %w", file, err)
	}
	for i := range apps {
		if !filepath.IsAbs(apps[i].Path) {
			apps[i].Path = filepath.Join(filepath.Dir(file), apps[i].Path)
		}
	}
	return apps, nil
}

func parseManifest(data []byte) (apps []described, err error) {
	// The YAML reader panics on some texts, such as a tag without a value.
	defer func() {
		if recover() != nil {
			apps, err = nil, errors.New("it is no YAML that can be read")
		}
	}()
	var listed struct {
		Applications []described `yaml:"applications"`
	}
	var keyed struct {
		Applications yaml.MapSlice `yaml:"applications"`
	}
	var whole described
	listErr := yaml.UnmarshalWithOptions(data, &listed, yaml.Strict())
	switch {
	case listErr == nil:
		return listed.Applications, check(listed.Applications)
	case yaml.Unmarshal(data, &keyed) == nil && len(keyed.Applications) > 0:
		for _, item := range keyed.Applications {
			text, err := yaml.Marshal(item.Value)
			if err != nil {
				return nil, err
			}
			var app described
			if err := yaml.UnmarshalWithOptions(text, &app, yaml.Strict()); err != nil {
				return nil, plain(err)
			}
			if app.Path == "" {
				app.Path = fmt.Sprint(item.Key)
			}
			apps = append(apps, app)
		}
		return apps, check(apps)
	case yaml.UnmarshalWithOptions(data, &whole, yaml.Strict()) == nil && whole.Name != "":
		return []described{whole}, check([]described{whole})
	}
	return nil, plain(listErr)
}

// plain is an error of the YAML reader with its position, on one line.
func plain(err error) error { return errors.New(yaml.FormatError(err, false, false)) }

func check(apps []described) error {
	if len(apps) == 0 {
		return errors.New("it has no applications")
	}
	names := map[string]bool{}
	for _, app := range apps {
		if app.Name == "" {
			return errors.New("an application has no name")
		}
		if names[app.Name] {
			return fmt.Errorf("application %s is there twice", app.Name)
		}
		names[app.Name] = true
		if app.Instances != nil && *app.Instances < 0 {
			return fmt.Errorf("application %s: instances is below 0", app.Name)
		}
	}
	return nil
}
