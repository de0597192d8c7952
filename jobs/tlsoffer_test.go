package jobs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTLSOffer lists what our nginx offers over TLS, as testssl does: which protocols,
// ciphers and curves it takes, that it renegotiates with nobody, keeps no tickets, and
// staples no OCSP (the deployment's CA and Let's Encrypt have none).
func TestTLSOffer(t *testing.T) {
	ca := newWebCA(t)
	p := newPlatform(t, "", "tls_port = 8443\n"+ca.settings(time.Now().Add(time.Hour), "*.cf.localhost", "www.example.com"))
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	const host = "offer.cf.localhost"
	address := p.address + ":8443"
	dial := func(change func(*tls.Config)) (tls.ConnectionState, error) {
		t.Helper()
		settings := &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS10}
		change(settings)
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		conn, err := (&tls.Dialer{Config: settings}).DialContext(ctx, "tcp", address)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState(), nil
	}

	for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		state, err := dial(func(c *tls.Config) {
			c.MinVersion, c.MaxVersion = version, version
			for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
				c.CipherSuites = append(c.CipherSuites, s.ID)
			}
		})
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil && (len(state.OCSPResponse) > 0 || state.DidResume) {
			t.Errorf("%s: an OCSP answer of %d bytes, resumed %v", tls.VersionName(version), len(state.OCSPResponse), state.DidResume)
		}
	}

	var taken []string
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if !slices.Contains(s.SupportedVersions, tls.VersionTLS12) {
			continue
		}
		if state, err := dial(func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{s.ID} }); err == nil {
			taken = append(taken, tls.CipherSuiteName(state.CipherSuite))
		}
	}
	slices.Sort(taken)
	want := []string{ // forward secrecy and AEAD; the certificate's key is of ECDSA
		"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
		"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
		"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
	}
	if !slices.Equal(taken, want) {
		t.Errorf("TLS 1.2 is spoken with %v, want %v", taken, want)
	}
	for _, curve := range []tls.CurveID{tls.X25519, tls.CurveP256} {
		if _, err := dial(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{curve} }); err != nil {
			t.Errorf("%v: %v", curve, err)
		}
	}
	for _, protocols := range [][]string{{"h2"}, {"http/1.1"}, {"h2", "http/1.1"}} {
		if state, err := dial(func(c *tls.Config) { c.NextProtos = protocols }); err != nil || state.NegotiatedProtocol != protocols[0] {
			t.Errorf("ALPN %v: %q, %v", protocols, state.NegotiatedProtocol, err)
		}
	}

	// Go's client begins no renegotiation.
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	ask := func(input string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, "openssl", append([]string{"s_client", "-connect", address, "-servername", host}, args...)...)
		cmd.Stdin = strings.NewReader(input)
		out, err := cmd.CombinedOutput()
		if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
			t.Fatalf("openssl: %v", err)
		}
		return string(out)
	}
	out := ask("R\n", "-tls1_2", "-status")
	for _, want := range []string{"Cipher is ECDHE-ECDSA-", "OCSP response: no response sent", "Compression: NONE", "Secure Renegotiation IS supported", "RENEGOTIATING"} {
		if !strings.Contains(out, want) {
			t.Errorf("openssl says nothing of %q:\n%s", want, out)
		}
	}
	if !strings.Contains(out, "no renegotiation") {
		t.Errorf("it renegotiates when a client asks for it:\n%s", out)
	}
	if strings.Contains(out, "TLS session ticket:") {
		t.Errorf("it gives tickets:\n%s", out)
	}
	if out := ask("", "-tls1_2", "-servername", "elsewhere.test"); strings.Contains(out, "BEGIN CERTIFICATE") {
		t.Errorf("it shows a certificate to who asks for another name:\n%s", out)
	}
	if conn, err := net.DialTimeout("tcp", address, deadline); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
}
