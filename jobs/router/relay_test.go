package router

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// twins are two proxies before one backend: the router's relay, and
// httputil.ReverseProxy over http.Transport with the router's hooks.
type twins struct {
	relay, reverse *httptest.Server
	backend        net.Listener
	answer         chan string // what the backend says next, after which it closes
	got            chan string // what it was asked
}

const twinHost = "twins.test"

func newTwins(t testing.TB, r *Router) *twins {
	t.Helper()
	p := &twins{answer: make(chan string, 1), got: make(chan string, 1)}
	var err error
	if p.backend, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := p.backend.Accept()
			if err != nil {
				return
			}
			served.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() { p.backend.Close(); served.Wait() })
	r.mu.Lock()
	r.table.register(registration(p.backend.Addr(), twinHost), time.Now().Add(time.Hour))
	r.mu.Unlock()
	exchangeOf := func(req *http.Request) *exchange {
		x := &exchange{started: time.Now(), host: req.Host, client: "127.0.0.1", id: "id", trusted: true}
		x.ctx = context.WithValue(req.Context(), exchangeKey{}, x)
		return x
	}
	serve := func(h http.HandlerFunc) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.Start()
		t.Cleanup(s.Close)
		return s
	}
	p.relay = serve(func(w http.ResponseWriter, req *http.Request) {
		x := exchangeOf(req)
		defer x.release()
		w.Header()["Content-Type"] = nil
		r.relay(w, req, x)
	})
	// No connection is kept: the backend closes each.
	r.transport.MaxIdle = 0
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: -1, MaxResponseHeaderBytes: maxAnswerHead}
	reverse := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			forward(p.In.Context().Value(exchangeKey{}).(*exchange), p.In, p.Out.Header)
			p.Out.URL.RawQuery = p.In.URL.RawQuery
		},
		Transport: transportFunc(func(out *http.Request) (*http.Response, error) {
			x := out.Context().Value(exchangeKey{}).(*exchange)
			b, err := r.take(x, nil)
			if err != nil {
				return nil, err
			}
			target := *out.URL
			target.Scheme, target.Host = "http", b.Addr
			out = out.WithContext(x.ctx) // without the hook that passes 1xx on
			out.URL = &target
			return transport.RoundTrip(out)
		}),
		FlushInterval: -1,
		ModifyResponse: func(res *http.Response) error {
			return r.modifyResponse(res.Request.Context().Value(exchangeKey{}).(*exchange), res)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	p.reverse = serve(func(w http.ResponseWriter, req *http.Request) {
		x := exchangeOf(req)
		defer x.release()
		w.Header()["Content-Type"] = nil
		reverse.ServeHTTP(w, req.WithContext(x.ctx))
	})
	return p
}

// serve answers one request, and closes.
func (p *twins) serve(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(deadline))
	var raw bytes.Buffer
	in := bufio.NewReader(io.TeeReader(conn, &raw))
	req, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	head, _, _ := strings.Cut(raw.String(), "\r\n\r\n")
	// Only the names of the trailers: ReverseProxy loses their values.
	p.got <- fmt.Sprintf("%s\n%q trailers %q", strings.Join(lines(head), "\n"), body, slices.Sorted(maps.Keys(req.Trailer)))
	_, _ = io.WriteString(conn, <-p.answer)
	// Closed with unread input, a connection is reset, and what was sent is lost.
	_ = conn.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, conn)
}

// ask sends a request to one of the twins, and returns what the backend was
// asked and what the client got.
func (p *twins) ask(t testing.TB, s *httptest.Server, request, answer string) (asked, got string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(deadline))
	p.answer <- answer
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	var body []byte
	if err == nil {
		body, err = io.ReadAll(res.Body)
	}
	select {
	case asked = <-p.got:
	default:
		<-p.answer // the request did not get there
	}
	switch {
	case err != nil:
		return asked, "cut" // before or after the head: that is a race
	case res.StatusCode == http.StatusBadGateway && res.Header.Get("X-Content-Type-Options") != "":
		return asked, "failed" // the words are the proxy's own
	}
	lines := []string{fmt.Sprintf("status %d", res.StatusCode), fmt.Sprintf("body %q", body)}
	for name, values := range res.Header {
		if name == "Trailer" { // ReverseProxy names them in the order of a map
			values = strings.Split(strings.Join(values, ", "), ", ")
			slices.Sort(values)
		}
		// A chunked answer that is all there gets a length from the relay.
		if name != "Date" && (name != "Content-Length" || method == http.MethodHead) {
			lines = append(lines, fmt.Sprintf("%s: %q", name, values))
		}
	}
	for name, values := range res.Trailer {
		lines = append(lines, fmt.Sprintf("trailer %s: %q", name, values))
	}
	slices.Sort(lines)
	return asked, strings.Join(lines, "\n")
}

func (p *twins) compare(t testing.TB, request, answer string) {
	t.Helper()
	asked, got := p.ask(t, p.relay, request, answer)
	wantAsked, want := p.ask(t, p.reverse, request, answer)
	if asked != wantAsked {
		t.Errorf("request %q: the backend was asked\n%s\nwant\n%s", request, asked, wantAsked)
	}
	if got != want {
		t.Errorf("request %q, answer %q: the client got\n%s\nwant\n%s", request, answer, got, want)
	}
}

// TestRelayAsReverseProxy holds the relay, with the transport below it, against
// httputil.ReverseProxy and http.Transport.
func TestRelayAsReverseProxy(t *testing.T) {
	t.Parallel()
	p := newTwins(t, start(t, "trusted_fronts: [127.0.0.0/8]\n", nil).router)
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	requests := map[string]string{
		"plain":            "GET /a%2fb/../c?x=1&y=;;z HTTP/1.1\r\n\r\n",
		"old":              "GET / HTTP/1.0\r\n\r\n",
		"absolute":         "GET http://twins.test/abs?q HTTP/1.1\r\n\r\n",
		"head":             "HEAD / HTTP/1.1\r\n\r\n",
		"hop by hop":       "GET / HTTP/1.1\r\nConnection: close, X-Hop ,, x-other\r\nX-Hop: 1\r\nX-Other: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTe: gzip, trailers\r\nProxy-Authorization: no\r\n\r\n",
		"named forwarding": "GET / HTTP/1.1\r\nConnection: X-Forwarded-For, X-Real-Ip, Content-Length\r\nX-Forwarded-For: 1.1.1.1\r\nX-Real-Ip: 1.1.1.1\r\n\r\n",
		"forwarded":        "GET / HTTP/1.1\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\nX-Forwarded-Proto: https\r\nForwarded: for=x\r\nX_Forwarded_For: 9\r\nProxy: evil\r\n\r\n",
		"many values":      "GET / HTTP/1.1\r\nAccept: a\r\nAccept: b\r\nUser-Agent: me\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n",
		"no agent":         "GET / HTTP/1.1\r\nUser-Agent:\r\n\r\n",
		"post":             "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
		"empty post":       "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
		"post of nothing":  "POST / HTTP/1.1\r\n\r\n",
		"chunks":           "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n",
		"empty chunks":     "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"trailers":         "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n",
		"get with body":    "GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
		"delete with body": "DELETE / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
		"unknown method":   "PURGE / HTTP/1.1\r\n\r\n",
	}
	answers := map[string]string{
		"ok":                  ok,
		"old":                 "HTTP/1.0 200 OK\r\n\r\nuntil the end",
		"until the end":       "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\nuntil the end",
		"chunks":              "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"trailers":            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A, X-B\r\n\r\n3\r\nabc\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n",
		"unannounced trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-A: 1\r\n\r\n",
		"hop by hop":          "HTTP/1.1 200 OK\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 1\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok",
		"many values":         "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 2\r\n\r\nok",
		"no content":          "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
		"no content, a body":  "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
		"not modified":        "HTTP/1.1 304 Not Modified\r\nEtag: x\r\nContent-Length: 100\r\n\r\n",
		"empty":               "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"reset content":       "HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n",
		"interim":             "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + ok,
		"unasked continue":    "HTTP/1.1 100 Continue\r\n\r\n" + ok,
		"unasked switch":      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
		"short":               "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
		"long":                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nok",
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
		"the same length":     "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"negative length":     "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
		"length and chunks":   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"unknown coding":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"bad chunk":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok",
		"cut chunk":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok",
		"two answers":         ok + ok,
		"nothing":             "",
		"half a head":         "HTTP/1.1 200 OK\r\nContent-Le",
		"garbage":             "garbage\r\n\r\n",
		"bad header":          "HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
		"folded header":       "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
		"bad version":         "HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"large body":          "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100_000),
		"large head":          "HTTP/1.1 200 OK\r\nX-Big: " + strings.Repeat("x", maxAnswerHead) + "\r\nContent-Length: 2\r\n\r\nok",
	}
	for name, request := range requests {
		t.Run("request "+name, func(t *testing.T) { p.compare(t, withHost(request), ok) })
	}
	for name, answer := range answers {
		t.Run("answer "+name, func(t *testing.T) { p.compare(t, withHost(requests["plain"]), answer) })
		t.Run("answer to HEAD "+name, func(t *testing.T) { p.compare(t, withHost(requests["head"]), answer) })
	}
}

func withHost(request string) string {
	line, rest, _ := strings.Cut(request, "\r\n")
	return line + "\r\nHost: " + twinHost + "\r\n" + rest
}

// FuzzRelay does so for headers and answers of any kind.
func FuzzRelay(f *testing.F) {
	f.Add("Connection: close, X-A\r\nX-A: 1\r\n", "", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	f.Add("Cookie: a=b\r\n", "a body", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n")
	f.Add("Te: trailers\r\n", "", "HTTP/1.0 404 No\r\nConnection: keep-alive\r\n\r\nbody")
	p := newTwins(f, start(f, "", nil).router)
	f.Fuzz(func(t *testing.T, header, body, answer string) {
		for line := range strings.SplitSeq(strings.ToLower(header), "\n") {
			name, _, _ := strings.Cut(line, ":")
			switch strings.TrimSpace(name) {
			// What frames the request is the test's; an upgrade has a way of its own.
			case "content-length", "transfer-encoding", "expect", "upgrade", "trailer", "host", "":
				return
			}
		}
		if strings.ContainsAny(header, "\x00") || header != "" && !strings.HasSuffix(header, "\r\n") || strings.Contains(header, "\r\n\r\n") {
			return
		}
		if strings.Contains(answer, " 101") {
			return // ReverseProxy may take the connection over, and wait for the client
		}
		request := "GET / HTTP/1.1\r\nHost: " + twinHost + "\r\n" + header
		if body != "" {
			request += fmt.Sprintf("Content-Length: %d\r\n", len(body))
		}
		request += "\r\n" + body
		if _, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request))); err != nil {
			return
		}
		p.compare(t, request, answer)
	})
}
