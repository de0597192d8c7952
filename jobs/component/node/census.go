package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// censusCommand is the first argument by which a node's program says what lives on the
// node, instead of being it.
const censusCommand = "census"

// mostApps is the number of apps of an instance that a census names.
const mostApps = 20

// Census returns the instances of the node with this configuration file, by its
// records: it need not run.
func Census(file, service string) ([]wire.Thing, error) {
	var cfg Config
	if _, err := component.Load(file, &cfg); err != nil {
		return nil, err
	}
	folder := filepath.Join(cfg.BaseDir, recordsFolder)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("cannot tell what lives here: the node's records cannot be listed: %w", err)
	}
	var things []wire.Thing
	for _, e := range entries {
		name, record := strings.CutSuffix(e.Name(), ".json")
		damaged := strings.HasSuffix(e.Name(), ".damaged")
		if !record && !damaged {
			continue // a temporary file of a process that was killed
		}
		thing := wire.Thing{Kind: service + " instance", Name: name}
		data, err := os.ReadFile(filepath.Join(folder, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		i, wrong := parseRecord(data)
		switch {
		case err != nil || wrong != nil || damaged:
			thing.Name += ", whose record cannot be read"
		case i.State != Whole || i.Away:
			continue
		default:
			thing.Owner = i.Owner
			for _, b := range i.Users() {
				if b.App != "" && len(thing.Apps) < mostApps && !slices.Contains(thing.Apps, b.App) {
					thing.Apps = append(thing.Apps, b.App)
				}
			}
			if i.Called != "" {
				thing.Name = i.Called + " " + thing.Name
			}
		}
		things = append(things, thing)
	}
	return things, nil
}
