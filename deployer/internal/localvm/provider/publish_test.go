package provider

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// greeter answers each connection's lines with a name, and returns its address.
func greeter(t *testing.T, name string) string {
	t.Helper()
	listener := mustListen(t, "tcp", "127.0.0.1:0")
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				for lines := bufio.NewReader(conn); ; {
					if _, err := lines.ReadString('\n'); err != nil {
						return
					}
					_, _ = fmt.Fprintln(conn, name)
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// ask sends a line and returns the answer.
func ask(t *testing.T, conn net.Conn) string {
	t.Helper()
	if _, err := io.WriteString(conn, "who\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(answer)
}

func dialTCPTest(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestPublish(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	taken := mustListen(t, "tcp", "127.0.0.1:0")
	listen := taken.Addr().String()
	if _, err := h.createPublication(t.Context(), listen, nil); !errors.Is(err, localvm.ErrAddressInUse) || !strings.Contains(err.Error(), listen) {
		t.Errorf("publishing a taken address: %v", err)
	}
	if _, err := os.Stat(h.publicationDir(listen)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder is left: %v", err)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}

	a, b := greeter(t, "a"), greeter(t, "b")
	closed := mustListen(t, "tcp", "127.0.0.1:0")
	nobody := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := h.createPublication(t.Context(), listen, []string{a, nobody, b})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 6 {
		seen[ask(t, dialTCPTest(t, listen))] = true
	}
	if !seen["a"] || !seen["b"] {
		t.Errorf("only %v answered", seen)
	}

	// Other targets, the same process, and an open connection goes on.
	_, before, _ := localvm.Find(h.publicationDir(listen))
	open := dialTCPTest(t, listen)
	ask(t, open)
	p.Targets = []string{b}
	if _, err := h.updatePublication(t.Context(), p.Publication); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if who := ask(t, dialTCPTest(t, listen)); who != "b" {
			t.Errorf("%s answered", who)
		}
	}
	ask(t, open)
	if _, now, alive := localvm.Find(h.publicationDir(listen)); !alive || now != before {
		t.Error("another process")
	}

	// Killed, it is seen and started again.
	h.kill(before)
	if now, err := h.readPublication(listen); err != nil || now.Running {
		t.Errorf("killed: %+v, %v", now, err)
	}
	if _, err := h.updatePublication(t.Context(), p.Publication); err != nil {
		t.Fatal(err)
	}
	if who := ask(t, dialTCPTest(t, listen)); who != "b" {
		t.Errorf("%s answered", who)
	}
	if err := h.deletePublication(t.Context(), listen); err != nil {
		t.Fatal(err)
	}
	if left := carrying(t, p.ID); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if err := canListen(listen); err != nil {
		t.Error(err)
	}
}
