package vmc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/creack/pty"
)

// commandLines are those of all processes of this machine that have a word.
func commandLines(t *testing.T, word string) (found []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil && bytes.Contains(data, []byte(word)) {
			found = append(found, strings.ReplaceAll(string(data), "\x00", " "))
		}
	}
	return found
}

// begin runs vmc beside the test. stop ends it, as an interrupt does, and returns its
// status.
func (p *platform) begin(in io.Reader, out, errOut io.Writer, args ...string) (stop func() int) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	status := make(chan int, 1)
	go func() { status <- Run(ctx, "1.2.3", args, in, out, errOut) }()
	stop = sync.OnceValue(func() int { cancel(); return <-status })
	p.t.Cleanup(func() { stop() })
	return stop
}

// shared describes what is written, while it is read.
type shared struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// TestSessions: the owner of an app runs commands beside it, in its confinement and
// nowhere else; nobody else does; and nothing of them is left.
func TestSessions(t *testing.T) {
	p := newPlatform(t)
	p.ok("register", "me@example.com")
	folder := p.write(t.TempDir(), map[string]string{"server.js": serverJS, "note.txt": "of the app\n"})
	p.ok("push", "hello", "--path", folder, "--framework", "node", "--memory", "64M", "--env", "GREETING=Hi there")
	run := func(script string) (status int, out, errOut string) {
		t.Helper()
		return p.vmc("run", "hello", "--", "sh", "-c", script)
	}

	status, out, errOut := run(`cat note.txt; echo "$GREETING" >&2; read line; echo "$line"; exit 42`)
	if status != 42 || out != "of the app\na password\n" || errOut != "Hi there\n" {
		t.Errorf("run: status %d, %q, %q", status, out, errOut)
	}
	// What is piped through comes back byte for byte.
	every := make([]byte, 1<<20)
	for i := range every {
		every[i] = byte(i * 7)
	}
	var through, complaints bytes.Buffer
	if status := Run(t.Context(), "1", []string{"run", "hello", "--", "cat"}, bytes.NewReader(every), &through, &complaints); status != 0 || !bytes.Equal(through.Bytes(), every) {
		t.Errorf("of %d bytes %d came back, status %d\n%s", len(every), through.Len(), status, complaints.String())
	}
	// It has a locale, and places of its own to write to.
	if status, out, errOut := run(`echo "$LANG $USER"; echo x > "$TMPDIR/a" && echo y > /tmp/b && echo z > ~/c && cat "$TMPDIR/a" /tmp/b ~/c`); status != 0 || out != "C.UTF-8 vcap\nx\ny\nz\n" {
		t.Errorf("where an app writes: status %d, %q %s", status, out, errOut)
	}
	if status, _, errOut := run("kill -9 $$"); status != 128+9 {
		t.Errorf("a command that is killed: status %d %s", status, errOut)
	}
	if status, _, errOut := p.vmc("run", "hello", "--", "no-such-program"); status != 127 {
		t.Errorf("a command that is not there: status %d %s", status, errOut)
	}
	var doc struct {
		Status         int
		Stdout, Stderr string
	}
	status, out, _ = p.vmc("run", "hello", "--json", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
	if err := json.Unmarshal([]byte(out), &doc); err != nil || status != 3 || doc.Status != 3 || doc.Stdout != "out\n" || doc.Stderr != "err\n" {
		t.Errorf("as JSON: status %d, %s, %v", status, out, err)
	}
	// The runtime is at hand, and the app is reached in its own network.
	status, out, errOut = p.vmc("run", "hello", "--", "node", "-e",
		`require('http').get('http://127.0.0.1:' + process.env.PORT + '/', (r) => r.on('data', (d) => process.stdout.write(d)))`)
	if status != 0 || out != "Hi there from 0" {
		t.Errorf("the app is asked: status %d, %q %s", status, out, errOut)
	}

	// It sees what the app sees.
	_, port, _ := strings.Cut(p.target, ":")
	for script, denied := range map[string]bool{
		"test -e " + folder:                  true,
		"test -e /etc/shadow":                true,
		"ls /root":                           true,
		"touch /usr/bin/x":                   true,
		"mount -t proc proc /tmp":            true,
		"unshare -Ur true":                   true,
		"nsenter -t 1 -a true":               true,
		"kill -9 1":                          true,
		"cat /proc/1/environ | grep -q MBUS": true,
		"exec 3<>/dev/tcp/127.0.0.1/" + port + " && timeout 5 head -c 1 <&3 | grep -q .":             true,
		"test -w . && cd ~ && test -e logs":                                                          false,
		"test $(id -u) != 0 || test -n \"$(grep CapEff /proc/self/status | grep 0000000000000000)\"": false,
	} {
		if status, _, errOut := p.vmc("run", "hello", "--", "bash", "-c", script); (status != 0) != denied {
			t.Errorf("%s: status %d %s", script, status, errOut)
		}
	}
	// Itself, and its parent.
	if status, out, _ := run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"); status != 0 || strings.Contains(out, "server.js") || strings.Contains(out, "go test") {
		t.Errorf("it sees other processes: %s", out)
	}

	// A flood is taken as fast as it is read, and is all there.
	if status, out, _ := run("yes | head -c 20000000; exit 5"); status != 5 || len(out) != 20000000 {
		t.Errorf("a flood: status %d, %d bytes", status, len(out))
	}

	// What it leaves behind ends with it, and with who asked for it.
	mark := fmt.Sprintf("9%d", os.Getpid())
	if status, _, _ := run("setsid sh -c 'sleep 1" + mark + " & sleep 1" + mark + "' >/dev/null 2>&1 & sleep 0.2"); status != 0 {
		t.Errorf("a command that leaves something: status %d", status)
	}
	eventually(t, "nothing is left of it", func() bool { return len(commandLines(t, "1"+mark)) == 0 })
	said := &shared{}
	stop := p.begin(strings.NewReader(""), said, said, "run", "hello", "--", "sh", "-c", "trap '' INT TERM HUP; (setsid sleep 2"+mark+" &) ; echo begun; sleep 2"+mark+"; sleep 2"+mark)
	eventually(t, "it has begun", func() bool { return strings.Contains(said.String(), "begun") && len(commandLines(t, "2"+mark)) > 0 })
	if status := stop(); status == 0 {
		t.Errorf("interrupted: status %d, %s", status, said)
	}
	eventually(t, "nothing is left of what was interrupted", func() bool { return len(commandLines(t, "2"+mark)) == 0 })

	// A signal goes to the command first.
	said = &shared{}
	stop = p.begin(strings.NewReader(""), said, said, "run", "hello", "--", "sh", "-c", "trap 'echo interrupted; exit 9' INT; echo begun; while :; do sleep 0.1; done")
	eventually(t, "it has begun", func() bool { return strings.Contains(said.String(), "begun") })
	if status := stop(); status != 9 || !strings.Contains(said.String(), "interrupted") {
		t.Errorf("a command that takes the signal: status %d, %s", status, said)
	}

	// There are not too many at once.
	hold, release := io.Pipe()
	defer release.Close()
	for n := range 3 {
		said := &shared{}
		in := io.Reader(strings.NewReader(""))
		if n == 0 {
			in = hold
		}
		p.begin(in, said, said, "run", "hello", "--", "sh", "-c", "echo begun; sleep 3"+mark)
		eventually(t, "it has begun", func() bool { return strings.Contains(said.String(), "begun") })
	}
	if status, _, errOut := run("true"); status != 255 || !strings.Contains(errOut, "the instance has 3 sessions") {
		t.Errorf("one too many: status %d %s", status, errOut)
	}
	p.ok("restart", "hello")
	eventually(t, "sessions end with the instance", func() bool { return len(commandLines(t, "3"+mark)) == 0 })

	// A terminal, of the size that is said, with a shell.
	outside, inside, err := pty.Open()
	must(t, err)
	defer outside.Close()
	must(t, pty.Setsize(outside, &pty.Winsize{Rows: 33, Cols: 101}))
	shown := &shared{}
	go func() { _, _ = io.Copy(shown, outside) }() // ends with the terminal
	t.Setenv("TERM", "xterm-256color")
	status1 := make(chan int, 1)
	go func() { status1 <- Run(t.Context(), "1.2.3", []string{"ssh", "hello", "0"}, inside, inside, inside) }()
	type_ := func(text string) {
		t.Helper()
		_, err := io.WriteString(outside, text+"\r")
		must(t, err)
	}
	type_("echo size $(stty size) $TERM $((40+2))")
	eventually(t, "the shell answers", func() bool { return strings.Contains(shown.String(), "size 33 101 xterm-256color 42") })
	must(t, pty.Setsize(outside, &pty.Winsize{Rows: 22, Cols: 88}))
	type_("until stty size | grep \"^22\"; do sleep 0.1; done")
	eventually(t, "the window has its new size", func() bool { return strings.Contains(shown.String(), "22 88") })
	type_("sleep 1000\x03")
	type_("exit 7")
	if got := <-status1; got != 7 {
		t.Errorf("ssh: status %d\n%s", got, shown)
	}
	must(t, inside.Close())
	status, out, errOut = p.vmc("ssh", "hello", "1")
	if status != 255 || !strings.Contains(errOut, "Could not find instance: '1'") {
		t.Errorf("an instance that is not there: status %d %s%s", status, out, errOut)
	}

	// Nobody else's.
	p.ok("register", "other@example.com")
	p.ok("login", "other@example.com")
	if status, out, errOut := p.vmc("run", "hello", "--instance", "0", "--", "cat", "note.txt"); status != 255 || out != "" || !strings.Contains(errOut, "Application not found") {
		t.Errorf("another tenant: status %d %s%s", status, out, errOut)
	}
	p.ok("logout")
	if status, out, _ := p.vmc("run", "hello", "--instance", "0", "--", "cat", "note.txt"); status != 255 || out != "" {
		t.Errorf("nobody: status %d %s", status, out)
	}
	p.ok("login", "me@example.com")
	if out := p.ok("events", "hello"); !strings.Contains(out, "session in instance 0 begun") {
		t.Errorf("events: %s", out)
	}
	// A password is changed because somebody else knows it: what they have open ends.
	said = &shared{}
	stop = p.begin(hold, said, said, "run", "hello", "--", "sh", "-c", "echo begun; sleep 4"+mark)
	eventually(t, "it has begun", func() bool { return strings.Contains(said.String(), "begun") })
	p.ok("passwd")
	eventually(t, "the session ends with the password", func() bool {
		return len(commandLines(t, "4"+mark)) == 0 && strings.Contains(said.String(), "the login has ended")
	})
	if status := stop(); status != 255 {
		t.Errorf("a session whose login has ended: status %d, %s", status, said)
	}
	p.ok("stop", "hello")
	if status, _, errOut := run("true"); status != 255 || !strings.Contains(errOut, "no instance of hello runs") {
		t.Errorf("a stopped app: status %d %s", status, errOut)
	}
}
