package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// afterRefusal is how long an answer is still waited for on a connection that
	// takes no more of the request: a backend may refuse a body, answer and close.
	afterRefusal = time.Second
	// afterAnswer is how long a connection whose answer is complete waits for the
	// rest of the request's body to be written, until it is not kept.
	afterAnswer = 50 * time.Millisecond
)

// conn is a connection to a backend. One request at a time uses it.
type conn struct {
	net.Conn
	transport *Transport
	addr      string
	in        *bufio.Reader
	out       *bufio.Writer
	requests  int // answered on it
	idleSince time.Time

	// headLeft is how many bytes the head of the answer may still have; unlimited
	// while negative.
	headLeft int
	// waiting reports whether the head of the answer is awaited: then what is sent
	// gives the backend its whole time anew, and what is received does not.
	waiting atomic.Bool
	late    atomic.Bool // one of the directions has waited for too long
	got     bool        // a byte of this answer

	raw   syscall.RawConn       // nil: cannot be looked at
	peek  func(fd uintptr) bool // sets empty
	empty bool
}

func newConn(t *Transport, addr string, nc net.Conn) *conn {
	c := &conn{Conn: nc, transport: t, addr: addr}
	c.in, c.out = bufio.NewReader(receiver{c}), bufio.NewWriter(sender{c})
	if s, ok := nc.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			var b [1]byte
			c.raw, c.peek = raw, func(fd uintptr) bool {
				_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
				c.empty = errors.Is(err, unix.EAGAIN)
				return true
			}
		}
	}
	return c
}

// quiet reports whether the backend has said nothing since the last answer: it
// has neither closed the connection nor sent an answer that nobody asked for,
// which the next client would take for its own.
func (c *conn) quiet() bool {
	if c.raw == nil {
		return true
	}
	c.empty = false
	return c.raw.Read(c.peek) == nil && c.empty
}

// receiver and sender are the directions of a connection, with their deadlines.
type (
	receiver struct{ *conn }
	sender   struct{ *conn }
)

func (r receiver) Read(p []byte) (int, error) {
	if r.headLeft >= 0 {
		if r.headLeft == 0 {
			return 0, ErrHeadTooLarge
		}
		p = p[:min(len(p), r.headLeft)]
	}
	if !r.waiting.Load() {
		if err := r.SetReadDeadline(time.Now().Add(r.transport.Pause)); err != nil {
			return 0, err
		}
	}
	n, err := r.Conn.Read(p)
	if n > 0 {
		r.got = true
		if r.headLeft >= 0 {
			r.headLeft -= n
		}
	}
	return n, r.timed(err)
}

func (s sender) Write(p []byte) (int, error) {
	deadline := time.Now().Add(s.transport.Pause)
	set := s.SetWriteDeadline
	if s.waiting.Load() {
		set = s.SetDeadline
	}
	if err := set(deadline); err != nil {
		return 0, err
	}
	n, err := s.Conn.Write(p)
	return n, s.timed(err)
}

// timed keeps in mind that time was up: then the other direction fails as well,
// and may say something else.
func (c *conn) timed(err error) error {
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		c.late.Store(true)
	}
	return err
}

// roundTrip sends a request and reads the head of its answer. The connection
// then belongs to the answer's body; after an error it is closed.
func (c *conn) roundTrip(req *http.Request) (*http.Response, error) {
	x := &exchange{conn: c, req: req}
	// Whoever asked has gone: nobody waits for the backend any more.
	x.stop = context.AfterFunc(req.Context(), func() { c.Conn.Close() })
	c.got, c.headLeft = false, c.transport.MaxHead
	c.waiting.Store(true)
	if err := x.send(); err != nil {
		x.stop()
		c.Close()
		return nil, c.failure(x, err)
	}
	res, err := x.receive()
	c.waiting.Store(false)
	if err != nil {
		x.stop()
		c.Close()
		return nil, c.failure(x, err)
	}
	c.headLeft = -1
	c.requests++
	x.keep = !res.Close
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		// The connection is the caller's now; so is what ends it.
		x.stop()
		res.Body = &upgraded{conn: c, in: c.in}
	case res.Body == http.NoBody:
		x.finish(true)
	default:
		x.body, res.Body = res.Body, x
	}
	return res, nil
}

// failure returns why there is no answer: the reason that came first. The
// connection is closed.
func (c *conn) failure(x *exchange, err error) error {
	ctx := x.req.Context()
	if x.sent != nil && ctx.Err() != nil {
		// net/http ends a request's context before it returns the error of reading
		// its body. The upload knows which of the two came first, in a moment.
		x.sent.answered(false)
		x.sent.wait(afterRefusal)
	}
	switch {
	case x.sent != nil && x.sent.bodyErr() != nil:
		return fmt.Errorf("cannot read the request's body: %w", x.sent.bodyErr())
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case c.late.Load():
		return fmt.Errorf("the backend at %s was late: %w", c.addr, os.ErrDeadlineExceeded)
	case c.headLeft == 0: // the parser may say something else of a head that is cut
		return ErrHeadTooLarge
	case !c.got:
		return fmt.Errorf("%w: %w", ErrBrokenOff, err)
	}
	return fmt.Errorf("cannot read the answer of %s: %w", c.addr, err)
}

// exchange is a request and its answer on a connection. It is the body of the
// answer.
type exchange struct {
	*conn
	req  *http.Request
	body io.ReadCloser // of the answer
	sent *upload       // nil: the request has no body
	stop func() bool   // ends the watch over the request's context
	keep bool          // the connection can serve another request
	done bool
}

// send writes the request: all of it, or begins to.
func (x *exchange) send() error {
	if hasBody(x.req) {
		x.sent = startUpload(x.conn, x.req)
		return nil
	}
	if err := x.req.Write(x.out); err != nil {
		return err
	}
	return x.out.Flush()
}

// receive reads the head of the answer.
func (x *exchange) receive() (*http.Response, error) {
	for {
		res, err := http.ReadResponse(x.in, x.req)
		if err != nil {
			return nil, err
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols || res.StatusCode < 100 {
			if x.sent != nil {
				x.sent.answered(!res.Close)
			}
			return res, nil
		}
		if res.StatusCode == http.StatusContinue && x.sent != nil {
			x.sent.answered(true)
		}
	}
}

// Ready reports whether reading the answer's body returns at once.
func (x *exchange) Ready() bool { return x.done || x.in.Buffered() > 0 }

// Read reads the answer's body.
func (x *exchange) Read(p []byte) (int, error) {
	if x.done {
		return 0, io.EOF
	}
	n, err := x.body.Read(p)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		x.finish(true)
		return n, io.EOF
	}
	x.finish(false)
	switch ctx := x.req.Context(); {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case x.late.Load():
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// Close ends the exchange. A connection whose answer was not read to its end is
// closed.
func (x *exchange) Close() error {
	x.finish(false)
	return nil
}

// finish gives the connection back, or closes it.
func (x *exchange) finish(whole bool) {
	if x.done {
		return
	}
	x.done = true
	untouched := x.stop()
	if whole && untouched && x.keep && x.in.Buffered() == 0 && (x.sent == nil || x.sent.wait(afterAnswer)) {
		x.transport.keep(x.conn)
		return
	}
	x.conn.Close()
}
