package dea

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/jobs/dea/internal/core"
	"github.com/clusterworks/deploy/jobs/wire"
)

// readRecords reads db/applications.json: {app id: {instance id: record}}.
func readRecords(file string) ([]core.Instance, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read which instances there are: %w", err)
	}
	var records map[wire.ID]map[string]core.Instance
	if err := json.Unmarshal(data, &records); err != nil {
		return nil, fmt.Errorf("cannot read which instances there are from %s: %w", file, err)
	}
	var all []core.Instance
	for _, app := range records {
		for id, i := range app {
			if i.ID != id || id == "" || filepath.Base(id) != id || i.Folder == "" || filepath.Base(i.Folder) != i.Folder {
				return nil, fmt.Errorf("cannot use %s: the record of instance %q is of another one", file, id)
			}
			all = append(all, i)
		}
	}
	return all, nil
}

func writeRecords(file string, all []core.Instance) error {
	records := map[wire.ID]map[string]core.Instance{}
	for _, i := range all {
		if records[i.Start.Droplet] == nil {
			records[i.Start.Droplet] = map[string]core.Instance{}
		}
		records[i.Start.Droplet][i.ID] = i
	}
	data, err := json.Marshal(records)
	if err == nil {
		err = renameio.WriteFile(file, data, 0o600) // it has the apps' credentials
	}
	if err != nil {
		return fmt.Errorf("cannot save which instances there are: %w", err)
	}
	return nil
}
