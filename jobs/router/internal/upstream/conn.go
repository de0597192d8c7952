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
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// afterRefusal is the time that an answer is still waited for on a connection that
	// takes no more of the request: a backend may refuse a body, answer and close.
	afterRefusal = time.Second
	// afterAnswer is the time that a connection whose answer is complete waits for the
	// rest of the request's body to be written, until it is not kept.
	afterAnswer = 50 * time.Millisecond
	// slack is the part of Transport.Pause by which a time-out may come late: a
	// deadline that has this much to spare serves the next requests too.
	slack = 64
)

// conn is a connection to a backend. One request at a time uses it.
type conn struct {
	net.Conn
	transport *Transport
	addr      string
	in        *bufio.Reader
	out       *bufio.Writer // nil until a request needs it
	requests  int           // answered on it
	idleSince time.Time
	// When reading and writing must have ended, as time since Transport.begin.
	readBy, writeBy atomic.Int64

	// headLeft is the number of bytes that the head of the answer may still have; unlimited
	// while negative.
	headLeft int
	// waiting reports whether the head of the answer is awaited: then what is sent
	// gives the backend its whole time anew, and what is received does not.
	waiting atomic.Bool
	late    atomic.Bool // one of the directions has waited for too long
	got     bool        // a byte of this answer

	raw   syscall.RawConn  // nil: cannot be looked at
	peek  func(fd uintptr) // sets empty
	empty bool
	byte  [1]byte // for peek
}

func newConn(t *Transport, addr string, nc net.Conn) *conn {
	c := &conn{Conn: nc, transport: t, addr: addr}
	c.in = bufio.NewReader(receiver{c})
	if s, ok := nc.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			c.raw, c.peek = raw, func(fd uintptr) {
				// unix.Recvfrom allocates an address.
				_, _, err := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&c.byte)), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
				c.empty = err == unix.EAGAIN
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
	return c.raw.Control(c.peek) == nil && c.empty
}

// writer returns the connection's buffered writer.
func (c *conn) writer() *bufio.Writer {
	if c.out == nil {
		c.out = bufio.NewWriter(sender{c})
	}
	return c.out
}

// extend gives the backend its whole time anew in one direction, unless the
// deadline that stands leaves it as much.
func (c *conn) extend(by *atomic.Int64, set func(time.Time) error) error {
	pause, now := c.transport.Pause, time.Since(c.transport.begin())
	if time.Duration(by.Load())-now >= pause {
		return nil
	}
	pause += pause / slack
	by.Store(int64(now + pause))
	return set(time.Now().Add(pause))
}

func (c *conn) extendRead() error  { return c.extend(&c.readBy, c.Conn.SetReadDeadline) }
func (c *conn) extendWrite() error { return c.extend(&c.writeBy, c.Conn.SetWriteDeadline) }

// hurry leaves the backend only so long to say something.
func (c *conn) hurry(patience time.Duration) {
	c.readBy.Store(0)
	_ = c.Conn.SetReadDeadline(time.Now().Add(patience))
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
		if err := r.extendRead(); err != nil {
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
	if err := s.extendWrite(); err != nil {
		return 0, err
	}
	if s.waiting.Load() {
		if err := s.extendRead(); err != nil {
			return 0, err
		}
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
func (c *conn) roundTrip(req *http.Request, head []byte) (*http.Response, error) {
	x := &exchange{conn: c, req: req}
	c.transport.watch(x)
	c.got, c.headLeft = false, c.transport.MaxHead
	c.waiting.Store(true)
	if err := x.send(head); err != nil {
		x.unwatch()
		c.Close()
		return nil, c.failure(x, err)
	}
	res, err := x.receive()
	c.waiting.Store(false)
	if err != nil {
		x.unwatch()
		c.Close()
		return nil, c.failure(x, err)
	}
	c.headLeft = -1
	c.requests++
	x.keep = !res.Close
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		// The connection is the caller's now; so is what ends it.
		x.unwatch()
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
	keep bool          // the connection can serve another request
	done bool
	watched
}

// send writes the request: all of it, or begins to. head is its head if that is
// written already.
func (x *exchange) send(head []byte) error {
	switch {
	case head != nil:
		_, err := sender{x.conn}.Write(head)
		return err
	case hasBody(x.req):
		x.arm(x) // the request's context says first that its body will not come
		x.sent = startUpload(x.conn, x.req)
		return nil
	}
	if err := x.req.Write(x.writer()); err != nil {
		return err
	}
	return x.out.Flush()
}

// receive reads the head of the answer.
func (x *exchange) receive() (*http.Response, error) {
	for {
		if res := readPlain(x.in, x.req); res != nil {
			if x.sent != nil {
				x.sent.answered(true)
			}
			return res, nil
		}
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
	untouched := x.unwatch()
	if whole && untouched && x.keep && x.in.Buffered() == 0 && (x.sent == nil || x.sent.wait(afterAnswer)) {
		x.transport.keep(x.conn)
		return
	}
	x.conn.Close()
}
