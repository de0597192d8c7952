package ssh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/ssh/sshtest"
)

// context60 bounds a whole test; nothing that works comes near it.
func context60(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func target(h *sshtest.Host) Target {
	return Target{Host: h.Address.IP.String(), Port: h.Address.Port, User: sshtest.User, HostKey: h.HostKey, PrivateKey: h.PrivateKey}
}

func dial(t *testing.T, h *sshtest.Host, o Options) *Client {
	t.Helper()
	c, err := Dial(context60(t), target(h), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRun(t *testing.T) {
	c := dial(t, sshtest.Start(t), Options{})
	tests := []struct {
		command, stdin, stdout string
		status                 int
		signal, stderr         string
	}{
		{command: "echo hello", stdout: "hello\n"},
		{command: "wc -c", stdin: strings.Repeat("x", 1_000_000), stdout: "1000000\n"},
		{command: "echo before; echo why >&2; exit 7", stdout: "before\n", status: 7, stderr: "why"},
		{command: "kill -KILL $$", status: -1, signal: "KILL"},
		{command: "true", stdin: "that nobody reads"},
		{command: "printf %s " + Quote(`it's a $HOME "test"`), stdout: `it's a $HOME "test"`},
		{command: "yes | head -c 100000 >&2; echo end >&2; false", status: 1, stderr: strings.Repeat("y\n", 2046) + "end"},
	}
	for _, test := range tests {
		t.Run(test.command, func(t *testing.T) {
			stdout, err := c.Run(context60(t), test.command, strings.NewReader(test.stdin))
			if stdout != test.stdout {
				t.Errorf("stdout = %q, want %q", stdout, test.stdout)
			}
			if test.status == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var exit *ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("error = %v, want an ExitError", err)
			}
			want := ExitError{Target: c.String(), Command: test.command, Status: test.status, Signal: test.signal, Stderr: test.stderr}
			if *exit != want {
				t.Errorf("error = %+v, want %+v", *exit, want)
			}
			for _, part := range []string{c.String(), test.command[:5], test.stderr} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not mention %q", err, part)
				}
			}
		})
	}
}

func TestCancelledCommandEnds(t *testing.T) {
	c := dial(t, sshtest.Start(t), Options{})
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context60(t))
	why := errors.New("the user left")
	ended := make(chan error, 1)
	go func() {
		_, err := c.Run(ctx, "exec 3>"+fifo+"; echo started >&3; sleep 300", nil)
		ended <- err
	}()
	// The fifo is open for writing as long as the shell or its sleep lives.
	f, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	started := make([]byte, len("started\n"))
	if _, err := io.ReadFull(f, started); err != nil {
		t.Fatal(err)
	}
	cancel(why)
	if err := <-ended; !errors.Is(err, why) || !strings.Contains(err.Error(), c.String()) {
		t.Errorf("error = %v", err)
	}
	if rest, err := io.ReadAll(f); err != nil || len(rest) > 0 {
		t.Errorf("the command wrote %q, error %v", rest, err)
	}
	// The connection is as good as before.
	if out, err := c.Run(context60(t), "echo still", nil); out != "still\n" || err != nil {
		t.Errorf("the next command: %q, %v", out, err)
	}
}

func TestUpload(t *testing.T) {
	c := dial(t, sshtest.Start(t), Options{})
	big := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{}).Read(big)
	for _, test := range []struct {
		name    string
		content []byte
		mode    fs.FileMode
	}{
		{"empty", nil, 0o600},
		{"small program", []byte("#!/bin/sh\n"), 0o755},
		{"big", big, 0o640},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "file")
			if _, err := c.Stat(context60(t), file); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("before: error %v", err)
			}
			if err := os.WriteFile(file, []byte("what was there before"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := c.Upload(context60(t), file, bytes.NewReader(test.content), int64(len(test.content)), test.mode); err != nil {
				t.Fatal(err)
			}
			info, err := c.Stat(context60(t), file)
			if err != nil || info.Size() != int64(len(test.content)) || info.Mode() != test.mode {
				t.Errorf("stat = %v, error %v", info, err)
			}
			got, err := os.ReadFile(file)
			if err != nil || sha256.Sum256(got) != sha256.Sum256(test.content) {
				t.Errorf("read %d bytes that differ from the %d written, error %v", len(got), len(test.content), err)
			}
			onlyFile(t, dir, "file")
		})
	}
}

// onlyFile checks that a folder holds one file and no remains.
func onlyFile(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, e := range entries {
		have = append(have, e.Name())
	}
	if strings.Join(have, " ") != strings.Join(names, " ") {
		t.Errorf("the folder holds %q, want %q", have, names)
	}
}

func TestUploadRemovesWhatOldOnesLeft(t *testing.T) {
	c := dial(t, sshtest.Start(t), Options{})
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{".file.upload-OLD": 2 * time.Hour, ".file.upload-NEW": time.Minute, ".other.upload-OLD": 2 * time.Hour} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Upload(context60(t), filepath.Join(dir, "file"), strings.NewReader("x"), 1, 0o600); err != nil {
		t.Fatal(err)
	}
	onlyFile(t, dir, ".file.upload-NEW", ".other.upload-OLD", "file")
}

func TestUploadErrorsLeaveNothing(t *testing.T) {
	c := dial(t, sshtest.Start(t), Options{})
	broken := errors.New("the disk is broken")
	cancelled, cancel := context.WithCancel(context60(t))
	tests := []struct {
		name   string
		ctx    context.Context
		source io.Reader
		want   string
		is     error
	}{
		{"source too short", context60(t), strings.NewReader("abc"), "expected 4 bytes", nil},
		{"source too long", context60(t), strings.NewReader("abcde"), "expected 4 bytes", nil},
		{"source fails", context60(t), io.MultiReader(strings.NewReader("ab"), failing{broken}), "", broken},
		{"cancelled midway", cancelled, io.MultiReader(strings.NewReader("ab"), calling{cancel}, strings.NewReader("cd")), "", context.Canceled},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "file")
			if err := os.WriteFile(file, []byte("before"), 0o600); err != nil {
				t.Fatal(err)
			}
			err := c.Upload(test.ctx, file, test.source, 4, 0o600)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), file) || (test.is != nil && !errors.Is(err, test.is)) {
				t.Errorf("error = %v", err)
			}
			onlyFile(t, dir, "file")
			if got, err := os.ReadFile(file); err != nil || string(got) != "before" {
				t.Errorf("the file is now %q, error %v", got, err)
			}
		})
	}
	missing := filepath.Join(t.TempDir(), "no", "folder")
	if err := c.Upload(context60(t), missing, strings.NewReader("x"), 1, 0o600); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("missing folder: %v", err)
	}
	if _, err := c.Stat(context60(t), missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// calling calls a function when it is read, and has nothing.
type calling struct{ call func() }

func (c calling) Read([]byte) (int, error) { c.call(); return 0, io.EOF }

func TestConnectionLostMidUpload(t *testing.T) {
	for _, test := range []struct {
		name string
		lose func(*sshtest.Host)
		want string
	}{
		{"reset", func(h *sshtest.Host) { h.Cut() }, "the connection was lost"},
		{"silence", func(h *sshtest.Host) { h.Hush() }, "the connection was lost: the host has not answered for 150ms"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := sshtest.Start(t)
			c := dial(t, h, Options{KeepAlive: 50 * time.Millisecond})
			dir := t.TempDir()
			file := filepath.Join(dir, "file")
			lose := sync.OnceFunc(func() { test.lose(h) })
			source := io.MultiReader(io.LimitReader(zeros{}, 8<<20), calling{lose}, io.LimitReader(zeros{}, 8<<20))
			err := c.Upload(context60(t), file, source, 16<<20, 0o600)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), c.String()) {
				t.Errorf("error = %v", err)
			}
			if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a half file is there: %v", err)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestSilentHostHoldsNobody(t *testing.T) {
	unix := filepath.Join(t.TempDir(), "s")
	tests := []struct {
		name string
		call func(context.Context, *Client) error
	}{
		{"run", func(ctx context.Context, c *Client) error { _, err := c.Run(ctx, "true", nil); return err }},
		{"upload", func(ctx context.Context, c *Client) error {
			return c.Upload(ctx, unix, strings.NewReader("x"), 1, 0o600)
		}},
		{"stat", func(ctx context.Context, c *Client) error { _, err := c.Stat(ctx, unix); return err }},
		{"unix", func(ctx context.Context, c *Client) error { _, err := c.DialUnix(ctx, unix); return err }},
		{"tcp", func(ctx context.Context, c *Client) error { _, err := c.DialTCP(ctx, "127.0.0.1:1"); return err }},
		{"shell", func(ctx context.Context, c *Client) error {
			return c.Interactive(ctx, "", Streams{strings.NewReader(""), io.Discard, io.Discard}, nil)
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			t.Run("context", func(t *testing.T) {
				h := sshtest.Start(t)
				c := dial(t, h, Options{KeepAlive: time.Hour})
				h.Hush()
				ctx, cancel := context.WithTimeout(context60(t), 50*time.Millisecond)
				defer cancel()
				if err := test.call(ctx, c); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), c.String()) {
					t.Errorf("error = %v", err)
				}
			})
			t.Run("keepalive", func(t *testing.T) {
				h := sshtest.Start(t)
				c := dial(t, h, Options{KeepAlive: 20 * time.Millisecond})
				h.Hush()
				if err := test.call(context60(t), c); err == nil || !strings.Contains(err.Error(), "has not answered for 60ms") {
					t.Errorf("error = %v", err)
				}
			})
		})
	}
}

func TestKeepAliveLeavesGoodConnectionsAlone(t *testing.T) {
	c := dial(t, sshtest.Start(t), Options{KeepAlive: 500 * time.Millisecond})
	// Longer than the patience with a host that does not answer.
	if out, err := c.Run(context60(t), "sleep 1.8; echo done", nil); err != nil || out != "done\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestTunnels(t *testing.T) {
	c := dial(t, sshtest.Start(t), Options{})
	path := filepath.Join(t.TempDir(), "s")
	tests := []struct {
		network, address string
		dial             func(context.Context, string) (net.Conn, error)
	}{
		{"unix", path, c.DialUnix},
		{"tcp", "127.0.0.1:0", c.DialTCP},
	}
	for _, test := range tests {
		t.Run(test.network, func(t *testing.T) {
			listener, err := net.Listen(test.network, test.address)
			if err != nil {
				t.Fatal(err)
			}
			var echo sync.WaitGroup
			echo.Go(func() {
				conn, err := listener.Accept()
				if err == nil {
					io.Copy(conn, conn)
					conn.Close()
				}
			})
			defer echo.Wait()
			conn, err := test.dial(context60(t), listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Fprint(conn, "hello"); err != nil {
				t.Error(err)
			}
			got := make([]byte, 5)
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
				t.Errorf("%q, %v", got, err)
			}
			conn.Close()
			listener.Close()
			if _, err := test.dial(context60(t), listener.Addr().String()); err == nil || !strings.Contains(err.Error(), listener.Addr().String()) || !strings.Contains(err.Error(), c.String()) {
				t.Errorf("nobody listens: %v", err)
			}
		})
	}
}

func TestInteractive(t *testing.T) {
	c := dial(t, sshtest.Start(t), Options{})

	t.Run("without a terminal", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		err := c.Interactive(context60(t), "cat; echo problem >&2; exit 3", Streams{strings.NewReader("typed"), &stdout, &stderr}, nil)
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Status != 3 || stdout.String() != "typed" || stderr.String() != "problem\n" {
			t.Errorf("stdout %q, stderr %q, error %v", &stdout, &stderr, err)
		}
	})

	t.Run("shell with a terminal that is resized", func(t *testing.T) {
		// The user's end of stdin stays open: the shell's end must suffice.
		typed, user := io.Pipe()
		defer user.Close()
		screen, stdout := io.Pipe()
		resize := make(chan Size)
		ended := make(chan error, 1)
		go func() {
			err := c.Interactive(context60(t), "", Streams{typed, stdout, io.Discard}, &Terminal{Type: "xterm", Size: Size{Width: 81, Height: 25}, Resize: resize})
			stdout.Close()
			ended <- err
		}()
		var seen strings.Builder
		expect := func(want string) {
			t.Helper()
			buffer := make([]byte, 1024)
			for !strings.Contains(seen.String(), want) {
				n, err := screen.Read(buffer)
				seen.Write(buffer[:n])
				if err != nil {
					t.Fatalf("the screen shows %q, then %v; want %q", &seen, err, want)
				}
			}
		}
		fmt.Fprintln(user, "stty size")
		expect("25 81")
		resize <- Size{Width: 100, Height: 40}
		fmt.Fprintln(user, "while [ \"$(stty size)\" != '40 100' ]; do :; done; echo resi''zed")
		expect("resized")
		fmt.Fprintln(user, "exit 5")
		io.Copy(io.Discard, screen)
		var exit *ExitError
		if err := <-ended; !errors.As(err, &exit) || exit.Status != 5 {
			t.Errorf("error = %v", err)
		}
	})
}

func TestDialWaitsForTheHostToBoot(t *testing.T) {
	// The port is known before the host is there.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	// First it drops connections without a word, then it refuses them, then it
	// is up.
	dropped := make(chan struct{})
	go func() {
		defer close(dropped)
		conn, err := listener.Accept()
		if err == nil {
			conn.Close()
		}
		listener.Close()
	}()
	var dials, retries atomic.Int32
	known := sshtest.NewKeys(t)
	to := target(&sshtest.Host{Keys: known, Address: listener.Addr().(*net.TCPAddr)})
	up := sync.OnceFunc(func() {
		<-dropped
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		sshtest.StartOn(t, listener, known)
	})
	c, err := Dial(context60(t), to, Options{
		OnDial: func() { dials.Add(1) },
		OnRetry: func(err error) {
			if retries.Add(1) >= 3 {
				up()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.HostKey() != known.HostKey || dials.Load() != retries.Load()+1 || retries.Load() < 3 {
		t.Errorf("host key %s, %d dials, %d retries", c.HostKey(), dials.Load(), retries.Load())
	}
}

func TestDialErrors(t *testing.T) {
	_, other := sshtest.NewKey(t)
	otherPEM, _ := sshtest.NewKey(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, in the kernel, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	at := func(l net.Listener) func(*Target) {
		return func(t *Target) { t.Port = l.Addr().(*net.TCPAddr).Port }
	}
	h := sshtest.Start(t)
	tests := []struct {
		name   string
		change func(*Target)
		want   []string
		as     any
	}{
		{"wrong host key", func(t *Target) { t.HostKey = authorizedKey(other.PublicKey()) },
			[]string{"SHA256:", "another machine"}, new(*HostKeyError)},
		{"wrong key", func(t *Target) { t.PrivateKey = otherPEM }, []string{"SHA256:", "authorized keys"}, new(*AuthError)},
		{"wrong user", func(t *Target) { t.User = "other" }, []string{"other@", "check the user"}, new(*AuthError)},
		{"unusable private key", func(t *Target) { t.PrivateKey = []byte("x") }, []string{"private key"}, nil},
		{"unusable host key", func(t *Target) { t.HostKey = "x" }, []string{`"x"`, "authorized_keys"}, nil},
		{"refused", at(nobody), []string{"within 2s", "connection refused", "check that the VM runs"}, nil},
		{"silent", at(silent), []string{"within 2s", "timeout", "check that the VM runs"}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			to := target(h)
			test.change(&to)
			dials := 0
			o := Options{OnDial: func() { dials++ }}
			if test.as == nil {
				o.Patience, o.Attempt = 2*time.Second, 500*time.Millisecond
			}
			c, err := Dial(context60(t), to, o)
			if err == nil {
				c.Close()
				t.Fatal("no error")
			}
			for _, want := range append(test.want, to.String()) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not mention %q", err, want)
				}
			}
			if test.as != nil && dials != 1 { // time does not heal it
				t.Errorf("%d dials, want 1", dials)
			}
			if test.as != nil && !errors.As(err, test.as) {
				t.Errorf("error %T, want %T", err, test.as)
			}
		})
	}

	t.Run("both host keys are named", func(t *testing.T) {
		to := target(h)
		to.HostKey = authorizedKey(other.PublicKey())
		_, err := Dial(context60(t), to, Options{})
		var wrong *HostKeyError
		if !errors.As(err, &wrong) || wrong.ShownKey != h.HostKey || wrong.PinnedKey != to.HostKey ||
			!strings.Contains(err.Error(), wrong.Shown) || !strings.Contains(err.Error(), wrong.Pinned) {
			t.Errorf("error = %v", err)
		}
	})

	t.Run("cancelled", func(t *testing.T) {
		for name, l := range map[string]net.Listener{"refused": nobody, "silent": silent} {
			to := target(h)
			at(l)(&to)
			ctx, cancel := context.WithTimeout(context60(t), 2*time.Second)
			_, err := Dial(ctx, to, Options{})
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), to.String()) {
				t.Errorf("%s: error = %v", name, err)
			}
			if name == "refused" && !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("the last attempt's error is not in the chain of %v", err)
			}
		}
	})
}

func TestHostKeyIsPinnedAtFirstContact(t *testing.T) {
	h := sshtest.Start(t)
	to := target(h)
	to.HostKey = ""
	c, err := Dial(context60(t), to, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.HostKey() != h.HostKey {
		t.Errorf("host key = %q, want %q", c.HostKey(), h.HostKey)
	}
}

func TestClosedClient(t *testing.T) {
	c := dial(t, sshtest.Start(t), Options{})
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	_, err := c.Run(context60(t), "true", nil)
	if err == nil || !strings.Contains(err.Error(), "the connection was closed") {
		t.Errorf("run: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}
