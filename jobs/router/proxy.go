package router

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
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

// asideFor is how long a backend that refused a connection is avoided.
const asideFor = 5 * time.Second

// exchange is one request on its way.
type exchange struct {
	ctx     context.Context
	host    string // as the client sent it
	session string // sticky session it asks for
	trace   bool
	closing bool // the answer already says that the connection closes
	backend *backend
	entered bool  // it counts to the backend's instance
	body    *body // nil: the request has none
	status  int
}

type exchangeKey struct{}

// newProxy makes the reverse proxy. It streams: nothing is buffered, and answers
// are passed on as they come.
func (r *Router) newProxy() *httputil.ReverseProxy {
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
		Transport:      &retrying{router: r, next: r.newTransport()},
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
	limit := int64(settings.MaxBodyMB) << 20
	if limit > 0 && req.ContentLength > limit {
		r.metrics.done(http.StatusRequestEntityTooLarge, nil, time.Since(start), time.Now())
		http.Error(w, tooLargeText(limit), http.StatusRequestEntityTooLarge)
		return
	}
	if req.ContentLength != 0 {
		if limit > 0 {
			req.Body = http.MaxBytesReader(w, req.Body, limit)
		}
		x.body = &body{ReadCloser: req.Body, control: http.NewResponseController(w), pause: r.config.BodyTimeout}
		req.Body = x.body
	}
	// A backend may answer before it has all of the request. Without this the server
	// would take the rest of the body away from the proxy, and lose it.
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 knows no other way
	// A type that the app did not say is not for net/http to guess.
	w.Header()["Content-Type"] = nil
	// In a defer: the proxy panics to cut a connection whose backend broke off.
	defer func() {
		x.release()
		var tags wire.Tags
		if x.backend != nil {
			tags = x.backend.Tags
			r.traffic.add(hostKey(x.host), wire.ID(x.backend.App), client(req), time.Now())
		}
		r.metrics.done(x.status, tags, time.Since(start), time.Now())
	}()
	x.ctx = context.WithValue(req.Context(), exchangeKey{}, x)
	r.proxy.ServeHTTP(w, req.WithContext(x.ctx))
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
	if err := checkAnswer(res); err != nil {
		return err
	}
	x.status = res.StatusCode
	if res.StatusCode != http.StatusSwitchingProtocols {
		res.Body = &answerBody{ReadCloser: res.Body, router: r, exchange: x}
	}
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

// buffers are the proxy's copy buffers.
type buffers struct{ pool sync.Pool }

func (p *buffers) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *buffers) Put(b []byte) { p.pool.Put(&b) }
