// Package sshtest runs an SSH server inside a test: one that runs real commands
// as the test's user, serves files and tunnels, and can be cut off or made silent.
package sshtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// User says whom a Host lets in.
const User = "vm"

// NewKey makes a private key, as PEM and as signer.
func NewKey(t testing.TB) ([]byte, ssh.Signer) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block), signer
}

// Keys are a host's own and that of the user whom it lets in.
type Keys struct {
	HostKey    string // authorized_keys form
	PrivateKey []byte // the user's, PEM

	config *ssh.ServerConfig
}

// NewKeys makes keys for a host.
func NewKeys(t testing.TB) Keys {
	t.Helper()
	_, hostKey := NewKey(t)
	userPEM, user := NewKey(t)
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if c.User() == User && string(key.Marshal()) == string(user.PublicKey().Marshal()) {
				return nil, nil
			}
			return nil, errors.New("unknown")
		},
	}
	config.AddHostKey(hostKey)
	return Keys{
		HostKey:    strings.TrimSpace(string(ssh.MarshalAuthorizedKey(hostKey.PublicKey()))),
		PrivateKey: userPEM,
		config:     config,
	}
}

// Host is a running server. Between it and the network stands a relay, which
// Cut and Hush disturb.
type Host struct {
	Keys
	Address *net.TCPAddr
	// Hush makes the host silent for ever: nothing is relayed any more.
	Hush func()

	env      []string
	listener net.Listener
	work     sync.WaitGroup
	silent   chan struct{}

	mu     sync.Mutex
	conns  []net.Conn
	closed bool
}

// Start runs a host until the test's end. Its commands get env beside the test's
// own environment.
func Start(t testing.TB, env ...string) *Host {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return StartOn(t, listener, NewKeys(t), env...)
}

// StartOn is Start with a listener and keys of the caller's choice.
func StartOn(t testing.TB, listener net.Listener, keys Keys, env ...string) *Host {
	h := &Host{Keys: keys, Address: listener.Addr().(*net.TCPAddr), env: append(os.Environ(), env...), listener: listener, silent: make(chan struct{})}
	h.Hush = sync.OnceFunc(func() { close(h.silent) })
	h.work.Go(h.accept)
	t.Cleanup(func() {
		h.listener.Close()
		h.mu.Lock()
		h.closed = true
		h.mu.Unlock()
		h.Cut()
		h.work.Wait()
	})
	return h
}

// keep has a connection closed by Cut.
func (h *Host) keep(conns ...net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns = append(h.conns, conns...)
	if h.closed {
		for _, c := range conns {
			c.Close()
		}
	}
}

// Cut ends all connections.
func (h *Host) Cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0) // a reset, as of a host that is no more
		}
		c.Close()
	}
	h.conns = nil
}

func (h *Host) accept() {
	for {
		outer, err := h.listener.Accept()
		if err != nil {
			return
		}
		relayed, inner := net.Pipe()
		h.keep(outer, inner, relayed)
		h.work.Go(func() { h.relay(outer, relayed) })
		h.work.Go(func() { h.relay(relayed, outer) })
		h.work.Go(func() { h.serve(inner) })
	}
}

func (h *Host) relay(to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-h.silent: // swallowed, as by a network that lost its way
			if err == nil {
				continue
			}
		default:
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (h *Host) serve(conn net.Conn) {
	defer conn.Close()
	server, channels, requests, err := ssh.NewServerConn(conn, h.config)
	if err != nil {
		return
	}
	var open sync.WaitGroup
	defer open.Wait()
	defer server.Close()
	open.Go(func() { ssh.DiscardRequests(requests) })
	for c := range channels {
		switch c.ChannelType() {
		case "session":
			channel, requests, err := c.Accept()
			if err == nil {
				open.Go(func() { h.session(channel, requests) })
			}
		case "direct-streamlocal@openssh.com": // OpenSSH's PROTOCOL, 2.4
			var to struct {
				Path, Reserved string
				Reserved2      uint32
			}
			ssh.Unmarshal(c.ExtraData(), &to)
			open.Go(func() { h.tunnel(c, "unix", to.Path) })
		case "direct-tcpip": // RFC 4254, 7.2
			var to struct {
				Host   string
				Port   uint32
				Origin string
				From   uint32
			}
			ssh.Unmarshal(c.ExtraData(), &to)
			open.Go(func() { h.tunnel(c, "tcp", fmt.Sprintf("%s:%d", to.Host, to.Port)) })
		default:
			c.Reject(ssh.UnknownChannelType, "unknown")
		}
	}
}

func (h *Host) tunnel(c ssh.NewChannel, network, address string) {
	conn, err := net.Dial(network, address)
	if err != nil {
		c.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer conn.Close()
	channel, requests, err := c.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	go ssh.DiscardRequests(requests)
	h.work.Go(func() { io.Copy(conn, channel); conn.Close() })
	io.Copy(channel, conn)
}

func (h *Host) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	var cmd *exec.Cmd
	var size *pty.Winsize
	var tty *os.File
	var ended sync.WaitGroup
	defer ended.Wait()
	defer func() { // a host ends what nobody listens to any more
		if cmd != nil {
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}()
	for r := range requests {
		ok := true
		switch r.Type {
		case "pty-req":
			var v struct {
				Term                  string
				Columns, Rows, PX, PY uint32
				Modes                 string
			}
			ssh.Unmarshal(r.Payload, &v)
			size = &pty.Winsize{Cols: uint16(v.Columns), Rows: uint16(v.Rows)}
		case "window-change":
			var v struct{ Columns, Rows, PX, PY uint32 }
			ssh.Unmarshal(r.Payload, &v)
			pty.Setsize(tty, &pty.Winsize{Cols: uint16(v.Columns), Rows: uint16(v.Rows)})
		case "signal":
			var v struct{ Name string }
			ssh.Unmarshal(r.Payload, &v)
			if v.Name == "TERM" {
				syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
			}
		case "subsystem":
			server, err := sftp.NewServer(channel)
			if err != nil {
				ok = false
				break
			}
			ended.Go(func() { server.Serve(); server.Close(); channel.Close() })
		case "exec", "shell":
			cmd = exec.Command("/bin/sh")
			var v struct{ Command string }
			if r.Type == "exec" && ssh.Unmarshal(r.Payload, &v) == nil {
				cmd = exec.Command("/bin/sh", "-c", v.Command)
			}
			cmd.Env = h.env
			if size != nil {
				var err error
				if tty, err = pty.StartWithSize(cmd, size); err != nil {
					ok = false
					break
				}
				ended.Go(func() { io.Copy(channel, tty) })
				h.work.Go(func() { io.Copy(tty, channel) })
			} else {
				cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
				cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
				stdin, err := cmd.StdinPipe()
				if err == nil {
					err = cmd.Start()
				}
				if err != nil {
					ok = false
					break
				}
				h.work.Go(func() { io.Copy(stdin, channel); stdin.Close() })
			}
			if r.WantReply { // before the end of a short command can overtake it
				r.Reply(true, nil)
				r.WantReply = false
			}
			ended.Go(func() { finish(channel, cmd) })
		default:
			ok = false
		}
		if r.WantReply {
			r.Reply(ok, nil)
		}
	}
}

// finish tells how a command ended (RFC 4254, 6.10).
func finish(channel ssh.Channel, cmd *exec.Cmd) {
	cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		names := map[syscall.Signal]string{syscall.SIGTERM: "TERM", syscall.SIGKILL: "KILL"}
		channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name    string
			Core    bool
			Message string
			Lang    string
		}{Name: names[status.Signal()]}))
	} else {
		channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status.ExitStatus())}))
	}
	channel.Close()
}
