package shim

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/host/parent"
	"github.com/clusterworks/deploy/agent/host/proc"
	"github.com/clusterworks/deploy/agent/internal/logfile"
)

const (
	// listenFD is the descriptor on which a shim inherits its socket.
	listenFD = 3
	// logDrain is the time that the log is awaited after the end of all processes
	// that a stop reaches. Others may hold its pipe open for ever.
	logDrain = 200 * time.Millisecond
	// defaultGrace and defaultSignal serve a spec that says nothing.
	defaultGrace  = 10 * time.Second
	defaultSignal = "TERM"
)

// Main is the shim's process: "agent shim --dir DIR". Its result is the exit
// status.
func Main(args []string) int {
	if len(args) > 0 && args[0] == limitsCommand {
		return limited(args[1:])
	}
	flags := flag.NewFlagSet("shim", flag.ContinueOnError)
	dir := flags.String("dir", "", "the shim's folder")
	if err := flags.Parse(args); err != nil || *dir == "" {
		return 2
	}
	// PDEATHSIG tells of the death of the thread that forked, so the process is
	// forked by a goroutine that keeps its thread until the end: this one.
	runtime.LockOSThread()
	if err := run(*dir, os.Args[:len(os.Args)-len(args)]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func run(dir string, self []string) error {
	socket, err := parent.Inherit(listenFD)
	if err != nil {
		return err
	}
	// Fails only if we lead a session already, as started by the agent.
	_, _ = syscall.Setsid()
	spec, err := ReadSpec(dir)
	if err != nil {
		return err
	}
	log := logfile.Open(spec.Log, spec.LogBytes, spec.LogKeep)
	defer log.Close()

	// Asked to end, by an init or a person, it ends its process first; a
	// terminal's signals and HUP mean nothing here. Notify, not Ignore: what is
	// ignored stays so in the process.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)

	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	started, err := start(dir, spec, self, writer)
	if err != nil {
		fmt.Fprintln(log, err)
		return parent.Write(dir, exitFile, Ended{
			ID: spec.ID, Exit: api.Exit{Status: -1, At: time.Now().UTC()}, Error: err.Error(),
		})
	}
	p := &parent.Parent{PID: started.PID, Alone: spec.KillMode == api.KillProcess, Signal: syscall.SIGTERM, Grace: defaultGrace}
	if s, err := parent.SignalNumber(spec.StopSignal); err == nil {
		p.Signal = s
	}
	if spec.StopGraceMS > 0 {
		p.Grace = time.Duration(spec.StopGraceMS) * time.Millisecond
	}
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		_, _ = io.CopyBuffer(writerOnly{log}, readerOnly{reader}, make([]byte, 32<<10)) // ends with the pipe or its deadline
	}()
	// These two live as long as the process that they are in.
	go parent.Serve(p, socket, started)
	go p.Heed(signals)

	ended := Ended{ID: spec.ID}
	ended.Status, ended.Signal = parent.Exit(p.Reap())
	ended.At, ended.Expected = time.Now().UTC(), p.Asked()
	err = parent.Write(dir, exitFile, ended)
	p.End()
	_ = reader.SetReadDeadline(time.Now().Add(logDrain))
	<-logged
	return err
}

// writerOnly and readerOnly keep io.Copy from finding quicker ways, which hold
// other buffers.
type writerOnly struct{ io.Writer }
type readerOnly struct{ io.Reader }

// start forks the process and writes the record of that.
func start(dir string, spec Spec, self []string, output *os.File) (Started, error) {
	defer output.Close()
	if len(spec.Command) == 0 {
		return Started{}, errors.New("cannot start the process: its command is empty")
	}
	fail := func(err error) (Started, error) {
		return Started{}, fmt.Errorf("cannot start %s: %w", spec.Command[0], err)
	}
	path, err := exec.LookPath(spec.Command[0])
	if err != nil {
		return fail(err)
	}
	argv := spec.Command
	if spec.Limits != (api.Limits{}) {
		if err := raise(spec.Limits); err != nil {
			return fail(err)
		}
		path, argv = "/proc/self/exe", limitedCommand(self, spec.Limits, path, argv)
	}
	if info, err := os.Stat(spec.Dir); err != nil {
		return fail(fmt.Errorf("its working folder: %w", err))
	} else if !info.IsDir() {
		return fail(fmt.Errorf("its working folder %s is not a folder", spec.Dir))
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fail(err)
	}
	defer null.Close()
	attributes := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if u := spec.User; u != nil {
		attributes.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Dir:   spec.Dir,
		Env:   spec.Env,
		Files: []uintptr{null.Fd(), output.Fd(), output.Fd()},
		Sys:   attributes,
	})
	if err != nil {
		return fail(err)
	}
	started := Started{ID: spec.ID, PID: pid, ShimPID: os.Getpid(), At: time.Now().UTC()}
	// The process is not reaped before we do it, so its entry is there.
	if started.Ticks, err = proc.StartOf(pid); err == nil {
		started.ShimTicks, err = proc.StartOf(os.Getpid())
	}
	if err == nil {
		started.BootID, err = proc.BootID()
	}
	if err == nil {
		err = parent.Write(dir, startFile, started)
	}
	if err != nil {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		return fail(err)
	}
	return started, nil
}
