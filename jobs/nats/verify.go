package nats

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// verifyAgain is the pause between two looks at the server.
const verifyAgain = 50 * time.Millisecond

// Verify waits until the running server uses the password, certificate and CAs
// that the files hold now: a reload is believed only when it is seen. When ctx ends
// first, the error says what was seen last.
func Verify(ctx context.Context, cfg Config) error {
	var seen error
	for {
		err := verifyOnce(ctx, cfg)
		if err == nil {
			return nil
		}
		var network net.Error
		if cut := errors.As(err, &network) && network.Timeout(); seen == nil || !cut {
			seen = err // a look that the end of ctx cuts off has seen less than the one before
		}
		select {
		case <-ctx.Done():
			return seen
		case <-time.After(verifyAgain):
		}
	}
}

// Answers connects to the running server and waits for its answer to a ping: a server
// that hangs has a kernel that accepts connections for it, and says nothing.
func Answers(ctx context.Context, cfg Config) error {
	wanted, err := loadCredentials(cfg)
	if err != nil {
		return err
	}
	conn, err := nats.Connect("tls://"+net.JoinHostPort(cfg.Address, strconv.Itoa(cfg.Port)),
		nats.UserInfo(checkUser, userPassword(wanted.password, checkUser)),
		// Whether its certificate is good is for others to say: it may just be replaced.
		nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}),
		nats.SetCustomDialer(contextDialer{ctx}), nats.NoReconnect(), nats.Timeout(answerWait),
	)
	if err == nil {
		err = conn.FlushWithContext(ctx)
		conn.Close()
	}
	if err != nil && !errors.Is(err, nats.ErrAuthorization) { // a refusal is an answer: the password is just being changed
		return fmt.Errorf("the server does not answer: %w", err)
	}
	return nil
}

// answerWait bounds the handshake of Answers.
const answerWait = 4 * time.Second

func verifyOnce(ctx context.Context, cfg Config) error {
	wanted, err := loadCredentials(cfg)
	if err != nil {
		return err
	}
	address := "tls://" + net.JoinHostPort(cfg.Address, strconv.Itoa(cfg.Port))
	var served []byte
	var trusted [][]byte
	conn, err := nats.Connect(address,
		nats.UserInfo(checkUser, userPassword(wanted.password, checkUser)),
		nats.Secure(&tls.Config{
			MinVersion: tls.VersionTLS12,
			RootCAs:    wanted.tls.ClientCAs,
			ServerName: cfg.Address,
			VerifyConnection: func(state tls.ConnectionState) error {
				served = state.PeerCertificates[0].Raw
				return nil
			},
			// The server says whose certificates it takes.
			GetClientCertificate: func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
				trusted = request.AcceptableCAs
				return &tls.Certificate{}, nil
			},
		}),
		nats.SetCustomDialer(contextDialer{ctx}),
		nats.NoReconnect(),
	)
	if err != nil {
		return fmt.Errorf("cannot connect to %s with the credentials in the files: %w", address, err)
	}
	conn.Close()
	if !bytes.Equal(served, wanted.tls.Certificates[0].Certificate[0]) {
		return errors.New("the server still serves another certificate than " + cfg.CertificateFile + " holds")
	}
	//lint:ignore SA1019 the pool holds certificates of a file, none of the system's
	if cas := wanted.tls.ClientCAs.Subjects(); !slices.EqualFunc(trusted, cas, bytes.Equal) {
		return errors.New("the server still trusts other CAs than " + cfg.CAFile + " holds")
	}
	return nil
}

// contextDialer dials within a context.
type contextDialer struct{ ctx context.Context }

func (d contextDialer) Dial(network, address string) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(d.ctx, network, address)
}
