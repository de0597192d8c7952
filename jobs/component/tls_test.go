package component

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
)

// secure is a configuration with a certificate of a CA for an address.
func secure(t *testing.T, ca *componenttest.Authority, address string) Config {
	t.Helper()
	c := Config{CA: ca.File}
	c.Internal.Certificate, c.Internal.Key = ca.Issue(t, address)
	return c
}

// Components speak TLS to each other when both have a certificate of the deployment's
// CA, the server's for the address that is dialled; nobody else is answered.
func TestComponentsSpeakTLS(t *testing.T) {
	t.Parallel()
	ca, stranger := componenttest.NewAuthority(t), componenttest.NewAuthority(t)
	serving := secure(t, ca, "127.0.0.1")
	s, err := Listen("127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.TLS, s.PeerKeepalive = serving.ServerTLS(), 0
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	get := func(transport *http.Transport, scheme string) error {
		client := http.Client{Transport: transport, Timeout: deadline}
		defer client.CloseIdleConnections()
		answer, err := client.Get(scheme + "://" + s.Addr().String())
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err == nil && string(body) != "hello" {
			t.Errorf("the answer is %s, %q", answer.Status, body)
		}
		return err
	}
	dial := (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	with := func(c Config) *http.Transport { return &http.Transport{DialTLSContext: c.DialTLS(dial)} }
	asking := secure(t, ca, "127.0.0.2")
	if err := get(with(asking), "https"); err != nil {
		t.Errorf("a component is refused: %v", err)
	}
	foreign := secure(t, stranger, "127.0.0.2")
	foreign.CA = ca.File
	untrusting := secure(t, ca, "127.0.0.2")
	untrusting.CA = stranger.File
	for name, transport := range map[string]*http.Transport{
		"with another CA's certificate": with(foreign),
		"without a certificate":         {TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		"that trusts another CA":        with(untrusting),
	} {
		if err := get(transport, "https"); err == nil {
			t.Errorf("a client %s is answered", name)
		}
	}
	client := http.Client{Timeout: deadline}
	if answer, err := client.Get("http://" + s.Addr().String()); err == nil {
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			t.Error("plain text is answered")
		}
	}
	// A server at another address than its certificate's is none of ours.
	moved := secure(t, ca, "127.0.0.9")
	for from, to := range map[string]string{moved.Internal.Certificate: serving.Internal.Certificate, moved.Internal.Key: serving.Internal.Key} {
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// The files are read again: that it is refused also shows that.
	if err := get(with(asking), "https"); err == nil {
		t.Error("a certificate for another address is trusted")
	}
}
