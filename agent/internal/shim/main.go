package shim

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/logfile"
)

const (
	// listenFD is the descriptor on which a shim inherits its socket.
	listenFD = 3
	// logDrain is how long the log is awaited after the end of all processes
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

// shim is the parent of one process.
type shim struct {
	dir     string
	spec    Spec
	started Started
	running chan struct{} // closed when started is valid

	mu       sync.Mutex // guards what follows, and signals against reaping
	alive    bool       // pid is ours
	stopping bool       // somebody asked for the end
	expected bool       // the agent did
	killing  bool       // the rest gets no more time
	kill     *time.Timer
}

func run(dir string, self []string) error {
	syscall.CloseOnExec(listenFD)
	socket, err := net.FileListener(os.NewFile(listenFD, socketFile))
	if err != nil {
		return fmt.Errorf("cannot serve the agent: descriptor %d is no listening socket, a shim is started by its agent: %w", listenFD, err)
	}
	// Fails only if we lead a session already, as started by the agent.
	_, _ = syscall.Setsid()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become the reaper of what the process starts: %w", err)
	}
	spec, err := ReadSpec(dir)
	if err != nil {
		return err
	}
	s := &shim{dir: dir, spec: spec, running: make(chan struct{})}
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
	if err := s.start(self, writer); err != nil {
		fmt.Fprintln(log, err)
		return writeRecord(dir, exitFile, Ended{
			ID: spec.ID, Exit: api.Exit{Status: -1, At: time.Now().UTC()}, Error: err.Error(),
		})
	}
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		_, _ = io.CopyBuffer(writerOnly{log}, readerOnly{reader}, make([]byte, 32<<10)) // ends with the pipe or its deadline
	}()
	close(s.running)
	// These two live as long as the process that they are in.
	go s.serve(socket)
	go s.heed(signals)

	status := s.reap()
	ended := Ended{ID: spec.ID, Exit: s.exit(status)}
	err = writeRecord(dir, exitFile, ended)
	s.endRest()
	_ = reader.SetReadDeadline(time.Now().Add(logDrain))
	<-logged
	return err
}

// writerOnly and readerOnly keep io.Copy from finding quicker ways, which hold
// other buffers.
type writerOnly struct{ io.Writer }
type readerOnly struct{ io.Reader }

// start forks the process and writes the record of that.
func (s *shim) start(self []string, output *os.File) error {
	defer output.Close()
	spec := s.spec
	if len(spec.Command) == 0 {
		return errors.New("cannot start the process: its command is empty")
	}
	fail := func(err error) error { return fmt.Errorf("cannot start %s: %w", spec.Command[0], err) }
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
		return fail(fmt.Errorf("its working folder %s is no folder", spec.Dir))
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
	s.alive = true
	started := Started{ID: spec.ID, PID: pid, ShimPID: os.Getpid(), At: time.Now().UTC()}
	// The process is not reaped before we do it, so its entry is there.
	started.Ticks, err = Ticks(pid)
	if err == nil {
		started.ShimTicks, err = Ticks(os.Getpid())
	}
	if err == nil {
		started.BootID, err = BootID()
	}
	if err == nil {
		err = writeRecord(s.dir, startFile, started)
	}
	if err != nil {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		return fail(err)
	}
	s.started = started
	return nil
}

// reap waits for the end of the process, and takes what it has orphaned.
func (s *shim) reap() syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err == nil && pid == s.started.PID {
			s.mu.Lock()
			s.alive = false
			s.mu.Unlock()
			return status
		}
	}
}

func (s *shim) exit(status syscall.WaitStatus) api.Exit {
	s.mu.Lock()
	defer s.mu.Unlock()
	exit := api.Exit{Status: status.ExitStatus(), At: time.Now().UTC(), Expected: s.expected}
	if status.Signaled() {
		exit.Status = -1
		exit.Signal = strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG")
	}
	return exit
}

// endRest returns when nothing is left of what the process has started. In a
// stop that rest has what remains of the grace period, else none: a new start
// waits for its ports.
func (s *shim) endRest() {
	if s.spec.KillMode == api.KillProcess {
		return
	}
	s.mu.Lock()
	s.killing = s.killing || !s.stopping
	s.mu.Unlock()
	for {
		s.mu.Lock()
		killing := s.killing
		s.mu.Unlock()
		if killing {
			killRest(s.started.PID)
		}
		// We are the reaper of all descendants: no child, nothing left.
		if _, err := syscall.Wait4(-1, nil, 0, nil); errors.Is(err, syscall.ECHILD) {
			return
		}
	}
}

// killRest kills our children, and what is left of the process's group. The
// children of what it kills become ours in turn.
func killRest(group int) {
	self := os.Getpid()
	_ = each(func(pid int, p procStat) {
		if p.ppid == self || p.group == group && p.session == self {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// signal sends a signal to the process or to all that a stop reaches.
// s.mu is held.
func (s *shim) signal(sig syscall.Signal, all bool) error {
	if !s.alive {
		return errors.New("the process has ended")
	}
	pid := s.started.PID
	if all && s.spec.KillMode != api.KillProcess {
		pid = -pid
	}
	return syscall.Kill(pid, sig)
}

// stop ends the process. s.mu is held.
func (s *shim) stop(name string, grace time.Duration) error {
	sig, err := signalNumber(name)
	if err != nil {
		return err
	}
	s.stopping = true
	if !s.alive {
		return nil // it ends already
	}
	if err := s.signal(sig, true); err != nil {
		return fmt.Errorf("cannot send signal %s: %w", name, err)
	}
	if s.kill != nil {
		s.kill.Stop()
	}
	s.kill = time.AfterFunc(grace, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.killing = true
		_ = s.signal(syscall.SIGKILL, true) // or it has ended already
		if s.spec.KillMode != api.KillProcess {
			killRest(s.started.PID)
		}
	})
	return nil
}

// heed ends the process when the shim is asked to end. The agent did not ask,
// so the end counts as unexpected.
func (s *shim) heed(signals <-chan os.Signal) {
	for sig := range signals {
		if sig != syscall.SIGTERM {
			continue
		}
		name, grace := s.spec.StopSignal, time.Duration(s.spec.StopGraceMS)*time.Millisecond
		if name == "" {
			name = defaultSignal
		}
		if grace <= 0 {
			grace = defaultGrace
		}
		s.mu.Lock()
		if !s.stopping {
			if err := s.stop(name, grace); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
		s.mu.Unlock()
	}
}

func (s *shim) serve(socket net.Listener) {
	for {
		conn, err := socket.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "cannot serve the agent:", err)
			time.Sleep(time.Second) // out of descriptors, perhaps: the agent's request waits
			continue
		}
		go s.answer(conn)
	}
}

// answer serves one connection, which then stays open until either side ends:
// its end tells the agent of ours.
func (s *shim) answer(conn net.Conn) {
	defer conn.Close()
	for lines := bufio.NewReaderSize(conn, 1024); ; {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return
		}
		var r request
		if err = json.Unmarshal(line, &r); err == nil {
			err = s.do(r)
		}
		answer := reply{Started: s.started}
		if err != nil {
			answer.Error = err.Error()
		}
		data, err := json.Marshal(answer)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(data, '\n')); err != nil {
			return
		}
	}
}

func (s *shim) do(r request) error {
	<-s.running
	switch r.Op {
	case "status":
		return nil
	case "signal":
		sig, err := signalNumber(r.Signal)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.signal(sig, false); err != nil {
			return fmt.Errorf("cannot send signal %s: %w", r.Signal, err)
		}
		return nil
	case "stop":
		s.mu.Lock()
		defer s.mu.Unlock()
		s.expected = true
		return s.stop(r.Signal, time.Duration(r.GraceMS)*time.Millisecond)
	}
	return fmt.Errorf("a shim knows no request %q", r.Op)
}

func signalByName(name string) syscall.Signal { return unix.SignalNum(name) }
