package router

import (
	"context"
	"crypto/subtle"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Names of the original's protocol.
const (
	stickyCookie  = "__VCAP_ID__"
	sessionCookie = "JSESSIONID"
	traceHeader   = "X-Vcap-Trace"
	backendHeader = "X-Vcap-Backend"
	routerHeader  = "X-Vcap-Router"
	monitorAgent  = "HTTP-Monitor/1.1"
)

// asideFor is the time that a backend that refused a connection is avoided.
const asideFor = 5 * time.Second

// exchange is one request on its way.
type exchange struct {
	ctx     context.Context
	started time.Time
	id      string
	host    string // as the client sent it
	client  string // address
	session string // sticky session it asks for
	trusted bool   // the peer is a front, whose word is believed
	secure  bool   // the client asked over HTTPS; known once the request is forwarded
	trace   bool
	tells   bool // the front wants to know whose the answer is
	closing bool // the answer already says that the connection closes
	lost    bool // it leads to no backend
	entered bool // it counts to the backend's instance
	backend *backend
	body    *body // nil: the request has none
	status  int
	sent    int64 // bytes of the answer's body
}

// label returns whose the answer is, "" as long as it is nobody's.
func (x *exchange) label() string {
	if x.backend == nil {
		return ""
	}
	return x.backend.label()
}

type exchangeKey struct{}

// newUpgrades makes the proxy of requests that ask for a WebSocket. Its transport
// and its hooks are those of relay.
func (r *Router) newUpgrades() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			x := p.In.Context().Value(exchangeKey{}).(*exchange)
			forward(x, p.In, p.Out.Header)
			p.Out.URL.RawQuery = p.In.URL.RawQuery // also one that Go cannot parse
		},
		Transport: transportFunc(func(req *http.Request) (*http.Response, error) {
			return r.send(req.Context().Value(exchangeKey{}).(*exchange), outgoing{Request: req})
		}),
		FlushInterval: -1,
		BufferPool:    copyBuffers{&r.copies},
		ModifyResponse: func(res *http.Response) error {
			return r.modifyResponse(res.Request.Context().Value(exchangeKey{}).(*exchange), res)
		},
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			r.failed(w, req.Context().Value(exchangeKey{}).(*exchange), req.Method, err)
		},
		ErrorLog: slog.NewLogLogger(r.base.Log().Handler(), slog.LevelDebug),
	}
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// ServeHTTP answers one request.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if r.isProbe(req) {
		r.health(w)
		return
	}
	if !req.ProtoAtLeast(1, 1) {
		// net/http leaves out how the body of such a request ends if it is chunked, so
		// that the body would be the next request (RFC 9112 6.1).
		w.Header().Set("Connection", "close")
	}
	settings := r.settings.Load()
	x := &exchange{
		started: time.Now(),
		host:    req.Host,
		trusted: settings.trusts(req),
		trace:   settings.TraceKey != "" && subtle.ConstantTimeCompare([]byte(req.Header.Get(traceHeader)), []byte(settings.TraceKey)) == 1,
		tells:   req.Header.Get(wire.HeaderApp) != "",
		closing: w.Header().Get("Connection") != "",
	}
	x.client, x.id = client(req, x.trusted), identify(req, x.trusted)
	// In a defer: the proxy panics to cut a connection whose backend broke off.
	defer r.finish(x, req, settings.AccessLog)
	if !r.goesOn(w, req, x, settings) {
		return
	}
	if slices.ContainsFunc(req.Header["Cookie"], func(value string) bool { return strings.Contains(value, stickyCookie) }) {
		if cookie, err := req.Cookie(stickyCookie); err == nil {
			x.session = cookie.Value
		}
	}
	if req.ContentLength != 0 {
		// A backend may answer before it has all of the request. Without this the server
		// would take the rest of the body away from the proxy, and lose it.
		_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 knows no other way
		if limit := settings.maxBody(); limit > 0 {
			req.Body = http.MaxBytesReader(w, req.Body, limit)
		}
		x.body = &body{ReadCloser: req.Body, control: http.NewResponseController(w), pause: r.config.BodyTimeout}
		req.Body = x.body
	}
	upgrade := strings.EqualFold(req.Header.Get("Upgrade"), "websocket")
	if !upgrade {
		// An offer, such as h2c, that the app would refuse or misunderstand.
		delete(req.Header, "Upgrade")
	}
	// A type that the app did not say is not for net/http to guess.
	w.Header()["Content-Type"] = nil
	if !upgrade {
		x.ctx = req.Context()
		r.relay(w, req, x)
		return
	}
	x.ctx = context.WithValue(req.Context(), exchangeKey{}, x)
	r.upgrades.ServeHTTP(w, req.WithContext(x.ctx))
}

// goesOn answers a request that goes nowhere, and reports whether it goes on.
func (r *Router) goesOn(w http.ResponseWriter, req *http.Request, x *exchange, settings *Config) bool {
	status, text := admit(req)
	redirect := ""
	switch {
	case status != 0:
	case req.Host == "":
		status, text, x.lost = http.StatusBadRequest, badRequestText, true
	case r.table.lookup(req.Host) != nil:
		if settings.maxBody() <= 0 || req.ContentLength <= settings.maxBody() {
			return true
		}
		status, text = http.StatusRequestEntityTooLarge, tooLargeText(settings.maxBody())
	case r.isApps(req.Host):
		w.Header().Set("Retry-After", retryAfter)
		status, text = http.StatusServiceUnavailable, noInstanceText
	case settings.NotFoundRedirect != "":
		status, redirect, x.lost = http.StatusFound, settings.NotFoundRedirect, true
	default:
		status, text, x.lost = http.StatusNotFound, notFoundText, true
	}
	x.status = status
	w.Header().Set(requestID, x.id)
	if redirect != "" {
		http.Redirect(w, req, redirect, status)
		return false
	}
	http.Error(w, text, status)
	return false
}

// finish counts and logs an exchange that has ended.
func (r *Router) finish(x *exchange, req *http.Request, log bool) {
	x.release()
	now := time.Now()
	took := now.Sub(x.started)
	var tags wire.Tags
	app, addr := "", ""
	if x.backend != nil {
		tags, app, addr = x.backend.Tags, x.backend.App, x.backend.Addr
		r.traffic.add(hostKey(x.host), wire.ID(app), x.client, now)
		if app != "" {
			r.traffic.recent.add(app, x.routed(req.Method, req.RequestURI, took))
		}
	}
	if x.lost {
		r.metrics.bad()
	} else {
		r.metrics.done(x.status, tags, took, now)
	}
	if log {
		r.base.Log().Info("request", "request_id", x.id, "client", x.client, "host", x.host, "method", req.Method, "uri", req.RequestURI,
			"status", x.status, "bytes", x.sent, "ms", float64(took.Microseconds())/1000, "app", app, "instance", x.label(), "backend", addr)
	}
}

// isProbe recognizes health probes: the original's, which has no Host, and
// requests for /healthz of the router itself, by its address.
func (r *Router) isProbe(req *http.Request) bool {
	if len(req.Header[forwardedFor]) > 0 {
		return false // it came through a front, from somebody who has no business here
	}
	if req.Host == "" {
		return req.UserAgent() == monitorAgent
	}
	return req.URL.Path == "/healthz" && hostKey(req.Host) == hostKey(r.base.Address())
}

func (r *Router) health(w http.ResponseWriter) {
	if err := r.base.Ready(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "ok\n")
}

// modifyResponse adds what the router has to say to a backend's answer.
func (r *Router) modifyResponse(x *exchange, res *http.Response) error {
	if err := checkAnswer(res); err != nil {
		return err
	}
	x.status = res.StatusCode
	if res.StatusCode != http.StatusSwitchingProtocols {
		res.Body = &answerBody{ReadCloser: res.Body, router: r, exchange: x}
	}
	x.stick(res)
	res.Header.Set(requestID, x.id)
	delete(res.Header, wire.HeaderApp) // not for apps to say
	if label := x.label(); label != "" && x.tells && x.trusted {
		res.Header.Set(wire.HeaderApp, label)
	}
	if x.trace {
		res.Header.Set(backendHeader, x.backend.Addr)
		res.Header.Set(routerHeader, r.base.Address())
	}
	if !x.closing && res.StatusCode != http.StatusSwitchingProtocols && r.draining() {
		res.Header.Set("Connection", "close")
	}
	return nil
}
