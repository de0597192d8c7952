package warden

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent/host/parent"
	"github.com/clusterworks/deploy/agent/host/proc"
	"github.com/clusterworks/deploy/agent/host/sockets"
	"github.com/clusterworks/deploy/jobs/confine"
)

// callTimeout bounds a request to a warden, which has nothing else to do.
const callTimeout = 10 * time.Second

// Handle is a warden as its DEA knows it.
type Handle struct {
	dir     string
	id      string
	started Started
	conn    *parent.Conn[struct{}]
	gone    chan struct{} // closed when the warden has ended
	life    *os.File      // of a warden that is bound: it ends when nobody has this pipe
}

// Launch starts a warden with the program self (and its first arguments) in dir,
// which exists. The locks are held as long as it lives; the caller may close its
// own. The warden outlives the caller.
func Launch(ctx context.Context, self []string, dir string, spec Spec, locks []*os.File) (*Handle, error) {
	fail := func(err error) (*Handle, error) { return nil, fmt.Errorf("cannot start a warden: %w", err) }
	if len(locks) > maxLocks {
		return fail(fmt.Errorf("%d locks are too many", len(locks)))
	}
	// By which Kill finds what is left when the warden is gone.
	if mark := instanceVariable + "=" + spec.ID; !slices.Contains(spec.Env, mark) {
		spec.Env = append(slices.Clone(spec.Env), mark)
	}
	if err := parent.Write(dir, specFile, spec); err != nil {
		return fail(err)
	}
	socket, err := sockets.File(filepath.Join(dir, socketFile))
	if err != nil {
		return fail(err)
	}
	defer socket.Close()
	goes, tell, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	defer goes.Close()
	launched := false
	defer func() {
		if !launched || !spec.Bound {
			tell.Close()
		}
	}()
	stderr, err := os.OpenFile(filepath.Join(dir, stderrFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fail(err)
	}
	defer stderr.Close()

	// Not bound to ctx: it shall live on.
	cmd := exec.Command(self[0], append(self[1:len(self):len(self)], "-dir", dir)...)
	cmd.Dir = dir
	cmd.Env = environment()
	cmd.Stderr = stderr
	cmd.ExtraFiles = append([]*os.File{socket, goes}, locks...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if spec.Namespaces {
		confine.Outer(cmd.SysProcAttr)
	}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	// Its end is seen on its socket; this only takes it from the table of
	// processes.
	go func() { _ = cmd.Wait() }()
	h := &Handle{dir: dir, id: spec.ID, started: Started{PID: cmd.Process.Pid}}
	if spec.Bound {
		h.life = tell
	}
	err = h.record()
	if err == nil {
		_, err = tell.Write([]byte{'\n'})
	}
	if err == nil {
		err = h.attach(ctx)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		if said, readErr := os.ReadFile(filepath.Join(dir, stderrFile)); readErr == nil && len(said) > 0 {
			err = fmt.Errorf("%w; it said: %.500s", err, said)
		}
		return fail(err)
	}
	launched = true
	return h, nil
}

// environment is the warden's own: not the DEA's, by which what the DEA has
// started is found and ended. The machine's mark stays.
func environment() []string {
	if vm, ok := os.LookupEnv(vmVariable); ok {
		return []string{vmVariable + "=" + vm}
	}
	return []string{}
}

// instanceVariable is in the environment of every app and holds its instance id.
const instanceVariable = "VMC_APP_ID"

// vmVariable marks what runs on a VM whose processes nothing else keeps apart.
const vmVariable = "DEPLOY_VM"

func (h *Handle) record() (err error) {
	if h.started.Ticks, err = proc.StartOf(h.started.PID); err != nil {
		return err
	}
	if h.started.BootID, err = proc.BootID(); err != nil {
		return err
	}
	return parent.Write(h.dir, startFile, h.started)
}

// Attach finds the warden that an earlier DEA started in dir. If it is gone, the
// error is parent.ErrGone.
func Attach(ctx context.Context, dir string) (*Handle, error) {
	spec, err := ReadSpec(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, parent.ErrGone
	}
	if err != nil {
		return nil, err
	}
	started, err := ReadStarted(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, parent.ErrGone // it ends by itself when nobody tells it to go
	}
	if err != nil {
		return nil, err
	}
	boot, err := proc.BootID()
	if err != nil {
		return nil, err
	}
	if started.BootID != boot {
		return nil, parent.ErrGone
	}
	h := &Handle{dir: dir, id: spec.ID, started: started}
	if err := h.attach(ctx); err != nil {
		if !proc.Runs(started.PID, started.Ticks) {
			return nil, parent.ErrGone
		}
		return nil, err
	}
	return h, nil
}

// attach connects; the end of the connection is the warden's.
func (h *Handle) attach(ctx context.Context) (err error) {
	if h.conn, err = parent.Dial[struct{}](ctx, filepath.Join(h.dir, socketFile)); err != nil {
		return err
	}
	h.gone = make(chan struct{})
	go func() {
		defer close(h.gone)
		defer h.life.Close() // fails if there is none
		defer h.conn.Close()
		h.conn.Wait()
	}()
	return nil
}

// PID is the warden's own.
func (h *Handle) PID() int { return h.started.PID }

// Gone is closed when the warden has ended; Leave closes it, too.
func (h *Handle) Gone() <-chan struct{} { return h.gone }

// Leave lets go of the warden, which lives on.
func (h *Handle) Leave() {
	h.conn.Close()
	<-h.gone
}

// Stop asks the warden to end the app: TERM, and after grace KILL. It returns
// when the warden knows; Gone tells of the end.
func (h *Handle) Stop(ctx context.Context, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := parent.Stop(ctx, filepath.Join(h.dir, socketFile), "TERM", grace)
	if err != nil && !errors.Is(err, parent.ErrGone) {
		return fmt.Errorf("cannot tell a warden to stop its app: %w", err)
	}
	return nil
}

// Kill ends the warden and whatever is left of its app, without its help. It
// returns when nothing is left, or with ctx.
func Kill(ctx context.Context, dir string) error {
	spec, err := ReadSpec(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was started
	}
	if err != nil {
		return err
	}
	started, err := ReadStarted(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if boot, err := proc.BootID(); err != nil || boot != started.BootID {
		return err
	}
	left := parent.Left{Variable: instanceVariable + "=" + spec.ID, Parent: started.PID, ParentStart: started.Ticks, BootID: started.BootID}
	if err := parent.Sweep(ctx, left); err != nil {
		return fmt.Errorf("cannot end instance %s: %w", spec.ID, err)
	}
	return nil
}

// Probe finds out whether this machine lets apps have namespaces and a file
// system of their own, by running a program in them. dir and home are folders for
// the trial's records and the app that do not exist.
func Probe(ctx context.Context, self []string, dir, home string, spec Spec) error {
	defer os.RemoveAll(dir)
	defer os.RemoveAll(home)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, folder := range []string{home, filepath.Join(home, "tmp"), filepath.Join(home, "logs")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		if spec.UID != 0 {
			if err := os.Chown(folder, spec.UID, spec.GID); err != nil {
				return err
			}
		}
	}
	spec.ID, spec.Dir, spec.Output = "trial-"+filepath.Base(dir), home, filepath.Join(home, "logs", "err.log")
	spec.Home = home
	if spec.Namespaces {
		spec.Home = confine.Home
	}
	spec.Command = []string{"/bin/sh", "-c", "cd \"$HOME\" && test -w . && test -e /proc/self/stat"}
	spec.Env = []string{"HOME=" + spec.Home}
	h, err := Launch(ctx, self, dir, spec, nil)
	if err != nil {
		return err
	}
	select {
	case <-h.Gone():
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), Kill(context.WithoutCancel(ctx), dir))
	}
	ended, err := ReadEnded(dir)
	if err != nil {
		return err
	}
	if ended.Status != 0 {
		said, _ := os.ReadFile(spec.Output) // for people; without it there is the status
		return fmt.Errorf("a trial %v: %.300s", ended, said)
	}
	return nil
}
