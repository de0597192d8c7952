package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/clusterworks/deploy/agent/api"
)

// Prepare stages a spec: packages, files, check hooks, ports. It touches
// nothing that runs; folders that were changed by hand are replaced, each in one
// piece, by what their names promise.
func (i *Installer) Prepare(ctx context.Context, spec api.Spec, report Report) error {
	if err := validate(spec); err != nil {
		return &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf("cannot stage generation %s: %v", spec.Generation, err)}
	}
	return runSteps(ctx, report, []step{
		{"drift", func(context.Context) error { return i.noteDrift(spec) }},
		{"fetch", func(ctx context.Context) error { return i.packages.fetch(ctx, report, spec.Packages) }},
		{"system packages", func(ctx context.Context) error { return i.systemPackages(ctx, report, spec.SystemPackages) }},
		{"ports", func(context.Context) error { return i.checkPorts(spec) }},
		{"mbus", func(context.Context) error { _, err := rewritings(spec); return err }},
		{"stage", func(context.Context) error { return i.stage(spec) }},
		{"check", func(ctx context.Context) error { return i.runChecks(ctx, report, spec) }},
		{"staged", func(context.Context) error { return i.noteStaged(spec, report) }},
	})
}

// validate refuses what would lead out of the folder or be ambiguous; the
// deployer has checked the meaning.
func validate(spec api.Spec) error {
	if !safeName(spec.Generation) {
		return fmt.Errorf("generation %q is not a digest", spec.Generation)
	}
	for _, p := range spec.Packages {
		if !isDigest(p.Digest) {
			return fmt.Errorf("package %q: %q is not a sha256", p.Name, p.Digest)
		}
	}
	jobs := make(map[string]bool)
	for _, job := range spec.Jobs {
		if !safeName(job.Name) || jobs[job.Name] {
			return fmt.Errorf("job name %q is invalid or occurs twice", job.Name)
		}
		jobs[job.Name] = true
		names := make(map[string]bool)
		for _, p := range job.Processes {
			if !safeName(p.Name) || names[p.Name] {
				return fmt.Errorf("job %s: process name %q is invalid or occurs twice", job.Name, p.Name)
			}
			names[p.Name] = true
			if len(p.Command) == 0 {
				return fmt.Errorf("job %s: process %s has no command", job.Name, p.Name)
			}
		}
		files := make(map[string]bool)
		for _, f := range job.Files {
			if f.Path == "" || !filepath.IsLocal(f.Path) || filepath.Clean(f.Path) != f.Path || f.Path == "." || files[f.Path] {
				return fmt.Errorf("job %s: file %q is outside the job's folder or occurs twice", job.Name, f.Path)
			}
			files[f.Path] = true
		}
		for _, h := range job.Hooks {
			if len(h.Command) == 0 {
				return fmt.Errorf("job %s: hook %s has no command", job.Name, h.Kind)
			}
		}
	}
	return nil
}

// stage writes generations/<digest>. One that is there has the same content,
// by its name, unless it was changed by hand.
func (i *Installer) stage(spec api.Spec) error {
	if whole, err := i.records.whole(kindGeneration, spec.Generation); err != nil || whole {
		return err
	}
	temporary, err := os.MkdirTemp(i.path("generations"), ".stage-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(temporary, "spec.json"), data, 0o600); err != nil {
		return err
	}
	for _, job := range spec.Jobs {
		uid, gid, err := fileOwner(job)
		if err != nil {
			return err
		}
		dir := filepath.Join(temporary, "jobs", job.Name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for _, f := range job.Files {
			name := filepath.Join(dir, filepath.FromSlash(f.Path))
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				return err
			}
			if err := writeFile(name, f.Content, os.FileMode(f.Mode)&os.ModePerm); err != nil {
				return fmt.Errorf("cannot write file %s of job %s: %w", f.Path, job.Name, err)
			}
			if err := os.Chown(name, uid, gid); err != nil {
				return fmt.Errorf("cannot give file %s of job %s to its process's user: %w", f.Path, job.Name, err)
			}
		}
	}
	if err := os.Chmod(temporary, 0o755); err != nil {
		return err
	}
	return i.records.install(temporary, kindGeneration, spec.Generation)
}

// fileOwner returns who must be able to read a job's files: the user that its
// processes run as, the agent's own (-1) if they name none or several.
func fileOwner(job api.Job) (uid, gid int, err error) {
	name := ""
	for _, p := range job.Processes {
		if name != "" && p.User != name {
			return -1, -1, nil
		}
		name = p.User
	}
	if name == "" || os.Getuid() != 0 {
		return -1, -1, nil
	}
	account, err := user.Lookup(name)
	if err != nil {
		account, err = user.LookupId(name)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("cannot find the user %q that job %s runs as: %w", name, job.Name, err)
	}
	if uid, err = strconv.Atoi(account.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(account.Gid)
	return uid, gid, err
}

// writeFile writes a new file, synced.
func writeFile(name string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

// runChecks runs all check hooks and tells of all that failed.
func (i *Installer) runChecks(ctx context.Context, report Report, spec api.Spec) error {
	var problems []error
	for _, job := range spec.Jobs {
		staged := i.path("generations", spec.Generation, "jobs", job.Name)
		if err := i.hooks.runAll(ctx, report, spec, job, api.HookCheck, map[string]string{"DEPLOY_STAGED": staged}); err != nil {
			problems = append(problems, err)
		}
	}
	if len(problems) < 2 {
		return errors.Join(problems...)
	}
	all := &api.Error{Code: api.CodeFailed, Message: errors.Join(problems...).Error()}
	if first := (*api.Error)(nil); errors.As(problems[0], &first) {
		all.Process = first.Process
	}
	return all
}

// noteStaged makes the generation known and removes what is not kept.
func (i *Installer) noteStaged(spec api.Spec, report Report) error {
	err := i.change(func(s *state) {
		s.Staged = slices.DeleteFunc(s.Staged, func(g string) bool { return g == spec.Generation })
		if spec.Generation != s.Active && spec.Generation != s.Previous {
			s.Staged = append(s.Staged, spec.Generation)
		}
		s.Staged = s.Staged[max(0, len(s.Staged)-keepStaged):]
	})
	if err != nil {
		return err
	}
	report.Event("stage", "generation "+spec.Generation+" is staged")
	return i.collect()
}
