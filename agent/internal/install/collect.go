package install

import (
	"errors"
	"os"
	"strings"
	"time"
)

// collect removes generations and packages that nothing needs: neither what is
// active or staged, nor what could be rolled back to, nor what runs.
func (i *Installer) collect() error {
	s := i.snapshot()
	keep := map[string]bool{s.Active: true, s.Previous: true}
	if s.Pending != nil {
		keep[s.Pending.Target] = true
	}
	for _, g := range s.Staged {
		keep[g] = true
	}
	for _, status := range i.Supervisor.Statuses() {
		keep[status.Generation] = true
	}
	packages := make(map[string]bool)
	for g := range keep {
		if g == "" {
			continue
		}
		spec, err := i.Spec(g)
		if err != nil {
			// Better to keep all packages than to remove one that runs.
			return nil
		}
		for _, p := range spec.Packages {
			packages[p.Digest] = true
		}
	}
	records := make(map[string]bool)
	for g := range keep {
		records[kindGeneration+"-"+g+".json"] = true
	}
	for digest := range packages {
		records[kindPackage+"-"+digest+".json"] = true
	}
	return errors.Join(i.removeOthers(kindGeneration, keep), i.removeOthers(kindPackage, packages),
		i.removeOthers("records", records), i.removeStale())
}

// staleUpload is the age at which an upload is taken for left behind: its
// package was never asked for, or its deployer died in the middle.
const staleUpload = time.Hour

func (i *Installer) removeStale() error {
	entries, err := os.ReadDir(i.path("incoming"))
	if err != nil {
		return err
	}
	var problems []error
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleUpload {
			problems = append(problems, os.RemoveAll(i.path("incoming", e.Name())))
		}
	}
	return errors.Join(problems...)
}

func (i *Installer) removeOthers(folder string, keep map[string]bool) error {
	entries, err := os.ReadDir(i.path(folder))
	if err != nil {
		return err
	}
	var problems []error
	for _, e := range entries {
		if !keep[e.Name()] || strings.HasPrefix(e.Name(), ".") {
			problems = append(problems, os.RemoveAll(i.path(folder, e.Name())))
		}
	}
	return errors.Join(problems...)
}
