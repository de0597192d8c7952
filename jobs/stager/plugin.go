package stager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/runtimes"
	"github.com/clusterworks/deploy/jobs/stager/internal/plugins"
)

// RunPlugin is the first argument of the stager's program when it is to be a
// plugin's process; the others are the framework and the configuration file.
const RunPlugin = "run-plugin"

// PluginMain is that process's main function. It returns the exit status.
func PluginMain(args []string) int { return plugins.Main(args, os.Stderr) }

const (
	// errorLimit bounds what a plugin may say in an error.
	errorLimit = 4 << 10
	// firstUser is the first of the users that plugins run as, if the stager is
	// root; the thousand from there on lies below the DEAs' users.
	firstUser     = 21000
	numberOfUsers = 1000
	// measureEvery is the interval at which it is looked at what a staging uses.
	measureEvery = 500 * time.Millisecond
	// endTimeout bounds the end of a plugin that got KILL.
	endTimeout = 10 * time.Second
	// openFiles is the number of open files that a plugin's process may have; npm opens very many.
	openFiles = 4096
)

// The names in a task's folder. Its records are the stager's, its files the
// plugin's.
const (
	recordsFolder = "warden"
	filesFolder   = "files"
	outputFile    = "plugin.out" // in files, as all below
	unstagedDir   = "unstaged"
	stagedDir     = "staged"
)

// platformFolder is the place where a plugin sees what the stager gives it.
const platformFolder = "/platform"

// give lets a plugin read a file or folder, and returns where it sees it.
func give(spec *warden.Spec, name, path string) string {
	if path == "" || confine.Covers(spec.Visible, path) {
		return path
	}
	seen := path
	if spec.Namespaces {
		seen = filepath.Join(platformFolder, name)
	}
	spec.Mounts[seen] = path
	return seen
}

// confinement returns how a task's plugin is confined.
func (t *task) confinement(work string, place int) (warden.Spec, error) {
	s := t.stager
	c := s.config
	spec := warden.Spec{ID: t.id, Bound: true, Spec: confine.Spec{
		Dir: filepath.Join(work, filesFolder), Namespaces: s.machine.Namespaces, Umask: 0o022,
		Visible: confine.SystemPaths(), Mounts: map[string]string{},
		// Sources and droplet are there at once.
		Limits: confine.Limits{MemoryBytes: c.MaxMemoryMB << 20, DiskBytes: c.MaxDropletMB << 20, OpenFiles: openFiles, Processes: c.Processes},
	}}
	spec.Home, spec.Output = spec.Dir, filepath.Join(spec.Dir, outputFile)
	if spec.Namespaces {
		spec.Home = confine.Home
	}
	if c.FetchDependencies {
		spec.Visible = append(spec.Visible, "/etc/npmrc", "/etc/pip.conf", "/etc/gemrc", "/etc/gitconfig")
	}
	if s.machine.Network && c.Network == warden.NetworkOwn {
		spec.Network = c.network()
	}
	if s.machine.Users {
		spec.UID = s.user(place)
		spec.GID = spec.UID
	}
	framework := t.request.Properties.Framework
	config := filepath.Join(spec.Home, "plugin.yml")
	if external := c.Plugins[framework]; external != "" {
		program, err := filepath.EvalSymlinks(external)
		if err != nil {
			return spec, err
		}
		// And what lies beside it.
		folder := give(&spec, "plugin", filepath.Dir(program))
		spec.Command = []string{filepath.Join(folder, filepath.Base(program)), framework, config}
	} else if err := plugins.Check(framework); err != nil {
		return spec, err
	} else {
		spec.Command = []string{give(&spec, "stager", s.folder.program), RunPlugin, framework, config}
	}
	// Nothing of the stager's own environment: it may hold what is not for apps.
	spec.Env = []string{
		"HOME=" + filepath.Join(spec.Home, "home"), "TMPDIR=" + filepath.Join(spec.Home, "tmp"), "PATH=" + runtimes.Path, "LANG=C.UTF-8",
	}
	return spec, nil
}

// user returns the user of the task at a place: no other stager of the group has
// it, as long as there are fewer than numberOfUsers places.
func (s *Stager) user(place int) int {
	index := 0
	if s.config.Index != nil {
		index = *s.config.Index
	}
	return firstUser + (index*s.config.MaxActiveTasks+place)%numberOfUsers
}

// runPlugin runs the plugin's process to its end. Whatever it started ends with
// it.
func (t *task) runPlugin(ctx context.Context, work string, spec warden.Spec, cfg plugins.Config) (err error) {
	files, err := os.OpenRoot(spec.Dir)
	if err != nil {
		return err
	}
	defer files.Close()
	data, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	err = errors.Join(files.Mkdir("home", 0o700), files.Mkdir("tmp", 0o700), files.Mkdir(stagedDir, 0o755), files.WriteFile("plugin.yml", data, 0o600))
	if err != nil {
		return err
	}
	if spec.UID != 0 {
		for _, name := range []string{".", "home", "tmp", stagedDir, unstagedDir, "plugin.yml"} {
			if err := files.Lchown(name, spec.UID, spec.GID); err != nil {
				return err
			}
		}
	}
	if cgroups := t.stager.machine.Cgroups; cgroups != nil {
		if spec.Cgroups, err = cgroups.Make(t.id, spec.Limits); err != nil {
			return err
		}
		defer func() {
			if err := confine.Remove(spec.Cgroups); err != nil {
				t.stager.base.Log().Warn("a staging left files or processes behind", "error", err)
			}
		}()
	}
	records := filepath.Join(work, recordsFolder)
	if err := os.Mkdir(records, 0o700); err != nil {
		return err
	}
	handle, err := warden.Launch(ctx, []string{t.stager.config.Warden}, records, spec, nil)
	if err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		return errors.Join(err, warden.Kill(clean, records))
	}
	over := t.await(ctx, handle, records, spec)
	ended, err := warden.ReadEnded(records)
	switch {
	case over != nil:
		return over
	case confine.OutOfMemory(spec.Cgroups):
		return t.overMemory()
	case err != nil:
		return errors.New("its process was killed")
	case ended.Error != "" || ended.Signal != "":
		return errors.New(ended.String())
	case ended.Status == 0:
		return nil
	}
	if text := strings.TrimSpace(readEnd(files, outputFile, errorLimit)); text != "" {
		return errors.New(text)
	}
	return errors.New("it " + ended.String())
}

// await returns when nothing of the plugin is left. An error says why it was ended.
func (t *task) await(ctx context.Context, handle *warden.Handle, records string, spec warden.Spec) (over error) {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	limit := 2*spec.Limits.DiskBytes + t.stager.config.MaxAppMB<<20
	for over == nil {
		select {
		case <-handle.Gone():
			return nil
		case <-ctx.Done():
			over = context.Cause(ctx)
		case <-tick.C:
			over = t.measure(handle, spec, limit)
		}
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	if err := handle.Stop(end, 0); err == nil {
		select {
		case <-handle.Gone():
			return over
		case <-end.Done():
		}
	}
	again, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	return errors.Join(over, warden.Kill(again, records))
}

// measure returns an error if the plugin uses more than it may of what the kernel
// does not bound.
func (t *task) measure(handle *warden.Handle, spec warden.Spec, disk int64) error {
	all, err := warden.Look()
	if err != nil {
		t.stager.base.Log().Warn("cannot measure what a staging uses", "error", err)
		return nil
	}
	if used := confine.DiskUsage(spec.Dir) + all.Held(handle.PID(), spec.Dir); used > disk {
		return fmt.Errorf("it used %s of disk, more than the %s that a staging may use, and was ended", bytesText(used), bytesText(disk))
	}
	if len(spec.Cgroups) > 0 {
		return nil
	}
	switch used := all.Usage(handle.PID()); {
	case used.Memory > spec.Limits.MemoryBytes:
		return t.overMemory()
	case used.Processes > spec.Limits.Processes:
		return fmt.Errorf("it had %d processes, more than the %d that a staging may have, and was ended", used.Processes, spec.Limits.Processes)
	}
	return nil
}

func (t *task) overMemory() error {
	return fmt.Errorf("it used more memory than the %d MB that a staging may use (max_memory_mb), and was ended", t.stager.config.MaxMemoryMB)
}

// readEnd returns the end of a file that a plugin may have made anything of; "" if
// it is no file.
func readEnd(root *os.Root, name string, limit int64) string {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	note := ""
	if skip := info.Size() - limit; skip > 0 {
		if _, err := f.Seek(skip, io.SeekStart); err != nil {
			return ""
		}
		note = fmt.Sprintf("(%s left out)\n", bytesText(skip))
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return ""
	}
	return note + string(data)
}
