// Package ssh reaches VMs: it dials with patience while they boot, checks host
// keys, runs commands, puts files there, and tunnels to the agent's socket.
//
// Nothing here waits longer than its context or, on a peer that has gone
// silent, than the keepalive allows.
package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/crypto/ssh"
)

// Target describes whom to dial and as whom.
type Target struct {
	Host string
	Port int // 0: 22
	User string
	// HostKey is the one key that the host may have, in authorized_keys form.
	// "": whatever the host shows is accepted; Client.HostKey says what it was,
	// for the caller to pin.
	HostKey string
	// PrivateKey is the user's, PEM.
	PrivateKey []byte
	// Agent is the socket of an SSH agent. Its keys are offered when there is no
	// PrivateKey; of one that is encrypted it may have the plain key.
	Agent string
}

// String is user@host:port.
func (t Target) String() string { return t.User + "@" + t.address() }

func (t Target) address() string {
	port := t.Port
	if port == 0 {
		port = 22
	}
	return net.JoinHostPort(t.Host, strconv.Itoa(port))
}

// Options describe how to dial; the zero value has good defaults.
type Options struct {
	// Patience is the time that a host may refuse or not answer, as one that boots
	// does; default 90 s.
	Patience time.Duration
	// Attempt bounds one attempt, from connect to logged in; default 20 s.
	Attempt time.Duration
	// KeepAlive is the interval at which the peer is asked whether it is there; default 5 s.
	// One that has not answered after three times that is given up.
	KeepAlive time.Duration
	// OnDial is called before each attempt.
	OnDial func()
	// OnRetry is called with the reason when an attempt failed and another one
	// will be made.
	OnRetry func(err error)
}

func (o Options) withDefaults() Options {
	if o.Patience == 0 {
		o.Patience = 90 * time.Second
	}
	if o.Attempt == 0 {
		o.Attempt = 20 * time.Second
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = 5 * time.Second
	}
	if o.OnDial == nil {
		o.OnDial = func() {}
	}
	if o.OnRetry == nil {
		o.OnRetry = func(error) {}
	}
	return o
}

// HostKeyError says that a host showed another key than the pinned one.
// Dialling again cannot help.
type HostKeyError struct {
	Target              string // user@host:port
	Pinned, Shown       string // fingerprints, SHA256:...
	PinnedKey, ShownKey string // authorized_keys form
}

func (e *HostKeyError) Error() string {
	return fmt.Sprintf("cannot trust the host at %s: its host key is %s, expected was %s; either another machine answers at this address or the VM was created again; compare the host key on the machine before you accept it",
		e.Target, e.Shown, e.Pinned)
}

// AuthError says that the host refused the user or key. Dialling again cannot
// help.
type AuthError struct {
	Target  string   // user@host:port
	Key     string   // fingerprints of the keys that were offered
	Allowed []string // methods that the host would accept
}

func (e *AuthError) Error() string {
	return fmt.Sprintf("cannot log in to %s: it refused the key %s (it accepts: %s); check the user, and that this key is among the user's authorized keys",
		e.Target, e.Key, cut(strings.Join(e.Allowed, ", "), maxText))
}

// Dial logs in to a host. It tries again, backing off, as long as the host is
// unreachable, refuses connections, or drops or does not answer them; it ends
// with the context or Options.Patience, with the last attempt's error in the
// chain, or at once with *HostKeyError,
// *AuthError or another error that time does not heal.
func Dial(ctx context.Context, t Target, o Options) (*Client, error) {
	o = o.withDefaults()
	keys, release, err := t.signers()
	if err != nil {
		return nil, fmt.Errorf("cannot log in to %s: %w", t, err)
	}
	defer release()
	var pinned ssh.PublicKey
	if t.HostKey != "" {
		if pinned, _, _, _, err = ssh.ParseAuthorizedKey([]byte(t.HostKey)); err != nil {
			return nil, fmt.Errorf("cannot log in to %s: its pinned host key %q is not in authorized_keys form: %w", t, t.HostKey, err)
		}
	}

	waiting, cancel := context.WithTimeoutCause(ctx, o.Patience, errPatience)
	defer cancel()
	var last error
	attempt := func() (*Client, error) {
		o.OnDial()
		began := time.Now()
		c, err := dialOnce(waiting, t, o, keys, pinned)
		// Patience may end a dial a moment before waiting is told: that the time was
		// over says less than what the attempt before it met.
		cut := isTimeout(err) && time.Since(began) < o.Attempt
		if err != nil && waiting.Err() == nil && !cut {
			last = err
			if !passes(err) {
				err = backoff.Permanent(err)
			}
		}
		return c, err
	}
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval = 50 * time.Millisecond
	pause.MaxInterval = 2 * time.Second
	client, err := backoff.Retry(waiting, attempt, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, _ time.Duration) { o.OnRetry(err) }))
	if err == nil {
		return client, nil
	}
	var wrongKey *HostKeyError
	var refused *AuthError
	switch {
	case errors.As(err, &wrongKey): // without what the handshake says before it
		return nil, wrongKey
	case errors.As(err, &refused):
		return nil, refused
	case ctx.Err() != nil:
		return nil, fmt.Errorf("cannot connect to %s: %w (last attempt: %w)", t, context.Cause(ctx), brief{reason(last)})
	case waiting.Err() != nil:
		return nil, fmt.Errorf("cannot connect to %s within %s: %w; check that the VM runs and that its SSH port can be reached from here", t, o.Patience, brief{reason(last)})
	default:
		return nil, fmt.Errorf("cannot connect to %s: %w", t, brief{err})
	}
}

var errPatience = errors.New("no answer in time")

// reason is why the last attempt failed; an attempt that was cut off by the end
// of patience has no error of its own.
func reason(last error) error {
	if last == nil {
		return errPatience
	}
	return last
}

// passes tells errors of a host that boots, or of a network in trouble, from
// those that another attempt cannot heal.
func passes(err error) bool {
	if isTimeout(err) {
		return true
	}
	// The connection ends in mid-handshake while sshd comes up.
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return true
	}
	return slices.ContainsFunc([]error{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE, syscall.ETIMEDOUT,
		syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EADDRNOTAVAIL,
	}, func(e error) bool { return errors.Is(err, e) })
}

func isTimeout(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

func dialOnce(ctx context.Context, t Target, o Options, keys []ssh.Signer, pinned ssh.PublicKey) (*Client, error) {
	deadline := time.Now().Add(o.Attempt)
	dialer := net.Dialer{Deadline: deadline}
	tcp, err := dialer.DialContext(ctx, "tcp", t.address())
	if err != nil {
		return nil, err
	}
	conn := &heardConn{Conn: tcp, start: time.Now()}
	// The handshake knows no context: closing the connection ends it.
	unhook := context.AfterFunc(ctx, func() { conn.Close() })
	if err := conn.SetDeadline(deadline); err != nil {
		conn.Close()
		return nil, err
	}

	var shown ssh.PublicKey
	offered := false
	config := &ssh.ClientConfig{
		User: t.User,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if pinned != nil && string(key.Marshal()) != string(pinned.Marshal()) {
				return &HostKeyError{
					Target: t.String(), Pinned: ssh.FingerprintSHA256(pinned), Shown: ssh.FingerprintSHA256(key),
					PinnedKey: authorizedKey(pinned), ShownKey: authorizedKey(key),
				}
			}
			shown = key
			return nil
		},
		HostKeyAlgorithms: hostKeyAlgorithms(pinned),
		// Called whenever a method failed, the implied "none" first.
		AuthCallback: func(auth *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
			// So is a host that went silent or away before it answered.
			if ended := conn.ended.Load(); ended != nil {
				return nil, fmt.Errorf("the host did not say whether it accepts the key: %w", *ended)
			}
			if offered || !slices.Contains(auth.AllowedMethods, "publickey") {
				return nil, &AuthError{Target: t.String(), Key: fingerprints(keys), Allowed: auth.AllowedMethods}
			}
			offered = true
			return ssh.PublicKeys(keys...), nil
		},
	}
	sshConn, channels, requests, err := ssh.NewClientConn(conn, t.address(), config)
	if err != nil {
		unhook()
		conn.Close()
		return nil, err
	}
	if !unhook() {
		sshConn.Close()
		return nil, context.Cause(ctx)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		sshConn.Close()
		return nil, err
	}
	return newClient(ssh.NewClient(sshConn, channels, requests), conn, t, authorizedKey(shown), o.KeepAlive), nil
}

// authorizedKey is a key in authorized_keys form, without comment or newline.
func authorizedKey(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// hostKeyAlgorithms puts the pinned key's algorithms first: a host with several
// keys then shows the one that we know. The others stay, so that a host which
// no longer has it shows what it has, for the error message.
func hostKeyAlgorithms(pinned ssh.PublicKey) []string {
	all := ssh.SupportedAlgorithms().HostKeys
	if pinned == nil {
		return all
	}
	first := []string{pinned.Type()}
	if pinned.Type() == ssh.KeyAlgoRSA { // its signatures have names of their own (RFC 8332)
		first = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return append(first, slices.DeleteFunc(all, func(a string) bool { return slices.Contains(first, a) })...)
}
