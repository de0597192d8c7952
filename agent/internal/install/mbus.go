package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/mbus"
)

// rewriting is a file of the image that holds other URIs of the bus than it
// shall.
type rewriting struct {
	file    string // the file itself, where links lead to one
	info    fs.FileInfo
	content []byte
	changes []mbus.Change
	// owed are the processes that have read, or may have read, what is replaced.
	owed []ref
}

func (w rewriting) String() string {
	lines := make([]string, len(w.changes))
	for i, c := range w.changes {
		lines[i] = c.String()
	}
	return w.file + ": " + strings.Join(lines, "; ")
}

// rewritings are the files that must change for a spec. Nothing is written.
func rewritings(spec api.Spec) ([]rewriting, error) {
	var out []rewriting
	asked := make(map[string]*api.Mbus)
	at := make(map[string]int) // in out
	for _, job := range spec.Jobs {
		if job.Mbus == nil {
			continue
		}
		files, err := imageFiles(job.Mbus)
		if err != nil {
			return nil, fmt.Errorf("cannot rewrite the message-bus URIs of job %s: %w", job.Name, err)
		}
		for _, file := range files {
			if before := asked[file]; before == nil {
				asked[file] = job.Mbus
				w, err := rewrite(file, job.Mbus)
				if err != nil {
					return nil, fmt.Errorf("cannot rewrite the message-bus URIs in %s: %w; the file is unchanged: correct it, or leave it out of the mbus block of job %s", file, err, job.Name)
				}
				if len(w.changes) == 0 {
					continue
				}
				at[file] = len(out)
				out = append(out, w)
			} else if !sameBus(before, job.Mbus) {
				return nil, fmt.Errorf("cannot rewrite the message-bus URIs in %s: another job of the instance writes different URIs into it than job %s; name different files in their mbus blocks", file, job.Name)
			}
			n, changes := at[file]
			if !changes {
				continue
			}
			for _, p := range job.Processes {
				if slices.Contains(concerned(job, p, files), file) {
					out[n].owed = append(out[n].owed, ref{job.Name, p.Name})
				}
			}
		}
	}
	return out, nil
}

// sameBus tells whether two jobs ask for the same URIs.
func sameBus(a, b *api.Mbus) bool {
	return reflect.DeepEqual(settings(a), settings(b))
}

func settings(m *api.Mbus) mbus.Settings {
	return mbus.Settings{Servers: m.Servers, User: m.User, Password: m.Password, Scheme: m.Scheme, Choice: m.Choice}
}

func rewrite(file string, m *api.Mbus) (rewriting, error) {
	info, err := os.Stat(file)
	if err != nil {
		return rewriting{}, err
	}
	source, err := os.ReadFile(file)
	if err != nil {
		return rewriting{}, err
	}
	content, changes, err := mbus.Rewrite(source, settings(m))
	return rewriting{file: file, info: info, content: content, changes: changes}, err
}

// imageFiles are the files that the patterns mean, each once, links followed. A
// link below the image's folder must not lead out of it: what is there is not
// of the image.
func imageFiles(m *api.Mbus) ([]string, error) {
	var out []string
	for _, pattern := range m.Files {
		relative := !path.IsAbs(pattern)
		var names []string
		var err error
		if relative {
			if pattern = path.Clean(pattern); !filepath.IsLocal(pattern) {
				return nil, fmt.Errorf("the pattern %q leads out of %s", pattern, m.Folder)
			}
			names, err = fs.Glob(os.DirFS(m.Folder), pattern)
			for i, name := range names {
				names[i] = filepath.Join(m.Folder, filepath.FromSlash(name))
			}
		} else {
			names, err = filepath.Glob(pattern)
		}
		if err != nil {
			return nil, fmt.Errorf("the pattern %q cannot be read: %w", pattern, err)
		}
		found := false
		for _, name := range names {
			file, err := filepath.EvalSymlinks(name)
			if err != nil {
				return nil, err
			}
			info, err := os.Lstat(file)
			if err != nil {
				return nil, err
			}
			if info.IsDir() {
				continue
			}
			if !info.Mode().IsRegular() {
				return nil, fmt.Errorf("%s is not a regular file", name)
			}
			if relative {
				folder, err := filepath.EvalSymlinks(m.Folder)
				if err != nil {
					return nil, err
				}
				if below, err := filepath.Rel(folder, file); err != nil || !filepath.IsLocal(below) {
					return nil, fmt.Errorf("%s is a link that leads out of %s; name the file itself", name, m.Folder)
				}
			}
			found = true
			if !slices.Contains(out, file) {
				out = append(out, file)
			}
		}
		if !found {
			folder := m.Folder
			if !relative {
				folder = "the VM's file system"
			}
			return nil, fmt.Errorf("the pattern %q matches no file in %s; correct it in the job's mbus block, or the VM's image", pattern, folder)
		}
	}
	return out, nil
}

// concerned are those of the files that a process reads; see api.Mbus.
func concerned(job api.Job, p api.Process, files []string) []string {
	words := slices.Clone(p.Command)
	for _, value := range p.Env {
		words = append(words, value)
	}
	named := make(map[string]bool)
	for _, word := range words {
		if _, value, found := strings.Cut(word, "="); found && !path.IsAbs(word) {
			word = value
		}
		if path.IsAbs(word) {
			if file, err := filepath.EvalSymlinks(word); err == nil {
				named[file] = true
			}
		}
	}
	pick := func(choose func(file string) bool) []string {
		return slices.DeleteFunc(slices.Clone(files), func(file string) bool { return !choose(file) })
	}
	if out := pick(func(file string) bool { return named[file] }); len(out) > 0 {
		return out
	}
	called := func(file string) bool {
		name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
		return name == p.Name || name == job.Name
	}
	if out := pick(called); len(out) > 0 {
		return out
	}
	return files
}

func owedFor(files []rewriting) map[ref]bool {
	out := make(map[ref]bool)
	for _, w := range files {
		for _, r := range w.owed {
			out[r] = true
		}
	}
	return out
}

// busDrift are the files of the image that are not as the spec wants them.
func busDrift(spec api.Spec) []api.Drift {
	files, err := rewritings(spec)
	if err != nil {
		return []api.Drift{{Kind: api.DriftBus, Reason: err.Error()}}
	}
	var out []api.Drift
	for _, w := range files {
		d := api.Drift{Path: w.file, Kind: api.DriftBus, Reason: "message-bus URIs: " + w.String()}
		for _, r := range w.owed {
			d.Restart = append(d.Restart, r.String())
		}
		out = append(out, d)
	}
	return out
}

// rewriteURIs makes the files as the target wants them. The processes that read
// them do not run at this moment.
func (t *transition) rewriteURIs(ctx context.Context) error {
	files, err := rewritings(t.to)
	if err != nil {
		return err
	}
	for _, w := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.write(); err != nil {
			return fmt.Errorf("cannot rewrite the message-bus URIs in %s: %w; the file is left as it is", w.file, err)
		}
		t.report.Event("mbus", w.String())
	}
	return nil
}

// write replaces the file in one piece; mode and owner stay.
func (w rewriting) write() error {
	stat, ok := w.info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("cannot tell its owner")
	}
	f, err := renameio.NewPendingFile(w.file, renameio.WithTempDir(filepath.Dir(w.file)), renameio.WithPermissions(0o600))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := f.Write(w.content); err != nil {
		return err
	}
	// The owner first: changing it takes special bits of the mode away.
	if err := f.Chown(int(stat.Uid), int(stat.Gid)); err != nil {
		return fmt.Errorf("cannot keep its owner: %w", err)
	}
	if err := f.Chmod(w.info.Mode() & (os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky)); err != nil {
		return fmt.Errorf("cannot keep its mode: %w", err)
	}
	return f.CloseAtomicallyReplace()
}
