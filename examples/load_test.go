//go:build e2e

package examples

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is a number of clients with one kept connection each. Half of what they
// ask is a GET of the page, half a POST to /echo whose answer must be what was
// sent. A POST comes in two pieces with a pause between them, so that at every
// moment some are under way.
//
// A request is sent again, once, on another connection, if its own had been used
// before and closed without a byte of an answer: whoever keeps a connection open
// while it is idle may find that the server has just closed it (RFC 9112, 9.3.1;
// RFC 9110, 9.2.2: the client knows that an echo may be repeated). Such requests
// are counted apart. Everything else that is no right answer is a failure.
type load struct {
	address, host string
	pause         time.Duration // between two requests of a client

	stopped context.CancelFunc
	group   sync.WaitGroup

	get, post           atomic.Int64 // answered
	getAgain, postAgain atomic.Int64 // sent again
	failed              atomic.Int64
	slowest             atomic.Int64 // of all answers, nanoseconds

	mu       sync.Mutex
	failures []string    // the first ones
	begun    []time.Time // when those that failed began
}

const (
	// requestTimeout is the time that an answer may take.
	requestTimeout = 30 * time.Second
	// underWay is the pause within a POST.
	underWay = 50 * time.Millisecond
)

// startLoad begins to send about perSecond requests for host to address, until
// stop is called or the test ends.
func startLoad(t testing.TB, address, host string, clients, perSecond int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{address: address, host: host, pause: time.Second * time.Duration(clients) / time.Duration(perSecond), stopped: cancel}
	for n := range clients {
		l.group.Go(func() { l.client(ctx, rand.New(rand.NewPCG(uint64(n), 0))) })
	}
	t.Cleanup(l.stop)
	return l
}

// stop ends the load when what is on its way is answered.
func (l *load) stop() {
	l.stopped()
	l.group.Wait()
}

func (l *load) answered() int64 { return l.get.Load() + l.post.Load() }
func (l *load) again() int64    { return l.getAgain.Load() + l.postAgain.Load() }

func (l *load) String() string {
	return fmt.Sprintf("%d requests answered (%d GET, %d POST), %d failed, %d sent again on a connection that had just closed (%d GET, %d POST), slowest answer %v",
		l.answered(), l.get.Load(), l.post.Load(), l.failed.Load(), l.again(), l.getAgain.Load(), l.postAgain.Load(),
		time.Duration(l.slowest.Load()).Round(time.Millisecond))
}

// mustNotFail checks that no request has failed, and shows the first that have.
func (l *load) mustNotFail(t *testing.T) {
	t.Helper()
	t.Log(l)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.failures {
		t.Error(f)
	}
}

// mustFailInFlight checks that whatever has failed had begun before a moment: it was
// in flight where something was lost. Each client has one request at a time.
func (l *load) mustFailInFlight(t *testing.T, lost time.Time, clients int) {
	t.Helper()
	t.Log(l)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, begin := range l.begun {
		if begin.After(lost) {
			t.Errorf("a request that began %v after the loss has failed", begin.Sub(lost))
		}
	}
	if len(l.begun) > clients {
		t.Errorf("%d requests have failed, and %d at most were in flight", len(l.begun), clients)
	}
	if t.Failed() {
		t.Log(strings.Join(l.failures, "\n"))
	}
}

// client sends requests one after the other, on one connection as long as that
// is kept.
func (l *load) client(ctx context.Context, random *rand.Rand) {
	var conn *clientConn
	defer func() { conn.close() }()
	// Clients do not beat in step.
	wait := time.NewTimer(time.Duration(random.Int64N(int64(l.pause) + 1)))
	defer wait.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		begin := time.Now()
		var body []byte
		answers, again := &l.get, &l.getAgain
		if n%2 == 1 {
			body = make([]byte, 1+random.IntN(8<<10))
			for i := range body {
				body[i] = byte(random.Uint32())
			}
			answers, again = &l.post, &l.postAgain
		}
		var err error
		conn, err = l.ask(conn, body)
		if errors.Is(err, errClosedIdle) {
			again.Add(1)
			conn, err = l.ask(nil, body)
		}
		took := time.Since(begin)
		if err == nil {
			answers.Add(1)
			for slowest := l.slowest.Load(); int64(took) > slowest && !l.slowest.CompareAndSwap(slowest, int64(took)); {
				slowest = l.slowest.Load()
			}
		} else {
			l.fail(begin, fmt.Errorf("after %v, at %s: %w", took.Round(time.Millisecond), time.Now().UTC().Format("15:04:05.000"), err))
		}
		wait.Reset(max(0, l.pause-took))
	}
}

func (l *load) fail(begin time.Time, err error) {
	l.failed.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun = append(l.begun, begin)
	if len(l.failures) < 20 {
		l.failures = append(l.failures, err.Error())
	}
}

// clientConn is a connection that is kept for the next request.
type clientConn struct {
	net.Conn
	in   *bufio.Reader
	used bool // for a request that was answered
}

func (c *clientConn) close() {
	if c != nil {
		_ = c.Close() // nothing is owed on it
	}
}

// errClosedIdle: the connection was kept open, and closed before a byte of an
// answer came.
var errClosedIdle = errors.New("the kept connection closed without an answer")

// ask sends one request, a POST if there is a body, and returns the connection
// if it can be used again.
func (l *load) ask(conn *clientConn, body []byte) (_ *clientConn, err error) {
	if conn == nil {
		c, err := net.DialTimeout("tcp", l.address, requestTimeout)
		if err != nil {
			return nil, err
		}
		conn = &clientConn{Conn: c, in: bufio.NewReader(c)}
	}
	keep := false
	defer func() {
		if !keep {
			conn.close()
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return nil, err
	}
	var request bytes.Buffer
	method := http.MethodGet
	if body == nil {
		fmt.Fprintf(&request, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", l.host)
	} else {
		method = http.MethodPost
		fmt.Fprintf(&request, "POST /echo HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", l.host, len(body), body)
	}
	closed := func(err error) error {
		var timeout net.Error
		if conn.used && !(errors.As(err, &timeout) && timeout.Timeout()) {
			return fmt.Errorf("%s: %w (%w)", method, errClosedIdle, err)
		}
		return fmt.Errorf("%s: no answer: %w", method, err)
	}
	pieces := [][]byte{request.Bytes()}
	if body != nil {
		half := request.Len() - len(body)/2
		pieces = [][]byte{request.Bytes()[:half], request.Bytes()[half:]}
	}
	for i, piece := range pieces {
		if i > 0 {
			<-time.After(underWay)
		}
		if _, err := conn.Write(piece); err != nil {
			return nil, closed(err)
		}
	}
	if _, err := conn.in.Peek(1); err != nil {
		return nil, closed(err)
	}
	response, err := http.ReadResponse(conn.in, &http.Request{Method: method})
	if err != nil {
		return nil, fmt.Errorf("%s: half an answer: %w", method, err)
	}
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: half an answer: %w", method, err)
	}
	switch {
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: status %s: %.200q", method, response.Status, answer)
	case body != nil && !bytes.Equal(answer, body):
		return nil, fmt.Errorf("POST: %d bytes were sent, and another %d came back", len(body), len(answer))
	case body == nil && !bytes.Contains(answer, []byte(" from ")):
		return nil, fmt.Errorf("GET: not the page: %.200q", answer)
	}
	if keep = !response.Close; !keep {
		return nil, nil
	}
	conn.used = true
	return conn, nil
}
