package install

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
)

// The folders that hold what is installed.
const (
	kindGeneration = "generations"
	kindPackage    = "store"
)

// Drift tells how what is active differs from what was installed: rendered
// files, the links to them, packages, files of the image with URIs of the bus; and what of that was repaired on disk
// and not yet loaded. Full reads every byte; else a file is read when its time,
// size or inode is another one. What cannot be compared is told in the log.
func (i *Installer) Drift(full bool) []api.Drift {
	s := i.snapshot()
	if s.Active == "" {
		return nil
	}
	spec, err := i.Spec(s.Active)
	if err != nil {
		// Its folder is damaged, which is a difference like others.
		i.Log.Warn("cannot read which generation is active", "err", err)
		spec = api.Spec{Generation: s.Active}
	}
	return i.drift(spec, full)
}

// drift is Drift for the active spec.
func (i *Installer) drift(spec api.Spec, full bool) []api.Drift {
	i.swapping.RLock() // in the middle of an activation nothing fits
	defer i.swapping.RUnlock()
	s := i.snapshot()
	if s.Active != spec.Generation {
		return nil // activated meanwhile
	}
	out := i.generationDrift(spec, full)
	if s.Pending == nil && len(spec.Jobs) > 0 { // else the links may be on their way
		out = append(out, i.linkDrift(spec)...)
	}
	for _, p := range spec.Packages {
		for _, d := range i.records.differences(kindPackage, p.Digest, full) {
			drift := api.Drift{Path: below(kindPackage+"/"+p.Digest, d.path), Kind: d.kind, Package: p.Name, Left: d.kind == api.DriftExtra}
			if d.kind == api.DriftChanged || d.kind == api.DriftMissing {
				drift.Restart = usersOf(spec, p)
			}
			out = append(out, drift)
		}
	}
	if !s.Stopped {
		out = append(out, busDrift(spec)...)
	}
	for _, d := range s.Mended {
		if !slices.ContainsFunc(out, func(other api.Drift) bool { return other.Path == d.Path }) {
			out = append(out, d)
		}
	}
	return out
}

func below(folder, path string) string {
	if path == "." {
		return folder
	}
	return folder + "/" + path
}

func (i *Installer) generationDrift(spec api.Spec, full bool) []api.Drift {
	var out []api.Drift
	for _, d := range i.records.differences(kindGeneration, spec.Generation, full) {
		drift := api.Drift{Path: below(kindGeneration+"/"+spec.Generation, d.path), Kind: d.kind}
		for _, job := range spec.Jobs {
			if folder := "jobs/" + job.Name; d.path == folder || strings.HasPrefix(d.path, folder+"/") {
				drift.Job, drift.Path = job.Name, d.path // as people and processes know it
			}
			restart, reload := loaders(job, d)
			drift.Restart, drift.Reload = append(drift.Restart, restart...), append(drift.Reload, reload...)
		}
		out = append(out, drift)
	}
	return out
}

// loaders are the processes that may have loaded what now differs. What is only
// of another mode has the content that they know.
func loaders(job api.Job, d difference) (restart, reload []string) {
	folder := "jobs/" + job.Name + "/"
	classes := map[api.OnChange]bool{
		// Nobody knows what an added file has done.
		api.OnChangeRestart: d.kind == api.DriftExtra && strings.HasPrefix(d.path, folder),
	}
	for _, f := range job.Files {
		if d.kind != api.DriftMode && (d.path == "." || strings.HasPrefix(folder+f.Path+"/", d.path+"/")) {
			classes[f.OnChange] = true
		}
	}
	for _, p := range job.Processes {
		name := ref{job.Name, p.Name}.String()
		switch {
		case classes[api.OnChangeRestart], classes[api.OnChangeReload] && p.Reload == nil:
			restart = append(restart, name)
		case classes[api.OnChangeReload]:
			reload = append(reload, name)
		}
	}
	return restart, reload
}

// linkDrift tells which links in jobs/ do not lead to the active generation.
func (i *Installer) linkDrift(spec api.Spec) []api.Drift {
	var out []api.Drift
	wanted := map[string]bool{}
	for _, job := range spec.Jobs {
		wanted[job.Name] = true
		target, err := os.Readlink(i.path("jobs", job.Name))
		if err == nil && target == linkTarget(spec.Generation, job.Name) {
			continue
		}
		d := api.Drift{Path: "jobs/" + job.Name, Kind: api.DriftChanged, Job: job.Name}
		if errors.Is(err, fs.ErrNotExist) {
			d.Kind = api.DriftMissing
		}
		for _, p := range job.Processes {
			d.Restart = append(d.Restart, ref{job.Name, p.Name}.String())
		}
		out = append(out, d)
	}
	entries, err := os.ReadDir(i.path("jobs"))
	if err != nil {
		i.Log.Warn("cannot compare with what was installed", "err", err)
	}
	for _, e := range entries {
		if !wanted[e.Name()] {
			out = append(out, api.Drift{Path: "jobs/" + e.Name(), Kind: api.DriftExtra})
		}
	}
	return out
}

// usersOf are the processes that name a package's folder, themselves or in a
// file of their job.
func usersOf(spec api.Spec, p api.Package) []string {
	var out []string
	for _, job := range spec.Jobs {
		inFiles := slices.ContainsFunc(job.Files, func(f api.File) bool { return strings.Contains(string(f.Content), p.Digest) })
		for _, process := range job.Processes {
			words := append(slices.Clone(process.Command), process.Dir)
			for _, value := range process.Env {
				words = append(words, value)
			}
			if inFiles || slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, p.Digest) }) {
				out = append(out, ref{job.Name, process.Name}.String())
			}
		}
	}
	return out
}

// noteDrift remembers what was changed by hand before a preparation repairs it on
// disk: the processes that may have loaded it are then still to be told.
func (i *Installer) noteDrift(wanted api.Spec) error {
	s := i.snapshot()
	if s.Active == "" {
		return nil
	}
	spec := wanted
	if wanted.Generation != s.Active {
		var err error
		if spec, err = i.Spec(s.Active); err != nil {
			i.Log.Warn("cannot read which generation is active", "err", err)
			return nil
		}
	}
	owed := slices.DeleteFunc(i.drift(spec, false), func(d api.Drift) bool { return len(d.Restart)+len(d.Reload) == 0 })
	if len(owed) == len(s.Mended) {
		return nil // what was noted is in it
	}
	return i.change(func(s *state) { s.Mended = owed })
}
