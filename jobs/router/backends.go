package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/clusterworks/deploy/jobs/router/internal/upstream"
	"github.com/clusterworks/deploy/jobs/wire"
)

// newTransport makes the client side: connections to backends.
func (r *Router) newTransport() *upstream.Transport {
	return &upstream.Transport{
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, connectTimeout)
			defer cancel()
			return r.base.Dialer().DialContext(ctx, "tcp", addr)
		},
		Pause:       r.config.AnswerTimeout,
		Continue:    time.Second,
		MaxHead:     maxAnswerHead,
		MaxIdle:     64,
		IdleTimeout: r.config.BackendKeepalive,
	}
}

// outgoing is a request as it is sent to a backend: one of net/http, or one
// without a body whose head is written but for the backend's key and the empty line.
type outgoing struct {
	*http.Request
	head *[]byte // nil: all is in Request
}

// send sends a request to a backend, and to another one as long as none could be
// connected to: then nothing was sent, so any method may be repeated.
func (r *Router) send(x *exchange, out outgoing) (*http.Response, error) {
	var tried []string
	failure := errNoBackend
	for {
		b, err := r.take(x, tried)
		if err != nil {
			return nil, err
		}
		if b == nil {
			return nil, fmt.Errorf("cannot reach any of %d backends: %w", len(tried), failure)
		}
		res, err := r.sendTo(b, out, func() bool { return r.leads(x.host, b) })
		if err == nil {
			return res, nil
		}
		if !isDial(err) || x.ctx.Err() != nil {
			return nil, err
		}
		x.release()
		if errors.Is(err, upstream.ErrMoved) {
			tried, failure = append(tried, b.Addr), err
			continue
		}
		r.setAside(b.Addr)
		r.base.Log().Info("backend refuses connections, trying another", "backend", b.Addr, "host", x.host, "error", err)
		tried = append(tried, b.Addr)
		failure = err
	}
}

// sendTo sends a request to a backend, with the key that it wants to see.
func (r *Router) sendTo(b *backend, out outgoing, still func() bool) (*http.Response, error) {
	if out.head != nil {
		all := *out.head
		if b.FrontKey != "" {
			all = appendField(all, wire.HeaderFrontKey, b.FrontKey)
		}
		all = append(all, "\r\n"...)
		*out.head = all[:len(*out.head)] // what it grew to is kept, what came is not
		return r.transport.RoundTripHead(out.Request, b.Addr, all, still)
	}
	target := *out.URL
	target.Scheme, target.Host = "http", b.Addr
	out.URL = &target
	delete(out.Header, wire.HeaderFrontKey) // of the backend before
	if b.FrontKey != "" {
		out.Header[wire.HeaderFrontKey] = []string{b.FrontKey}
	}
	return r.transport.RoundTripIf(out.Request, still)
}

// take chooses a backend for the exchange that has not been tried, and counts
// the exchange to its instance until release. nil if there is none; errBusy if
// those that there are have all that they may have.
func (r *Router) take(x *exchange, tried []string) (*backend, error) {
	uploads := x.body != nil
	for {
		b, full := r.table.choose(x.host, x.session, tried, uploads, x.started)
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
