package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Names of the original's protocol.
const (
	stickyCookie   = "__VCAP_ID__"
	sessionCookie  = "JSESSIONID"
	traceHeader    = "X-Vcap-Trace"
	backendHeader  = "X-Vcap-Backend"
	routerHeader   = "X-Vcap-Router"
	monitorAgent   = "HTTP-Monitor/1.1"
	notFoundText   = "VCAP ROUTER: 404 - DESTINATION NOT FOUND"
	noAnswerText   = "VCAP ROUTER: 502 - NO INSTANCE ANSWERS"
	tooLargeText   = "VCAP ROUTER: 413 - REQUEST TOO LARGE"
	badRequestText = "VCAP ROUTER: 400 - REQUEST WITHOUT A HOST"
)

const (
	// asideFor is how long a backend that refused a connection is avoided.
	asideFor = 5 * time.Second
	// answerTimeout is how long a backend may take for the head of its answer,
	// from the end of the request: the original's.
	answerTimeout = 120 * time.Second
	// statusClientGone is nginx's status for a client that did not wait.
	statusClientGone = 499
)

// errNoBackend: every backend was tried or the last one has just left.
var errNoBackend = errors.New("no backend is left to try")

// exchange is one request on its way.
type exchange struct {
	host    string // as the client sent it
	session string // sticky session it asks for
	trace   bool
	closing bool // the answer already says that the connection closes
	backend *backend
	status  int
}

type exchangeKey struct{}

// newProxy makes the reverse proxy. It streams: nothing is buffered, and answers
// are passed on as they come.
func (r *Router) newProxy() *httputil.ReverseProxy {
	backends := &http.Transport{
		DialContext:           r.base.Dialer().DialContext,
		DisableCompression:    true, // bodies pass as they are
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       r.config.BackendKeepalive,
		ResponseHeaderTimeout: answerTimeout,
		ExpectContinueTimeout: time.Second,
	}
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme = "http"
			p.Out.Host = p.In.Host
			p.Out.URL.RawQuery = p.In.URL.RawQuery // also one that Go cannot parse
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values, ok := p.In.Header[name]; ok {
					p.Out.Header[name] = values
				}
			}
			proto, host := p.Out.Header.Get("X-Forwarded-Proto"), p.Out.Header.Get("X-Forwarded-Host")
			p.SetXForwarded()
			// Whoever is in front knows better what the client asked for.
			if proto != "" {
				p.Out.Header.Set("X-Forwarded-Proto", proto)
			}
			if host != "" {
				p.Out.Header.Set("X-Forwarded-Host", host)
			}
		},
		Transport:      &retrying{router: r, next: backends},
		FlushInterval:  -1,
		BufferPool:     &buffers{},
		ModifyResponse: r.modifyResponse,
		ErrorHandler:   r.failed,
		ErrorLog:       slog.NewLogLogger(r.base.Log().Handler(), slog.LevelDebug),
	}
}

// ServeHTTP answers one request.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	start := time.Now()
	if r.isProbe(req) {
		r.health(w)
		return
	}
	if req.Host == "" {
		r.metrics.bad()
		http.Error(w, badRequestText, http.StatusBadRequest)
		return
	}
	settings := r.settings.Load()
	if !r.known(req.Host) {
		r.metrics.bad()
		if settings.NotFoundRedirect != "" {
			http.Redirect(w, req, settings.NotFoundRedirect, http.StatusFound)
			return
		}
		http.Error(w, notFoundText, http.StatusNotFound)
		return
	}
	x := &exchange{
		host:    req.Host,
		trace:   settings.TraceKey != "" && req.Header.Get(traceHeader) == settings.TraceKey,
		closing: w.Header().Get("Connection") != "",
	}
	if cookie, err := req.Cookie(stickyCookie); err == nil {
		x.session = cookie.Value
	}
	if limit := int64(settings.MaxBodyMB) << 20; limit > 0 {
		if req.ContentLength > limit {
			r.metrics.done(http.StatusRequestEntityTooLarge, nil, time.Since(start), time.Now())
			http.Error(w, tooLargeText, http.StatusRequestEntityTooLarge)
			return
		}
		req.Body = http.MaxBytesReader(w, req.Body, limit)
	}
	// A backend may answer before it has all of the request. Without this the server
	// would take the rest of the body away from the proxy, and lose it.
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 knows no other way
	// In a defer: the proxy panics to cut a connection whose backend broke off.
	defer func() {
		var tags wire.Tags
		if x.backend != nil {
			tags = x.backend.Tags
			r.traffic.add(hostKey(x.host), wire.ID(x.backend.App), client(req), time.Now())
		}
		r.metrics.done(x.status, tags, time.Since(start), time.Now())
	}()
	r.proxy.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), exchangeKey{}, x)))
}

// isProbe recognizes health probes: the original's, which has no Host, and
// requests for /healthz of the router itself, by its address.
func (r *Router) isProbe(req *http.Request) bool {
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
func (r *Router) modifyResponse(res *http.Response) error {
	x := res.Request.Context().Value(exchangeKey{}).(*exchange)
	x.status = res.StatusCode
	for _, cookie := range res.Header["Set-Cookie"] {
		if x.backend.Session != "" && strings.Contains(strings.ToUpper(cookie), sessionCookie) {
			res.Header.Add("Set-Cookie", stickyCookie+"="+x.backend.Session+"; Path=/")
			break
		}
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

// failed answers when no backend did.
func (r *Router) failed(w http.ResponseWriter, req *http.Request, err error) {
	x := req.Context().Value(exchangeKey{}).(*exchange)
	x.status = http.StatusBadGateway
	text := noAnswerText
	var tooLarge *http.MaxBytesError
	var timeout net.Error
	switch {
	case errors.As(err, &tooLarge):
		x.status, text = http.StatusRequestEntityTooLarge, tooLargeText
	case req.Context().Err() != nil:
		x.status = statusClientGone
	case errors.As(err, &timeout) && timeout.Timeout():
		x.status, text = http.StatusGatewayTimeout, "VCAP ROUTER: 504 - NO ANSWER IN TIME"
	}
	addr := ""
	if x.backend != nil {
		addr = x.backend.Addr
	}
	r.base.Log().Warn("request failed", "host", x.host, "method", req.Method, "backend", addr, "status", x.status, "error", err)
	http.Error(w, text, x.status)
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
		b := t.router.choose(x.host, x.session, tried)
		if b == nil {
			return nil, fmt.Errorf("cannot reach any of %d backends: %w", len(tried), failure)
		}
		x.backend = b
		out := *req
		target := *req.URL
		target.Host = b.Addr
		out.URL = &target
		if req.Body != nil {
			// The transport closes the body when it fails; the next attempt needs it.
			// The server closes it in the end.
			out.Body = io.NopCloser(req.Body)
		}
		res, err := t.next.RoundTrip(&out)
		if err == nil {
			return res, nil
		}
		var dial *net.OpError
		if !errors.As(err, &dial) || dial.Op != "dial" || req.Context().Err() != nil {
			return nil, err
		}
		t.router.setAside(b.Addr)
		t.router.base.Log().Info("backend refuses connections, trying another", "backend", b.Addr, "host", x.host, "error", err)
		tried = append(tried, b.Addr)
		failure = err
	}
}

// buffers are the proxy's copy buffers.
type buffers struct{ pool sync.Pool }

func (p *buffers) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *buffers) Put(b []byte) { p.pool.Put(&b) }
