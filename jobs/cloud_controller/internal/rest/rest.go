// Package rest is how the API answers requests and reports errors.
package rest

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/auth"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// MaxBody bounds JSON bodies.
const MaxBody = 4 << 20

// retryAfter is when a client that is refused for the moment may try again,
// seconds.
const retryAfter = "5"

// Frame is around all handlers: it counts requests and logs failures.
type Frame struct {
	Log     *slog.Logger
	working context.Context // ends with the controller
	metrics metrics
}

// NewFrame returns a frame for handlers that work until ctx ends.
func NewFrame(ctx context.Context, log *slog.Logger) *Frame { return &Frame{Log: log, working: ctx} }

// Handler answers a request or returns an error: a *model.Error is sent as it is.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Handle turns a handler into one of net/http and counts its requests.
func (f *Frame) Handle(h Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.metrics.begin(time.Now())
		defer f.metrics.end()
		err := h(w, r)
		if err == nil {
			return
		}
		var told *model.Error
		if !errors.As(err, &told) {
			told = model.ErrSystem
			if sqldb.IsFailure(err) {
				told = model.ErrDatabase
			}
			if sqldb.IsAway(err) {
				told = model.ErrDatabaseAway
			}
			if r.Context().Err() == nil {
				f.Log.Error("cannot answer", "method", r.Method, "path", r.URL.EscapedPath(), "error", err)
			}
		}
		if told.Status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", retryAfter)
		}
		if told.Code == 0 {
			w.WriteHeader(told.Status)
			return
		}
		WriteJSON(w, told.Status, told)
	})
}

// WriteJSON answers with a JSON document.
func WriteJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil { // our own types: they can be written
		status, data = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client may be gone
}

// ReadJSON reads a request's body; an error is a bad request.
func ReadJSON(w http.ResponseWriter, r *http.Request, into any) error {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		return model.Because(model.ErrBadRequest, "cannot read the body: %v", err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return model.Because(model.ErrBadRequest, "the body is not the JSON that is wanted: %v", err)
	}
	return nil
}

// Basic asks for a user and a password, which other components have.
func Basic(want func() config.Credentials, h Handler) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		user, password, _ := r.BasicAuth()
		credentials := want()
		if subtle.ConstantTimeCompare([]byte(user), []byte(credentials.User))&
			subtle.ConstantTimeCompare([]byte(password), []byte(credentials.Password)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="cloud controller"`)
			return &model.Error{Status: http.StatusUnauthorized, Code: model.ErrForbidden.Code, Description: model.ErrForbidden.Description}
		}
		return h(w, r)
	}
}

// urlLifetime is the time that a signed URL opens what it is for: longer than a DEA or
// a stager waits before it fetches.
const urlLifetime = 15 * time.Minute

func urlSigner(c *config.Live) auth.Signer { return auth.NewSigner(c.Now().Keys.Derive("signed urls")) }

// SignedURL returns the URL of a path at a controller, signed: whoever has it may
// use it for a while, at any controller.
func SignedURL(c *config.Live, address, path string) string {
	return "http://" + address + urlSigner(c).SignPath(path, time.Now().Add(urlLifetime))
}

// SecureURL returns the same over TLS, "" if address is.
func SecureURL(c *config.Live, address, path string) string {
	if address == "" {
		return ""
	}
	return "https://" + address + urlSigner(c).SignPath(path, time.Now().Add(urlLifetime))
}

// Signed refuses requests whose URL is not signed.
func Signed(c *config.Live, h Handler) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if !urlSigner(c).OpensPath(r.URL.Path, r.URL.Query(), time.Now()) {
			return model.ErrForbidden
		}
		return h(w, r)
	}
}

// Detached returns a context for work that goes on when the client hangs up,
// such as a staging. It ends with the controller.
func (f *Frame) Detached(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	stop := context.AfterFunc(f.working, cancel)
	return ctx, func() { stop(); cancel() }
}
