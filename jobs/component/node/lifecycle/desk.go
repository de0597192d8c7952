package lifecycle

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/agent/host/damaged"
	"github.com/clusterworks/deploy/jobs/wire"
)

// desk is the folder of the jobs' records.
type desk struct{ folder string }

// read returns all jobs. Records that cannot be read are set aside; notes are for the log.
func (d desk) read() (jobs []Job, notes []string, err error) {
	if err := os.MkdirAll(d.folder, 0o700); err != nil {
		return nil, nil, fmt.Errorf("cannot make the folder of the jobs' records: %w", err)
	}
	entries, err := os.ReadDir(d.folder)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list the jobs' records: %w", err)
	}
	for _, e := range entries {
		id, is := strings.CutSuffix(e.Name(), ".json")
		if !is {
			continue // a temporary file of a process that was killed, or one that is damaged
		}
		path := filepath.Join(d.folder, e.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read a job's record: %w", err)
		}
		j, err := parseJob(data)
		if err == nil && j.ID != id {
			err = errors.New("it is another job's")
		}
		if err != nil {
			note, err := damaged.SetAside(path, err)
			if err != nil {
				return nil, nil, err
			}
			notes = append(notes, note)
			continue
		}
		jobs = append(jobs, j)
	}
	return jobs, notes, nil
}

// parseJob reads a job's record.
func parseJob(data []byte) (Job, error) {
	var j Job
	if err := json.Unmarshal(data, &j); err != nil {
		return Job{}, errors.New("it is no record of a job")
	}
	switch {
	case !wire.ValidServiceInstance(j.ID) || !wire.ValidServiceInstance(j.Instance) || !wire.ValidServiceInstance(j.Snapshot):
		return Job{}, errors.New("one of its names cannot be one")
	case !slices.Contains(kinds, j.Kind):
		return Job{}, fmt.Errorf("its kind %q is unknown", j.Kind)
	case !slices.Contains([]string{wire.JobQueued, wire.JobWorking, wire.JobCompleted, wire.JobFailed}, j.Status):
		return Job{}, fmt.Errorf("its status %q is unknown", j.Status)
	case j.Number < 0 || j.Attempts < 0:
		return Job{}, errors.New("one of its numbers is negative")
	}
	return j, nil
}

func (d desk) write(j Job) error {
	data, err := json.MarshalIndent(j, "", "  ")
	if err == nil {
		err = renameio.WriteFile(filepath.Join(d.folder, j.ID+".json"), data, 0o600)
	}
	if err == nil {
		err = syncFolder(d.folder)
	}
	if err != nil {
		return fmt.Errorf("cannot keep the record of a job: %w", err)
	}
	return nil
}

func (d desk) remove(id string) error {
	if err := os.Remove(filepath.Join(d.folder, id+".json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the record of a job: %w", err)
	}
	return nil
}
