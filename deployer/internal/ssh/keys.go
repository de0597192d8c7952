package ssh

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// signers are the keys to offer: the private key, or those of the SSH agent; of
// a private key that is encrypted only the agent can have the plain one. They
// serve until release.
func (t Target) signers() (keys []ssh.Signer, release func(), err error) {
	release = func() {}
	var encrypted *ssh.PassphraseMissingError
	if len(t.PrivateKey) > 0 {
		signer, err := ssh.ParsePrivateKey(t.PrivateKey)
		if !errors.As(err, &encrypted) {
			if err != nil {
				err = fmt.Errorf("the private key is not usable: %w", err)
			}
			return []ssh.Signer{signer}, release, err
		}
		if t.Agent == "" {
			return nil, release, errors.New("the private key is encrypted and no SSH agent is at hand: start one (eval $(ssh-agent)) and ssh-add the key")
		}
	}
	if t.Agent == "" {
		return nil, release, errors.New("there is neither a private key nor an SSH agent to log in with")
	}
	conn, err := net.Dial("unix", t.Agent)
	if err != nil {
		return nil, release, fmt.Errorf("the SSH agent cannot be reached: %w", err)
	}
	release = func() { conn.Close() } // it was only asked
	all, err := agent.NewClient(conn).Signers()
	if err != nil {
		release()
		return nil, func() {}, fmt.Errorf("the SSH agent at %s does not tell its keys: %w", t.Agent, err)
	}
	for _, signer := range all {
		if encrypted == nil || encrypted.PublicKey == nil || string(encrypted.PublicKey.Marshal()) == string(signer.PublicKey().Marshal()) {
			keys = append(keys, signer)
		}
	}
	if len(keys) == 0 {
		release()
		which := "no key"
		if encrypted != nil {
			which = "not this key, which is encrypted"
		}
		return nil, func() {}, fmt.Errorf("the SSH agent at %s has %s: ssh-add it", t.Agent, which)
	}
	return keys, release, nil
}

func fingerprints(keys []ssh.Signer) string {
	var all []string
	for _, key := range keys {
		all = append(all, ssh.FingerprintSHA256(key.PublicKey()))
	}
	return strings.Join(all, ", ")
}
