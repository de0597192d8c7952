package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// patience bounds how long nothing may move in a request: while its body is sent, until
// the answer begins, and at each read of that.
type patience struct {
	next http.RoundTripper
	// short is for requests that are answered from what is known, long for those that
	// stage, start or reach services.
	short, long time.Duration
}

func newPatience(next http.RoundTripper) *patience {
	return &patience{next: next, short: time.Minute, long: 10 * time.Minute}
}

// silent says that nothing moved for too long.
type silent struct {
	host, what string
	limit      time.Duration
}

func (e *silent) Error() string {
	return fmt.Sprintf("%s has not answered %s for %v; it is overloaded or hangs, try again later or tell who runs it", e.host, e.what, e.limit)
}

func (p *patience) of(r *http.Request) time.Duration {
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if r.Method != http.MethodGet && (first == "apps" || first == "services") {
		return p.long
	}
	return p.short
}

// RoundTrip makes a request. A connection that is not HTTP any more is not watched.
func (p *patience) RoundTrip(r *http.Request) (*http.Response, error) {
	limit := p.of(r)
	ctx, cancel := context.WithCancelCause(r.Context())
	why := &silent{r.URL.Host, r.Method + " " + r.URL.EscapedPath(), limit}
	timer := time.AfterFunc(limit, func() { cancel(why) })
	r = r.Clone(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &moving{ReadCloser: r.Body, moved: func() { timer.Reset(limit) }}
	}
	res, err := p.next.RoundTrip(r)
	timer.Stop()
	switch {
	case err != nil && errors.Is(context.Cause(ctx), why):
		err = why
		fallthrough
	case err != nil:
		cancel(nil)
		return nil, err
	case res.StatusCode == http.StatusSwitchingProtocols:
		return res, nil
	}
	res.Body = &watched{body: res.Body, ctx: ctx, cancel: cancel, why: why, timer: timer}
	return res, nil
}

// CloseIdleConnections lets connections go that nothing uses.
func (p *patience) CloseIdleConnections() {
	(&http.Client{Transport: p.next}).CloseIdleConnections()
}

// moving is the body of a request that tells when some of it was taken.
type moving struct {
	io.ReadCloser
	moved func()
}

func (m *moving) Read(b []byte) (int, error) {
	m.moved()
	return m.ReadCloser.Read(b)
}

// watched is the body of an answer. Who reads it may take any time between two reads.
type watched struct {
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	why    *silent
	timer  *time.Timer
}

func (w *watched) Read(b []byte) (int, error) {
	w.timer.Reset(w.why.limit)
	n, err := w.body.Read(b)
	w.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(context.Cause(w.ctx), w.why) {
		err = w.why
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	defer w.cancel(nil)
	return w.body.Close()
}
