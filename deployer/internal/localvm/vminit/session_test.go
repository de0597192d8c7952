package vminit

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// FuzzSessionRequests: whatever a client asks of a session but a command of its own
// choice, in any order, the session answers, begins one thing at most, and takes no
// environment after that.
func FuzzSessionRequests(f *testing.F) {
	kinds := []string{"env", "pty-req", "window-change", "signal", "subsystem", "x11-req", ""}
	env := ssh.Marshal(struct{ Name, Value string }{"A", "b"})
	size := ssh.Marshal(struct {
		Term                  string
		Columns, Rows, PX, PY uint32
		Modes                 string
	}{"xterm", 80, 24, 0, 0, ""})
	for kind, payload := range map[byte][]byte{
		0: env, 1: size, 2: ssh.Marshal(struct{ Columns, Rows, PX, PY uint32 }{1, 2, 3, 4}),
		3: ssh.Marshal(struct{ Name string }{"TERM"}), 4: ssh.Marshal(struct{ Name string }{"sftp"}), 5: nil,
	} {
		f.Add([]byte{kind, 0, 4}, payload, env)
		f.Add([]byte{4, kind, kind}, ssh.Marshal(struct{ Name string }{"sftp"}), payload)
	}
	f.Add([]byte{0, 1}, []byte{0xff, 0xff, 0xff, 0xff, 'x'}, []byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, order, one, other []byte) {
		s := newSession(&vmInit{}, nil)
		for n, which := range order {
			kind, payload := kinds[int(which)%len(kinds)], one
			if n%2 == 1 {
				payload = other
			}
			begun, before := s.begun, len(s.env)
			ok := s.answer(&ssh.Request{Type: kind, Payload: payload})
			switch {
			case begun && len(s.env) != before:
				t.Fatalf("%s is taken although the session has begun: %q", kind, s.env)
			case begun && ok, ok && (kind == "signal" || kind == "window-change"):
				t.Fatalf("%s is answered with yes, and there is no process", kind)
			case s.begun && !begun && kind != "subsystem":
				t.Fatalf("%s begins something", kind)
			case ok && kind == "env" && !strings.Contains(s.env[len(s.env)-1], "="):
				t.Fatalf("environment %q", s.env)
			}
		}
	})
}

// FuzzTargets: whatever a client writes into a request for a channel, it leads to one
// host and port, or to one socket.
func FuzzTargets(f *testing.F) {
	f.Add(ssh.Marshal(struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}{"127.0.0.1", 80, "", 0}))
	f.Add(ssh.Marshal(struct {
		Path      string
		Reserved  string
		Reserved2 uint32
	}{"agent/run/agent.sock", "", 0}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, extra []byte) {
		if target, err := tcpTarget(extra); err == nil {
			host, port, err := net.SplitHostPort(target)
			n, err2 := strconv.ParseUint(port, 10, 16)
			// A host with brackets or a zone is refused by the dialler.
			if err == nil && (host == "" || err2 != nil || n == 0) {
				t.Errorf("%q leads to %q", extra, target)
			}
		}
		if path, err := socketTarget("/vm", extra); err == nil && !filepath.IsAbs(path) {
			t.Errorf("%q leads to %q", extra, path)
		}
	})
}
