package router

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// wild runs a backend that treats each connection as it likes.
func (c *cluster) wild(handle func(conn net.Conn, in *bufio.Reader), uris ...string) {
	c.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
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
				defer conn.Close()
				handle(conn, bufio.NewReader(conn))
			})
		}
	})
	c.t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for conn := range open {
			conn.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
	c.register(registration(l.Addr(), uris...))
}

// answers reads a request's head, as far as the blank line, and writes the text.
func answers(text string) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, in *bufio.Reader) {
		for line := ""; line != "\r\n"; {
			var err error
			if line, err = in.ReadString('\n'); err != nil {
				return
			}
		}
		_, _ = io.WriteString(conn, text)
	}
}

func hang(conn net.Conn, in *bufio.Reader) { _, _ = io.Copy(io.Discard, in) }

// TestWhoFailed: whatever an app answers or does not, the router answers, and
// says whose fault it is.
func TestWhoFailed(t *testing.T) {
	c := start(t, "answer_timeout: 300ms\nbody_timeout: 200ms\nmax_body_mb: 1\n", nil)
	ok := "HTTP/1.1 200 OK\r\n"
	head := func(n int) string { return ok + "X-Big: " + strings.Repeat("a", n) + "\r\nContent-Length: 0\r\n\r\n" }
	limit := maxAnswerHead - len(head(0))
	for _, tc := range []struct {
		name   string
		app    func(net.Conn, *bufio.Reader)
		send   string // after the head of a POST; "" is a GET
		status int
		text   string
	}{
		{"a large head", answers(head(limit)), "", 200, ""},
		{"too large a head", answers(head(limit + 1)), "", 502, "THE HEADERS OF THE APP'S ANSWER ARE LARGER THAN 64 KB"},
		{"a head without end", answers(ok + strings.Repeat("X-Big: aaaa\r\n", 10000)), "", 502, "LARGER THAN 64 KB"},
		{"early hints", answers("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + head(1)), "", 200, ""},
		{"interim answers without end", answers(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 10000)), "", 502, "LARGER THAN 64 KB"},
		{"no answer", hang, "", 504, "THE APP DID NOT ANSWER WITHIN 300ms"},
		{"half a head", answers(ok + "X-Half"), "", 502, "BROKE OFF"},
		{"garbage", answers("\x00\x01\x02\r\n\r\n"), "", 502, "WHAT IS NOT HTTP"},
		{"status 99", answers("HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n"), "", 502, "ITS STATUS IS 099"},
		{"status 999", answers("HTTP/1.1 999 High\r\nContent-Length: 0\r\n\r\n"), "", 999, ""},
		{"control character", answers(ok + "X-A: a\x01b\r\nContent-Length: 0\r\n\r\n"), "", 502, "WHAT IS NOT HTTP"},
		{"NUL", answers(ok + "X-A: a\x00b\r\nContent-Length: 0\r\n\r\n"), "", 502, ""},
		{"another protocol", answers("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), "", 502, ""},
		{"closes", func(net.Conn, *bufio.Reader) {}, "", 502, "BROKE OFF"},
		{"an announced body that is too large", hang, "Content-Length: 1000000000\r\n\r\n", 413, "LARGER THAN 1 MB"},
		{"a client that pauses", hang, "Content-Length: 10\r\n\r\nhalf", 408, "THE CLIENT DID NOT SEND"},
		{"too large a body", hang, "Transfer-Encoding: chunked\r\n\r\n200000\r\n" + strings.Repeat("x", 2<<20), 413, "LARGER THAN 1 MB"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			host := strings.ReplaceAll(tc.name, " ", "-") + ".test"
			c.wild(tc.app, host)
			request := "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
			if tc.send != "" {
				request = "POST / HTTP/1.1\r\nHost: " + host + "\r\n" + tc.send
			}
			if status, body := c.raw(request); status != tc.status || !strings.Contains(body, tc.text) {
				t.Errorf("%d %q, want %d %q", status, body, tc.status, tc.text)
			}
		})
	}
}

// TestStalledUpload: an app that does not read its request is told apart from one
// that does not answer.
func TestStalledUpload(t *testing.T) {
	c := start(t, "answer_timeout: 300ms\nmax_body_mb: 0\n", nil)
	done := make(chan struct{})
	defer close(done)
	c.wild(func(net.Conn, *bufio.Reader) { <-done }, "stalled.test")
	conn, err := net.Dial("tcp", c.router.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var sending sync.WaitGroup
	defer sending.Wait()
	defer conn.Close()
	sending.Go(func() {
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: stalled.test\r\nContent-Length: 1000000000\r\n\r\n")
		chunk := make([]byte, 1<<20)
		for {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	})
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != 504 || !strings.Contains(string(body), "DID NOT TAKE THE REQUEST") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// TestCut: what an app begins and does not end is cut, so that nobody takes it
// for whole; and so is a quiet WebSocket.
func TestCut(t *testing.T) {
	c := start(t, "answer_timeout: 200ms\n", nil)
	c.wild(func(conn net.Conn, in *bufio.Reader) {
		answers("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")(conn, in)
		hang(conn, in)
	}, "pause.test")
	c.wild(answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n"), "chunks.test")
	for _, host := range []string{"pause.test", "chunks.test"} {
		req, err := http.NewRequest(http.MethodGet, "http://"+c.router.Address()+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); err == nil || string(body) != "half" {
			t.Errorf("%s: %q is whole", host, body)
		}
		res.Body.Close()
	}
	c.backend(echoUpgraded, "socket.test")
	_, in := c.upgrade("socket.test")
	if _, err := in.ReadByte(); err == nil {
		t.Error("a quiet WebSocket says something")
	}
}

// TestInstanceBounds: an instance gets no more requests at once than it may, nor
// uploads, and those who end make room.
func TestInstanceBounds(t *testing.T) {
	c := start(t, "instance_requests: 4\ninstance_uploads: 2\n", nil)
	proceed := make(chan struct{})
	c.backend(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		if r.Header.Get("Wait") != "" {
			select {
			case <-proceed:
			case <-r.Context().Done():
			}
		}
	}, "a.test")
	running := func() (requests, uploads int) {
		c.router.mu.RLock()
		defer c.router.mu.RUnlock()
		in := c.router.table.lookup("a.test").backends[0].instance
		return int(in.requests.Load()), int(in.uploads.Load())
	}
	var slow []net.Conn
	for i := range 2 {
		conn, err := net.Dial("tcp", c.router.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		slow = append(slow, conn)
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf")
		eventually(t, "an upload", func() bool { _, uploads := running(); return uploads == i+1 })
	}
	if res, body := c.do("POST", "a.test", strings.NewReader("x")); res.StatusCode != 503 || !strings.Contains(body, busyText) {
		t.Errorf("a third upload: %d %s", res.StatusCode, body)
	}
	if res, _ := c.get("a.test"); res.StatusCode != 200 {
		t.Errorf("no upload: %d", res.StatusCode)
	}
	// Whoever has sent all is no upload any more, but still a request.
	for _, conn := range slow {
		fmt.Fprintf(conn, "whole!")
	}
	eventually(t, "the uploads have ended", func() bool { requests, uploads := running(); return requests == 0 && uploads == 0 })
	var waiting sync.WaitGroup
	for i := range 4 {
		waiting.Go(func() {
			if res, _ := c.do("POST", "a.test", strings.NewReader("x"), "Wait", "1"); res.StatusCode != 200 {
				t.Errorf("waiting: %d", res.StatusCode)
			}
		})
		// One by one: each is an upload for a moment, and two may be.
		eventually(t, "a request that is no upload", func() bool { requests, uploads := running(); return requests == i+1 && uploads == 0 })
	}
	if res, _ := c.get("a.test"); res.StatusCode != 503 {
		t.Errorf("a fifth request: %d", res.StatusCode)
	}
	close(proceed)
	waiting.Wait()
	eventually(t, "all have ended", func() bool { requests, _ := running(); return requests == 0 })
}

// TestNoGuessedType: an answer that says no type has none.
func TestNoGuessedType(t *testing.T) {
	c := start(t, "", nil)
	c.wild(func(conn net.Conn, in *bufio.Reader) {
		for {
			answers("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")(conn, in)
			if _, err := in.Peek(1); err != nil {
				return
			}
		}
	}, "a.test")
	for range 200 {
		if res, _ := c.get("a.test"); len(res.Header["Content-Type"]) > 0 {
			t.Fatalf("guessed %q", res.Header["Content-Type"])
		}
	}
}
