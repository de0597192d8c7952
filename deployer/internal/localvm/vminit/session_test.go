package vminit

import (
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
