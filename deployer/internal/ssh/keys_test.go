package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/clusterworks/deploy/deployer/internal/ssh/sshtest"
)

// sshAgent serves an SSH agent with the keys and returns its socket.
func sshAgent(t *testing.T, keys ...any) string {
	t.Helper()
	keyring := agent.NewKeyring()
	for _, key := range keys {
		if err := keyring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				_ = agent.ServeAgent(keyring, conn) // ends with the connection
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		work.Wait()
	})
	return socket
}

func TestKeysOfTheAgent(t *testing.T) {
	h := sshtest.Start(t)
	right, err := ssh.ParseRawPrivateKey(h.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	_, wrong, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(right, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	encrypted := pem.EncodeToMemory(block)

	tests := []struct {
		name string
		key  []byte
		keys []any // of the agent; nil: there is none
		want string
	}{
		{"of several the right one", nil, []any{wrong, right}, ""},
		{"a plain key file needs no agent", h.PrivateKey, nil, ""},
		{"of an encrypted key the plain one", encrypted, []any{wrong, right}, ""},
		{"an encrypted key, no agent", encrypted, nil, "ssh-add"},
		{"an encrypted key that the agent has not", encrypted, []any{wrong}, "not this key"},
		{"an empty agent", nil, []any{}, "has no key"},
		{"nothing at all", nil, nil, "neither a private key nor an SSH agent"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			target := target(h)
			target.PrivateKey = test.key
			if test.keys != nil {
				target.Agent = sshAgent(t, test.keys...)
			}
			c, err := Dial(context60(t), target, Options{})
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
			} else if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want %q", err, test.want)
			}
		})
	}

	refused := target(h)
	refused.PrivateKey, refused.Agent = nil, sshAgent(t, wrong)
	_, err = Dial(context60(t), refused, Options{})
	signer, signerErr := ssh.NewSignerFromKey(wrong)
	if signerErr != nil {
		t.Fatal(signerErr)
	}
	var auth *AuthError
	if !errors.As(err, &auth) || auth.Key != ssh.FingerprintSHA256(signer.PublicKey()) {
		t.Errorf("error = %v", err)
	}
}
