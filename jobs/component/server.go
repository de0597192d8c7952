package component

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// idleTimeout is the time that a Server keeps a connection that nobody uses: longer
// than any client of ours, so that it is never the server that closes one which
// a client is about to use.
const idleTimeout = 90 * time.Second

// readHeaderTimeout bounds how long a client may take for a request's head.
const readHeaderTimeout = 60 * time.Second

// freshTimeout is the time that a drain waits for the first request of a connection.
const freshTimeout = 5 * time.Second

// Server is an HTTP server that can leave without losing a request.
// http.Server.Shutdown is not enough: it closes idle connections, so a client
// that reuses one at that moment sees it close without an answer, and must not
// repeat a POST; and it drops requests that it reads after it was called.
type Server struct {
	// PeerKeepalive is the time that clients keep an idle connection; DrainTimeout how
	// long a drain waits for requests and upgraded connections in progress, after
	// which they are cut. Both are set before Serve.
	PeerKeepalive time.Duration
	DrainTimeout  time.Duration
	// TLS, set before Serve, makes it an HTTPS server; nil: HTTP.
	TLS *tls.Config

	listener net.Listener
	server   *http.Server
	log      *slog.Logger
	base     context.Context // of every request
	cut      context.CancelFunc
	served   chan struct{} // closed when nothing is accepted any more
	serveErr error
	done     chan struct{} // closed when Drain has finished

	mu       sync.Mutex
	drainAt  time.Time // zero: not draining
	conns    map[net.Conn]connection
	handlers int // in progress, upgraded connections included
}

type connection struct {
	opened time.Time
	fresh  bool      // nothing was read from it yet
	idle   time.Time // since when; zero: in use
}

// Listen takes host:port for a Server that answers with h once Serve is called.
func Listen(addr string, h http.Handler, log *slog.Logger) (*Server, error) {
	var plain net.ListenConfig
	// Multipath TCP, Go's default, knows no socket filters, see emptyQueue.
	plain.SetMultipathTCP(false)
	l, err := plain.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for requests: %w", err)
	}
	base, cut := context.WithCancel(context.Background())
	s := &Server{
		PeerKeepalive: 3 * time.Second,
		DrainTimeout:  30 * time.Second,
		listener:      l,
		log:           log,
		base:          base,
		cut:           cut,
		served:        make(chan struct{}),
		done:          make(chan struct{}),
		conns:         map[net.Conn]connection{},
	}
	s.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.count(1)
			defer s.count(-1)
			if s.Draining() {
				w.Header().Set("Connection", "close")
			}
			h.ServeHTTP(w, r)
		}),
		// Handlers see what is asked of the server as a whole, "OPTIONS *".
		DisableGeneralOptionsHandler: true,
		BaseContext:                  func(net.Listener) context.Context { return base },
		ConnState:                    s.track,
		IdleTimeout:                  idleTimeout,
		ReadHeaderTimeout:            readHeaderTimeout,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Addr returns where it listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close frees the address of a Server whose Serve will not be called.
func (s *Server) Close() error {
	s.cut()
	return s.listener.Close()
}

// Draining says whether Drain was called. Handlers that replace the response's
// header set "Connection: close" themselves then.
func (s *Server) Draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.drainAt.IsZero()
}

// Serve answers requests until Drain has finished, or cuts everything when ctx
// ends.
func (s *Server) Serve(ctx context.Context) error {
	go func() {
		accepted := s.listener
		if s.TLS != nil {
			accepted = tls.NewListener(accepted, s.TLS)
		}
		s.serveErr = s.server.Serve(accepted)
		close(s.served)
	}()
	var err error
	select {
	case <-s.served:
		if !s.Draining() {
			err = fmt.Errorf("cannot go on serving %s: %w", s.listener.Addr(), s.serveErr)
			break
		}
		select {
		case <-s.done:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	s.end(context.WithoutCancel(ctx))
	<-s.served
	return err
}

// end cuts what is left: the requests' context and their connections end.
func (s *Server) end(ctx context.Context) {
	s.cut()
	s.server.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if !s.waitUntil(ctx, func() bool { return s.handlers == 0 }) {
		s.log.Warn("requests continue after their context has ended", "address", s.listener.Addr())
	}
}

// Drain leaves in order: from now on every answer asks to close its connection;
// idle connections are left to the clients, which close them within
// PeerKeepalive; then nothing is accepted any more and what is in progress is
// finished within DrainTimeout, else cut. It is called once, and returns early,
// with an error, when ctx ends.
func (s *Server) Drain(ctx context.Context) error {
	defer close(s.done)
	s.mu.Lock()
	s.drainAt = time.Now()
	s.mu.Unlock()
	if !s.waitUntil(ctx, s.settled) {
		return fmt.Errorf("cannot drain %s: %w", s.listener.Addr(), context.Cause(ctx))
	}
	if err := stopAccepting(ctx, s.listener); err != nil {
		return fmt.Errorf("cannot stop listening on %s: %w", s.listener.Addr(), err)
	}
	<-s.served // so that every accepted connection is counted
	patience, cancel := context.WithTimeout(ctx, s.DrainTimeout)
	defer cancel()
	if !s.waitUntil(patience, s.finished) {
		if ctx.Err() != nil {
			return fmt.Errorf("cannot drain %s: %w", s.listener.Addr(), context.Cause(ctx))
		}
		s.log.Warn("cutting requests that take longer than the drain time-out", "timeout", s.DrainTimeout)
	}
	s.end(ctx)
	return nil
}

// settled says, with the lock held, whether every connection from before the
// drain is closed, has been idle for longer than clients keep one, or has been
// in use all that time.
func (s *Server) settled() bool {
	now := time.Now()
	for _, c := range s.conns {
		if c.opened.After(s.drainAt) {
			continue // its answer says that it closes
		}
		since := s.drainAt
		if !c.idle.IsZero() {
			since = c.idle
		}
		if now.Sub(since) < s.PeerKeepalive {
			return false
		}
	}
	return true
}

// finished says, with the lock held, whether nothing is in progress and no
// connection is left on which a request may be on its way.
func (s *Server) finished() bool {
	now := time.Now()
	for _, c := range s.conns {
		switch {
		case c.fresh && now.Sub(c.opened) > freshTimeout:
		case !c.idle.IsZero() && now.Sub(c.idle) >= s.PeerKeepalive:
		default:
			return false
		}
	}
	return s.handlers == 0
}

// waitUntil polls a condition on what the lock guards; false if ctx ended first.
func (s *Server) waitUntil(ctx context.Context, condition func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s.mu.Lock()
		ok := condition()
		s.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

func (s *Server) count(n int) {
	s.mu.Lock()
	s.handlers += n
	s.mu.Unlock()
}

func (s *Server) track(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.conns[conn] = connection{opened: time.Now(), fresh: true}
	case http.StateActive:
		s.conns[conn] = connection{opened: s.conns[conn].opened}
	case http.StateIdle:
		s.conns[conn] = connection{opened: s.conns[conn].opened, idle: time.Now()}
	case http.StateHijacked, http.StateClosed:
		delete(s.conns, conn)
	}
}

// handshake is the time that the queue of a listener must stay empty until no client
// is taken to be in the middle of connecting any more: longer than a packet
// takes to and fro. Whoever asks meanwhile waits a second until it asks again.
const handshake = 10 * time.Millisecond

// stopAccepting closes a listener without resetting connections that clients
// have made and nobody has accepted yet: first the kernel is told to drop
// requests for new ones (the client asks again a moment later and is refused),
// then the server, which goes on accepting, empties the queue.
func stopAccepting(ctx context.Context, l net.Listener) error {
	return errors.Join(emptyQueue(ctx, l.(syscall.Conn)), l.Close())
}

func emptyQueue(ctx context.Context, l syscall.Conn) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Control(func(fd uintptr) {
		// Where the kernel refuses it, a connection made between the last look at
		// the queue and the close is reset: rare, and no reason not to drain.
		_ = dropNew(int(fd))
	}); err != nil {
		return err
	}
	for empty := time.Now(); ; {
		waiting := 0
		var failed error
		err := raw.Control(func(fd uintptr) {
			waiting, failed = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		})
		if errors.Is(failed, unix.EINTR) {
			continue
		}
		if err := errors.Join(err, failed); err != nil {
			return err
		}
		if waiting > 0 {
			empty = time.Now()
		} else if time.Since(empty) > handshake {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
}

// dropNew makes a listening socket drop requests for connections. The third
// packet of a handshake is let through: a client that has begun takes itself for
// connected, and what it sends would be lost.
func dropNew(fd int) error {
	const flags, syn, synOrACK = 13, 0x02, 0x12 // of a TCP header: the byte, its bits
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: synOrACK},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},          // drop
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff}, // all of it
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}
