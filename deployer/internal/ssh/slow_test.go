package ssh

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/clusterworks/deploy/deployer/internal/ssh/sshtest"
)

// TestNoAnswerIsNoRefusal: a host that goes silent or away while it looks at the key, as
// a busy one that boots does, has not refused it: the key is offered again.
func TestNoAnswerIsNoRefusal(t *testing.T) {
	keys := sshtest.NewKeys(t)
	_, host := sshtest.NewKey(t)
	for _, test := range []struct {
		name   string
		fail   func(conn net.Conn, over <-chan struct{})
		option Options
	}{
		{"it hangs up", func(conn net.Conn, _ <-chan struct{}) { conn.Close() }, Options{}},
		{"it goes silent", func(_ net.Conn, over <-chan struct{}) { <-over }, Options{Attempt: 3 * time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			over := make(chan struct{})
			var asked atomic.Int32
			var work sync.WaitGroup
			t.Cleanup(func() {
				close(over)
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
						config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
							if asked.Add(1) == 1 {
								test.fail(conn, over)
							}
							return nil, nil
						}}
						config.AddHostKey(host)
						if server, channels, requests, err := ssh.NewServerConn(conn, config); err == nil {
							work.Go(func() { ssh.DiscardRequests(requests) })
							for c := range channels {
								c.Reject(ssh.Prohibited, "")
							}
							server.Close()
						}
					})
				}
			})
			at := listener.Addr().(*net.TCPAddr)
			c, err := Dial(context60(t), Target{Host: at.IP.String(), Port: at.Port, User: sshtest.User, PrivateKey: keys.PrivateKey}, test.option)
			if err != nil {
				t.Fatalf("after %d times that the key was looked at: %v", asked.Load(), err)
			}
			c.Close()
			if asked.Load() < 2 {
				t.Error("the first attempt was not cut off")
			}
		})
	}
}
