package cloudcontroller

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/auth"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// maxBody bounds JSON bodies.
const maxBody = 4 << 20

// account is who makes a request.
type account struct {
	store.User
	admin bool
}

// handler answers a request, or says why not: an *apiError is told as it is.
type handler func(w http.ResponseWriter, r *http.Request) error

// routes are the whole API.
func (c *Controller) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h handler) { mux.Handle(pattern, c.answer(h)) }
	user := func(pattern string, h func(http.ResponseWriter, *http.Request, account) error) {
		handle(pattern, func(w http.ResponseWriter, r *http.Request) error {
			a, err := c.authenticate(r)
			if err != nil {
				return err
			}
			return h(w, r, a)
		})
	}
	app := func(pattern string, h func(http.ResponseWriter, *http.Request, account, store.App) error) {
		user(pattern, func(w http.ResponseWriter, r *http.Request, a account) error {
			found, err := c.store.App(r.Context(), a.ID, r.PathValue("app"))
			if err != nil {
				return appError(err)
			}
			return h(w, r, a, found)
		})
	}

	handle("GET /info", c.getInfo)
	handle("GET /info/runtimes", c.getRuntimes)

	handle("POST /users", c.createUser)
	user("GET /users", c.listUsers)
	user("GET /users/{email}", c.getUser)
	user("PUT /users/{email}", c.changePassword)
	user("DELETE /users/{email}", c.deleteUser)
	handle("POST /users/{email}/tokens", c.createToken)

	user("GET /apps", c.listApps)
	user("POST /apps", c.createApp)
	app("GET /apps/{app}", c.getApp)
	app("PUT /apps/{app}", c.putApp)
	app("DELETE /apps/{app}", c.deleteApp)
	app("POST /apps/{app}/application", c.uploadBits)
	app("PUT /apps/{app}/application", c.uploadBits)
	app("GET /apps/{app}/application", c.downloadBits)
	user("POST /resources", c.matchResources)
	app("GET /apps/{app}/instances", c.getInstances)
	app("GET /apps/{app}/stats", c.getStats)
	app("GET /apps/{app}/crashes", c.getCrashes)
	app("GET /apps/{app}/instances/{instance}/files", c.getFiles)
	app("GET /apps/{app}/instances/{instance}/files/{path...}", c.getFiles)
	app("GET /apps/{app}/update", c.getUpdate)
	app("PUT /apps/{app}/update", c.putUpdate)

	handle("GET /staged_droplets/{id}/{sha1}", c.getDroplet)
	staging := func() Credentials { return c.settings.Load().Staging.Auth }
	handle("GET /staging/app/{id}", c.basic(staging, c.getPackage))
	handle("POST /staging/droplet/{id}/{upload}", c.basic(staging, c.takeDroplet))
	bulk := func() Credentials { return c.settings.Load().BulkAPI.Auth }
	handle("GET /bulk/apps", c.basic(bulk, c.bulkApps))
	handle("GET /bulk/counts", c.basic(bulk, c.bulkCounts))
	c.peerRoutes(handle)
	c.serviceRoutes(handle, user)

	handle("/", func(http.ResponseWriter, *http.Request) error { return errNoSuchRoute })
	return mux
}

// answer turns a handler into what net/http wants, and counts.
func (c *Controller) answer(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.metrics.begin(time.Now())
		defer c.metrics.end()
		err := h(w, r)
		if err == nil {
			return
		}
		var told *apiError
		if !errors.As(err, &told) {
			told = errSystem
			if store.IsFailure(err) {
				told = errDatabase
			}
			if r.Context().Err() == nil {
				c.base.Log().Error("cannot answer", "method", r.Method, "path", r.URL.EscapedPath(), "error", err)
			}
		}
		if told.Code == 0 {
			w.WriteHeader(told.Status)
			return
		}
		writeJSON(w, told.Status, told)
	})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil { // our own types: they can be written
		status, data = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client may be gone
}

// readJSON reads a request's body; what is wrong with it is a bad request.
func readJSON(w http.ResponseWriter, r *http.Request, into any) error {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return because(errBadRequest, "cannot read the body: %v", err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return because(errBadRequest, "the body is not the JSON that is wanted: %v", err)
	}
	return nil
}

func (c *Controller) signer() auth.Signer {
	return auth.NewSigner(c.settings.Load().Keys.derive("tokens"))
}

// authenticate finds out who makes the request.
func (c *Controller) authenticate(r *http.Request) (account, error) {
	token := r.Header.Get("Authorization")
	email, err := c.signer().Owner(token)
	if err != nil || !possibleEmail(email) {
		return account{}, errForbidden
	}
	u, err := c.store.User(r.Context(), email)
	if errors.Is(err, store.ErrNotFound) {
		return account{}, errForbidden
	}
	if err != nil {
		return account{}, err
	}
	if err := c.signer().Check(token, u.PasswordHash, time.Now()); err != nil {
		return account{}, errForbidden
	}
	a := account{User: u, admin: c.settings.Load().isAdmin(u.Email)}
	proxied := r.Header.Get("Proxy-User")
	if proxied == "" {
		return a, nil
	}
	if !a.admin {
		return account{}, errForbidden
	}
	u, err = c.store.User(r.Context(), proxied)
	if errors.Is(err, store.ErrNotFound) {
		return account{}, errUserNotFound
	}
	return account{User: u, admin: c.settings.Load().isAdmin(u.Email)}, err
}

// optional is authenticate for who need not say who it is.
func (c *Controller) optional(r *http.Request) (a account, known bool, err error) {
	a, err = c.authenticate(r)
	var told *apiError
	if errors.As(err, &told) {
		return account{}, false, nil
	}
	return a, err == nil, err
}

// basic asks for a user and a password, which other components have.
func (c *Controller) basic(want func() Credentials, h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		user, password, _ := r.BasicAuth()
		credentials := want()
		if subtle.ConstantTimeCompare([]byte(user), []byte(credentials.User))&
			subtle.ConstantTimeCompare([]byte(password), []byte(credentials.Password)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="cloud controller"`)
			return &apiError{http.StatusUnauthorized, errForbidden.Code, errForbidden.Description}
		}
		return h(w, r)
	}
}

// detached is a context for work that goes on when the client hangs up, such as
// a staging; it ends with the controller.
func (c *Controller) detached(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	stop := context.AfterFunc(c.working(), cancel)
	return ctx, func() { stop(); cancel() }
}

// metrics are what /varz says of requests.
type metrics struct {
	mu       sync.Mutex
	requests int64
	pending  int64
	rate     []rateSecond // of the last rateWindow seconds
}

type rateSecond struct {
	at int64
	n  int64
}

const rateWindow = 10 // seconds

func (m *metrics) begin(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests++
	m.pending++
	second := now.Unix()
	if n := len(m.rate); n > 0 && m.rate[n-1].at == second {
		m.rate[n-1].n++
		return
	}
	for len(m.rate) > 0 && m.rate[0].at <= second-rateWindow {
		m.rate = m.rate[1:]
	}
	m.rate = append(m.rate, rateSecond{at: second, n: 1})
}

func (m *metrics) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending--
}

func (m *metrics) varz(now time.Time) map[string]any {
	m.mu.Lock()
	defer m.mu.Unlock()
	recent := int64(0)
	for _, s := range m.rate {
		// The present second is not over.
		if s.at >= now.Unix()-rateWindow && s.at < now.Unix() {
			recent += s.n
		}
	}
	return map[string]any{"requests": m.requests, "pending_requests": m.pending, "requests_per_sec": float64(recent) / rateWindow}
}

// tooManyAttempts refuses a login that comes too soon after failed ones.
func tooManyAttempts(w http.ResponseWriter, wait time.Duration) error {
	seconds := int(wait/time.Second) + 1
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	return &apiError{http.StatusTooManyRequests, errForbidden.Code, fmt.Sprintf("%s: too many attempts, try again in %d seconds", errForbidden.Description, seconds)}
}
