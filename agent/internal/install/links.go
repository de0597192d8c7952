package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/agent/api"
)

// link leads jobs/<job> to the files of a generation, each link replaced in
// one piece, and removes the links of other jobs. The jobs' own folders are
// made here too.
func (i *Installer) link(spec api.Spec) error {
	wanted := make(map[string]bool)
	for _, job := range spec.Jobs {
		wanted[job.Name] = true
		for _, folder := range []string{"data", "log", "run"} {
			if err := os.MkdirAll(i.path(folder, job.Name), 0o755); err != nil {
				return fmt.Errorf("cannot make the folders of job %s: %w", job.Name, err)
			}
		}
		target := linkTarget(spec.Generation, job.Name)
		if have, err := os.Readlink(i.path("jobs", job.Name)); err == nil && have == target {
			continue
		}
		if info, err := os.Lstat(i.path("jobs", job.Name)); err == nil && info.IsDir() {
			// Made by hand; a link cannot replace a folder.
			if err := os.RemoveAll(i.path("jobs", job.Name)); err != nil {
				return fmt.Errorf("cannot activate the files of job %s: %w", job.Name, err)
			}
		}
		if err := renameio.Symlink(target, i.path("jobs", job.Name)); err != nil {
			return fmt.Errorf("cannot activate the files of job %s: %w", job.Name, err)
		}
	}
	entries, err := os.ReadDir(i.path("jobs"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if wanted[e.Name()] {
			continue
		}
		if err := os.RemoveAll(i.path("jobs", e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove the files of job %s: %w", e.Name(), err)
		}
	}
	return nil
}

func linkTarget(generation, job string) string {
	return filepath.Join("..", kindGeneration, generation, "jobs", job)
}
