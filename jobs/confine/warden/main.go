package warden

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/agent/host/parent"
	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/confine/network"
)

// Descriptors that a warden inherits: its socket, and a pipe from which one byte
// comes when its start is recorded. After them come locks that it only holds.
const (
	socketFD = 3
	goFD     = 4
)

// outputFD is the log of the warden's other part, if the app has Streams.
const outputFD = 3

// stageCommand is the warden's other part, see stage.
const stageCommand = "stage"

// Main is the warden's process. Its result is the exit status.
func Main(args []string) int {
	if len(args) > 0 {
		switch args[0] {
		case stageCommand:
			return stage(args[1:])
		case sessionCommand:
			return session(args[1:])
		case beginCommand:
			return begin(args[1:])
		}
	}
	flags := flag.NewFlagSet("warden", flag.ContinueOnError)
	dir := flags.String("dir", "", "the instance's folder of records")
	if err := flags.Parse(args); err != nil || *dir == "" {
		return 2
	}
	// There may be hundreds of wardens, each with next to nothing to do.
	debug.SetGCPercent(20)
	// PDEATHSIG tells of the death of the thread that forked: this one stays.
	runtime.LockOSThread()
	if err := run(*dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// stage is the program between the warden and the app: "warden stage DIR". What
// cannot be done between fork and exec is done here; then it becomes the app. It
// returns only when it fails; what it says is in the app's log then.
func stage(args []string) int {
	if len(args) != 1 {
		return 2
	}
	spec, err := ReadSpec(args[0])
	said := os.Stderr
	if spec.Streams != nil {
		syscall.CloseOnExec(outputFD)
		said = os.NewFile(outputFD, "output")
	}
	if err == nil {
		err = confine.Exec(spec.Spec, filepath.Join(args[0], rootFolder))
	}
	fmt.Fprintf(said, "cannot start the app: %v\n", err)
	return 126
}

func run(dir string) error {
	syscall.CloseOnExec(goFD)
	socket, err := parent.Inherit(socketFD)
	if err != nil {
		return err
	}
	goes := os.NewFile(goFD, "go")
	if n, err := goes.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("the DEA went before the start was recorded: %w", err)
	}
	// The app, which may be of the same user, shall not look into this process.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot close this process to the app: %w", err)
	}
	spec, err := ReadSpec(dir)
	if err != nil {
		return err
	}
	// Held open so that the locks among them last as long as this process, and no
	// longer: the app does not get them.
	for fd := goFD + 1; fd < goFD+1+maxLocks; fd++ {
		syscall.CloseOnExec(fd)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)

	pid, printed, inside, err := start(context.Background(), dir, spec)
	if err != nil {
		return parent.Write(dir, exitFile, Ended{Status: -1, At: time.Now().UTC(), Error: err.Error()})
	}
	p := &parent.Parent{PID: pid, Signal: syscall.SIGTERM, Grace: defaultGrace}
	if spec.Bound {
		p.Grace = 0
	}
	// These two live as long as the process that they are in.
	go parent.Serve(p, socket, struct{}{})
	go p.Heed(signals)
	if !spec.Bound {
		go serveSessions(dir, spec, inside)
	}
	if spec.Bound {
		go func() {
			_, _ = goes.Read(make([]byte, 1)) // ends with who started us
			signals <- syscall.SIGTERM
		}()
	} else {
		goes.Close()
	}
	var ended Ended
	ended.Status, ended.Signal = parent.Exit(p.Reap())
	p.End()
	// Nothing of the app is left that could print: its output ends at once.
	printed.Wait()
	ended.At = time.Now().UTC()
	return parent.Write(dir, exitFile, ended)
}

// defaultGrace is the time that an app has when the machine's init asks its warden to end.
const defaultGrace = 5 * time.Second

// maxLocks is the number of locks that a warden may hold: one for each of an app's ports.
const maxLocks = 3

// start forks the process that becomes the app, in a network of its own if it has one.
// It returns its pid; printed, which is done when its output has ended; and inside,
// which runs a function on a thread in that network.
func start(ctx context.Context, dir string, spec Spec) (pid int, printed *sync.WaitGroup, inside func(func()), err error) {
	if spec.Network == nil {
		pid, printed, err = fork(dir, spec)
		return pid, printed, forker(), err
	}
	own, err := network.Enter(*spec.Network)
	if err != nil {
		return 0, nil, nil, err
	}
	own.Do(func() { pid, printed, err = fork(dir, spec) })
	if err == nil {
		go own.Run(ctx) // as long as this process lives
	}
	return pid, printed, own.Do, err
}

// fork forks the process that becomes the app, from this thread.
func fork(dir string, spec Spec) (pid int, printed *sync.WaitGroup, err error) {
	printed = &sync.WaitGroup{}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	output, err := OpenLog(spec.Dir, spec.Output, spec.UID, spec.GID)
	if err != nil {
		return 0, nil, err
	}
	defer output.Close()
	files := []uintptr{null.Fd(), output.Fd(), output.Fd()}
	if spec.Streams != nil {
		files = []uintptr{null.Fd(), 0, 0, outputFD: output.Fd()}
		for i, path := range []string{spec.Streams.Stdout, spec.Streams.Stderr} {
			read, write, err := pipe(spec)
			if err != nil {
				return 0, nil, err
			}
			// The pipe's other end is the app's alone, so that its end is seen.
			defer write.Close()
			files[i+1] = write.Fd()
			printed.Go(func() {
				defer read.Close()
				stream(read, spec, path)
			})
		}
	}
	attributes := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if spec.Namespaces {
		attributes.Cloneflags = confine.Flags
	}
	pid, err = syscall.ForkExec("/proc/self/exe", []string{"warden", stageCommand, dir}, &syscall.ProcAttr{
		Dir:   spec.Dir,
		Files: files,
		Sys:   attributes,
	})
	if err != nil {
		return 0, nil, fmt.Errorf("cannot start the app: %w", err)
	}
	return pid, printed, nil
}

// OpenLog opens a file below an instance's folder to append to it, and nothing
// that a link of the app's may lead to.
func OpenLog(dir, path string, uid, gid int) (*os.File, error) {
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the log %s: %w", path, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the log of an instance: %w", err)
	}
	defer root.Close()
	// Not blocking: it may be a FIFO by now.
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the log of an instance: %w", err)
	}
	// What reads from a FIFO is the app, which may also not read.
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no longer a file", path)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot open the log of an instance: %w", err)
	}
	if uid != 0 {
		if err := f.Chown(uid, gid); err != nil {
			f.Close()
			return nil, fmt.Errorf("cannot give the log to the app: %w", err)
		}
	}
	return f, nil
}
