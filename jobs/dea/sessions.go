package dea

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/creack/pty"

	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/dea/internal/core"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Sessions says what sessions of users, commands beside their apps, may do.
type Sessions struct {
	// Port is the port on which cloud controllers ask for them, over TLS, on the own address.
	Port int `yaml:"port"`
	// Instance and App are how many an instance, and an app on this DEA, have at once;
	// All those of all apps.
	Instance int `yaml:"instance"`
	App      int `yaml:"app"`
	All      int `yaml:"all"`
	// Idle is for how long nothing may go through one, Longest how long one may last.
	Idle    time.Duration `yaml:"idle"`
	Longest time.Duration `yaml:"longest"`
}

func (s Sessions) check() error {
	switch {
	case s.Port < 0 || s.Port > 65535:
		return fmt.Errorf("sessions: port %d is not within 0 and 65535", s.Port)
	case s.Instance < 0 || s.App < 0 || s.All < 0:
		return errors.New("sessions: instance, app and all must not be negative; 0: none")
	case s.Idle <= 0 || s.Longest <= 0:
		return errors.New("sessions: idle and longest must be positive durations, as \"15m\"")
	}
	return nil
}

// sessionPing is the interval at which a session's other end is asked whether it is there.
const sessionPing = 20 * time.Second

// sessionServer runs commands beside apps, for cloud controllers: they show a
// certificate of the deployment's CA, and the credentials that dea.find.droplet tells.
type sessionServer struct {
	limits      Sessions
	tls         *tls.Config
	credentials [2]string
	log         *slog.Logger
	listener    net.Listener

	running func(id string) (core.Instance, bool)
	records func(id string) string                                           // the folder of an instance's warden
	runtime func(ctx context.Context, info wire.RuntimeInfo) (string, error) // its program's path

	mu       sync.Mutex
	instance map[string]int
	app      map[wire.ID]int
	all      int
}

func newSessionServer(limits Sessions, config *tls.Config, credentials [2]string, log *slog.Logger) *sessionServer {
	return &sessionServer{limits: limits, tls: config, credentials: credentials, log: log, instance: map[string]int{}, app: map[wire.ID]int{}}
}

// serve answers until ctx ends, and then until all sessions have.
func (s *sessionServer) serve(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.Add(1)
			defer running.Done()
			s.answer(ctx, w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(tls.NewListener(s.listener, s.tls)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot go on serving sessions at %s: %w", s.listener.Addr(), err)
	}
	return nil
}

// answer serves /sessions/<instance id>.
func (s *sessionServer) answer(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	want := s.credentials
	if subtle.ConstantTimeCompare([]byte(user), []byte(want[0]))&subtle.ConstantTimeCompare([]byte(password), []byte(want[1])) != 1 {
		http.Error(w, "unauthorized", http.StatusUnauthorized)
		return
	}
	id, found := strings.CutPrefix(r.URL.Path, "/sessions/")
	var instance core.Instance
	if found {
		instance, found = s.running(id)
	}
	if !found {
		http.Error(w, "no such instance runs here", http.StatusNotFound)
		return
	}
	if err := s.enter(instance); err != nil {
		http.Error(w, err.Error(), http.StatusTooManyRequests)
		return
	}
	defer s.leave(instance)
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // it is answered
	}
	defer conn.CloseNow()
	conn.SetReadLimit(wire.SessionText)
	ctx, cancel := context.WithTimeoutCause(ctx, s.limits.Longest, fmt.Errorf("the session has lasted %v, which is the most", s.limits.Longest))
	defer cancel()
	s.run(ctx, conn, instance)
}

// tell says how a session has ended, and ends its connection.
func (s *sessionServer) tell(conn *websocket.Conn, end wire.SessionEnd) {
	text, err := json.Marshal(end)
	if err != nil {
		return
	}
	last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if conn.Write(last, websocket.MessageText, text) == nil {
		_ = conn.Close(websocket.StatusNormalClosure, "") // it may be gone
	}
}

// enter counts a session, unless there are too many.
func (s *sessionServer) enter(i core.Instance) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch app := i.Start.Droplet; {
	case s.instance[i.ID] >= s.limits.Instance:
		return fmt.Errorf("the instance has %d sessions, and no more at once", s.instance[i.ID])
	case s.app[app] >= s.limits.App:
		return fmt.Errorf("the app has %d sessions on this DEA, and no more at once", s.app[app])
	case s.all >= s.limits.All:
		return fmt.Errorf("this DEA has %d sessions, and no more at once", s.all)
	}
	s.count(i, 1)
	return nil
}

func (s *sessionServer) leave(i core.Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(i, -1)
}

func (s *sessionServer) count(i core.Instance, n int) {
	s.all += n
	if s.instance[i.ID] += n; s.instance[i.ID] == 0 {
		delete(s.instance, i.ID)
	}
	if s.app[i.Start.Droplet] += n; s.app[i.Start.Droplet] == 0 {
		delete(s.app, i.Start.Droplet)
	}
}

// confinedCommand returns what is executed: in the folder of the app's files, with the
// runtime that the app has.
func (s *sessionServer) confinedCommand(ctx context.Context, i core.Instance, start wire.SessionStart) warden.Session {
	path := ""
	if program, err := s.runtime(ctx, i.Start.RuntimeInfo); err == nil && program != "" {
		path = filepath.Dir(program) + ":"
	}
	script := `PATH="$1$PATH"; export PATH; shift; cd app 2>/dev/null; `
	switch {
	case len(start.Command) > 0:
		script += `exec "$@"`
	case start.TTY:
		script += `if [ -x /bin/bash ]; then exec /bin/bash -i; fi; exec /bin/sh -i`
	default:
		script += `exec /bin/sh`
	}
	session := warden.Session{TTY: start.TTY, Command: append([]string{"/bin/sh", "-c", script, "sh", path}, start.Command...)}
	if start.TTY {
		term := start.Term
		if term == "" {
			term = "xterm"
		}
		session.Env = []string{"TERM=" + term}
	}
	return session
}

// streams are the two ends of a session's streams.
type streams struct {
	tty          *os.File // nil: pipes
	input        io.WriteCloser
	outputs      [2]*os.File // stdout and stderr; of a terminal the first only
	inside       [3]*os.File // the command's
	closeOnce    sync.Once
	inputEnded   atomic.Bool
	lastActivity atomic.Int64 // Unix nanoseconds
}

func openStreams(start wire.SessionStart) (_ *streams, err error) {
	s := &streams{}
	s.active()
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if start.TTY {
		size := &pty.Winsize{Rows: uint16(max(start.Rows, 1)), Cols: uint16(max(start.Cols, 1))}
		if start.Rows == 0 || start.Cols == 0 {
			size = &pty.Winsize{Rows: 24, Cols: 80}
		}
		outside, inside, err := pty.Open()
		if err != nil {
			return nil, fmt.Errorf("cannot make a terminal: %w", err)
		}
		s.tty, s.input, s.outputs[0], s.inside = outside, outside, outside, [3]*os.File{inside, inside, inside}
		return s, pty.Setsize(outside, size)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.inside[0], s.input = read, write
	for n := range s.outputs {
		read, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		s.outputs[n], s.inside[n+1] = read, write
	}
	return s, nil
}

func (s *streams) active() { s.lastActivity.Store(time.Now().UnixNano()) }

func (s *streams) idle() time.Duration { return time.Since(time.Unix(0, s.lastActivity.Load())) }

// closeInside closes the command's ends, which it has itself by now.
func (s *streams) closeInside() {
	for _, f := range s.inside {
		if f != nil {
			_ = f.Close() // the ends of a terminal are one file
		}
	}
}

func (s *streams) close() {
	s.closeOnce.Do(func() {
		s.closeInside()
		if s.input != nil {
			_ = s.input.Close()
		}
		for _, f := range s.outputs {
			if f != nil {
				_ = f.Close()
			}
		}
	})
}

// begin reads what is to run, and runs it.
func (s *sessionServer) begin(ctx context.Context, conn *websocket.Conn, i core.Instance) (start wire.SessionStart, st *streams, _ *warden.Running, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	kind, text, err := conn.Read(ctx)
	if err == nil && kind != websocket.MessageText {
		err = errors.New("a session begins with a text")
	}
	if err == nil {
		start, err = wire.ParseSessionStart(text)
	}
	if err == nil {
		st, err = openStreams(start)
	}
	if err != nil {
		return start, nil, nil, err
	}
	session, err := warden.StartSession(ctx, s.records(i.ID), s.confinedCommand(ctx, i, start), st.inside[0], st.inside[1], st.inside[2])
	if err != nil {
		st.close()
		return start, nil, nil, err
	}
	st.closeInside()
	return start, st, session, nil
}

// run runs a session until its command ends, its user is gone, or it is too long or
// idle, and tells how it ended. Nothing of it is left then.
func (s *sessionServer) run(ctx context.Context, conn *websocket.Conn, i core.Instance) {
	start, st, session, err := s.begin(ctx, conn, i)
	if err != nil {
		s.tell(conn, wire.SessionEnd{Status: -1, Error: err.Error()})
		return
	}
	defer st.close()
	s.log.Info("a session begins", "app", i.Start.Name, "index", i.Start.Index, "instance", i.ID, "terminal", start.TTY)
	defer s.log.Info("a session has ended", "app", i.Start.Name, "index", i.Start.Index, "instance", i.ID)

	ctx, cancel := context.WithCancelCause(ctx)
	var beside, printed sync.WaitGroup
	defer beside.Wait()
	defer st.close() // before: reads end
	defer conn.CloseNow()
	defer cancel(nil)
	// A read or write whose context ends takes the connection with it, and how the
	// session ended could not be told.
	open := context.WithoutCancel(ctx)
	beside.Go(func() { cancel(s.take(open, conn, session, st)) })
	beside.Go(func() { s.watch(ctx, conn, st, cancel) })
	for n, f := range st.outputs {
		if f != nil {
			printed.Go(func() { pass(open, conn, byte(n+wire.SessionStdout), f, st, cancel) })
		}
	}
	all := make(chan struct{})
	beside.Go(func() { printed.Wait(); close(all) })
	select {
	case <-session.Done():
	case <-ctx.Done():
		_ = session.Close() // the warden ends it
		<-session.Done()
		s.tell(conn, wire.SessionEnd{Status: -1, Error: context.Cause(ctx).Error()})
		return
	}
	// What it has printed is sent before its end is told.
	select {
	case <-all:
	case <-ctx.Done():
	}
	_ = session.Close()
	e := session.Ended()
	s.tell(conn, wire.SessionEnd{Status: e.Status, Signal: e.Signal, Error: e.Error})
}

// take takes what the user sends. It returns when the user is gone.
func (s *sessionServer) take(ctx context.Context, conn *websocket.Conn, session *warden.Running, st *streams) error {
	for {
		kind, data, err := conn.Read(ctx)
		if err != nil {
			return fmt.Errorf("the user is gone: %w", err)
		}
		st.active()
		if kind == websocket.MessageBinary {
			if len(data) > 1 && data[0] == wire.SessionStdin && !st.inputEnded.Load() {
				if _, err := st.input.Write(data[1:]); err != nil {
					st.inputEnded.Store(true) // it reads no more, which is no error
				}
			}
			continue
		}
		c, err := wire.ParseSessionControl(data)
		if err != nil {
			return err
		}
		if c.Rows > 0 && c.Cols > 0 && st.tty != nil {
			_ = pty.Setsize(st.tty, &pty.Winsize{Rows: uint16(c.Rows), Cols: uint16(c.Cols)}) // a window is no matter of life
		}
		if c.Signal != "" {
			_ = session.Signal(c.Signal) // it may have ended
		}
		if c.EOF && st.tty == nil && !st.inputEnded.Swap(true) {
			_ = st.input.Close()
		}
	}
}

// watch ends a session that is idle, or whose user does not answer any more.
func (s *sessionServer) watch(ctx context.Context, conn *websocket.Conn, st *streams, end context.CancelCauseFunc) {
	tick := time.NewTicker(min(sessionPing, s.limits.Idle/4+time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if st.idle() > s.limits.Idle {
			end(fmt.Errorf("nothing went through the session for %v", s.limits.Idle))
			return
		}
		ping, cancel := context.WithTimeout(ctx, sessionPing)
		err := conn.Ping(ping)
		cancel()
		if err != nil {
			end(fmt.Errorf("the user is gone: %w", err))
			return
		}
	}
}

// pass sends what the command prints, until the last who could print has ended.
func pass(ctx context.Context, conn *websocket.Conn, stream byte, from io.Reader, st *streams, end context.CancelCauseFunc) {
	buffer := make([]byte, wire.SessionMessage)
	buffer[0] = stream
	for {
		n, err := from.Read(buffer[1:])
		if n > 0 {
			st.active()
			if err := conn.Write(ctx, websocket.MessageBinary, buffer[:n+1]); err != nil {
				end(fmt.Errorf("the user is gone: %w", err))
				return
			}
		}
		if err != nil {
			return // a terminal's end is EIO
		}
	}
}
