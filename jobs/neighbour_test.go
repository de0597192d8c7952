package jobs_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/router"
	"github.com/clusterworks/deploy/jobs/wire"
)

// platform is the real nginx before two real routers, which learn over a real bus
// where apps are.
type platform struct {
	*balancer
	routers []*router.Router
	bus     *nats.Conn
	client  string // address that requests come from, unless they say otherwise
}

// newPlatform starts one with these settings of the routers and of nginx, whose
// rendered files are edited first.
func newPlatform(t *testing.T, routers, properties string, edits ...string) *platform {
	t.Helper()
	p := &platform{balancer: newBalancer(t), client: "127.0.0.1"}
	p.edit = strings.NewReplacer(edits...).Replace
	s := componenttest.Bus(t)
	var err error
	p.bus, err = nats.Connect(s.ClientURL())
	must(t, err)
	t.Cleanup(p.bus.Close)
	addresses := []string{}
	for range 2 {
		address := loopback()
		file := filepath.Join(t.TempDir(), "router.yml")
		must(t, os.WriteFile(file, []byte("mbus: "+s.ClientURL()+"\nlocal_route: "+address+"\nfront_key: a_key_of_the_fronts\nlogging:\n  level: \"off\"\n"+routers), 0o600))
		r, err := router.New(component.Process{ConfigFile: file, Output: t.Output()})
		must(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = r.Run(ctx) })
		t.Cleanup(func() { cancel(); running.Wait() })
		p.routers = append(p.routers, r)
		addresses = append(addresses, strconv.Quote(address))
	}
	g1 := filepath.Join(p.dir, "generations", "1")
	p.render(g1, "front_key = \"a_key_of_the_fronts\"\nrouters = ["+strings.Join(addresses, ", ")+"]\n"+properties)
	if out, err := p.cmd(p.job.Spec.Hooks[0].Command, "DEPLOY_STAGED="+g1).CombinedOutput(); err != nil {
		t.Fatalf("check: %v: %s", err, out)
	}
	p.activate(g1)
	p.start()
	for _, r := range p.routers {
		p.eventually("a router listens", func() bool { return r.Address() != "" })
	}
	return p
}

// register tells the routers of an app, and waits until both know it.
func (p *platform) register(addr net.Addr, host string) {
	p.t.Helper()
	tcp := addr.(*net.TCPAddr)
	data, err := json.Marshal(wire.Registration{Host: tcp.IP.String(), Port: tcp.Port, URIs: []string{host}, App: "1", AppName: "an app", PrivateInstanceIndex: "2"})
	must(p.t, err)
	must(p.t, p.bus.Publish(wire.SubjectRouterRegister, data))
	for _, r := range p.routers {
		p.eventually("a router knows "+host, func() bool {
			if r.Address() == "" {
				return false
			}
			req, err := http.NewRequest(http.MethodGet, "http://"+r.Address()+"/", nil)
			must(p.t, err)
			req.Host = host
			ctx, cancel := context.WithTimeout(p.t.Context(), time.Second)
			defer cancel()
			res, err := http.DefaultTransport.RoundTrip(req.WithContext(ctx))
			if err != nil {
				return true // the app has its turn, which may be not to answer
			}
			res.Body.Close()
			return res.StatusCode != 404
		})
	}
}

// app registers a server that treats each connection as it likes.
func (p *platform) app(host string, handle func(net.Conn, *bufio.Reader)) {
	p.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(p.t, err)
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			conns.Go(func() {
				defer func() {
					conn.Close()
					mu.Lock()
					delete(open, conn)
					mu.Unlock()
				}()
				handle(conn, bufio.NewReader(conn))
			})
		}
	})
	p.t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for conn := range open {
			conn.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
	p.register(l.Addr(), host)
}

// dial connects to nginx from an address.
func (p *platform) dial(ctx context.Context, from string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(ctx, "tcp", p.address+":8080")
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(deadline))
}

// ways of an app. Each reads the head of a request first.

func says(parts ...string) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, in *bufio.Reader) {
		for readHead(in) {
			for _, part := range parts {
				if _, err := io.WriteString(conn, part); err != nil {
					return
				}
			}
			if !strings.HasPrefix(parts[len(parts)-1], "HTTP/1.1 200 OK\r\nContent-Length: 0") {
				return
			}
		}
	}
}

func readHead(in *bufio.Reader) bool {
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return false
		}
		if line == "\r\n" {
			return true
		}
	}
}

// then says a text and waits for the router to close.
func then(text string) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, in *bufio.Reader) {
		if readHead(in) {
			_, _ = io.WriteString(conn, text)
			_, _ = io.Copy(io.Discard, in)
		}
	}
}

// drips says a text and goes on, a piece every 50 ms.
func drips(text, piece string) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, in *bufio.Reader) {
		if !readHead(in) {
			return
		}
		_, err := io.WriteString(conn, text)
		for tick := time.NewTicker(50 * time.Millisecond); err == nil; <-tick.C {
			_, err = io.WriteString(conn, piece)
		}
	}
}

// resets says a text and resets the connection.
func resets(text string) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, in *bufio.Reader) {
		if readHead(in) {
			_, _ = io.WriteString(conn, text)
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
	}
}

// misbehaviour is an app, and what its clients do.
type misbehaviour struct {
	name    string
	app     func(net.Conn, *bufio.Reader)
	request string // what each client sends, "" is a GET
	clients int    // at once; 0 is 2, each with a request every 100 ms
	hold    bool   // they keep their connection and read nothing
	leave   bool   // they close at once
	drip    string // after the request, a piece every 50 ms
	// http2, in the place of request, is what each client does on a connection of
	// HTTP/2 until it fails.
	http2 func(c *http2Client) error
}

const okHead = "HTTP/1.1 200 OK\r\n"

// misbehaviours are all of them; apps that stall do so until the context ends.
func misbehaviours(stalled context.Context) []misbehaviour {
	big := strings.Repeat("a", 12000)
	post := "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 100000000\r\n\r\n"
	chunked := "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n"
	body := strings.Repeat("x", 1<<20)
	return append(http2Misbehaviours(), []misbehaviour{
		{name: "an answer with 12 KB of headers", app: says(okHead + "X-Big: " + big + "\r\nContent-Length: 0\r\n\r\n")},
		{name: "an answer with 90 KB of headers", app: says(okHead + strings.Repeat("X-Big: "+big[:9000]+"\r\n", 10) + "Content-Length: 0\r\n\r\n")},
		{name: "headers without end", app: func(conn net.Conn, in *bufio.Reader) {
			readHead(in)
			_, err := io.WriteString(conn, okHead)
			for err == nil {
				_, err = io.WriteString(conn, "X-More: "+big+"\r\n")
			}
		}},
		{name: "5,000 header lines", app: says(okHead + strings.Repeat("A: b\r\n", 5000) + "Content-Length: 0\r\n\r\n")},
		{name: "no answer", app: then("")},
		{name: "half a head", app: then(okHead + "X-Half: ")},
		{name: "a head drop by drop", app: drips(okHead+"X-Slow: ", "a")},
		{name: "a body drop by drop", app: drips(okHead+"Content-Length: 1000000\r\n\r\n", "a")},
		{name: "a body that pauses", app: then(okHead + "Content-Length: 100\r\n\r\nhalf")},
		{name: "a body cut", app: says(okHead + "Content-Length: 100\r\n\r\nhalf")},
		{name: "closes", app: says("")},
		{name: "resets", app: resets("")},
		{name: "resets within its answer", app: resets(okHead + "Content-Length: 100\r\n\r\nhalf")},
		{name: "garbage", app: says("\x16\x03\x01\x02\x00\r\n\r\n")},
		{name: "a NUL in a header", app: says(okHead + "X-A: a\x00b\r\nContent-Length: 0\r\n\r\n")},
		{name: "a bad chunk", app: says(okHead + "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n")},
		{name: "a chunk without end", app: then(okHead + "Transfer-Encoding: chunked\r\n\r\nfffffff\r\nhalf")},
		{name: "early hints", app: says("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", okHead+"Content-Length: 0\r\n\r\n")},
		{name: "interim answers without end", app: func(conn net.Conn, in *bufio.Reader) {
			readHead(in)
			many := strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 500)
			for err := error(nil); err == nil; {
				_, err = io.WriteString(conn, many)
			}
		}, clients: 1},
		{name: "100 that nobody asked for", app: says("HTTP/1.1 100 Continue\r\n\r\n", okHead+"Content-Length: 0\r\n\r\n")},
		{name: "another protocol", app: says("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")},
		{name: "status 099", app: says("HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n")},
		{name: "status 999", app: says("HTTP/1.1 999 High\r\nContent-Length: 0\r\n\r\n")},
		{name: "two lengths", app: says(okHead + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nhalf!")},
		{name: "a length and chunks", app: says(okHead + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n")},
		{name: "more than its length", app: says(okHead + "Content-Length: 1\r\n\r\n" + big)},
		{name: "HTTP/0.9", app: says("<html>hello</html>\n")},
		{name: "words for nginx", app: says(okHead + "X-Accel-Redirect: /again\r\nX-Accel-Limit-Rate: 1\r\nContent-Length: 0\r\n\r\n")},
		{name: "trailers without end", app: func(conn net.Conn, in *bufio.Reader) {
			readHead(in)
			_, err := io.WriteString(conn, okHead+"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n")
			for err == nil {
				_, err = io.WriteString(conn, "X-More: "+big+"\r\n")
			}
		}},
		{name: "chunk extensions without end", app: func(conn net.Conn, in *bufio.Reader) {
			readHead(in)
			_, err := io.WriteString(conn, okHead+"Transfer-Encoding: chunked\r\n\r\n4;a=")
			for err == nil {
				_, err = io.WriteString(conn, big)
			}
		}},
		{name: "does not read the request", app: func(conn net.Conn, in *bufio.Reader) {
			readHead(in)
			select {
			case <-stalled.Done():
			case <-time.After(2 * time.Second):
			}
		}, request: post + body + body + body + body, clients: 4},
		{name: "answers before it has the request", app: says(okHead + "Content-Length: 0\r\n\r\n"), request: post + body, clients: 1},
		{name: "resets before it has the request", app: resets("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"), request: post + body, clients: 1},
		{name: "clients that read nothing", app: func(conn net.Conn, in *bufio.Reader) {
			readHead(in)
			_, err := io.WriteString(conn, okHead+"Content-Length: 100000000\r\n\r\n")
			for err == nil {
				_, err = io.WriteString(conn, body)
			}
		}, clients: 16, hold: true},
		{name: "clients that leave", app: drips(okHead+"Content-Length: 1000000\r\n\r\n", "a"), leave: true},
		{name: "240 slow uploads", app: then(""), request: post, clients: 240, hold: true, drip: "x"},
		{name: "requests with chunk extensions without end", app: then(""), request: chunked + "4;a=", clients: 16, hold: true, drip: big},
		{name: "requests with trailers without end", app: then(""), request: chunked + "4\r\nhalf\r\n0\r\n", clients: 16, hold: true, drip: "X-More: " + big + "\r\n"},
		{name: "bodies that are asked for and do not come", app: then(""), request: "POST / HTTP/1.1\r\nHost: HOST\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n", clients: 240, hold: true},
		{name: "a thousand requests at once on a connection", app: says(okHead + "Content-Length: 0\r\n\r\n"), request: strings.Repeat("GET / HTTP/1.1\r\nHost: HOST\r\n\r\n", 1000), clients: 4, hold: true},
		{name: "240 slow heads", app: then(""), request: "GET / HTTP/1.1\r\nHost: HOST\r\n", clients: 240, hold: true, drip: "X-A: b\r\n"},
		{name: "a flood of connections", app: then(""), clients: 400, hold: true},
		{name: "quiet WebSockets", app: then("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
			request: "GET / HTTP/1.1\r\nHost: HOST\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", clients: 200, hold: true},
	}...)
}

// attack sends a misbehaviour's requests until ctx ends.
func (p *platform) attack(ctx context.Context, m misbehaviour, host, from string) {
	request := m.request
	if request == "" {
		request = "GET / HTTP/1.1\r\nHost: HOST\r\n\r\n"
	}
	request = strings.ReplaceAll(request, "HOST", host)
	one := func() {
		if m.http2 != nil {
			p.speakHTTP2(ctx, m.http2, host, from)
			return
		}
		conn, err := p.dial(ctx, from)
		if err != nil {
			return
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		defer conn.Close()
		if _, err := io.WriteString(conn, request); err != nil || m.leave {
			return
		}
		if m.drip != "" {
			for tick := time.NewTicker(50 * time.Millisecond); err == nil; <-tick.C {
				_, err = io.WriteString(conn, m.drip)
			}
		}
		if m.hold {
			<-ctx.Done()
			return
		}
		if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
		}
	}
	clients := m.clients
	if clients == 0 {
		clients = 2
	}
	var group sync.WaitGroup
	defer group.Wait()
	for range clients {
		group.Go(func() {
			for tick := time.NewTicker(100 * time.Millisecond); ctx.Err() == nil; {
				one()
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
}

// neighbours asks another app, n times, 20 a second, and returns how long the
// answers took, sorted, and what went wrong.
func (p *platform) neighbours(host string, n int) (took []time.Duration, failures []error) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx, p.client) },
	}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var group sync.WaitGroup
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range n {
		<-tick.C
		group.Go(func() {
			began := time.Now()
			err := func() error {
				res, err := client.Get("http://" + host + "/")
				if err != nil {
					return err
				}
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				if err == nil && (res.StatusCode != 200 || string(body) != "fine") {
					err = fmt.Errorf("%d %q", res.StatusCode, body)
				}
				return err
			}()
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(began))
			if err != nil {
				failures = append(failures, err)
			}
		})
	}
	group.Wait()
	slices.Sort(took)
	return took, failures
}

// besides is the number of platforms that look at misbehaviours side by side: a look mostly
// waits.
const besides = 2

// TestNeighbours: whatever an app or its clients do, another app answers each of
// its requests, as quickly as without.
func TestNeighbours(t *testing.T) {
	platforms := make([]*platform, besides)
	for i := range platforms {
		platforms[i] = newPlatform(t, "answer_timeout: 1500ms\n", "answer_timeout_s = 3\ntls_port = 8443\n"+newWebCA(t).settings(time.Now().Add(time.Hour), "*.cf.localhost", "www.example.com"))
		platforms[i].app("neighbour.cf.localhost", func(conn net.Conn, in *bufio.Reader) {
			for readHead(in) {
				if _, err := io.WriteString(conn, okHead+"Content-Length: 4\r\n\r\nfine"); err != nil {
					return
				}
			}
		})
		if _, failures := platforms[i].neighbours("neighbour.cf.localhost", 10); len(failures) > 0 {
			t.Fatal(errors.Join(failures...))
		}
	}
	stalled, resume := context.WithCancel(t.Context())
	defer resume()
	queue := make(chan misbehaviour)
	var looks sync.WaitGroup
	for _, p := range platforms {
		looks.Go(func() {
			bad := 0
			for m := range queue {
				bad++
				t.Run(m.name, func(t *testing.T) { p.look(t, m, fmt.Sprintf("bad%d.cf.localhost", bad)) })
			}
		})
	}
	for _, m := range misbehaviours(stalled) {
		queue <- m
	}
	close(queue)
	looks.Wait()
}

// waiting returns how many threads of the machine run or wait for a processor.
func waiting(t *testing.T) (n int) {
	t.Helper()
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	var minute, five, fifteen float64
	if _, err := fmt.Sscanf(string(data), "%f %f %f %d", &minute, &five, &fifteen, &n); err != nil {
		t.Fatal(err)
	}
	return max(n, int(minute))
}

// look compares a neighbour's answers beside a misbehaviour with those alone.
func (p *platform) look(t *testing.T, m misbehaviour, host string) {
	p.app(host, m.app)
	for try := 1; ; try++ {
		alone, failures := p.neighbours("neighbour.cf.localhost", 10)
		if len(failures) > 0 {
			// The other platform's look may take all of a small machine for seconds.
			if try == 5 {
				t.Fatalf("before: %v", errors.Join(failures...))
			}
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		var attack sync.WaitGroup
		attack.Go(func() { p.attack(ctx, m, host, "127.0.0.66") })
		beside, failures := p.neighbours("neighbour.cf.localhost", 40)
		cancel()
		attack.Wait()
		// On a machine that keeps even an answer alone waiting, or has twice as much to
		// do as it can, one that is late says nothing: another look is due.
		busy := alone[len(alone)-1] > 100*time.Millisecond || waiting(t) > 2*runtime.NumCPU()
		if len(failures) > 0 && (!busy || try == 5) {
			t.Fatalf("%d of %d failed: %v", len(failures), len(beside), errors.Join(failures...))
		}
		was, is := alone[len(alone)/2], beside[len(beside)/2]
		t.Logf("median %v alone, %v beside", was.Round(time.Microsecond), is.Round(time.Microsecond))
		// Below neighbourMost it is the machine that is measured; and on a busy one
		// another look is due.
		if len(failures) == 0 && is <= max(2*was, neighbourMost) {
			return
		}
		if try == 5 {
			t.Fatalf("a neighbour's answer takes %v, %v alone", is, was)
		}
	}
}
