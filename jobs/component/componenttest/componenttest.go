// Package componenttest has what the tests of all components need: a message bus,
// a free port, and a wait that ends.
package componenttest

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// deadline is far above what a busy machine needs for anything that is awaited.
const deadline = 60 * time.Second

// Eventually polls until the condition holds, and fails the test with what was
// awaited if it never does.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(deadline); !condition(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// Bus starts a message bus on a port of 127.0.0.1, with its options changed first.
// It ends with the test.
func Bus(t testing.TB, changes ...func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true}
	for _, change := range changes {
		if change != nil {
			change(o)
		}
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.SetLoggerV2(violations{t}, false, false, false)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(deadline) {
		t.Fatal("the bus does not start")
	}
	return s
}

// violations is a server's log that fails the test when somebody says or hears what
// their user may not.
type violations struct{ t testing.TB }

func (v violations) Errorf(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); strings.Contains(text, "Violation") {
		v.t.Error("the bus: " + text)
	}
}
func (violations) Noticef(string, ...any) {}
func (violations) Warnf(string, ...any)   {}
func (violations) Fatalf(string, ...any)  {}
func (violations) Debugf(string, ...any)  {}
func (violations) Tracef(string, ...any)  {}

// On has a bus listen on this port, as after the end of another.
func On(port int) func(*server.Options) {
	return func(o *server.Options) { o.Port = port }
}

// FreePort returns a port of 127.0.0.1 on which nobody listens.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
