package proc

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// start starts a shell with a child that waits until the test ends.
func start(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "exec 3<&0; (read x <&3) & echo $!; read x")
	cmd.Env = env
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestProcesses(t *testing.T) {
	cmd := start(t, "MARK=this one", "OTHER=")
	pid := cmd.Process.Pid
	born, err := StartOf(pid)
	if err != nil || !Runs(pid, born) || Runs(pid, born+1) {
		t.Errorf("started at %d, %v; runs: %v, and at another time: %v", born, err, Runs(pid, born), Runs(pid, born+1))
	}
	for variable, want := range map[string]bool{"MARK=this one": true, "MARK=this": false, "OTHER=": true, "": false} {
		if got := HasVariable(pid, variable); got != want {
			t.Errorf("has %q: %v", variable, got)
		}
	}
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := all[os.Getpid()]; ok || all[pid].PPID != os.Getpid() {
		t.Errorf("this process is listed: %v; its child has the parent %d", ok, all[pid].PPID)
	}
	if found := Descendants(all.Children(), os.Getpid()); !slices.Contains(found, pid) || len(Descendants(all.Children(), pid)) == 0 {
		t.Errorf("descendants %v, of %d: %v", found, pid, Descendants(all.Children(), pid))
	}
	// Dead and not reaped yet is dead.
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for Runs(pid, born) {
	}
	if _, err := Stat(pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dead process: %v", err)
	}
	if again, err := StartOf(pid); err != nil || again != born {
		t.Errorf("a dead process was started at %d, %v, not at %d", again, err, born)
	}
	if _, err := Stat(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no process: %v", err)
	}
}

func TestBootID(t *testing.T) {
	one, err := BootID()
	again, _ := BootID()
	if err != nil || len(one) != 36 || strings.ContainsAny(one, "\n ") || one != again {
		t.Errorf("%q, %q, %v", one, again, err)
	}
}

func TestHolder(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	all, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	port := func(a net.Addr) string { _, port, _ := net.SplitHostPort(a.String()); return port }
	for _, tc := range []struct {
		network, address string
		held             bool
	}{
		{"tcp", tcp.Addr().String(), true},
		{"tcp", "0.0.0.0:" + port(tcp.Addr()), true},
		{"tcp", ":" + port(tcp.Addr()), true},
		{"tcp", "127.0.0.4:" + port(tcp.Addr()), false},
		{"tcp", "127.0.0.4:" + port(all.Addr()), true},
		{"tcp", "[::1]:" + port(all.Addr()), true},
		{"udp", udp.LocalAddr().String(), true},
		{"udp", "127.0.0.4:" + port(udp.LocalAddr()), false},
		{"unix", tcp.Addr().String(), false},
		{"tcp", "nonsense", false},
		{"tcp", "127.0.0.3:x", false},
	} {
		p, held := Holder(tc.network, tc.address)
		if held != tc.held || held && p.PID != os.Getpid() {
			t.Errorf("%s %s: %v by process %d, want %v", tc.network, tc.address, held, p.PID, tc.held)
		}
	}

	for n := range 3 {
		if got, err := Connections(); err != nil || got[tcp.Addr().(*net.TCPAddr).Port] != n {
			t.Errorf("connections by port %v, %v; want %d", got, err, n)
		}
		conn, err := net.Dial("tcp", tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		other, err := tcp.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
	}
}
