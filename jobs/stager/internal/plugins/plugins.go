// Package plugins turns the files of apps into droplets: a plugin a kind of app.
// Plugins run in a process of their own (Main), which the stager has confined
// (jobs/confine) and ends.
package plugins

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// builtin are the plugins of this package, by framework.
func builtin() map[string]func(*staging) (start, error) {
	return map[string]func(*staging) (start, error){
		"binary":     binary,
		"java_web":   javaWeb,
		"node":       node,
		"rack":       rack,
		"sinatra":    sinatra,
		"standalone": standalone,
		"static":     static,
		"wsgi":       wsgi,
	}
}

// Check returns an error if there is no built-in plugin for a framework.
func Check(framework string) error {
	if _, ok := builtin()[framework]; !ok {
		return fmt.Errorf("there is no plugin for framework %s; there are %s", framework, strings.Join(slices.Sorted(maps.Keys(builtin())), ", "))
	}
	return nil
}

// Main is the plugin process: args are the framework and the name of the
// configuration file. It returns the exit status; what went wrong is on stderr, for
// the app's owner.
func Main(args []string, stderr io.Writer) int {
	if len(args) != 2 {
		fmt.Fprintln(stderr, "a plugin's process takes the framework and its configuration's file")
		return 2
	}
	if err := run(args[0], args[1]); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func run(framework, file string) error {
	var cfg Config
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &cfg)
	}
	if err != nil {
		return fmt.Errorf("cannot read the plugin's configuration: %w", err)
	}
	if err := Check(framework); err != nil {
		return err
	}
	return stage(cfg, builtin()[framework])
}
