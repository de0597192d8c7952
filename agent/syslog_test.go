package agent_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// receiver is a syslog server that keeps what it gets.
type receiver struct {
	mu       sync.Mutex
	messages []string
	conns    []net.Conn
	work     sync.WaitGroup
}

func (r *receiver) take(message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, message)
}

// has tells whether a message with this end has come.
func (r *receiver) has(end string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.messages, func(m string) bool { return strings.HasSuffix(m, end) })
}

// serveTCP reads messages framed by octet counting (RFC 6587) until stop.
func (r *receiver) serveTCP(t *testing.T, address string) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	r.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.conns = append(r.conns, conn)
			r.mu.Unlock()
			r.work.Go(func() {
				defer conn.Close()
				for in := bufio.NewReader(conn); ; {
					length, err := in.ReadString(' ')
					if err != nil {
						return
					}
					n, err := strconv.Atoi(strings.TrimSpace(length))
					if err != nil {
						t.Errorf("not a length: %q", length)
						return
					}
					message := make([]byte, n)
					if _, err := io.ReadFull(in, message); err != nil {
						return
					}
					r.take(string(message))
				}
			})
		}
	})
	return l.Addr().String(), sync.OnceFunc(func() {
		l.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			c.Close()
		}
		r.conns = nil
		r.mu.Unlock()
		r.work.Wait()
	})
}

// counter writes "line 0", "line 1", ... for as long as it runs.
func counter(name string) api.Process {
	return shell(name, "i=0; while :; do echo line $i end; i=$((i+1)); sleep 0.05; done", "d1")
}

// No line is lost when the receiver is away, nor when the agent is.
func TestSyslogOverTCP(t *testing.T) {
	t.Parallel()
	f := startOnBus(t)
	r := &receiver{}
	address, stop := r.serveTCP(t, "127.0.0.1:0")
	t.Cleanup(func() { stop() })
	settings := api.Configure{Deployment: "cf", VMID: "vm-1", Address: "127.0.0.1", Bus: f.busSettings(), Syslog: "tcp://" + address}
	bad := settings
	bad.Syslog = "smtp://" + address
	f.refused(f.do(bad), api.CodeBadRequest, "smtp://"+address, "tcp://host:port")
	f.must(f.do(settings))
	if got := f.inventory().Syslog; got != settings.Syslog {
		t.Errorf("the inventory tells %q", got)
	}
	f.apply(specOf("g1", jobOf("app", counter("main"))))
	line := func(n int) string { return fmt.Sprintf(" line %d end", n) }
	last := func() int { // the highest that has come
		r.mu.Lock()
		defer r.mu.Unlock()
		for n := len(r.messages); ; n++ {
			if !slices.ContainsFunc(r.messages, func(m string) bool { return strings.HasSuffix(m, line(n)) }) {
				return n
			}
		}
	}
	f.until("lines come", func() bool { return r.has(line(3)) })

	stop()
	away := last()
	written := func(n int) func() bool { // the process goes on meanwhile
		return func() bool {
			chunk, err := f.agent.Log(f.context(), api.LogRequest{Job: "app", Process: "main", Offset: -1, Lines: 500})
			return err == nil && strings.Contains(string(chunk.Data), strings.TrimSpace(line(n)))
		}
	}
	f.until("more is written", written(away+10))
	_, stop = r.serveTCP(t, address)
	f.until("it comes when the receiver is back", func() bool { return r.has(line(away + 10)) })

	f.agent.Kill()
	before := last()
	f.agent.Run()
	f.until("the next agent goes on", func() bool { return r.has(line(before + 20)) })
	for n := range before + 20 {
		if !r.has(line(n)) {
			t.Errorf("line %d is lost", n)
		}
	}
	r.mu.Lock()
	first := r.messages[0]
	r.mu.Unlock()
	if !strings.HasPrefix(first, "<30>1 2") || !strings.Contains(first, "Z web-0.cf app/main ") {
		t.Errorf("the first message is %q", first)
	}

	settings.Syslog = ""
	f.must(f.do(settings))
	r.mu.Lock()
	r.messages = nil
	r.mu.Unlock()
	f.until("more is written", written(before+60))
	if r.has(" end") {
		t.Error("lines come although nobody wants them")
	}
}

func TestSyslogOverUDP(t *testing.T) {
	t.Parallel()
	f := startOnBus(t)
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	f.must(err)
	defer l.Close()
	f.must(f.do(api.Configure{Deployment: "cf", VMID: "vm-1", Address: "127.0.0.1", Bus: f.busSettings(), Syslog: "udp://" + l.LocalAddr().String()}))
	long := strings.Repeat("x", 5000)
	f.apply(specOf("g1", jobOf("app", shell("main", "echo "+long+"; echo; echo short; exec sleep 1000", "d1"))))
	var got []string
	packet := make([]byte, 64<<10)
	for len(got) < 2 {
		f.must(l.SetReadDeadline(time.Now().Add(patience)))
		n, _, err := l.ReadFrom(packet)
		f.must(err)
		got = append(got, string(packet[:n]))
	}
	if len(got[0]) != 1180 || !strings.HasSuffix(got[0], "xxx") || !strings.HasSuffix(got[1], " - - short") {
		t.Errorf("got %q", got)
	}
}
