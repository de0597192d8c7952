package ssh

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/clusterworks/deploy/deployer/internal/ssh/sshtest"
)

// SFTP's types of packets (draft-ietf-secsh-filexfer-02, 3).
const (
	sftpVersion = 2
	sftpReadDir = 12
	sftpStatus  = 101
	sftpHandle  = 102
	sftpName    = 104
	sftpAttrs   = 105
)

// answer describes what a parrot says to one request.
type answer struct {
	kind byte
	id   uint32 // added to the request's own
	body []byte
}

// parrot serves SFTP: it answers request after request with what say returns,
// until that is nil.
func parrot(requests io.Reader, answers io.WriteCloser, say func(kind byte) *answer) {
	defer answers.Close()
	var head [5]byte
	for {
		if _, err := io.ReadFull(requests, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:])-1)
		if _, err := io.ReadFull(requests, body); err != nil {
			return
		}
		var a answer
		if head[4] == 1 { // init
			a = answer{kind: sftpVersion, body: []byte{0, 0, 0, 3}}
		} else if given := say(head[4]); given == nil {
			return
		} else {
			a = *given
			a.body = append(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(body)+a.id), a.body...)
		}
		packet := append(binary.BigEndian.AppendUint32(nil, uint32(len(a.body)+1)), a.kind)
		if _, err := answers.Write(append(packet, a.body...)); err != nil {
			return
		}
	}
}

func text(s string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
}

// FuzzFiles: whatever a host answers to requests for files, each ends, without a
// panic, and an upload is not taken for done without a file that was renamed.
func FuzzFiles(f *testing.F) {
	ok := append([]byte{0, 0, 0, 0}, append(text(""), text("")...)...)
	attrs := []byte{0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2}
	name := append([]byte{0, 0, 0, 1}, append(append(text(".file.upload-OLD"), text("")...), attrs...)...)
	script := func(answers ...answer) []byte {
		var out []byte
		for _, a := range answers {
			out = append(append(out, a.kind, byte(a.id), byte(len(a.body))), a.body...)
		}
		return out
	}
	f.Add(script(answer{sftpHandle, 0, text("h")}, answer{sftpAttrs, 0, attrs}, answer{sftpHandle, 0, text("d")},
		answer{sftpName, 0, name}, answer{sftpStatus, 0, []byte{0, 0, 0, 1}}, answer{sftpStatus, 0, ok}, answer{sftpStatus, 0, ok}, answer{sftpStatus, 0, ok}))
	f.Add(script(answer{sftpAttrs, 0, []byte{0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}}, answer{sftpStatus, 0, []byte{0}}))
	f.Add(script(answer{sftpHandle, 0, []byte{0xff, 0xff, 0xff, 0xff}}, answer{sftpName, 1, nil}, answer{0, 0, nil}))
	f.Fuzz(func(t *testing.T, script []byte) {
		for n, try := range []func(context.Context, *sftp.Client) error{
			func(_ context.Context, c *sftp.Client) error { _, err := c.Stat("/x"); return err },
			func(_ context.Context, c *sftp.Client) error { return c.MkdirAll("/a/b/c") },
			func(ctx context.Context, c *sftp.Client) error {
				return upload(ctx, c, "/file", strings.NewReader("content"), 7, 0o600)
			},
		} {
			rest, renamed := script, false
			requests, send := io.Pipe()
			receive, answers := io.Pipe()
			var work sync.WaitGroup
			work.Go(func() {
				parrot(requests, answers, func(kind byte) *answer {
					if len(rest) < 3 {
						return nil
					}
					size := min(int(rest[2]), len(rest)-3)
					a := answer{rest[0], uint32(rest[1]), rest[3 : 3+size]}
					rest = rest[3+size:]
					renamed = kind == 18 || kind == 200
					return &a
				})
				requests.Close()
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			c, err := openFiles(receive, send, func(err error) { receive.CloseWithError(err) })
			if err != nil {
				t.Fatal(err)
			}
			_, err = sensible(func() (struct{}, error) { return struct{}{}, try(ctx, c.Client) })
			late := ctx.Err()
			cancel()
			c.Close()
			receive.Close()
			send.Close()
			work.Wait()
			if late != nil {
				t.Errorf("request %d did not end with its answers", n)
			}
			if n == 2 && err == nil && !renamed {
				t.Error("the upload is done, and no file was renamed")
			}
		}
	})
}

// liar is an SSH server that lets everybody in and serves each session with lie.
func liar(t *testing.T, lie func(ssh.Channel, *ssh.Request)) Target {
	t.Helper()
	keys := sshtest.NewKeys(t)
	_, host := sshtest.NewKey(t)
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(host)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	t.Cleanup(func() {
		listener.Close()
		work.Wait()
	})
	work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				_, channels, requests, err := ssh.NewServerConn(conn, config)
				if err != nil {
					return
				}
				work.Go(func() { ssh.DiscardRequests(requests) })
				for c := range channels {
					if c.ChannelType() != "session" {
						c.Reject(ssh.ConnectionFailed, strings.Repeat("no ", 10_000))
						continue
					}
					channel, requests, err := c.Accept()
					if err != nil {
						return
					}
					work.Go(func() {
						for r := range requests {
							if r.WantReply {
								r.Reply(true, nil)
							}
							if r.Type == "exec" || r.Type == "subsystem" {
								work.Go(func() { lie(channel, r) })
							}
						}
					})
				}
			})
		}
	})
	at := listener.Addr().(*net.TCPAddr)
	return Target{Host: at.IP.String(), Port: at.Port, User: sshtest.User, PrivateKey: keys.PrivateKey}
}

// TestLyingHost: a host that says far more than was asked ends its own request, with
// an error that names it and is short.
func TestLyingHost(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	flood := func(w io.Writer) {
		junk := make([]byte, 32<<10)
		for written := 0; written < 16<<20; written += len(junk) {
			if _, err := w.Write(junk); err != nil {
				return
			}
		}
	}
	var taken atomic.Int64 // bytes, by the client, of a flood
	for _, test := range []struct {
		name string
		lie  func(ssh.Channel, *ssh.Request)
		call func(context.Context, *Client) error
		want string
	}{
		{"a flood of output", func(c ssh.Channel, _ *ssh.Request) { flood(c) },
			func(ctx context.Context, c *Client) error { _, err := c.Run(ctx, "true", nil); return err }, "more than the 1024 KiB"},
		{"a flood of errors", func(c ssh.Channel, _ *ssh.Request) {
			flood(c.Stderr())
			c.SendRequest("exit-status", false, []byte{0, 0, 0, 1})
			c.Close()
		}, func(ctx context.Context, c *Client) error { _, err := c.Run(ctx, "true", nil); return err }, "status 1"},
		{"a long signal", func(c ssh.Channel, _ *ssh.Request) {
			c.SendRequest("exit-signal", false, ssh.Marshal(struct {
				Signal     string
				Core       bool
				Error, Tag string
			}{strings.Repeat("KILL", 10_000), false, "", ""}))
			c.Close()
		}, func(ctx context.Context, c *Client) error { _, err := c.Run(ctx, "true", nil); return err }, "KILL ..."},
		{"a folder without end", func(c ssh.Channel, _ *ssh.Request) {
			entry := append(append(text("some file"), text(strings.Repeat("x", 1000))...), 0, 0, 0, 0)
			list := []byte{0, 0, 0, 100}
			for range 100 {
				list = append(list, entry...)
			}
			parrot(c, c, func(kind byte) *answer {
				switch kind {
				case sftpReadDir:
					taken.Add(int64(len(list)))
					return &answer{sftpName, 0, list}
				case 8: // fstat
					return &answer{sftpAttrs, 0, []byte{0, 0, 0, 0}}
				case 4, 13: // close, remove
					return &answer{sftpStatus, 0, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}
				}
				return &answer{sftpHandle, 0, text("h")}
			})
		}, func(ctx context.Context, c *Client) error {
			return c.Upload(ctx, file, strings.NewReader("x"), 1, 0o600)
		}, "more than the 4 MiB"},
		{"a long refusal of a file", func(c ssh.Channel, _ *ssh.Request) {
			parrot(c, c, func(byte) *answer {
				return &answer{sftpStatus, 0, append([]byte{0, 0, 0, 4}, append(text(strings.Repeat("no ", 50_000)), text("")...)...)}
			})
		}, func(ctx context.Context, c *Client) error { _, err := c.Stat(ctx, file); return err }, "no no"},
		{"a file that is there, and no more", func(c ssh.Channel, _ *ssh.Request) {
			parrot(c, c, func(byte) *answer {
				return &answer{sftpStatus, 0, append([]byte{0, 0, 0, 0}, append(text(""), text("")...)...)}
			})
		}, func(ctx context.Context, c *Client) error {
			_, err := c.Stat(ctx, file)
			return errors.Join(err, c.MkdirAll(ctx, file), c.Upload(ctx, file, strings.NewReader("x"), 1, 0o600))
		}, "makes no sense"},
		{"a long refusal of a tunnel", nil,
			func(ctx context.Context, c *Client) error { _, err := c.DialUnix(ctx, file); return err }, "no no"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Dial(context60(t), liar(t, test.lie), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = test.call(context60(t), c)
			if err == nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("error = %v", err)
			}
			if said := err.Error(); !strings.Contains(said, test.want) || !strings.Contains(said, c.String()) || len(said) > 4*maxText+stderrTail {
				t.Errorf("an error of %d bytes: %.300s", len(said), said)
			}
		})
	}
	if taken.Load() > maxAllowance {
		t.Errorf("%d bytes of names were taken", taken.Load())
	}
}
