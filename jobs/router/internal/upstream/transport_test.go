package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

const deadline = 30 * time.Second

// backend is a server whose connections a test plays by hand.
type backend struct {
	t     *testing.T
	l     net.Listener
	conns chan *peer
}

type peer struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{t: t, l: l, conns: make(chan *peer, 16)}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(deadline))
			b.conns <- &peer{conn, t, bufio.NewReader(conn)}
		}
	})
	t.Cleanup(func() { l.Close(); accepting.Wait() })
	return b
}

func (b *backend) accept() *peer {
	b.t.Helper()
	select {
	case p := <-b.conns:
		b.t.Cleanup(func() { p.Close() })
		return p
	case <-time.After(deadline):
		b.t.Fatal("nobody connects")
		return nil
	}
}

// request reads the head of a request.
func (p *peer) request() *http.Request {
	p.t.Helper()
	req, err := http.ReadRequest(p.in)
	if err != nil {
		p.t.Fatal(err)
	}
	return req
}

func (p *peer) say(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p, text); err != nil {
		p.t.Fatal(err)
	}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func newTransport(t *testing.T) *Transport {
	t.Helper()
	transport := &Transport{
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
		Pause: deadline, Continue: deadline, MaxHead: 4 << 10, MaxIdle: 4, IdleTimeout: deadline,
	}
	t.Cleanup(transport.Close)
	return transport
}

// outcome describes what became of a request.
type outcome struct {
	status int
	body   string
	err    error
}

// start sends a request and returns where its outcome will be.
func start(ctx context.Context, transport *Transport, addr, method string, body io.Reader, headers ...string) <-chan outcome {
	req := &http.Request{Method: method, URL: &url.URL{Scheme: "http", Host: addr, Path: "/"}, Host: "app.test", Header: http.Header{}}
	if body != nil {
		req.Body, req.ContentLength = io.NopCloser(body), -1
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	done := make(chan outcome, 1)
	go func() {
		res, err := transport.RoundTrip(req.WithContext(ctx))
		if err != nil {
			done <- outcome{err: err}
			return
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		done <- outcome{res.StatusCode, string(text), err}
	}()
	return done
}

func (b *backend) await(done <-chan outcome) outcome {
	b.t.Helper()
	select {
	case o := <-done:
		return o
	case <-time.After(deadline):
		b.t.Fatal("the request does not end")
		return outcome{}
	}
}

func (b *backend) addr() string { return b.l.Addr().String() }

func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	b, transport := newBackend(t), newTransport(t)
	done := start(t.Context(), transport, b.addr(), "GET", nil)
	conn := b.accept()
	for range 3 {
		conn.request()
		conn.say(ok)
		if o := b.await(done); o.status != 200 || o.body != "ok" || o.err != nil {
			t.Fatalf("got %+v", o)
		}
		done = start(t.Context(), transport, b.addr(), "POST", nil)
	}
	conn.request()
	conn.say(ok)
	b.await(done)
	if len(b.conns) != 0 {
		t.Error("a second connection was made")
	}
}

// TestWhatIsNotKept has what a backend does to a connection that would harm the
// next request on it.
func TestWhatIsNotKept(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		method string
		after  func(*peer) // the first request was read
	}{
		"close":               {"POST", func(p *peer) { p.say(ok); p.Close() }},
		"close, said":         {"POST", func(p *peer) { p.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok") }},
		"HTTP/1.0":            {"POST", func(p *peer) { p.say("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok") }},
		"an answer too many":  {"GET", func(p *peer) { p.say(ok + ok) }},
		"a body too long":     {"GET", func(p *peer) { p.say(ok + "more") }},
		"a body after a HEAD": {"HEAD", func(p *peer) { p.say(ok) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, transport := newBackend(t), newTransport(t)
			done := start(t.Context(), transport, b.addr(), test.method, nil)
			first := b.accept()
			first.request()
			test.after(first)
			if o := b.await(done); o.status != 200 || o.err != nil {
				t.Fatalf("got %+v", o)
			}
			done = start(t.Context(), transport, b.addr(), "POST", nil)
			second := b.accept()
			second.request()
			second.say("HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nnew")
			if o := b.await(done); o.status != 201 || o.body != "new" || o.err != nil {
				t.Errorf("the next request got %+v", o)
			}
		})
	}
}

// TestLateAnswerToNobody: an answer that comes when none is awaited is not the
// next client's.
func TestLateAnswerToNobody(t *testing.T) {
	t.Parallel()
	b, transport := newBackend(t), newTransport(t)
	done := start(t.Context(), transport, b.addr(), "GET", nil)
	conn := b.accept()
	conn.request()
	conn.say(ok)
	b.await(done)
	conn.say("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
	idle := transport.idle[b.addr()][0]
	for until := time.Now().Add(deadline); idle.quiet(); {
		if time.Now().After(until) {
			t.Fatal("the transport does not see the answer")
		}
	}
	done = start(t.Context(), transport, b.addr(), "GET", nil)
	next := b.accept()
	next.request()
	next.say(ok)
	if o := b.await(done); o.body != "ok" {
		t.Errorf("the next client got %+v", o)
	}
}

// TestKilledBackend: a request on a connection that was kept, whose backend is
// killed before it answers, is sent again if that cannot do it twice.
func TestKilledBackend(t *testing.T) {
	t.Parallel()
	for method, again := range map[string]bool{"GET": true, "DELETE": true, "POST": false} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			b, transport := newBackend(t), newTransport(t)
			done := start(t.Context(), transport, b.addr(), "GET", nil)
			conn := b.accept()
			conn.request()
			conn.say(ok)
			b.await(done)
			done = start(t.Context(), transport, b.addr(), method, nil)
			conn.request()
			conn.Close()
			if !again {
				if o := b.await(done); !errors.Is(o.err, ErrBrokenOff) {
					t.Errorf("got %+v, want ErrBrokenOff", o)
				}
				return
			}
			other := b.accept()
			other.request()
			other.say(ok)
			if o := b.await(done); o.status != 200 || o.err != nil {
				t.Errorf("got %+v", o)
			}
		})
	}
}

func TestRefusedConnection(t *testing.T) {
	t.Parallel()
	b, transport := newBackend(t), newTransport(t)
	addr := b.addr()
	b.l.Close()
	var dial *DialError
	if o := b.await(start(t.Context(), transport, addr, "POST", nil)); !errors.As(o.err, &dial) {
		t.Errorf("got %+v, want a DialError", o)
	}
}

func TestPauses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ says string }{
		"no answer":   {""},
		"half a head": {"HTTP/1.1 200"},
		"half a body": {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, transport := newBackend(t), newTransport(t)
			transport.Pause = 100 * time.Millisecond
			done := start(t.Context(), transport, b.addr(), "GET", nil)
			conn := b.accept()
			conn.request()
			conn.say(test.says)
			if o := b.await(done); !errors.Is(o.err, os.ErrDeadlineExceeded) {
				t.Errorf("got %+v, want a deadline", o)
			}
		})
	}
}

// TestDrip: a head that comes byte by byte has Pause as a whole.
func TestDrip(t *testing.T) {
	t.Parallel()
	b, transport := newBackend(t), newTransport(t)
	transport.Pause = 300 * time.Millisecond
	done := start(t.Context(), transport, b.addr(), "GET", nil)
	conn := b.accept()
	conn.request()
	for {
		select {
		case o := <-done:
			if !errors.Is(o.err, os.ErrDeadlineExceeded) {
				t.Errorf("got %+v, want a deadline", o)
			}
			return
		case <-time.After(20 * time.Millisecond):
			_, _ = io.WriteString(conn, "H")
		}
	}
}

// TestGoneClient: when the context ends the backend is told, by the end of the
// connection.
func TestGoneClient(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]string{"waiting": "", "reading": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, transport := newBackend(t), newTransport(t)
			ctx, cancel := context.WithCancel(t.Context())
			done := start(ctx, transport, b.addr(), "GET", nil)
			conn := b.accept()
			conn.request()
			conn.say(says)
			cancel()
			if o := b.await(done); !errors.Is(o.err, context.Canceled) {
				t.Errorf("got %+v, want context.Canceled", o)
			}
			if _, err := conn.in.ReadByte(); err == nil {
				t.Error("the backend's connection is open")
			}
		})
	}
}

// TestRefusedBody: a backend may answer, and close, before it has all of a body.
func TestRefusedBody(t *testing.T) {
	t.Parallel()
	b, transport := newBackend(t), newTransport(t)
	endless := io.MultiReader(strings.NewReader(strings.Repeat("x", 8<<20)))
	done := start(t.Context(), transport, b.addr(), "POST", endless)
	conn := b.accept()
	conn.request()
	conn.say("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
	if o := b.await(done); o.status != 413 || o.body != "no" {
		t.Errorf("got %+v", o)
	}
}

func TestContinue(t *testing.T) {
	t.Parallel()
	expect := []string{"Expect", "100-continue"}
	t.Run("wanted", func(t *testing.T) {
		t.Parallel()
		b, transport := newBackend(t), newTransport(t)
		done := start(t.Context(), transport, b.addr(), "POST", strings.NewReader("body"), expect...)
		conn := b.accept()
		req := conn.request()
		if n := conn.in.Buffered(); n > 0 {
			t.Errorf("%d bytes of the body came before they were asked for", n)
		}
		conn.say("HTTP/1.1 100 Continue\r\n\r\n")
		if body, err := io.ReadAll(req.Body); string(body) != "body" || err != nil {
			t.Errorf("the backend got %q, %v", body, err)
		}
		conn.say(ok)
		if o := b.await(done); o.status != 200 || o.err != nil {
			t.Errorf("got %+v", o)
		}
	})
	t.Run("not wanted", func(t *testing.T) {
		t.Parallel()
		b, transport := newBackend(t), newTransport(t)
		done := start(t.Context(), transport, b.addr(), "POST", strings.NewReader("body"), expect...)
		conn := b.accept()
		conn.request()
		conn.say("HTTP/1.1 417 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		if o := b.await(done); o.status != 417 || o.err != nil {
			t.Errorf("got %+v", o)
		}
		if rest, err := io.ReadAll(conn.in); len(rest) > 0 || err != nil {
			t.Errorf("the backend still got %q, %v", rest, err)
		}
	})
	t.Run("never said", func(t *testing.T) {
		t.Parallel()
		b, transport := newBackend(t), newTransport(t)
		transport.Continue = time.Millisecond
		done := start(t.Context(), transport, b.addr(), "POST", strings.NewReader("body"), expect...)
		conn := b.accept()
		req := conn.request()
		if body, err := io.ReadAll(req.Body); string(body) != "body" || err != nil {
			t.Errorf("the backend got %q, %v", body, err)
		}
		conn.say(ok)
		b.await(done)
	})
}

func TestLargeHeads(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]string{
		"one line":     "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 8<<10) + "\r\n\r\n",
		"interim ones": strings.Repeat("HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, transport := newBackend(t), newTransport(t)
			done := start(t.Context(), transport, b.addr(), "GET", nil)
			conn := b.accept()
			conn.request()
			_, _ = io.WriteString(conn, says)
			if o := b.await(done); !errors.Is(o.err, ErrHeadTooLarge) {
				t.Errorf("got %+v, want ErrHeadTooLarge", o)
			}
		})
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	t.Parallel()
	b, transport := newBackend(t), newTransport(t)
	transport.IdleTimeout = 20 * time.Millisecond
	done := start(t.Context(), transport, b.addr(), "GET", nil)
	conn := b.accept()
	conn.request()
	conn.say(ok)
	b.await(done)
	if _, err := conn.in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want EOF", err)
	}
}

// bodyThatIsLate ends its request before it says that its client was late, as
// net/http does.
type bodyThatIsLate struct {
	cancel context.CancelFunc
	closed <-chan struct{} // the backend has seen the end of its connection
}

func (b bodyThatIsLate) Read([]byte) (int, error) {
	b.cancel()
	<-b.closed
	return 0, os.ErrDeadlineExceeded
}

// TestLateBodyIsTheReason: that the client was late is said, and not that it has
// gone, although the request's context ends first.
func TestLateBodyIsTheReason(t *testing.T) {
	t.Parallel()
	b, transport := newBackend(t), newTransport(t)
	ctx, cancel := context.WithCancel(t.Context())
	closed := make(chan struct{})
	done := start(ctx, transport, b.addr(), "POST", bodyThatIsLate{cancel, closed})
	conn := b.accept()
	_, _ = io.Copy(io.Discard, conn)
	close(closed)
	if o := b.await(done); !errors.Is(o.err, os.ErrDeadlineExceeded) {
		t.Errorf("got %+v, want that the body was late", o)
	}
}
