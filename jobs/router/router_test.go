package router

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
	"github.com/clusterworks/deploy/jobs/wire"
)

const deadline = 60 * time.Second

var eventually = componenttest.Eventually

// cluster is a bus, a router on 127.0.0.8 and a client of the bus.
type cluster struct {
	t      testing.TB
	bus    *server.Server
	conn   *nats.Conn
	router *Router
	config string // file
	log    string // file
	stop   func() error
}

func start(t testing.TB, settings string, change func(*Router)) *cluster {
	t.Helper()
	c := &cluster{t: t, bus: componenttest.Bus(t, natstest.Users(t, "router")), config: filepath.Join(t.TempDir(), "router.yml")}
	c.configure(settings)
	c.log = filepath.Join(t.TempDir(), "log")
	log, err := os.Create(c.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	if c.conn, err = nats.Connect(c.bus.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.conn.Close)
	if c.router, err = New(component.Process{ConfigFile: c.config, Output: io.MultiWriter(t.Output(), log)}); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(c.router)
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		result <- c.router.Run(ctx)
		close(result)
	}()
	c.stop = func() error { cancel(); return <-result }
	t.Cleanup(func() { c.stop() })
	eventually(t, "router listens", func() bool { return c.router.Address() != "" })
	return c
}

func (c *cluster) configure(settings string) {
	c.t.Helper()
	text := "mbus: " + natstest.URI(c.bus, "router") + "\nlocal_route: 127.0.0.8\nport: 0\npeer_keepalive: 500ms\n" + settings
	if err := os.WriteFile(c.config, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// register announces a backend and waits until the router has it.
func (c *cluster) register(r wire.Registration) {
	c.t.Helper()
	c.publish(wire.SubjectRouterRegister, r)
	addr := net.JoinHostPort(r.Host, strconv.Itoa(r.Port))
	for _, uri := range r.URIs {
		eventually(c.t, "registered "+uri, func() bool {
			c.router.mu.RLock()
			defer c.router.mu.RUnlock()
			return slices.Contains(addrs(c.router.table.lookup(uri)), addr)
		})
	}
}

func (c *cluster) publish(subject string, message any) {
	c.t.Helper()
	publish(c.t, c.conn, subject, message)
}

func publish(t testing.TB, conn *nats.Conn, subject string, message any) {
	t.Helper()
	data, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.Publish(subject, data), conn.Flush()); err != nil {
		t.Fatal(err)
	}
}

// backend runs an HTTP server and registers it under the uris.
func (c *cluster) backend(h http.HandlerFunc, uris ...string) *httptest.Server {
	c.t.Helper()
	s := httptest.NewServer(h)
	c.t.Cleanup(s.Close)
	r := registration(s.Listener.Addr(), uris...)
	r.PrivateInstanceID = "session-" + strconv.Itoa(r.Port)
	c.register(r)
	return s
}

func registration(addr net.Addr, uris ...string) wire.Registration {
	tcp := addr.(*net.TCPAddr)
	return wire.Registration{Host: tcp.IP.String(), Port: tcp.Port, URIs: append([]string{}, uris...), App: "7", Tags: wire.Tags{"framework": "node"}}
}

// get asks the router as a client for a host.
func (c *cluster) get(host string, headers ...string) (*http.Response, string) {
	c.t.Helper()
	return c.do("GET", host, nil, headers...)
}

func (c *cluster) do(method, host string, body io.Reader, headers ...string) (*http.Response, string) {
	c.t.Helper()
	req, err := http.NewRequest(method, "http://"+c.router.Address()+"/path;a=b?q=1;2", body)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Host = host
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       deadline,
	}
	res, err := client.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return res, string(text)
}

func TestRequest(t *testing.T) {
	c := start(t, "trace_key: t\ntrusted_fronts: [127.0.0.0/8]", nil)
	s := c.backend(func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s %s for=%s proto=%s agent=%q from=%s", r.Host, r.RequestURI, r.Header.Get("X-Forwarded-For"),
			r.Header.Get("X-Forwarded-Proto"), r.Header.Get("User-Agent"), from)
	}, "hello.cf.test")
	_, body := c.get("Hello.cf.test:8080", "X-Forwarded-For", "10.9.8.7", "X-Forwarded-Proto", "https", "User-Agent", "me")
	if want := `Hello.cf.test:8080 /path;a=b?q=1;2 for=10.9.8.7, 127.0.0.1 proto=https agent="me" from=127.0.0.8`; body != want {
		t.Errorf("the backend sees\n%s, want\n%s", body, want)
	}
	if _, body := c.get("hello.cf.test"); !strings.Contains(body, "for=127.0.0.1 proto=http ") {
		t.Errorf("the backend sees %s", body)
	}

	for key, traced := range map[string]bool{"t": true, "wrong": false} {
		res, _ := c.get("hello.cf.test", "X-Vcap-Trace", key)
		backend, router := res.Header.Get("X-Vcap-Backend"), res.Header.Get("X-Vcap-Router")
		if traced && (backend != s.Listener.Addr().String() || router != "127.0.0.8") || !traced && backend+router != "" {
			t.Errorf("trace key %s: backend %q, router %q", key, backend, router)
		}
	}
	res, body := c.get("unknown.cf.test")
	if res.StatusCode != 404 || strings.TrimSpace(body) != "VCAP ROUTER: 404 - DESTINATION NOT FOUND" {
		t.Errorf("unknown host: %d %q", res.StatusCode, body)
	}
	if res, body := c.do("GET", "127.0.0.8", nil); res.StatusCode != 404 {
		t.Errorf("the router's own address: %d %s", res.StatusCode, body)
	}

	c.publish(wire.SubjectRouterUnregister, registration(s.Listener.Addr(), "hello.cf.test"))
	eventually(t, "unregistered", func() bool { res, _ := c.get("hello.cf.test"); return res.StatusCode == 404 })
}

// raw sends bytes and returns the answer's status and body.
func (c *cluster) raw(text string) (int, string) {
	c.t.Helper()
	conn, err := net.Dial("tcp", c.router.Address())
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		c.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(body)
}

func TestProbes(t *testing.T) {
	c := start(t, "404_redirect: http://elsewhere.test/", nil)
	for _, tc := range []struct {
		name, request, body string
		status              int
	}{
		{"monitor", "GET / HTTP/1.0\r\nUser-Agent: HTTP-Monitor/1.1\r\n\r\n", "ok\n", 200},
		{"monitor, empty host", "GET / HTTP/1.1\r\nHost:\r\nUser-Agent: HTTP-Monitor/1.1\r\nConnection: close\r\n\r\n", "ok\n", 200},
		{"no host", "GET / HTTP/1.0\r\n\r\n", badRequestText + "\n", 400},
		{"empty host", "GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", badRequestText + "\n", 400},
		{"own address", "GET /healthz HTTP/1.0\r\nHost: " + c.router.Address() + "\r\n\r\n", "ok\n", 200},
	} {
		if status, body := c.raw(tc.request); status != tc.status || body != tc.body {
			t.Errorf("%s: %d %q, want %d %q", tc.name, status, body, tc.status, tc.body)
		}
	}
	if res, _ := c.get("unknown.test"); res.StatusCode != 302 || res.Header.Get("Location") != "http://elsewhere.test/" {
		t.Errorf("unknown host: %d to %q", res.StatusCode, res.Header.Get("Location"))
	}
	c.configure("404_redirect: ''")
	if err := c.router.base.Reload(); err != nil {
		t.Fatal(err)
	}
	if res, _ := c.get("unknown.test"); res.StatusCode != 404 {
		t.Errorf("after the reload: %d", res.StatusCode)
	}
}

func TestSticky(t *testing.T) {
	c := start(t, "trusted_fronts: [127.0.0.0/8]\n", nil)
	for range 3 {
		c.backend(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Login") != "" {
				w.Header().Add("Set-Cookie", "other=1")
				w.Header().Add("Set-Cookie", "jsessionid=abc; Path=/; Secure; SameSite=None")
			}
			fmt.Fprint(w, r.Context().Value(http.LocalAddrContextKey))
		}, "a.test")
	}
	if res, _ := c.get("a.test"); len(res.Cookies()) != 0 {
		t.Errorf("cookies without a session: %v", res.Cookies())
	}
	res, home := c.get("a.test", "Login", "1")
	_, port, _ := net.SplitHostPort(home)
	if got, want := strings.Join(res.Header["Set-Cookie"], "|"), "other=1|jsessionid=abc; Path=/; Secure; SameSite=None|__VCAP_ID__=session-"+port+"; Path=/; HttpOnly; Secure; SameSite=None"; got != want {
		t.Fatalf("cookies %q, want %q", got, want)
	}
	for range 30 {
		if _, body := c.get("a.test", "Cookie", "x=y; __VCAP_ID__=session-"+port); body != home {
			t.Fatalf("the session is at %s, the request went to %s", home, body)
		}
	}
	// The session of an instance that is gone moves to one that lives, and stays.
	res, home = c.get("a.test", "Cookie", "__VCAP_ID__=gone", "X-Forwarded-Proto", "https")
	_, port, _ = net.SplitHostPort(home)
	if got, want := strings.Join(res.Header["Set-Cookie"], "|"), "__VCAP_ID__=session-"+port+"; Path=/; HttpOnly; Secure"; got != want {
		t.Errorf("a stale session: %q, want %q", got, want)
	}
	if res, _ := c.get("a.test", "Cookie", "__VCAP_ID__=session-"+port); len(res.Cookies()) != 0 {
		t.Errorf("a session at home gets %v", res.Cookies())
	}
}

// TestRetry: a request goes to another backend when the first refuses the
// connection, POSTs included, and only then.
func TestRetry(t *testing.T) {
	c := start(t, "", nil)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := registration(dead.Addr(), "a.test", "dead.test")
	dead.Close()
	c.register(refusing)
	var answered atomic.Int64
	c.backend(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		answered.Add(1)
		_, _ = w.Write(body)
	}, "a.test")
	for i := range 40 {
		// No GetBody, no length: nobody but the router could send it twice.
		text := strings.Repeat(strconv.Itoa(i), 1000)
		if res, body := c.do("POST", "a.test", io.MultiReader(strings.NewReader(text))); res.StatusCode != 200 || body != text {
			t.Fatalf("request %d: %d, %d bytes", i, res.StatusCode, len(body))
		}
		c.router.mu.Lock()
		for _, in := range c.router.table.instances { // so that the dead one is tried again and again
			in.setAside(time.Time{})
		}
		c.router.mu.Unlock()
	}
	if got := answered.Load(); got != 40 {
		t.Errorf("40 requests were answered %d times", got)
	}
	if res, body := c.get("dead.test"); res.StatusCode != 502 || strings.TrimSpace(body) != noAnswerText {
		t.Errorf("nobody answers: %d %q", res.StatusCode, body)
	}

	// A backend that takes the request and breaks off gets it once, and no other does.
	breaking, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer breaking.Close()
	var taken atomic.Int64
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := breaking.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1))
			taken.Add(1)
			conn.Close()
		}
	})
	defer group.Wait()
	defer breaking.Close()
	c.register(registration(breaking.Addr(), "breaking.test"))
	if res, _ := c.do("POST", "breaking.test", strings.NewReader("x")); res.StatusCode != 502 || taken.Load() != 1 {
		t.Errorf("a broken request: %d, taken %d times", res.StatusCode, taken.Load())
	}
}

// TestStreams: bodies pass both ways as they come, in lockstep; with
// 100-continue the body waits for the backend's word.
func TestStreams(t *testing.T) {
	c := start(t, "max_body_mb: 0", nil)
	c.backend(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if err := control.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		if r.Header.Get("Refuse") != "" {
			http.Error(w, "no", http.StatusExpectationFailed)
			return
		}
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprintf(w, "echo %s", line)
			if err := control.Flush(); err != nil {
				t.Error(err)
			}
		}
	}, "a.test")
	conn, err := net.Dial("tcp", c.router.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
	line, err := in.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("want 100 Continue, have %q, %v", line, err)
	}
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "4\r\none\n\r\n")
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(res.Body)
	for _, word := range []string{"one", "two", "six"} {
		if line, err := out.ReadString('\n'); err != nil || line != "echo "+word+"\n" {
			t.Fatalf("%q, %v", line, err)
		}
		if word != "six" {
			next := map[string]string{"one": "two", "two": "six"}[word]
			fmt.Fprintf(conn, "4\r\n%s\n\r\n", next)
		}
	}
	fmt.Fprintf(conn, "0\r\n\r\n")
	if rest, err := io.ReadAll(out); err != nil || len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}

	// A backend that refuses is heard before any of the body is sent.
	if status, _ := c.raw("POST / HTTP/1.1\r\nHost: a.test\r\nRefuse: 1\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"); status != 417 {
		t.Errorf("refused expectation: %d", status)
	}
}

func TestBodyLimit(t *testing.T) {
	c := start(t, "max_body_mb: 1", nil)
	c.backend(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, "a.test")
	if res, _ := c.do("POST", "a.test", strings.NewReader(strings.Repeat("x", 1<<20))); res.StatusCode != 200 {
		t.Errorf("just at the limit: %d", res.StatusCode)
	}
	// Refused by what it announces, before any of it is sent.
	if status, body := c.raw("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1048577\r\n\r\n"); status != 413 {
		t.Errorf("announced: %d %s", status, body)
	}
	if status, body := c.raw("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n" +
		strings.Repeat("x", 1<<20+1) + "\r\n0\r\n\r\n"); status != 413 {
		t.Errorf("chunked: %d %s", status, body)
	}
}

// upgrade opens a connection that echoes, through the router.
func (c *cluster) upgrade(host string) (net.Conn, *bufio.Reader) {
	c.t.Helper()
	conn, err := net.Dial("tcp", c.router.Address())
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		c.t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", host)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != 101 {
		c.t.Fatalf("%v, %v", res, err)
	}
	return conn, in
}

func echoUpgraded(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		fmt.Fprint(w, "plain")
		return
	}
	conn, both, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	_, _ = both.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	_ = both.Flush()
	_, _ = io.Copy(conn, both)
}

// TestDrain: a draining router still answers, ends with what is in progress,
// and cuts an upgraded connection when its time is up.
func TestDrain(t *testing.T) {
	c := start(t, "drain_timeout: 300ms", nil)
	c.backend(echoUpgraded, "a.test")
	conn, in := c.upgrade("a.test")
	say := func() error {
		if _, err := io.WriteString(conn, "hello\n"); err != nil {
			return err
		}
		line, err := in.ReadString('\n')
		if err == nil && line != "hello\n" {
			err = fmt.Errorf("echo %q", line)
		}
		return err
	}
	if err := say(); err != nil {
		t.Fatal(err)
	}
	// A kept connection holds the drain in its first phase.
	kept, err := net.Dial("tcp", c.router.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	fmt.Fprintf(kept, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	keptIn := bufio.NewReader(kept)
	res, err := http.ReadResponse(keptIn, nil)
	if err != nil || res.Close {
		t.Fatalf("%v, %v", res, err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	drained := make(chan error, 1)
	go func() { drained <- c.router.base.Drain(t.Context()) }()
	eventually(t, "draining", c.router.draining)
	fmt.Fprintf(kept, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	res, err = http.ReadResponse(keptIn, nil)
	if err != nil || res.StatusCode != 200 || !res.Close || len(res.Header["Connection"]) > 1 {
		t.Errorf("while draining: %v, %v", res, err)
	}
	if err := say(); err != nil {
		t.Errorf("upgraded connection while draining: %v", err)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if err := say(); err == nil {
		t.Error("the upgraded connection lives")
	}
	if conn, err := net.Dial("tcp", c.router.Address()); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
	if err := c.stop(); err != nil {
		t.Error(err)
	}
}

// TestProtocol: router.start at the start and again and again, greet, and both
// dialects of register; what is no registration is ignored.
func TestProtocol(t *testing.T) {
	c := start(t, "", func(r *Router) { r.startInterval = 50 * time.Millisecond })
	sub, err := c.conn.SubscribeSync(wire.SubjectRouterStart)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m, err := sub.NextMsg(deadline)
		if err != nil {
			t.Fatal(err)
		}
		start, err := wire.ParseRouterStart(m.Data)
		if err != nil || start.ID != c.router.base.UUID() || start.Version != 0.98 || fmt.Sprint(start.Hosts) != "[127.0.0.8]" {
			t.Errorf("%s, %v", m.Data, err)
		}
	}
	m, err := c.conn.Request(wire.SubjectRouterGreet, nil, deadline)
	if err != nil {
		t.Fatal(err)
	}
	if greeting, err := wire.ParseRouterStart(m.Data); err != nil || greeting.Interval() != 20*time.Second || greeting.PruneThresholdInSeconds != 120 {
		t.Errorf("%s, %v", m.Data, err)
	}
	for _, text := range []string{`{`, `{"host":"127.0.0.1"}`, `[]`, `{"host":"127.0.0.1","port":1,"uris":["bad.test"],"app":{}}`, ``,
		`{"app":7,"host":"127.0.0.1","port":4000,"uris":["early.test"]}`,
		`{"app":"7","host":"127.0.0.1","port":4000,"uris":["later.test"],"private_instance_id":"x"}`} {
		if err := c.conn.Publish(wire.SubjectRouterRegister, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both dialects", func() bool {
		return c.router.table.lookup("early.test") != nil && c.router.table.lookup("later.test") != nil
	})
	if c.router.table.lookup("bad.test") != nil {
		t.Error("a bad message is taken")
	}
	doc := c.router.varz()
	if doc["urls"] != 2 || doc["droplets"] != 1 {
		t.Errorf("varz: %v urls, %v droplets", doc["urls"], doc["droplets"])
	}
}

// TestBusAway: routes are served and kept while the bus is away, however long;
// when it is back everyone is asked to register, and those who do not are dropped.
func TestBusAway(t *testing.T) {
	c := start(t, "", func(r *Router) { r.pruneInterval = 20 * time.Millisecond })
	c.backend(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "page") }, "a.test")
	starts, err := c.conn.SubscribeSync(wire.SubjectRouterStart)
	if err != nil {
		t.Fatal(err)
	}
	age := func(by time.Duration) {
		c.router.mu.Lock()
		defer c.router.mu.Unlock()
		c.router.table.touch(time.Now().Add(-by))
	}
	port := c.bus.Addr().(*net.TCPAddr).Port
	c.bus.Shutdown()
	c.bus.WaitForShutdown()
	eventually(t, "the bus is away", func() bool { return !c.router.base.Connected() })
	age(time.Hour)
	eventually(t, "seen as fresh although nobody can register", func() bool {
		c.router.mu.RLock()
		defer c.router.mu.RUnlock()
		return time.Since(c.router.table.begin)-c.router.table.lookup("a.test").backends[0].seen < time.Minute
	})
	if _, body := c.get("a.test"); body != "page" {
		t.Errorf("without a bus: %q", body)
	}
	componenttest.Bus(t, componenttest.On(port), natstest.Users(t, "router"))
	if _, err := starts.NextMsg(deadline); err != nil {
		t.Fatalf("no router.start after the bus came back: %v", err)
	}
	if _, body := c.get("a.test"); body != "page" {
		t.Errorf("after the bus came back: %q", body)
	}
	age(time.Hour)
	eventually(t, "pruned", func() bool { return c.router.table.lookup("a.test") == nil })
}

func TestConfigProblems(t *testing.T) {
	file := filepath.Join(t.TempDir(), "router.yml")
	for text, want := range map[string]string{
		"port: 70000":            "port 70000",
		"max_body_mb: -1":        "max_body_mb",
		"flush_apps_interval: 0": "flush_apps_interval",
		"backend_keepalive: 0s":  "backend_keepalive",
		"drain_timeout: soon":    "soon",
	} {
		if err := os.WriteFile(file, []byte("mbus: nats://127.0.0.1:1\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(component.Process{ConfigFile: file}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", text, err, want)
		}
	}
}

// TestEarlyAnswers: a backend may answer while the request is still on its way,
// as an app does that pipes one into the other.
func TestEarlyAnswers(t *testing.T) {
	c := start(t, "", nil)
	c.backend(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if err := control.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusOK)
		if err := control.Flush(); err != nil {
			t.Error(err)
		}
		if _, err := io.Copy(w, r.Body); err != nil {
			t.Errorf("the backend: %v", err)
		}
	}, "echo.test")
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	body := strings.Repeat("0123456789abcdef", 4<<10)
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 25 {
				request, err := http.NewRequest(http.MethodPost, "http://"+c.router.Address()+"/", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				request.Host = "echo.test"
				response, err := client.Do(request)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || string(got) != body {
					t.Errorf("%d bytes of %d came back: %v", len(got), len(body), err)
					return
				}
			}
		})
	}
	clients.Wait()
}

// TestRoutesGoAfterTheyCame: what was registered and unregistered at once is gone,
// in whatever order the two wait at the router.
func TestRoutesGoAfterTheyCame(t *testing.T) {
	t.Parallel()
	c := start(t, "", nil)
	message := func(m wire.Registration) []byte {
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	const pairs = 2000
	for i := range pairs {
		m := message(wire.Registration{Host: "127.0.0.1", Port: 1000 + i, URIs: []string{fmt.Sprintf("r%d.test", i)}, App: "7"})
		if err := errors.Join(c.conn.Publish(wire.SubjectRouterRegister, m), c.conn.Publish(wire.SubjectRouterUnregister, m)); err != nil {
			t.Fatal(err)
		}
	}
	// Comes last, and goes nowhere.
	c.register(wire.Registration{Host: "127.0.0.1", Port: 999, URIs: []string{"last.test"}, App: "7"})
	eventually(t, "only the last route is left", func() bool {
		c.router.mu.RLock()
		defer c.router.mu.RUnlock()
		urls, _ := c.router.table.size()
		return urls == 1
	})
}
