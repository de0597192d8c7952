package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Errors of RoundTrip, to be told apart with errors.Is and errors.As.
var (
	// ErrHeadTooLarge: the answer's head, interim answers included, is larger than
	// Transport.MaxHead.
	ErrHeadTooLarge = errors.New("the head of the answer is too large")
	// ErrBrokenOff: the connection ended before there was an answer.
	ErrBrokenOff = errors.New("the backend closed the connection without an answer")
	// ErrMoved: the address was somebody else's when the connection was there.
	ErrMoved = errors.New("the route has gone meanwhile")
)

// DialError is a connection that could not be made: nothing was sent.
type DialError struct {
	Addr string
	Err  error
}

func (e *DialError) Error() string { return fmt.Sprintf("cannot connect to %s: %v", e.Addr, e.Err) }
func (e *DialError) Unwrap() error { return e.Err }

// Transport sends requests over connections that it keeps for further ones.
// Its fields are set before the first request.
type Transport struct {
	// Dial makes a connection to host:port.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Pause is the time that a backend may take for the head of its answer, pause
	// within its body, and take nothing of the request's.
	Pause time.Duration
	// Continue is the time that a request with "Expect: 100-continue" waits for the
	// backend's word before its body is sent all the same.
	Continue time.Duration
	// MaxHead bounds the head of an answer, interim answers included, in bytes.
	MaxHead int
	// MaxIdle bounds the idle connections to one address, IdleTimeout is how long
	// one is kept.
	MaxIdle     int
	IdleTimeout time.Duration

	started sync.Once
	start   time.Time
	young   young

	mu   sync.Mutex
	idle map[string][]*conn // by address, the one used last at the end
	// sweeping reports whether a timer will close idle connections.
	sweeping bool
	closed   bool
}

// begin returns a moment before which no request was sent.
func (t *Transport) begin() time.Time {
	t.started.Do(func() { t.start = time.Now() })
	return t.start
}

// RoundTrip sends a request to the address in its URL and returns the answer's
// head; its body streams. Interim answers (1xx) are dropped. A request that meets
// a connection which the backend has closed meanwhile is sent again over a new
// one, if it has no body and its method is idempotent (RFC 9110, 9.2.2).
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.RoundTripIf(req, func() bool { return true })
}

// RoundTripIf is RoundTrip if the address is still the one that is meant. That is
// asked when a connection is there and nothing was sent over it: by then somebody else
// may listen at its other end. If it is not, the error is a DialError with ErrMoved.
func (t *Transport) RoundTripIf(req *http.Request, still func() bool) (*http.Response, error) {
	return t.roundTrip(req, req.URL.Host, nil, still)
}

// RoundTripHead is RoundTripIf for a request without a body whose head is
// written already, with its empty line. Of req it takes the context and the method.
func (t *Transport) RoundTripHead(req *http.Request, addr string, head []byte, still func() bool) (*http.Response, error) {
	return t.roundTrip(req, addr, head, still)
}

func (t *Transport) roundTrip(req *http.Request, addr string, head []byte, still func() bool) (*http.Response, error) {
	for {
		c, err := t.connection(req.Context(), addr, still)
		if err != nil {
			return nil, err
		}
		reused := c.requests > 0
		res, err := c.roundTrip(req, head)
		if err == nil {
			return res, nil
		}
		if reused && errors.Is(err, ErrBrokenOff) && repeatable(req, head) && req.Context().Err() == nil {
			continue
		}
		return nil, err
	}
}

// repeatable reports whether a request may be sent twice.
func repeatable(req *http.Request, head []byte) bool {
	if head == nil && req.Body != nil && req.Body != http.NoBody {
		return false
	}
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// connection returns an idle connection to the address, or a new one.
func (t *Transport) connection(ctx context.Context, addr string, still func() bool) (*conn, error) {
	for {
		c := t.takeIdle(addr)
		if c == nil {
			break
		}
		if !still() {
			t.keep(c) // it is whoever has the address now who is on its other end
			return nil, &DialError{Addr: addr, Err: ErrMoved}
		}
		if c.quiet() {
			return c, nil
		}
		c.Close()
	}
	nc, err := t.Dial(ctx, addr)
	if err != nil {
		return nil, &DialError{Addr: addr, Err: err}
	}
	if !still() {
		nc.Close()
		return nil, &DialError{Addr: addr, Err: ErrMoved}
	}
	return newConn(t, addr, nc), nil
}

func (t *Transport) takeIdle(addr string) *conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.idle[addr]
	if len(list) == 0 {
		return nil
	}
	c := list[len(list)-1]
	list[len(list)-1] = nil
	t.idle[addr] = list[:len(list)-1]
	return c
}

// keep takes a connection back that can serve another request.
func (t *Transport) keep(c *conn) {
	c.idleSince = time.Now()
	t.mu.Lock()
	list := t.idle[c.addr]
	if t.closed || len(list) >= t.MaxIdle {
		t.mu.Unlock()
		c.Close()
		return
	}
	if t.idle == nil {
		t.idle = map[string][]*conn{}
	}
	t.idle[c.addr] = append(list, c)
	if !t.sweeping {
		t.sweeping = true
		time.AfterFunc(t.IdleTimeout, t.sweep)
	}
	t.mu.Unlock()
}

// sweep closes the connections that have been idle for too long, and comes back
// as long as there are idle ones.
func (t *Transport) sweep() {
	var old []*conn
	now := time.Now()
	next := time.Duration(-1)
	t.mu.Lock()
	for addr, list := range t.idle {
		expired := 0
		for expired < len(list) && now.Sub(list[expired].idleSince) >= t.IdleTimeout {
			expired++
		}
		old = append(old, list[:expired]...)
		if expired == len(list) {
			delete(t.idle, addr)
			continue
		}
		if left := t.IdleTimeout - now.Sub(list[expired].idleSince); next < 0 || left < next {
			next = left
		}
		t.idle[addr] = append(list[:0:0], list[expired:]...)
	}
	t.sweeping = next >= 0
	if t.sweeping {
		time.AfterFunc(next+t.IdleTimeout/16, t.sweep)
	}
	t.mu.Unlock()
	for _, c := range old {
		c.Close()
	}
}

// Close closes the idle connections; those in use are closed after their answer.
func (t *Transport) Close() {
	t.mu.Lock()
	idle := t.idle
	t.idle, t.closed = nil, true
	t.mu.Unlock()
	for _, list := range idle {
		for _, c := range list {
			c.Close()
		}
	}
}

// expectsContinue reports whether a request waits for the backend's word before
// its body.
func expectsContinue(req *http.Request) bool {
	return strings.EqualFold(strings.TrimSpace(req.Header.Get("Expect")), "100-continue")
}

// hasBody reports whether a request has a body to send.
func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

var _ io.ReadWriteCloser = (*upgraded)(nil)

// upgraded is the connection after a 101, as the body of the answer.
type upgraded struct {
	*conn
	in *bufio.Reader
}

func (u *upgraded) Read(p []byte) (int, error) { return u.in.Read(p) }

// Write sends to the backend, which then has its whole time anew to say something.
func (u *upgraded) Write(p []byte) (int, error) {
	if err := errors.Join(u.extendRead(), u.extendWrite()); err != nil {
		return 0, err
	}
	return u.Conn.Write(p)
}
