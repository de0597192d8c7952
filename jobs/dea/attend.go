package dea

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/agent/host/unpack"
	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/confine/network"
	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/dea/internal/bits"
	"github.com/clusterworks/deploy/jobs/dea/internal/core"
	"github.com/clusterworks/deploy/jobs/wire"
)

// killWait is the time that the end of what got KILL is awaited before it is done
// again without the warden's help.
const killWait = 3 * time.Second

// attendant goes with one instance from its start to its end. It lives in one
// goroutine, and the instance's process lives on if the DEA ends.
type attendant struct {
	dea      *DEA
	instance core.Instance

	// orders has the strongest order to end that came: a later one takes the place
	// of an earlier one that was not read yet.
	orders chan order
	// answered says that its check passed, if not for long enough yet.
	answered atomic.Bool

	mu     sync.Mutex
	handle *warden.Handle // nil: not launched
}

// order describes how an instance is to end.
type order int

const (
	endKindly  order = iota // connections first, then TERM, then KILL
	endQuickly              // TERM, and soon KILL
	endNow                  // KILL
)

// quickGrace is between TERM and KILL where there is no time.
const quickGrace = time.Second

// tell gives an order. A weaker one than what is on its way is dropped.
func (a *attendant) tell(o order) {
	for {
		select {
		case a.orders <- o:
			return
		default:
		}
		select {
		case earlier := <-a.orders:
			o = max(o, earlier)
		default:
		}
	}
}

// pid is the warden's, 0 if there is none.
func (a *attendant) pid() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.handle == nil {
		return 0
	}
	return a.handle.PID()
}

// run brings the instance up, unless it is attached to one that is, and tells
// the machine what becomes of it. It ends with the instance, or with ctx, and
// then leaves the instance as it is.
func (a *attendant) run(ctx context.Context) {
	d, i := a.dea, &a.instance
	if a.handle == nil {
		work, cancel := context.WithCancel(ctx)
		result := make(chan error, 1)
		go func() { result <- a.launch(work) }()
		var err error
		stopped := false
		select {
		case err = <-result:
		case <-a.orders:
			// Whatever is ordered: there is nothing yet that could end kindly.
			stopped = true
			cancel()
			err = <-result
		}
		cancel()
		switch {
		case ctx.Err() != nil:
			a.leave()
			return
		case stopped && err != nil:
			d.event(core.Ended{ID: i.ID})
			return
		case errors.As(err, &unfitError{}):
			d.base.Log().Info("ignoring a start", "app", i.Start.Name, "index", i.Start.Index, "why", err)
			d.event(core.Unfit{ID: i.ID})
			return
		case err != nil:
			d.base.Log().Warn("cannot launch an instance", "app", i.Start.Name, "index", i.Start.Index, "error", err)
			blamed := errors.As(err, &dropletError{})
			d.event(core.Failed{ID: i.ID, Why: err.Error(), Fault: !blamed, Logged: blamed && a.explain(err)})
			return
		case stopped:
			a.tell(endNow)
		}
	}
	handle := a.handle // nobody changes it any more

	watch, stopProbe := context.WithCancel(ctx)
	var probed chan error
	if i.State == wire.StateStarting {
		probed = make(chan error, 1)
		go func() { probed <- a.becomeReady(watch) }()
	}
	var why string
	ending := false
	for gone := false; !gone; {
		select {
		case err := <-probed:
			probed = nil
			switch {
			case watch.Err() != nil:
			case err == nil:
				d.base.Log().Info("an instance runs", "app", i.Start.Name, "index", i.Start.Index, "instance", i.ID, "port", i.Port)
				d.event(core.Ready{ID: i.ID})
			default:
				why = err.Error()
				a.tell(endNow)
			}
		case o := <-a.orders:
			ending = true
			a.end(ctx, handle, o)
			select {
			case <-handle.Gone():
				gone = true
			case <-ctx.Done():
				gone = true
			default: // a stronger order came
			}
		case <-handle.Gone():
			gone = true
		case <-ctx.Done():
			gone = true
		}
	}
	stopProbe()
	early := probed != nil
	if early {
		<-probed
	}
	if ctx.Err() != nil {
		a.leave()
		return
	}
	if said := a.bury(ctx); why == "" && !ending {
		why = said
		if early && i.Port != 0 && !a.answered.Load() {
			why += fmt.Sprintf(" It had not been ready before: an app listens on port %d, which the variable PORT names, on all addresses.", i.Port)
		}
	}
	d.base.Log().Info("an instance has ended", "app", i.Start.Name, "index", i.Start.Index, "instance", i.ID, "why", why)
	d.event(core.Ended{ID: i.ID, Why: why})
	for _, port := range []int{i.Port, i.DebugPort, i.ConsolePort} {
		d.allotted.ports.release(port) // when the machine knows, and not before
	}
}

func (a *attendant) leave() {
	if a.handle != nil {
		a.handle.Leave()
	}
}

// end carries an order out. It returns when the warden is gone, when a stronger
// order is on its way, or with ctx.
func (a *attendant) end(ctx context.Context, handle *warden.Handle, o order) {
	d := a.dea
	grace := d.config.Intervals.StopTimeout.Duration()
	switch o {
	case endKindly:
		a.finishRequests(ctx, handle)
	case endQuickly:
		grace = quickGrace
	case endNow:
		grace = 0
	}
	d.base.Log().Info("ending an instance", "app", a.instance.Start.Name, "index", a.instance.Start.Index, "instance", a.instance.ID, "port", a.instance.Port, "grace", grace)
	if err := handle.Stop(ctx, grace); err != nil && ctx.Err() == nil {
		d.base.Log().Warn("cannot tell a warden to stop its app", "instance", a.instance.ID, "error", err)
	}
	deadline := time.NewTimer(grace + killWait)
	defer deadline.Stop()
	for {
		select {
		case <-handle.Gone():
			return
		case <-ctx.Done():
			return
		case stronger := <-a.orders:
			if stronger > o {
				a.tell(stronger)
				return
			}
		case <-deadline.C:
			if err := warden.Kill(ctx, d.records(a.instance.ID)); err != nil && ctx.Err() == nil {
				d.base.Log().Error("cannot end an instance; trying again", "error", err)
			}
			deadline.Reset(killWait)
		}
	}
}

// finishRequests waits until nobody is connected to the app: it is withdrawn
// from the routers, so that nothing new comes once they have heard of it.
func (a *attendant) finishRequests(ctx context.Context, handle *warden.Handle) {
	if a.instance.Port == 0 {
		return
	}
	settle := a.dea.config.Intervals.SettleTime.Duration()
	deadline := time.NewTimer(a.dea.config.Intervals.ConnectionTimeout.Duration())
	defer deadline.Stop()
	often := max(settle/10, 10*time.Millisecond)
	tick := time.NewTicker(often)
	defer tick.Stop()
	for quiet := time.Now(); time.Since(quiet) < settle; {
		select {
		case <-handle.Gone():
			return
		case <-ctx.Done():
			return
		case o := <-a.orders:
			a.tell(o)
			if o > endKindly {
				return
			}
		case <-deadline.C:
			return
		case <-tick.C:
			n, err := a.dea.connections.of(a.instance.Port, often)
			if err != nil {
				a.dea.base.Log().Warn("cannot wait for requests in progress", "error", err)
				return
			}
			if n > 0 {
				quiet = time.Now()
			}
		}
	}
}

// bury gives back what the instance had of the machine, and says how it ended.
func (a *attendant) bury(ctx context.Context) string {
	d, i := a.dea, a.instance
	dir := d.records(i.ID)
	// After a warden that was killed something may be left.
	limited, cancel := context.WithTimeout(ctx, 2*killWait)
	defer cancel()
	if err := warden.Kill(limited, dir); err != nil {
		d.base.Log().Error("cannot end the processes that an instance left", "error", err)
	}
	why := "The app's warden was killed, and the app with it."
	if ended, err := warden.ReadEnded(dir); err == nil {
		why = fmt.Sprintf("The app %v.", ended)
	}
	spec, err := warden.ReadSpec(dir)
	if err != nil {
		return why
	}
	if confine.OutOfMemory(spec.Cgroups) {
		why = fmt.Sprintf("The app used more memory than its quota of %d MB and was ended.", i.Start.Limits.Mem)
	}
	if err := confine.Remove(spec.Cgroups); err != nil {
		d.base.Log().Warn("an instance left files or processes behind", "error", err)
	}
	if spec.UID != 0 {
		d.allotted.users.release(spec.UID)
	}
	return why
}

// launch brings the droplet, makes the instance's folder of it and starts a
// warden. On an error nothing of it is left but what core.Discard removes.
func (a *attendant) launch(ctx context.Context) error {
	d, i := a.dea, &a.instance
	runtime, err := d.finder.Find(ctx, i.Start.RuntimeInfo)
	if err != nil {
		return unfitError{err}
	}
	uri := i.Start.ExecutableURI
	if i.Start.SecureURI != "" && d.config.Secure() {
		uri = i.Start.SecureURI
	}
	file, release, err := d.cache.Get(ctx, bits.Source{SHA1: i.Start.SHA1, File: i.Start.ExecutableFile, URI: uri})
	if err != nil {
		return err
	}
	defer release()
	spec := warden.Spec{ID: i.ID, Spec: confine.Spec{
		Dir: d.instanceFolder(i.Folder), Namespaces: d.machine.Namespaces,
		Visible: append(confine.SystemPaths(), d.config.Visible...),
		Limits: confine.Limits{
			MemoryBytes: int64(i.Start.Limits.Mem) << 20, DiskBytes: int64(i.Start.Limits.Disk) << 20,
			OpenFiles: i.Start.Limits.FDs, Processes: d.config.Processes,
		},
	}}
	spec.Home, spec.Output = spec.Dir, filepath.Join(spec.Dir, "logs", "err.log")
	spec.Streams = d.config.Output.streams(spec)
	if spec.Namespaces {
		spec.Home = confine.Home
	}
	if runtime.Path != "" && !confine.Covers(spec.Visible, runtime.Path) {
		spec.Visible = append(spec.Visible, filepath.Dir(runtime.Path))
	}
	launched := false
	if d.machine.Users {
		uid, err := d.allotted.users.take()
		if err != nil {
			return err
		}
		spec.UID, spec.GID = uid, uid
		defer func() {
			if !launched {
				d.allotted.users.release(uid)
			}
		}()
	}
	if err := makeFolder(ctx, file, spec, runtime.Path); err != nil {
		return blame(err)
	}

	var locks []*os.File
	defer func() {
		for _, lock := range locks {
			lock.Close() // the warden has its own
		}
	}()
	for _, want := range []struct {
		wanted bool
		port   *int
	}{
		{len(i.Start.URIs) > 0, &i.Port},
		{i.Start.Debug != nil && *i.Start.Debug != "", &i.DebugPort},
		{i.Start.Console != nil && *i.Start.Console, &i.ConsolePort},
	} {
		if !want.wanted {
			continue
		}
		port, lock, err := d.allotted.ports.reserve()
		if err != nil {
			return err
		}
		defer func() {
			if !launched {
				d.allotted.ports.release(port)
			}
		}()
		*want.port = port
		spec.Ports = append(spec.Ports, port)
		locks = append(locks, lock)
	}
	if d.machine.Network && d.config.Network == warden.NetworkOwn {
		spec.Network = &network.Policy{
			Address: d.base.Address(), Ports: spec.Ports,
			Allow: append(serviceAddresses(ctx, i.Start.Services), d.config.Networks...),
		}
	}
	if spec.Env, err = environment(*i, d.base.Address(), spec.Home, d.config.ExpandVariables); err != nil {
		return err
	}
	spec.Command = []string{"./startup"}
	if i.Port != 0 {
		spec.Command = append(spec.Command, "-p", strconv.Itoa(i.Port))
	}
	if d.machine.Cgroups != nil {
		if spec.Cgroups, err = d.machine.Cgroups.Make(i.ID, spec.Limits); err != nil {
			return err
		}
	}
	if i.Port != 0 {
		// Before anything listens there: a route of an instance that had the port, and
		// that some router did not see go, must not lead to this app.
		claim := core.Claim(d.base.Address(), i.Start.Droplet, i.Port)
		if err := d.routes.Register(claim); err != nil {
			return err
		}
		defer func() {
			if !launched {
				d.routes.Unregister(claim)
			}
		}()
	}
	records := d.records(i.ID)
	if err := os.MkdirAll(records, 0o700); err != nil {
		return fmt.Errorf("cannot make the records of an instance: %w", err)
	}
	handle, err := warden.Launch(ctx, d.wardenCommand, records, spec, locks)
	if err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), killWait)
		defer cancel()
		return errors.Join(err, warden.Kill(clean, records), confine.Remove(spec.Cgroups))
	}
	launched = true
	a.mu.Lock()
	a.handle = handle
	a.mu.Unlock()
	d.event(core.Launched{ID: i.ID, Port: i.Port, DebugPort: i.DebugPort, ConsolePort: i.ConsolePort})
	return nil
}

// unfitError says that the start should not have come here.
type unfitError struct{ error }

func (e unfitError) Unwrap() error { return e.error }

// dropletError says that an instance could not be launched for what its droplet is.
type dropletError struct{ error }

func (e dropletError) Unwrap() error { return e.error }

// explain leaves nothing in an instance's folder but a log for the app's owner with the
// reason why it cannot be launched, and reports whether that was possible.
func (a *attendant) explain(failed error) bool {
	folder := a.dea.instanceFolder(a.instance.Folder)
	err := confine.RemoveAll(folder)
	if err == nil {
		err = os.MkdirAll(filepath.Join(folder, "logs"), 0o700)
	}
	if err == nil {
		text := fmt.Sprintf("%s The app's files cannot be used: %v. Its disk quota is %d MB.\n", time.Now().UTC().Format(noteTime), failed, a.instance.Start.Limits.Disk)
		err = os.WriteFile(filepath.Join(folder, "logs", "err.log"), []byte(text), 0o600)
	}
	if err != nil {
		a.dea.base.Log().Warn("cannot say in a log why an instance cannot be launched", "instance", a.instance.ID, "error", err)
	}
	return err == nil
}

// blame says of an error in the making of an instance's folder that it is the
// droplet's, unless the machine has failed.
func blame(err error) error {
	for _, machine := range []error{
		unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EROFS, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ESTALE, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, machine) {
			return err
		}
	}
	return dropletError{err}
}

// localRuntime stands in startup for the runtime's executable.
const localRuntime = "%VCAP_LOCAL_RUNTIME%"

// maxStartup is the size that no startup file has.
const maxStartup = 1 << 20

// ownOutput says how start scripts, the original's and ours, send what the app prints
// into files that only grow. The warden takes it instead.
var ownOutput = regexp.MustCompile(`[ \t]*>>?[ \t]*"?\$DROPLET_BASE_DIR/logs/stdout\.log"?[ \t]+2>>?[ \t]*"?\$DROPLET_BASE_DIR/logs/stderr\.log"?`)

// makeFolder makes the instance's folder of its droplet.
func makeFolder(ctx context.Context, file string, spec warden.Spec, runtime string) error {
	in, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("cannot unpack a droplet: %w", err)
	}
	defer in.Close()
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the folder of an instance: %w", err)
	}
	if err := unpack.TarGz(ctx, in, spec.Dir, unpack.Options{Bytes: spec.Limits.DiskBytes, UID: spec.UID, GID: spec.GID}); err != nil {
		return fmt.Errorf("cannot unpack a droplet: %w", err)
	}
	root, err := os.OpenRoot(spec.Dir)
	if err != nil {
		return fmt.Errorf("cannot use the folder of an instance: %w", err)
	}
	defer root.Close()
	give := func(name string) error {
		if spec.UID == 0 {
			return nil
		}
		return root.Lchown(name, spec.UID, spec.GID)
	}
	for _, name := range []string{"logs", "tmp"} {
		if err := root.MkdirAll(name, 0o700); err != nil {
			return fmt.Errorf("cannot use the folder of an instance: %w", err)
		}
		if err := give(name); err != nil {
			return fmt.Errorf("cannot use the folder of an instance: %w", err)
		}
	}
	f, err := root.Open("startup")
	if err != nil {
		return fmt.Errorf("cannot use a droplet: its file startup: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxStartup+1))
	f.Close()
	if err != nil {
		return fmt.Errorf("cannot use a droplet: cannot read its file startup: %w", err)
	}
	if len(text) > maxStartup {
		return fmt.Errorf("cannot use a droplet: its file startup has more than %d bytes", maxStartup)
	}
	replaced := ownOutput.ReplaceAll([]byte(strings.ReplaceAll(string(text), localRuntime, runtime)), nil)
	if err := root.Remove("startup"); err != nil {
		return fmt.Errorf("cannot prepare startup: %w", err)
	}
	if err := root.WriteFile("startup", replaced, 0o500); err != nil {
		return fmt.Errorf("cannot prepare startup: %w", err)
	}
	if err := give("startup"); err != nil {
		return fmt.Errorf("cannot prepare startup: %w", err)
	}
	return give(".")
}
