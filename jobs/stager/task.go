package stager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent/host/unpack"
	"github.com/clusterworks/deploy/jobs/runtimes"
	"github.com/clusterworks/deploy/jobs/stager/internal/archive"
	"github.com/clusterworks/deploy/jobs/stager/internal/plugins"
	"github.com/clusterworks/deploy/jobs/wire"
)

// RunPlugin is the first argument of the stager's program when it is to be a
// plugin's process; the others are the framework and the configuration file.
const RunPlugin = "run-plugin"

// PluginMain is that process's main function. It returns the exit status.
func PluginMain(args []string) int { return plugins.Main(RunPlugin, args, os.Stderr) }

const (
	// logLimit bounds the log that is sent over the bus, which takes messages of
	// 1 MiB; its end is what matters.
	logLimit = 256 << 10
	// errorLimit bounds what a plugin may say in an error.
	errorLimit = 4 << 10
	// taskVariable marks all processes of a task.
	taskVariable = "STAGING_TASK"
	// killTimeout bounds the chase of processes that a plugin has left behind.
	killTimeout = 10 * time.Second
)

// errTimeout says that a staging took too long.
type errTimeout struct{ after time.Duration }

func (e errTimeout) Error() string {
	return fmt.Sprintf("Staging timed out after %s seconds.", strconv.FormatFloat(e.after.Seconds(), 'f', -1, 64))
}

// task is the staging of one app.
type task struct {
	stager  *Stager
	id      string
	request wire.StagingRequest
	log     bytes.Buffer // for the app's owner
}

func (t *task) say(format string, args ...any) { fmt.Fprintf(&t.log, format+"\n", args...) }

// run stages the app. What it returns is for the app's owner.
func (t *task) run(ctx context.Context, place int) (err error) {
	work, err := t.stager.folder.newTask(t.id)
	if err != nil {
		return t.failure(ctx, "Failed creating a workspace", err)
	}
	defer func() {
		if removeErr := os.RemoveAll(work); removeErr != nil {
			t.stager.base.Log().Warn("cannot remove a workspace", "folder", work, "error", removeErr)
		}
	}()
	zip, unstaged, staged, droplet := filepath.Join(work, "app.zip"), filepath.Join(work, "unstaged"), filepath.Join(work, "staged"), filepath.Join(work, "droplet.tgz")
	if err := errors.Join(os.Mkdir(unstaged, 0o755), os.Mkdir(staged, 0o755)); err != nil {
		return t.failure(ctx, "Failed creating a workspace", err)
	}
	info, found, err := t.findRuntime(ctx)
	if err != nil {
		return t.failure(ctx, "Staging plugin failed", err)
	}
	if found.Path != "" {
		t.say("Runtime %s: %s (%s)", info.Name, found.Path, found.Output)
	}

	size, err := download(ctx, t.stager.client, t.request.DownloadURI, zip, t.stager.config.MaxAppMB<<20)
	if err != nil {
		return t.failure(ctx, "Failed downloading app", err)
	}
	t.say("Downloaded the app, %s", bytesText(size))
	limits := unpack.Options{Bytes: t.stager.config.MaxDropletMB << 20, Public: true}
	if err := unpack.Zip(ctx, zip, unstaged, limits); err != nil {
		return t.failure(ctx, "Failed unpacking app", err)
	}
	if err := os.Remove(zip); err != nil {
		return t.failure(ctx, "Failed unpacking app", err)
	}

	t.say("Staging with framework %s", t.request.Properties.Framework)
	err = t.runPlugin(ctx, work, place, plugins.Config{
		SourceDir:         unstaged,
		DestDir:           staged,
		Environment:       t.request.Properties,
		RuntimePath:       found.Path,
		StaticServer:      t.stager.config.StaticServer,
		Tomcat:            t.stager.config.Tomcat,
		FetchDependencies: t.stager.config.FetchDependencies,
		External:          t.stager.config.Plugins[t.request.Properties.Framework],
		MaxFileBytes:      uint64(t.stager.config.MaxDropletMB) << 20,
	})
	t.appendLog(filepath.Join(staged, "logs", "staging.log"))
	if err != nil {
		return t.failure(ctx, "Staging plugin failed", err)
	}

	if err := pack(droplet, staged, t.stager.config.MaxDropletMB<<20); err != nil {
		return t.failure(ctx, "Failed creating droplet", err)
	}
	packed, err := os.Stat(droplet)
	if err != nil {
		return t.failure(ctx, "Failed creating droplet", err)
	}
	if err := upload(ctx, t.stager.client, t.request.UploadURI, droplet); err != nil {
		return t.failure(ctx, "Failed uploading droplet", err)
	}
	t.say("Uploaded the droplet, %s", bytesText(packed.Size()))
	return nil
}

// failure is an error in the original's words; that the time is over, or the
// stager ends, is the reason for whatever else went wrong then.
func (t *task) failure(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		err := context.Cause(ctx)
		t.say("%v", err)
		return err
	}
	err = fmt.Errorf("%s: %w", what, err)
	t.say("%v", err)
	return err
}

// findRuntime finds the app's runtime on this machine: as the request describes
// it, or by its name.
func (t *task) findRuntime(ctx context.Context) (wire.RuntimeInfo, runtimes.Runtime, error) {
	p := t.request.Properties
	info := p.RuntimeInfo
	if info.Executable == "" && info.VersionOutput == "" {
		known, ok := runtimes.Named(p.Runtime)
		switch {
		case ok:
			info = known
		case p.Runtime != "" && info.Name == "":
			return info, runtimes.Runtime{}, fmt.Errorf("the request names the runtime %s without a description, and it is none of the usual ones", p.Runtime)
		}
	}
	if info.Name == "" {
		info.Name = p.Runtime
	}
	found, err := t.stager.runtimes.Find(ctx, info)
	return info, found, err
}

// runPlugin runs the plugin's process to its end. Whatever it started ends with
// it.
func (t *task) runPlugin(ctx context.Context, work string, place int, cfg plugins.Config) error {
	// By a descriptor, since another user may not see the folder it lies in.
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer program.Close()
	home, tmp, file := filepath.Join(work, "home"), filepath.Join(work, "tmp"), filepath.Join(work, "plugin.yml")
	if err := errors.Join(os.Mkdir(home, 0o700), os.Mkdir(tmp, 0o700)); err != nil {
		return err
	}
	if t.stager.config.Secure {
		id := t.stager.config.SecureUID + uint32(place)
		cfg.SecureUser = &plugins.User{UID: id, GID: id}
	}
	data, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return err
	}
	var stderr tail
	stderr.limit = errorLimit
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", RunPlugin, t.request.Properties.Framework, file)
	cmd.ExtraFiles = []*os.File{program} // the first of these is 3
	cmd.Dir = work
	// Nothing of the stager's own environment: it may hold what is not for apps.
	mark := taskVariable + "=" + t.id
	cmd.Env = []string{"HOME=" + home, "TMPDIR=" + tmp, "PATH=" + runtimes.Path, "LANG=C.UTF-8", mark}
	cmd.Stdout, cmd.Stderr = &stderr, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if user := cfg.SecureUser; user != nil {
		if err := chown(work, user); err != nil {
			return err
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: user.UID, Gid: user.GID}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind, if anything
		if killed := killMarked(mark); killed > 0 {
			t.say("Ended %d processes that the plugin left behind", killed)
		}
	}
	var exit *exec.ExitError
	switch text := strings.TrimSpace(stderr.String()); {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return nil
	case errors.As(err, &exit) && text != "":
		return errors.New(text)
	default:
		return err
	}
}

// killMarked ends the processes that have the mark in their environment, those
// included that left the process group; it looks again until it finds none, or
// killTimeout is over. It returns how many it ended.
func killMarked(mark string) int {
	killed := 0
	for deadline := time.Now().Add(killTimeout); time.Now().Before(deadline); {
		found := 0
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return killed
		}
		for _, entry := range entries {
			pid, err := strconv.Atoi(entry.Name())
			if err != nil || pid == os.Getpid() {
				continue
			}
			environ, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
			if err != nil || !bytes.Contains(append([]byte{0}, environ...), []byte("\x00"+mark+"\x00")) {
				continue
			}
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				found++
			}
		}
		if found == 0 {
			break
		}
		killed += found
		time.Sleep(10 * time.Millisecond) // they take a moment to go
	}
	return killed
}

func chown(folder string, user *plugins.User) error {
	return filepath.WalkDir(folder, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, int(user.UID), int(user.GID))
	})
}

func pack(file, folder string, limit int64) (err error) {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return archive.Pack(out, folder, limit)
}

// appendLog takes a plugin's log into the task's: the end of it, if it is long.
func (t *task) appendLog(file string) {
	// A plugin may have put anything there.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return
	}
	if skip := info.Size() - logLimit; skip > 0 {
		if _, err := f.Seek(skip, io.SeekStart); err != nil {
			return
		}
		t.say("(%s of the staging log left out)", bytesText(skip))
	}
	if _, err := io.Copy(&t.log, io.LimitReader(f, logLimit)); err != nil {
		t.stager.base.Log().Warn("cannot read a staging log", "task", t.id, "error", err)
	}
	if b := t.log.Bytes(); len(b) > 0 && b[len(b)-1] != '\n' {
		t.log.WriteByte('\n')
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	bytes.Buffer
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	t.Buffer.Write(p)
	if surplus := t.Len() - t.limit; surplus > 0 {
		t.Next(surplus)
	}
	return n, nil
}

// bytesText is a size for people.
func bytesText(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MB", float64(n)/(1<<20))
}
