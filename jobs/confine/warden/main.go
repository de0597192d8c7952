package warden

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/jobs/confine"
)

// Descriptors that a warden inherits: its socket, and a pipe from which one byte
// comes when its start is recorded. After them come locks that it only holds.
const (
	socketFD = 3
	goFD     = 4
)

// stageCommand is the warden's other part, see stage.
const stageCommand = "stage"

// Main is the warden's process. Its result is the exit status.
func Main(args []string) int {
	if len(args) > 0 && args[0] == stageCommand {
		return stage(args[1:])
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
	if err == nil {
		err = confine.Exec(spec.Spec, filepath.Join(args[0], rootFolder))
	}
	fmt.Fprintf(os.Stderr, "cannot start the app: %v\n", err)
	return 126
}

// warden is the parent of one app.
type warden struct {
	dir  string
	spec Spec
	pid  int // of the app; also its process group

	mu       sync.Mutex
	alive    bool // pid is ours: not reaped yet
	stopping bool
	killing  bool
	kill     *time.Timer
}

func run(dir string) error {
	syscall.CloseOnExec(socketFD)
	syscall.CloseOnExec(goFD)
	socket, err := net.FileListener(os.NewFile(socketFD, socketFile))
	if err != nil {
		return fmt.Errorf("a warden is started by its DEA: descriptor %d is no listening socket: %w", socketFD, err)
	}
	goes := os.NewFile(goFD, "go")
	if n, err := goes.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("the DEA went before the start was recorded: %w", err)
	}
	goes.Close()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become the reaper of what the app starts: %w", err)
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

	w := &warden{dir: dir, spec: spec}
	if err := w.start(); err != nil {
		return write(dir, exitFile, Ended{Status: -1, At: time.Now().UTC(), Error: err.Error()})
	}
	// These two live as long as the process that they are in.
	go w.serve(socket)
	go w.heed(signals)
	status := w.reap()
	w.endRest()
	ended := Ended{Status: status.ExitStatus(), At: time.Now().UTC()}
	if status.Signaled() {
		ended.Status, ended.Signal = -1, strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG")
	}
	return write(dir, exitFile, ended)
}

// maxLocks is how many locks a warden may hold: one for each of an app's ports.
const maxLocks = 3

// start forks the process that becomes the app.
func (w *warden) start() error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	output, err := OpenLog(w.spec.Dir, w.spec.Output, w.spec.UID, w.spec.GID)
	if err != nil {
		return err
	}
	defer output.Close()
	attributes := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if w.spec.Namespaces {
		attributes.Cloneflags = confine.Flags
	}
	w.pid, err = syscall.ForkExec("/proc/self/exe", []string{"warden", stageCommand, w.dir}, &syscall.ProcAttr{
		Dir:   w.spec.Dir,
		Files: []uintptr{null.Fd(), output.Fd(), output.Fd()},
		Sys:   attributes,
	})
	if err != nil {
		return fmt.Errorf("cannot start the app: %w", err)
	}
	w.alive = true
	return nil
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
		err = fmt.Errorf("%s is no file any more", path)
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

// reap waits for the end of the app, and takes what it has orphaned.
func (w *warden) reap() syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err == nil && pid == w.pid {
			w.mu.Lock()
			w.alive = false
			w.mu.Unlock()
			return status
		}
	}
}

// endRest returns when nothing of the app is left. In a stop the rest has what
// remains of the grace period (the shell that started the app may end before
// it), else none.
func (w *warden) endRest() {
	w.mu.Lock()
	w.killing = w.killing || !w.stopping
	w.mu.Unlock()
	for {
		w.mu.Lock()
		killing := w.killing
		w.mu.Unlock()
		if killing {
			killDescendants()
		}
		// All descendants become our children: no child, nothing left. One is awaited,
		// others that have ended by then are taken along.
		for options := 0; ; options = syscall.WNOHANG {
			pid, err := syscall.Wait4(-1, nil, options, nil)
			if errors.Is(err, syscall.ECHILD) {
				return
			}
			if err != nil || pid == 0 {
				break
			}
		}
	}
}

// stop ends the app: TERM to its group, and after grace KILL to all.
func (w *warden) stop(grace time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopping = true
	if w.kill != nil {
		w.kill.Stop()
	}
	if grace > 0 && w.alive {
		_ = syscall.Kill(-w.pid, syscall.SIGTERM) // or it ends already
		_ = syscall.Kill(-w.pid, syscall.SIGCONT)
	}
	w.kill = time.AfterFunc(grace, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.killing = true
		// More than once: what forks meanwhile is caught by endRest, which goes on
		// when the app itself is reaped.
		killDescendants()
	})
}

// heed ends the app when the warden is asked to end, by the machine's init.
func (w *warden) heed(signals <-chan os.Signal) {
	for s := range signals {
		if s == syscall.SIGTERM {
			w.stop(defaultGrace)
		}
	}
}

const defaultGrace = 5 * time.Second

// request is a line that the DEA sends; reply the line that answers it.
type request struct {
	Op      string `json:"op"` // "status", "stop"
	GraceMS int64  `json:"grace_ms,omitempty"`
}

type reply struct {
	Error string `json:"error,omitempty"`
}

func (w *warden) serve(socket net.Listener) {
	for {
		conn, err := socket.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "cannot serve the DEA:", err)
			time.Sleep(time.Second) // out of descriptors, perhaps: the request waits
			continue
		}
		go w.answer(conn)
	}
}

// answer serves one connection, which then stays open until either side ends.
func (w *warden) answer(conn net.Conn) {
	defer conn.Close()
	for lines := bufio.NewReaderSize(conn, 1024); ; {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return
		}
		var r request
		var answer reply
		if err := json.Unmarshal(line, &r); err != nil {
			answer.Error = err.Error()
		} else if r.Op == "stop" {
			w.stop(time.Duration(r.GraceMS) * time.Millisecond)
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
