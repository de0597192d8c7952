package publish

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// publishTestLimit bounds what these tests wait for.
const publishTestLimit = 60 * time.Second

// server answers a line with its own name and that line, until the client's end.
func server(t *testing.T, name string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all localvm.Connections
	all.Serve(listener, slog.New(slog.DiscardHandler), func(conn net.Conn) {
		in := bufio.NewScanner(conn)
		for in.Scan() {
			_, _ = io.WriteString(conn, name+" "+in.Text()+"\n")
		}
		if err := in.Err(); err != nil && !errors.Is(err, net.ErrClosed) { // the test's end
			t.Error(err)
		}
		_, _ = io.WriteString(conn, name+" saw the end\n")
	})
	t.Cleanup(func() { all.Close(listener) })
	return listener.Addr().String()
}

// refused is an address at which nobody listens.
func refused(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// serving returns the publisher of a folder and where it listens.
func serving(t *testing.T, targets ...string) (*publisher, string) {
	t.Helper()
	p := &publisher{Daemon: &localvm.Daemon{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}}
	configure(t, p, targets...)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.connections.Serve(listener, p.Log, p.forward)
	t.Cleanup(func() { p.connections.Close(listener) })
	return p, listener.Addr().String()
}

func configure(t *testing.T, p *publisher, targets ...string) {
	t.Helper()
	if _, err := localvm.WriteConfig(p.Dir, localvm.Publication{ID: "lb", Targets: targets}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.load(); err != nil {
		t.Fatal(err)
	}
}

// say sends a line, ends its side, and returns all that comes back.
func say(t *testing.T, address, line string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, publishTestLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(publishTestLimit)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, line); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// TestConnectionsGoToTargetsInTurn: each has its share, and a target that does not
// accept costs no connection.
func TestConnectionsGoToTargetsInTurn(t *testing.T) {
	_, address := serving(t, server(t, "a"), refused(t), server(t, "b"))
	count := map[string]int{}
	for range 30 {
		count[say(t, address, "hello\n")]++
	}
	a, b := count["a hello\na saw the end\n"], count["b hello\nb saw the end\n"]
	if a+b != 30 || a < 10 || b < 10 {
		t.Errorf("the answers were %v", count)
	}
}

// TestWithoutTargetsAConnectionEnds: a client is not left waiting.
func TestWithoutTargetsAConnectionEnds(t *testing.T) {
	for name, targets := range map[string][]string{"none": nil, "none that accepts": {refused(t)}} {
		_, address := serving(t, targets...)
		conn, err := net.DialTimeout("tcp", address, publishTestLimit)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(publishTestLimit)); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(conn); err != nil || len(answer) != 0 {
			t.Errorf("%s: %q, %v", name, answer, err)
		}
		_ = conn.Close()
	}
}

// TestOtherTargetsKeepConnections: after its targets changed, new connections go to
// the new ones, and one that is open stays where it is.
func TestOtherTargetsKeepConnections(t *testing.T) {
	p, address := serving(t, server(t, "a"))
	conn, err := net.DialTimeout("tcp", address, publishTestLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(publishTestLimit)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	ask := func(line string) string {
		t.Helper()
		if _, err := io.WriteString(conn, line+"\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	if got := ask("before"); got != "a before\n" {
		t.Errorf("before the change: %q", got)
	}
	configure(t, p, server(t, "b"))
	if got := say(t, address, "new\n"); got != "b new\nb saw the end\n" {
		t.Errorf("a new connection: %q", got)
	}
	if got := ask("after"); got != "a after\n" {
		t.Errorf("the open connection: %q", got)
	}
}
