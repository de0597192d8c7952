package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// Client is a connection to a host; safe for concurrent use. Every method ends
// with its context, and with an error when the host goes silent.
type Client struct {
	conn    *ssh.Client
	target  Target
	hostKey string
	sftp    func() (*files, error) // opened at first use

	gone chan struct{} // closed when the connection has ended

	mu     sync.Mutex
	lost   error // why the connection was given up, nil if it was not
	closed bool
	work   sync.WaitGroup // goroutines that Close waits for
}

// errClosed is the answer of a client after Close.
var errClosed = errors.New("the connection was closed")

func newClient(conn *ssh.Client, line *heardConn, t Target, hostKey string, keepAlive time.Duration) *Client {
	t.PrivateKey = nil
	c := &Client{conn: conn, target: t, hostKey: hostKey, gone: make(chan struct{})}
	c.sftp = sync.OnceValues(func() (*files, error) {
		session, err := conn.NewSession()
		if err != nil {
			return nil, err
		}
		answers, err := session.StdoutPipe()
		if err != nil {
			return nil, err
		}
		requests, err := session.StdinPipe()
		if err != nil {
			return nil, err
		}
		if err := session.RequestSubsystem("sftp"); err != nil {
			return nil, err
		}
		return openFiles(answers, requests, c.giveUp)
	})
	c.work.Go(func() {
		conn.Wait() // its error is that of whatever was under way
		close(c.gone)
	})
	c.work.Go(func() { c.keepAlive(line, keepAlive) })
	return c
}

// String is user@host:port.
func (c *Client) String() string { return c.target.String() }

// HostKey is the key that the host showed, in authorized_keys form.
func (c *Client) HostKey() string { return c.hostKey }

// Ended tells whether the connection has ended, so that another one is needed.
func (c *Client) Ended() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// Close ends the connection and everything that goes over it.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	err := c.conn.Close()
	c.work.Wait()
	if errors.Is(err, net.ErrClosed) { // the peer was first
		return nil
	}
	return err
}

// heardConn remembers when the peer was last heard, and how reading ended.
type heardConn struct {
	net.Conn
	start time.Time
	heard atomic.Int64 // nanoseconds after start
	ended atomic.Pointer[error]
}

func (c *heardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard.Store(int64(time.Since(c.start)))
	}
	if err != nil {
		c.ended.Store(&err)
	}
	return n, err
}

// silence returns the time that the peer has not been heard.
func (c *heardConn) silence() time.Duration {
	return time.Since(c.start) - time.Duration(c.heard.Load())
}

// keepAlive gives the connection up when the peer has gone silent, which ends
// everything that waits for it. Anything heard will do: behind a large upload
// over a slow line the answer to our question comes late.
func (c *Client) keepAlive(line *heardConn, every time.Duration) {
	patience := 3 * every
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-c.gone:
			return
		case <-tick.C:
		}
		answered := make(chan error, 1)
		c.work.Go(func() {
			// OpenSSH's name for it; any answer will do, also a refusal.
			_, _, err := c.conn.SendRequest("keepalive@openssh.com", true, nil)
			answered <- err
		})
		asked := time.Now()
		for waiting := true; waiting; {
			left := patience - min(time.Since(asked), line.silence())
			if left <= 0 {
				c.giveUp(fmt.Errorf("the host has not answered for %s", patience))
				return
			}
			select {
			case err := <-answered:
				if err != nil {
					return // the connection has ended
				}
				waiting = false
			case <-time.After(left):
			}
		}
	}
}

// giveUp ends the connection to a host that is silent or lies; why becomes the
// reason of whatever was under way.
func (c *Client) giveUp(why error) {
	c.mu.Lock()
	if c.lost == nil {
		c.lost = why
	}
	c.mu.Unlock()
	c.conn.Close()
}

// farewell is the time that something that was cancelled may take to tidy up before
// it is left to itself.
const farewell = time.Second

// await runs f, which knows no context but should end soon after it does. If f
// does not, because the host is silent, await returns without it; f then goes on
// until the connection has ended, and Close waits for it.
func await[T any](ctx context.Context, c *Client, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	done := make(chan result, 1)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return none, errClosed
	}
	c.work.Go(func() {
		value, err := f()
		done <- result{value, err}
	})
	c.mu.Unlock()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-done:
		if r.err == nil {
			return r.value, nil
		}
	case <-time.After(farewell):
	}
	return none, context.Cause(ctx)
}

// lostBy reports whether an error is that of a connection which has ended.
func lostBy(err error) bool {
	var network *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.As(err, &network)
}

// failed makes an error that says what could not be done where and why.
func (c *Client) failed(what string, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err = brief{err}
	switch {
	case c.lost != nil:
		return fmt.Errorf("cannot %s on %s: the connection was lost: %w", what, c, c.lost)
	case c.closed:
		return fmt.Errorf("cannot %s on %s: %w", what, c, errClosed)
	case lostBy(err):
		// A call can meet the end before whoever looks after the connection does.
		return fmt.Errorf("cannot %s on %s: the connection was lost: %w", what, c, err)
	}
	return fmt.Errorf("cannot %s on %s: %w", what, c, err)
}

// DialUnix connects to a unix socket on the host, by OpenSSH's
// direct-streamlocal. The connection knows no deadlines.
func (c *Client) DialUnix(ctx context.Context, path string) (net.Conn, error) {
	conn, err := c.conn.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, c.failed("connect to the socket "+path, err)
	}
	return conn, nil
}

// DialTCP connects from the host to host:port, by direct-tcpip. The connection
// knows no deadlines.
func (c *Client) DialTCP(ctx context.Context, address string) (net.Conn, error) {
	conn, err := c.conn.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, c.failed("connect to "+address, err)
	}
	return conn, nil
}
