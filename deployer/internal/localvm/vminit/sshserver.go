package vminit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/clusterworks/deploy/agent/host/sockets"
	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// handshakeTimeout bounds the time that a client has until it is let in.
const handshakeTimeout = 30 * time.Second

// sshServer serves the SSH of a VM: sessions (exec, shell, SFTP) and channels
// to TCP addresses and unix sockets.
type sshServer struct {
	init   *vmInit
	config *ssh.ServerConfig

	connections localvm.Connections
}

func newSSHServer(v *vmInit) *sshServer {
	s := &sshServer{init: v}
	s.config = &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-deploy-local",
		PublicKeyCallback: func(conn ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if conn.User() != v.user {
				return nil, fmt.Errorf("this VM has no user %q, only %q", conn.User(), v.user)
			}
			if bytes.Equal(key.Marshal(), (*v.authorized.Load()).Marshal()) {
				return nil, nil
			}
			return nil, errors.New("this key is not let in")
		},
	}
	s.config.AddHostKey(v.signer)
	return s
}

func (s *sshServer) connection(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	server, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		s.init.Log.Debug("no SSH session", "from", conn.RemoteAddr().String(), "error", err)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	var owned sync.WaitGroup
	defer owned.Wait()
	defer func() { _ = server.Close() }()
	// "I do not know that" is an answer too, and all that a keepalive wants.
	owned.Go(func() { ssh.DiscardRequests(requests) })
	for channel := range channels {
		switch channel.ChannelType() {
		case "session":
			accepted, requests, err := channel.Accept()
			if err != nil {
				continue
			}
			session := newSession(s.init, accepted)
			session.env = loginEnv(server)
			owned.Go(func() { session.serve(requests) })
		case "direct-tcpip":
			owned.Go(func() { s.forward(channel, dialTCP) })
		case "direct-streamlocal@openssh.com":
			owned.Go(func() { s.forward(channel, s.dialSocket) })
		default:
			_ = channel.Reject(ssh.UnknownChannelType, "this VM's SSH server has no channels of type "+channel.ChannelType())
		}
	}
}

// loginEnv returns what sshd tells of a connection in the environment of its
// sessions: who is logged in, and from where to where.
func loginEnv(conn ssh.ConnMetadata) []string {
	env := []string{"USER=" + conn.User(), "LOGNAME=" + conn.User()}
	from, port, err := net.SplitHostPort(conn.RemoteAddr().String())
	to, toPort, err2 := net.SplitHostPort(conn.LocalAddr().String())
	if errors.Join(err, err2) == nil {
		env = append(env, "SSH_CLIENT="+from+" "+port+" "+toPort, "SSH_CONNECTION="+from+" "+port+" "+to+" "+toPort)
	}
	return env
}

// forward connects a channel with what its extra data names.
func (s *sshServer) forward(channel ssh.NewChannel, dial func(context.Context, []byte) (net.Conn, error)) {
	ctx, cancel := context.WithTimeout(context.Background(), localvm.DialTimeout)
	defer cancel()
	target, err := dial(ctx, channel.ExtraData())
	if err != nil {
		_ = channel.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	accepted, requests, err := channel.Accept()
	if err != nil {
		_ = target.Close()
		return
	}
	var owned sync.WaitGroup
	owned.Go(func() { ssh.DiscardRequests(requests) })
	localvm.Join(accepted, target.(localvm.HalfCloser))
	owned.Wait()
}

func dialTCP(ctx context.Context, extra []byte) (net.Conn, error) {
	target, err := tcpTarget(extra)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", target)
}

// tcpTarget reads RFC 4254, 7.2.
func tcpTarget(extra []byte) (string, error) {
	var want struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(extra, &want); err != nil {
		return "", err
	}
	if want.Host == "" || want.Port == 0 || want.Port > 65535 {
		return "", fmt.Errorf("%q is no host, or %d no port", want.Host, want.Port)
	}
	return net.JoinHostPort(want.Host, strconv.FormatUint(uint64(want.Port), 10)), nil
}

func (s *sshServer) dialSocket(ctx context.Context, extra []byte) (net.Conn, error) {
	path, err := socketTarget(s.init.Dir, extra)
	if err != nil {
		return nil, err
	}
	return sockets.Dial(ctx, path)
}

// socketTarget reads OpenSSH's PROTOCOL, 2.4. A path that is not absolute begins in dir.
func socketTarget(dir string, extra []byte) (string, error) {
	var want struct {
		Path      string
		Reserved  string
		Reserved2 uint32
	}
	if err := ssh.Unmarshal(extra, &want); err != nil {
		return "", err
	}
	if want.Path == "" {
		return "", errors.New("the path of the socket is missing")
	}
	if !filepath.IsAbs(want.Path) {
		return filepath.Join(dir, want.Path), nil
	}
	return want.Path, nil
}
