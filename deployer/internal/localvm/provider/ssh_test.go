package provider

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

func (h *testHost) dialAs(m machineState, key ssh.Signer) (*ssh.Client, error) {
	return ssh.Dial("tcp", m.SSHAddress(), h.config(m, key))
}

func (h *testHost) config(m machineState, key ssh.Signer) *ssh.ClientConfig {
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(m.HostKey))
	if err != nil {
		h.t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		h.t.Fatal(err)
	}
	return &ssh.ClientConfig{
		User: cmp.Or(h.user, me.Username), Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: ssh.FixedHostKey(hostKey), Timeout: 30 * time.Second,
	}
}

func (h *testHost) dial(m machineState) *ssh.Client {
	h.t.Helper()
	client, err := h.dialAs(m, h.key)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = client.Close() })
	return client
}

func (h *testHost) session(client *ssh.Client) *ssh.Session {
	h.t.Helper()
	session, err := client.NewSession()
	if err != nil {
		h.t.Fatal(err)
	}
	return session
}

func (h *testHost) output(client *ssh.Client, command string) string {
	h.t.Helper()
	output, err := h.session(client).CombinedOutput(command)
	if err != nil {
		h.t.Fatalf("%s: %v: %s", command, err, output)
	}
	return strings.TrimSpace(string(output))
}

func TestSSH(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m := h.machine("web", 0)
	dir := h.machineDir(seat{group: "web"})
	client := h.dial(m)

	t.Run("streams, environment and exit status", func(t *testing.T) {
		session := h.session(client)
		var stdout, stderr bytes.Buffer
		session.Stdout, session.Stderr = &stdout, &stderr
		session.Stdin = strings.NewReader("in")
		if err := session.Setenv("COLOUR", "green"); err != nil {
			t.Fatal(err)
		}
		err := session.Run(`cat; echo err >&2; echo " $COLOUR $DEPLOY_VM $HOME $PWD"; exit 7`)
		var exit *ssh.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 7 {
			t.Errorf("ended with %v", err)
		}
		if want := fmt.Sprintf("in green %s %s %s\n", m.ID, dir, dir); stdout.String() != want || stderr.String() != "err\n" {
			t.Errorf("stdout is %q, want %q; stderr is %q", stdout.String(), want, stderr.String())
		}
	})
	t.Run("who is logged in, and from where", func(t *testing.T) {
		me, err := user.Current()
		if err != nil {
			t.Fatal(err)
		}
		host, port, err := net.SplitHostPort(m.SSHAddress())
		if err != nil {
			t.Fatal(err)
		}
		want := regexp.MustCompile(fmt.Sprintf(`^%s %s (\S+ \d+) %s (\S+ \d+) %s %s$`, me.Username, me.Username, port, regexp.QuoteMeta(host), port))
		got := h.output(client, `echo $USER $LOGNAME $SSH_CLIENT $SSH_CONNECTION`)
		if found := want.FindStringSubmatch(got); found == nil || found[1] != found[2] {
			t.Errorf("it is %q", got)
		}
		as := *h
		as.user = "nobody-else"
		if other, err := as.dialAs(m, h.key); err == nil {
			_ = other.Close()
			t.Error("a user that the VM does not have is let in")
		}
	})
	t.Run("nothing of the deployer's environment", func(t *testing.T) {
		for line := range strings.Lines(h.output(client, "env")) {
			name, _, _ := strings.Cut(line, "=")
			switch name {
			case "DEPLOY_VM", "DEPLOY_SERVICES", "DEPLOY_INIT_PID":
			default:
				if strings.HasPrefix(name, "DEPLOY_") || strings.HasPrefix(name, "TF_") {
					t.Errorf("there is %s", strings.TrimSpace(line))
				}
			}
		}
	})
	t.Run("signals", func(t *testing.T) {
		session := h.session(client)
		ready, err := session.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Start("echo ready; exec sleep 1000"); err != nil {
			t.Fatal(err)
		}
		if _, err := ready.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := session.Signal(ssh.SIGTERM); err != nil {
			t.Fatal(err)
		}
		var exit *ssh.ExitError
		if err := session.Wait(); !errors.As(err, &exit) || exit.Signal() != "TERM" {
			t.Errorf("ended with %v", err)
		}
	})
	t.Run("much output, read late", func(t *testing.T) {
		session := h.session(client)
		output, err := session.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Start("head -c 8000000 /dev/zero; : >done"); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, output); err != nil || n != 8000000 {
			t.Errorf("read %d bytes, %v", n, err)
		}
		if err := session.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("a background process does not hold the session", func(t *testing.T) {
		begun := time.Now()
		if output := h.output(client, "sleep 1000 & echo begun"); output != "begun" {
			t.Errorf("output is %q", output)
		}
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("it took %s", took)
		}
	})
	t.Run("shell", func(t *testing.T) {
		session := h.session(client)
		session.Stdin = strings.NewReader("echo $((6*7))\nexit 5\n")
		var output bytes.Buffer
		session.Stdout = &output
		if err := session.Shell(); err != nil {
			t.Fatal(err)
		}
		var exit *ssh.ExitError
		if err := session.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 5 || output.String() != "42\n" {
			t.Errorf("ended with %v, %q", err, output.String())
		}
	})
	t.Run("terminal", func(t *testing.T) {
		session := h.session(client)
		if err := session.RequestPty("xterm", 30, 100, ssh.TerminalModes{}); err != nil {
			t.Fatal(err)
		}
		output, err := session.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		input, err := session.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Start(`stty size; echo $TERM; read line; stty size; tty >/dev/null`); err != nil {
			t.Fatal(err)
		}
		seen := ""
		read := func(want string) {
			t.Helper()
			buffer := make([]byte, 1000)
			for !strings.Contains(seen, want) {
				n, err := output.Read(buffer)
				if err != nil {
					t.Fatalf("read %q, want %q: %v", seen, want, err)
				}
				seen += string(buffer[:n])
			}
		}
		read("30 100")
		read("xterm")
		if err := session.WindowChange(20, 50); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(input, "go\n"); err != nil {
			t.Fatal(err)
		}
		read("20 50")
		if err := session.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("SFTP", func(t *testing.T) {
		files, err := sftp.NewClient(client)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = files.Close() }()
		f, err := files.Create("up")
		if err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
		if _, err := f.ReadFrom(bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Close(), files.Chmod("up", 0o700), files.PosixRename("up", filepath.Join(dir, "there"))); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "there"))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes arrived, %v", len(got), err)
		}
	})
	t.Run("TCP", func(t *testing.T) {
		echoes(t, mustListen(t, "tcp", m.Address+":0"), func(address string) (net.Conn, error) { return client.Dial("tcp", address) })
		if _, err := client.Dial("tcp", m.Address+":1"); err == nil {
			t.Error("connected to where nobody listens")
		}
	})
	t.Run("unix sockets", func(t *testing.T) {
		short, err := os.MkdirTemp("", "s")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(short) }()
		listener := mustListen(t, "unix", filepath.Join(short, "s"))
		// The socket moves to where its path is too long for the kernel.
		long := filepath.Join(dir, strings.Repeat("long/", 30))
		if err := os.MkdirAll(long, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(short, "s"), filepath.Join(long, "s")); err != nil {
			t.Fatal(err)
		}
		echoes(t, listener, func(string) (net.Conn, error) { return client.Dial("unix", filepath.Join(long, "s")) })
	})
	t.Run("keepalives are answered", func(t *testing.T) {
		if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("strangers stay outside, and keys change", func(t *testing.T) {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		other, err := ssh.NewSignerFromKey(private)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.dialAs(m, other); err == nil {
			t.Fatal("a stranger came in")
		}
		before := h.initProcess(m)
		changed := m.Machine
		changed.AuthorizedKey = string(ssh.MarshalAuthorizedKey(other.PublicKey()))
		if _, err := h.updateMachine(t.Context(), changed); err != nil {
			t.Fatal(err)
		}
		if _, err := h.dialAs(m, h.key); err == nil {
			t.Error("the old key is let in")
		}
		now, err := h.dialAs(m, other)
		if err != nil {
			t.Fatal(err)
		}
		_ = now.Close()
		if h.initProcess(m) != before {
			t.Error("another init")
		}
		h.output(client, "true") // an open connection goes on
	})
	t.Run("a client that vanishes ends what writes to it", func(t *testing.T) {
		fresh, err := h.updateMachine(t.Context(), m.Machine)
		if err != nil {
			t.Fatal(err)
		}
		vanishing := h.dial(fresh)
		session := h.session(vanishing)
		first, err := session.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Start("echo $$; exec yes"); err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Fscan(first, &pid); err != nil {
			t.Fatal(err)
		}
		_ = vanishing.Close()
		waitFor(t, "the end of the process", func() bool { return syscall.Kill(pid, 0) != nil })
	})
}

func mustListen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// echoes sends through a connection made by dial to an echo server at the
// listener, with the end of input passed on.
func echoes(t *testing.T, listener net.Listener, dial func(address string) (net.Conn, error)) {
	t.Helper()
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, err = io.Copy(conn, conn)
			_ = conn.Close()
		}
		served <- err
	}()
	conn, err := dial(listener.Addr().String())
	if err != nil {
		_ = listener.Close()
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "ping"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "ping" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
