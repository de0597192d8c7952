package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// newTransport makes the client side: connections to backends.
func (r *Router) newTransport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, connectTimeout)
			defer cancel()
			conn, err := r.base.Dialer().DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &backendConn{Conn: conn, pause: r.config.AnswerTimeout}, nil
		},
		DisableCompression:     true, // bodies pass as they are
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        r.config.BackendKeepalive,
		ResponseHeaderTimeout:  r.config.AnswerTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxAnswerHead,
	}
}

// backendConn is a connection to a backend on which neither side may pause for
// longer than pause. What is sent gives an answer its whole time anew.
type backendConn struct {
	net.Conn
	pause time.Duration
	late  atomic.Bool
}

func (c *backendConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.pause)); err != nil {
		return 0, c.reason(err)
	}
	n, err := c.Conn.Read(p)
	return n, c.reason(err)
}

func (c *backendConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.pause)); err != nil {
		return 0, c.reason(err)
	}
	n, err := c.Conn.Write(p)
	return n, c.reason(err)
}

// reason says of both directions that time was up, since the transport closes
// the connection when one fails and may report the other.
func (c *backendConn) reason(err error) error {
	switch {
	case err == nil || errors.Is(err, io.EOF):
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.late.Store(true)
	case c.late.Load():
		return os.ErrDeadlineExceeded
	}
	return err
}

// retrying sends a request to a backend, and to another one as long as none
// could be connected to: then nothing was sent, so any method may be repeated.
type retrying struct {
	router *Router
	next   http.RoundTripper
}

func (t *retrying) RoundTrip(req *http.Request) (*http.Response, error) {
	x := req.Context().Value(exchangeKey{}).(*exchange)
	var tried []string
	failure := errNoBackend
	for {
		b, err := t.router.take(x, tried)
		if err != nil {
			return nil, err
		}
		if b == nil {
			return nil, fmt.Errorf("cannot reach any of %d backends: %w", len(tried), failure)
		}
		// Without the context of ReverseProxy, which would pass interim answers
		// (1xx) on: nginx 1.22 takes one for the answer. The transport drops them,
		// and counts them to the limit of an answer's head.
		out := req.WithContext(x.ctx)
		target := *req.URL
		target.Host = b.Addr
		out.URL = &target
		if req.Body != nil {
			// The transport closes the body when it fails; the next attempt needs it.
			// The server closes it in the end.
			out.Body = io.NopCloser(req.Body)
		}
		res, err := t.next.RoundTrip(out)
		if err == nil {
			return res, nil
		}
		var dial *net.OpError
		if !errors.As(err, &dial) || dial.Op != "dial" || req.Context().Err() != nil {
			return nil, err
		}
		x.release()
		t.router.setAside(b.Addr)
		t.router.base.Log().Info("backend refuses connections, trying another", "backend", b.Addr, "host", x.host, "error", err)
		tried = append(tried, b.Addr)
		failure = err
	}
}

// take chooses a backend for the exchange that has not been tried, and counts
// the exchange to its instance until release. nil if there is none; errBusy if
// those that there are have all that they may have.
func (r *Router) take(x *exchange, tried []string) (*backend, error) {
	uploads := x.body != nil
	for {
		b, full := r.choose(x.host, x.session, tried, uploads)
		if b == nil {
			if full {
				return nil, errBusy
			}
			return nil, nil
		}
		// Others choose at the same time: who comes last looks again.
		if b.instance.enter(uploads, r.config.InstanceRequests, r.config.InstanceUploads) {
			x.backend = b
			if uploads {
				x.body.instance.Store(b.instance)
			}
			x.entered = true
			return b, nil
		}
	}
}

// release ends what take began; a second call does nothing.
func (x *exchange) release() {
	if !x.entered {
		return
	}
	x.entered = false
	x.backend.instance.requests.Add(-1)
	if x.body != nil {
		x.body.uploaded()
	}
}
