package warden

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/agent/host/parent"
	"github.com/clusterworks/deploy/agent/host/sockets"
	"github.com/clusterworks/deploy/jobs/confine"
)

// sessionsFile is the socket at which a warden takes sessions, below its folder.
const sessionsFile = "sessions.sock"

// The warden's further parts: one that is the parent of a session, and what becomes
// the session's command.
const (
	sessionCommand = "session"
	beginCommand   = "begin"
)

// Descriptors of a session's parent: the connection of who asked for it, and the
// session's streams.
const (
	sessionFD = 3
	streamsFD = 4
)

const (
	// maxSessions is the number of sessions that an instance may have at once, of all users.
	maxSessions = 16
	// maxSessionBytes bounds the request of a session: it becomes an argument, of which
	// the kernel takes 128 KB.
	maxSessionBytes = 64 << 10
	// sessionWait bounds the time in which a request must be complete.
	sessionWait = 5 * time.Second
)

// Session is a command that runs beside an instance's app, confined as the app is: the
// same user, files, network, limits and control groups. It has a PID namespace of its
// own where the app has one, so that nothing of it outlives it.
type Session struct {
	Command []string `json:"command"`
	Env     []string `json:"env"` // in addition to the app's
	// TTY says that the streams are a terminal, which becomes the command's own.
	TTY bool `json:"tty"`
}

// Running is a session that runs.
type Running struct {
	conn *net.UnixConn
	done chan struct{}
	end  Ended
}

// ErrNoSessions says that the warden is of an earlier version, which has none.
var ErrNoSessions = errors.New("the instance was started by an earlier version, which has no sessions: restart the app")

// StartSession starts a session of the instance whose warden's folder is dir. The
// streams may be closed when it returns. The session ends when its command does, or
// when Close is called, or with this process.
func StartSession(ctx context.Context, dir string, s Session, stdin, stdout, stderr *os.File) (*Running, error) {
	fail := func(err error) (*Running, error) { return nil, fmt.Errorf("cannot begin a session: %w", err) }
	text, err := json.Marshal(s)
	if err != nil {
		return fail(err)
	}
	if len(text) >= maxSessionBytes {
		return fail(fmt.Errorf("the command and its variables are longer than %d bytes", maxSessionBytes))
	}
	dialled, err := sockets.Dial(ctx, filepath.Join(dir, sessionsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fail(ErrNoSessions)
	}
	if err != nil {
		return fail(err)
	}
	conn := dialled.(*net.UnixConn)
	if err := conn.SetDeadline(time.Now().Add(sessionWait)); err != nil {
		conn.Close()
		return fail(err)
	}
	rights := unix.UnixRights(int(stdin.Fd()), int(stdout.Fd()), int(stderr.Fd()))
	text = append(text, '\n')
	n, _, err := conn.WriteMsgUnix(text, rights, nil)
	if err == nil && n < len(text) {
		_, err = conn.Write(text[n:])
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		return fail(err)
	}
	r := &Running{conn: conn, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		var end Ended
		line, err := bufio.NewReader(conn).ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &end)
		}
		if err != nil {
			end = Ended{Status: -1, At: time.Now().UTC(), Error: "the instance has ended"}
		}
		r.end = end
	}()
	return r, nil
}

// Done is closed when the session has ended and nothing of it is left.
func (r *Running) Done() <-chan struct{} { return r.done }

// Ended tells how it ended, after Done.
func (r *Running) Ended() Ended { return r.end }

// Signal sends a signal, such as "INT", to the command and what it has started in its
// process group.
func (r *Running) Signal(name string) error {
	_, err := io.WriteString(r.conn, name+"\n")
	return err
}

// Close ends the session and all that it has started.
func (r *Running) Close() error { return r.conn.Close() }

// serveSessions takes sessions as long as this process lives. fork runs a function on a
// thread that stays, in the app's network.
func serveSessions(dir string, spec Spec, fork func(func())) {
	l, err := sockets.Listen(filepath.Join(dir, sessionsFile))
	if err != nil {
		fmt.Fprintf(os.Stderr, "there are no sessions: %v\n", err)
		return
	}
	slots := make(chan struct{}, maxSessions)
	for {
		conn, err := l.Accept()
		if err != nil {
			fmt.Fprintf(os.Stderr, "there are no sessions any more: %v\n", err)
			return
		}
		go func() {
			defer conn.Close()
			refuse := func(err error) { answer(conn, Ended{Status: -1, Error: err.Error()}) }
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			default:
				refuse(fmt.Errorf("the instance has %d sessions, and no more at once", maxSessions))
				return
			}
			text, streams, err := readSession(conn.(*net.UnixConn))
			defer closeAll(streams)
			if err != nil {
				refuse(err)
				return
			}
			ended, err := launchSession(conn.(*net.UnixConn), dir, spec, text, streams, fork)
			if err != nil {
				refuse(err)
				return
			}
			closeAll(streams)
			conn.Close()                       // it is the session's parent's
			_, _ = ended.Read(make([]byte, 1)) // ends with it
			ended.Close()
		}()
	}
}

func answer(w io.Writer, e Ended) {
	if e.At.IsZero() {
		e.At = time.Now().UTC()
	}
	if text, err := json.Marshal(e); err == nil {
		_, _ = w.Write(append(text, '\n')) // who asked may be gone
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // a second time, perhaps
	}
}

// readSession reads a request and the streams that come with it.
func readSession(conn *net.UnixConn) (text []byte, streams []*os.File, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(sessionWait)); err != nil {
		return nil, nil, err
	}
	buffer, control := make([]byte, maxSessionBytes+1), make([]byte, unix.CmsgSpace(4*8))
	for read := 0; ; {
		n, c, _, _, err := conn.ReadMsgUnix(buffer[read:], control)
		if c > 0 {
			messages, parseErr := unix.ParseSocketControlMessage(control[:c])
			if parseErr != nil {
				return nil, streams, parseErr
			}
			for _, m := range messages {
				fds, parseErr := unix.ParseUnixRights(&m)
				if parseErr != nil {
					return nil, streams, parseErr
				}
				for _, fd := range fds {
					syscall.CloseOnExec(fd)
					streams = append(streams, os.NewFile(uintptr(fd), "stream"))
				}
			}
		}
		if err != nil {
			return nil, streams, fmt.Errorf("cannot read the request: %w", err)
		}
		read += n
		if n == 0 || read == len(buffer) {
			return nil, streams, errors.New("cannot read the request: it has no end")
		}
		if buffer[read-1] == '\n' {
			text = buffer[:read-1]
			break
		}
	}
	if len(streams) != 3 {
		return nil, streams, fmt.Errorf("there are %d streams, not 3", len(streams))
	}
	return text, streams, conn.SetReadDeadline(time.Time{})
}

// launchSession starts the parent of a session, which has the connection from then
// on. ended is a pipe that ends with it.
func launchSession(conn *net.UnixConn, dir string, spec Spec, text []byte, streams []*os.File, fork func(func())) (ended *os.File, err error) {
	if err := json.Unmarshal(text, &Session{}); err != nil {
		return nil, fmt.Errorf("cannot read the request: %w", err)
	}
	file, err := conn.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	ended, life, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer life.Close()
	files := []uintptr{null.Fd(), null.Fd(), null.Fd(), sessionFD: file.Fd()}
	for _, f := range streams {
		files = append(files, f.Fd())
	}
	files = append(files, life.Fd())
	attributes := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if spec.Namespaces {
		attributes.Cloneflags = unix.CLONE_NEWPID
	}
	fork(func() {
		// It is reaped with the app's processes.
		_, err = syscall.ForkExec("/proc/self/exe", []string{"warden", sessionCommand, dir, string(text)}, &syscall.ProcAttr{Dir: dir, Files: files, Sys: attributes})
	})
	if err != nil {
		ended.Close()
		return nil, fmt.Errorf("cannot start the parent of a session: %w", err)
	}
	return ended, nil
}

// forker returns a function that runs others on one thread, which stays: what is
// forked there is told of this process's death, and not of the thread's.
func forker() func(func()) {
	work := make(chan func())
	go func() { // as long as this process lives
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return func(f func()) {
		done := make(chan struct{})
		work <- func() { defer close(done); f() }
		<-done
	}
}

// session is the parent of a session: "warden session DIR REQUEST". It ends with the
// command, or with the connection, and leaves nothing of the session.
func session(args []string) int {
	runtime.LockOSThread() // PDEATHSIG of the command tells of this thread
	for fd := sessionFD; fd <= streamsFD+3; fd++ {
		syscall.CloseOnExec(fd)
	}
	file := os.NewFile(sessionFD, "session")
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil || len(args) != 2 {
		return 2
	}
	fail := func(err error) int {
		answer(conn, Ended{Status: -1, Error: err.Error()})
		return 1
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fail(err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fail(err)
	}
	spec, err := ReadSpec(args[0])
	if err != nil {
		return fail(err)
	}
	var s Session
	if err := json.Unmarshal([]byte(args[1]), &s); err != nil {
		return fail(err)
	}
	attributes := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if s.TTY {
		attributes.Setsid, attributes.Setctty = true, true // Ctty: 0, the standard input
	} else {
		attributes.Setpgid = true
	}
	if spec.Namespaces {
		attributes.Cloneflags = confine.Flags
	}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"warden", beginCommand, args[0], args[1]}, &syscall.ProcAttr{
		Dir: spec.Dir, Files: []uintptr{streamsFD, streamsFD + 1, streamsFD + 2}, Sys: attributes,
	})
	if err != nil {
		return fail(fmt.Errorf("cannot start the command: %w", err))
	}
	// Who reads the streams sees their end.
	for fd := streamsFD; fd < streamsFD+3; fd++ {
		_ = syscall.Close(fd)
	}
	go func() { // as long as this process lives
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			if signal := unix.SignalNum("SIG" + strings.TrimPrefix(lines.Text(), "SIG")); signal != 0 {
				_ = syscall.Kill(-pid, signal) // it may have ended
			}
		}
		_ = lines.Err()                        // in whatever way it ended, nobody is there any more
		_ = syscall.Kill(pid, syscall.SIGKILL) // End does the rest
	}()
	p := &parent.Parent{PID: pid}
	var ended Ended
	ended.Status, ended.Signal = parent.Exit(p.Reap())
	p.End()
	answer(conn, ended)
	return 0
}

// begin becomes the command of a session: "warden begin DIR REQUEST".
func begin(args []string) int {
	fail := func(err error) int {
		fmt.Fprintf(os.Stderr, "cannot begin the session: %v\n", err)
		return 126
	}
	if len(args) != 2 {
		return 2
	}
	spec, err := ReadSpec(args[0])
	if err != nil {
		return fail(err)
	}
	var s Session
	if err := json.Unmarshal([]byte(args[1]), &s); err != nil {
		return fail(err)
	}
	own := spec.Spec
	own.Command = s.Command
	own.Env = append(own.Env[:len(own.Env):len(own.Env)], s.Env...)
	return fail(confine.Exec(own, filepath.Join(args[0], rootFolder)))
}
