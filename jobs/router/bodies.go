package router

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// body is a request's body. Its client may pause no longer than pause, and while
// it is on its way it counts to the uploads of the instance that gets it.
type body struct {
	io.ReadCloser
	control *http.ResponseController
	pause   time.Duration
	// instance is the one that it counts to, nil once it does not.
	instance atomic.Pointer[instance]
	failure  atomic.Pointer[error] // how reading it ended, io.EOF if well
}

func (b *body) Read(p []byte) (int, error) {
	// A server that knows no deadlines has none.
	_ = b.control.SetReadDeadline(time.Now().Add(b.pause))
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.failure.CompareAndSwap(nil, &err)
		b.uploaded()
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// uploaded counts the body to no instance any more.
func (b *body) uploaded() {
	if i := b.instance.Swap(nil); i != nil {
		i.uploads.Add(-1)
	}
}

// err returns why reading the body failed, nil if it did not.
func (b *body) err() error {
	if b == nil {
		return nil
	}
	if err := b.failure.Load(); err != nil && !errors.Is(*err, io.EOF) {
		return *err
	}
	return nil
}

// whole reports whether the client has sent all of it.
func (b *body) whole() bool {
	if b == nil {
		return true
	}
	err := b.failure.Load()
	return err != nil && errors.Is(*err, io.EOF)
}

// answerBody is the body of an app's answer; it says in the log why one was cut.
type answerBody struct {
	io.ReadCloser
	router   *Router
	exchange *exchange
}

// Ready reports whether Read returns at once.
func (b *answerBody) Ready() bool {
	ready, ok := b.ReadCloser.(interface{ Ready() bool })
	return ok && ready.Ready()
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.exchange.sent += int64(n)
	if err != nil && !errors.Is(err, io.EOF) && b.exchange.ctx.Err() == nil {
		reason := "the app broke its answer off"
		if errors.Is(err, os.ErrDeadlineExceeded) {
			reason = "the app paused in its answer for longer than answer_timeout"
		}
		b.router.base.Log().Warn("answer cut: "+reason, "host", b.exchange.host, "backend", b.exchange.backend.Addr, "error", err)
	}
	return n, err
}
