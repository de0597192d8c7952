package localvm

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// DialTimeout bounds the time that a daemon tries to connect for a client.
const DialTimeout = 10 * time.Second

// Connections are those that a daemon has open. Close ends them all.
type Connections struct {
	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
	owned  sync.WaitGroup
}

// Serve begins to accept, until Close, and calls handle in a goroutine for each
// connection, which it closes afterwards.
func (c *Connections) Serve(listener net.Listener, log *slog.Logger, handle func(net.Conn)) {
	c.owned.Go(func() { c.accept(listener, log, handle) })
}

func (c *Connections) accept(listener net.Listener, log *slog.Logger, handle func(net.Conn)) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, most likely
			log.Error("cannot accept a connection", "error", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if !c.Keep(conn) {
			return
		}
		c.owned.Go(func() {
			defer c.Drop(conn)
			handle(conn)
		})
	}
}

// Keep adds a connection to those that Close ends. After Close it closes the
// connection at once and returns false.
func (c *Connections) Keep(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = conn.Close()
		return false
	}
	if c.open == nil {
		c.open = map[net.Conn]bool{}
	}
	c.open[conn] = true
	return true
}

// Drop closes a connection.
func (c *Connections) Drop(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
	_ = conn.Close()
}

// Close closes the listener and all connections, and waits for their handlers.
func (c *Connections) Close(listener net.Listener) {
	_ = listener.Close()
	c.mu.Lock()
	c.closed = true
	for conn := range c.open {
		_ = conn.Close()
	}
	c.mu.Unlock()
	c.owned.Wait()
}

// HalfCloser is a connection whose sending side can be closed alone.
type HalfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Join copies in both directions until both sides have ended, then closes both.
func Join(a, b HalfCloser) {
	copyTo := func(dst, src HalfCloser) {
		if _, err := io.Copy(dst, src); err != nil {
			// One direction is broken: no use in keeping the other.
			_ = dst.Close()
			_ = src.Close()
			return
		}
		_ = dst.CloseWrite()
	}
	var both sync.WaitGroup
	both.Go(func() { copyTo(a, b) })
	both.Go(func() { copyTo(b, a) })
	both.Wait()
	_ = a.Close()
	_ = b.Close()
}
