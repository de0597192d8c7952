package component

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// serve runs a Server until the test ends.
func serve(t *testing.T, h http.HandlerFunc, change func(*Server)) (s *Server, addr string) {
	t.Helper()
	s, err := Listen("127.0.0.1:0", h, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s, s.Addr().String()
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, _ = w.Write(body)
}

// TestDrainOrder: while draining the server still takes a request on an idle
// connection and on a new one, and each answer closes its connection; a request
// in progress is finished after the port is closed.
func TestDrainOrder(t *testing.T) {
	release := make(chan struct{})
	entered := make(chan struct{})
	s, addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(entered)
			<-release
		}
		echo(w, r)
	}, func(s *Server) { s.PeerKeepalive = deadline })

	idle, other := dialHTTP(t, addr), dialHTTP(t, addr)
	for _, c := range []*rawClient{idle, other} {
		if res := c.do("POST", "/", "a"); res.Close {
			t.Fatal("the connection closes without a drain")
		}
	}
	slow := dialHTTP(t, addr)
	slow.send("POST", "/slow", "s")
	<-entered
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(t.Context()) }()
	eventually(t, "draining", s.Draining)

	if res := idle.do("POST", "/", "b"); !res.Close {
		t.Error("an idle connection is not closed by its answer")
	}
	if res := dialHTTP(t, addr).do("POST", "/", "c"); !res.Close {
		t.Error("a new connection is not closed by its answer")
	}
	other.conn.Close() // as a peer does whose keepalive has passed
	select {
	case err := <-drained:
		t.Fatalf("drained with a request in progress: %v", err)
	default:
	}
	close(release)
	if res := slow.read(); res.StatusCode != 200 {
		t.Errorf("the request in progress: %d", res.StatusCode)
	}
	slow.conn.Close()
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}

type rawClient struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dialHTTP(t *testing.T, addr string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &rawClient{t, conn, bufio.NewReader(conn)}
}

func (c *rawClient) send(method, path, body string) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.conn, "%s %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body); err != nil {
		c.t.Fatal(err)
	}
}

func (c *rawClient) read() *http.Response {
	c.t.Helper()
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	res.Body.Close()
	return res
}

func (c *rawClient) do(method, path, body string) *http.Response {
	c.t.Helper()
	c.send(method, path, body)
	return c.read()
}

// TestDrainLosesNothing: under load of POSTs over kept connections and over new
// ones, a drain lets no request fail that reached the server.
func TestDrainLosesNothing(t *testing.T) {
	const keepalive = 300 * time.Millisecond
	for round := range 3 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			s, addr := serve(t, echo, func(s *Server) { s.PeerKeepalive = 10 * keepalive })
			var group sync.WaitGroup
			var done atomic.Int64
			for worker := range 8 {
				transport := &http.Transport{IdleConnTimeout: keepalive, DisableKeepAlives: worker%2 == 0}
				client := &http.Client{Transport: transport, Timeout: deadline}
				group.Go(func() {
					defer transport.CloseIdleConnections()
					for {
						// A body without GetBody: the client cannot repeat it by itself.
						res, err := client.Post("http://"+addr, "", io.MultiReader(strings.NewReader("x")))
						var dial *net.OpError
						if errors.As(err, &dial) && dial.Op == "dial" {
							return // refused: any client goes elsewhere
						}
						if err != nil {
							t.Errorf("after %d requests: %v", done.Load(), err)
							return
						}
						body, err := io.ReadAll(res.Body)
						res.Body.Close()
						if err != nil || string(body) != "x" {
							t.Errorf("answer %q, %v", body, err)
							return
						}
						done.Add(1)
					}
				})
			}
			eventually(t, "under load", func() bool { return done.Load() > 200 })
			if err := s.Drain(t.Context()); err != nil {
				t.Error(err)
			}
			group.Wait()
		})
	}
}

// TestDropNew: a listener that is about to close leaves new clients without an
// answer, so that they ask again, and takes those that are connected.
func TestDropNew(t *testing.T) {
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	l, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	early, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = dropNew(int(fd)) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatalf("the kernel takes no filter: %v", err)
	}
	late, err := net.DialTimeout("tcp", l.Addr().String(), 300*time.Millisecond)
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a new client gets %v, %v", late, err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := io.WriteString(early, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
		t.Errorf("a client that was there is not heard: %v", err)
	}
}

// TestDrainCutsUpgraded: a connection that was taken over is cut when the drain
// time-out has passed, by its request's context.
func TestDrainCutsUpgraded(t *testing.T) {
	s, addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
		<-r.Context().Done()
	}, func(s *Server) { s.PeerKeepalive, s.DrainTimeout = 0, 100*time.Millisecond })
	c := dialHTTP(t, addr)
	c.send("GET", "/", "")
	if res := c.read(); res.StatusCode != 101 {
		t.Fatal(res.StatusCode)
	}
	begin := time.Now()
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took < 100*time.Millisecond {
		t.Errorf("cut after %v, before the drain time-out", took)
	}
	if _, err := c.in.ReadByte(); err == nil {
		t.Error("the connection is open")
	}
}

// TestDrainGivesUp: with its context the drain ends.
func TestDrainGivesUp(t *testing.T) {
	s, addr := serve(t, echo, func(s *Server) { s.PeerKeepalive = time.Hour })
	dialHTTP(t, addr).do("POST", "/", "a")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
