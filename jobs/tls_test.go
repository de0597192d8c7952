package jobs_test

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/manifests"
)

// webCA signs certificates for a platform's domains.
type webCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newWebCA(t *testing.T) *webCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &webCA{t, cert, key}
}

// settings are the arguments certificate and key of a manifest.
func (ca *webCA) settings(until time.Time, names ...string) string {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(ca.t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(ca.t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until}, ca.cert, &key.PublicKey, ca.key)
	must(ca.t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(ca.t, err)
	return fmt.Sprintf("certificate = %q\nkey = %q\n",
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// https asks over TLS for a host, with a change of what the client offers.
func (p *platform) https(ca *webCA, method, host string, change func(*http.Transport)) (*http.Response, string, error) {
	p.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host}, ForceAttemptHTTP2: true, DisableKeepAlives: true}
	if change != nil {
		change(transport)
	}
	req, err := http.NewRequest(method, "https://"+p.address+":8443/page", strings.NewReader("x"))
	must(p.t, err)
	req.Host = host + ":8443"
	client := &http.Client{Timeout: deadline, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// saysHeaders is an app that answers with the head that it got, and closes. Unless
// the path begins with /early, it reads the whole request before: a connection
// that is closed over unread bytes is reset, and may take the answer with it.
func saysHeaders(conn net.Conn, in *bufio.Reader) {
	var head strings.Builder
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if head.WriteString(line); line == "\r\n" {
			break
		}
	}
	if !strings.HasPrefix(head.String(), "POST /early") {
		req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(head.String()), in)))
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
	}
	fmt.Fprintf(conn, okHead+"Connection: close\r\n\r\n%s", head.String())
}

// TestTLS: the real nginx speaks TLS with each domain's certificate, soundly, and
// knows of redirects, HSTS, HTTP/2 and settings of a domain.
func TestTLS(t *testing.T) {
	ca := newWebCA(t)
	later := time.Now().Add(time.Hour)
	sites := func(shop string) string {
		return fmt.Sprintf(`
tls_port = 8443
public_tls_port = 8443
%s
https_only = true
hsts_s = 3600
sites = [
  { name = "shop.example", max_body_mb = 1, extra = "add_header X-Extra yes always;"
    %s },
  { name = "plain.cf.localhost", allow = ["127.0.0.1"], deny = ["127.0.0.7"] },
  { name = "old.example", redirect = "https://shop.example" },
]`, ca.settings(later, "*.cf.localhost", "www.example.com"), shop)
	}
	p := newPlatform(t, "", sites(ca.settings(later, "shop.example")))
	for _, host := range []string{"a.cf.localhost", "shop.example", "plain.cf.localhost"} {
		p.app(host, saysHeaders)
	}

	res, body, err := p.https(ca, "GET", "a.cf.localhost", nil)
	must(t, err)
	if res.StatusCode != 200 || res.ProtoMajor != 2 || res.TLS.Version != tls.VersionTLS13 || res.Header.Get("Strict-Transport-Security") != "max-age=3600" {
		t.Errorf("%v %v, TLS %x, %v", res.Status, res.Proto, res.TLS.Version, res.Header)
	}
	for _, want := range []string{"GET /page HTTP/1.1", "Host: a.cf.localhost:8443", "X-Forwarded-Proto: https", "X-Forwarded-Port: 8443", "X-Forwarded-Host: a.cf.localhost:8443"} {
		if !strings.Contains(body, want+"\r\n") {
			t.Errorf("the app got %q, without %q", body, want)
		}
	}
	res, _, err = p.https(ca, "GET", "shop.example", nil)
	must(t, err)
	if res.TLS.PeerCertificates[0].Subject.CommonName != "shop.example" || res.Header.Get("X-Extra") != "yes" || res.Header.Get("Strict-Transport-Security") != "" {
		t.Errorf("%v, %v", res.TLS.PeerCertificates[0].Subject, res.Header)
	}
	for name, tc := range map[string]struct {
		host   string
		change func(*http.Transport)
		ok     bool
	}{
		"TLS 1.2": {"a.cf.localhost", func(tr *http.Transport) { tr.TLSClientConfig.MaxVersion = tls.VersionTLS12 }, true},
		"TLS 1.1": {"a.cf.localhost", func(tr *http.Transport) {
			tr.TLSClientConfig.MinVersion, tr.TLSClientConfig.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		}, false},
		"CBC": {"a.cf.localhost", func(tr *http.Transport) {
			tr.TLSClientConfig.MaxVersion = tls.VersionTLS12
			tr.TLSClientConfig.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
		}, false},
		"HTTP/1.1":            {"a.cf.localhost", func(tr *http.Transport) { tr.ForceAttemptHTTP2 = false }, true},
		"an unknown name":     {"elsewhere.test", func(tr *http.Transport) { tr.TLSClientConfig.InsecureSkipVerify = true }, false},
		"without certificate": {"old.example", func(tr *http.Transport) { tr.TLSClientConfig.InsecureSkipVerify = true }, false},
	} {
		if res, _, err := p.https(ca, "GET", tc.host, tc.change); (err == nil) != tc.ok {
			t.Errorf("%s: %v, %v", name, res, err)
		}
	}

	plain := func(method, host, from string) (*http.Response, string) {
		conn, err := p.dial(t.Context(), from)
		must(t, err)
		defer conn.Close()
		fmt.Fprintf(conn, "%s /page?q=1 HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", method, host)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		must(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		must(t, err)
		return res, string(body)
	}
	for _, tc := range []struct {
		host, from string
		status     int
		location   string
	}{
		{"a.cf.localhost", "127.0.0.1", 308, "https://a.cf.localhost:8443/page?q=1"},
		{"shop.example", "127.0.0.1", 200, ""},
		{"plain.cf.localhost", "127.0.0.1", 200, ""},
		{"plain.cf.localhost", "127.0.0.7", 403, ""},
		{"plain.cf.localhost", "127.0.0.8", 403, ""},
		{"old.example", "127.0.0.1", 308, "https://shop.example/page?q=1"},
	} {
		if res, body := plain("POST", tc.host, tc.from); res.StatusCode != tc.status || res.Header.Get("Location") != tc.location || res.Header.Get("Strict-Transport-Security") != "" {
			t.Errorf("%s from %s: %v %v %s", tc.host, tc.from, res.Status, res.Header, body)
		} else if tc.status == 403 && !strings.Contains(body, "LOAD BALANCER: 403") {
			t.Errorf("%s from %s: %s", tc.host, tc.from, body)
		}
	}
	conn, err := net.Dial("tcp", p.address+":8443")
	must(t, err)
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a.cf.localhost\r\nConnection: close\r\n\r\n")
	if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "THIS PORT IS FOR HTTPS") {
		t.Errorf("HTTP at the port for HTTPS: %s, %v", answer, err)
	}

	t.Run("renewal", func(t *testing.T) {
		g2 := filepath.Join(p.dir, "generations", "2")
		p.render(g2, "routers = [\"127.0.0.1\"]\n"+sites(ca.settings(later, "shop.example", "renewed.example")))
		if out, err := p.cmd(p.job.Spec.Hooks[0].Command, "DEPLOY_STAGED="+g2).CombinedOutput(); err != nil {
			t.Fatalf("check: %v: %s", err, out)
		}
		p.activate(g2)
		must(t, p.command.Process.Signal(syscall.SIGHUP))
		if out, err := p.cmd(p.job.Spec.Processes[0].Reload.Verify).CombinedOutput(); err != nil {
			t.Fatalf("verify: %v: %s", err, out)
		}
		p.eventually("the new certificate", func() bool {
			res, _, err := p.https(ca, "GET", "shop.example", nil)
			return err == nil && len(res.TLS.PeerCertificates[0].DNSNames) == 2
		})
	})
	for name, tc := range map[string]struct{ settings, says string }{
		"expired":       {ca.settings(time.Now().Add(-time.Hour), "shop.example"), "expired at"},
		"another's":     {ca.settings(later, "else.example"), "not for shop.example"},
		"no key":        {"certificate = \"-----BEGIN\"", "cannot serve shop.example over TLS"},
		"a broken line": {"redirect = \"http://a.test\"\n extra = \"no_such_thing on;\"", `unknown directive "no_such_thing"`},
	} {
		broken := filepath.Join(p.dir, "generations", name)
		p.render(broken, "routers = [\"127.0.0.1\"]\ntls_port = 8443\nsites = [{ name = \"shop.example\"\n"+tc.settings+"}]")
		if out, err := p.cmd(p.job.Spec.Hooks[0].Command, "DEPLOY_STAGED="+broken).CombinedOutput(); err == nil || !strings.Contains(string(out), tc.says) {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
}

// TestKeys: nginx serves what the check before a change lets pass, whatever form
// certificates and keys come in; and what the check refuses is told with its reason.
func TestKeys(t *testing.T) {
	ca := newWebCA(t)
	block := func(kind string, der []byte, err error) string {
		must(t, err)
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	pkcs8 := func(key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return block("PRIVATE KEY", der, err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	sec1, err := x509.MarshalECPrivateKey(ec)
	oldEC := "-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n" + block("EC PRIVATE KEY", sec1, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	windows := strings.NewReplacer("\n", "\r\n").Replace
	var sites []string
	shown := map[string]*x509.Certificate{}
	for n, tc := range []struct {
		key  crypto.Signer
		text string // the key's
		edit func(string) string
	}{
		{rsaKey, block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey), nil), nil},
		{rsaKey, pkcs8(rsaKey), windows},
		{ec, oldEC, nil},
		{ec, pkcs8(ec), func(s string) string { return "Bag Attributes\n    friendlyName: shop\n" + s }},
		{edKey, pkcs8(edKey), strings.TrimSpace},
	} {
		name := fmt.Sprintf("k%d.example", n)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(int64(n + 2)), DNSNames: []string{name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}, ca.cert, tc.key.Public(), ca.key)
		certificate := block("CERTIFICATE", der, err)
		shown[name], err = x509.ParseCertificate(der)
		must(t, err)
		if tc.edit != nil {
			certificate, tc.text = tc.edit(certificate), tc.edit(tc.text)
		}
		sites = append(sites, fmt.Sprintf("{ name = %q, certificate = %q, key = %q, redirect = \"https://shop.example\" }", name, certificate, tc.text))
	}
	b := newDomains(t, "", "routers = [\"127.0.0.1\"]\nsites = ["+strings.Join(sites, ", ")+"]\n", manifests.Facts{})
	for name, want := range shown {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: deadline}, Config: &tls.Config{ServerName: name, InsecureSkipVerify: true}}
		conn, err := d.DialContext(t.Context(), "tcp", b.address+":8443")
		must(t, err)
		if got := conn.(*tls.Conn).ConnectionState().PeerCertificates; len(got) != 1 || !got[0].Equal(want) {
			t.Errorf("%s shows %d certificates, not the one that it was given", name, len(got))
		}
		conn.Close()
	}
	folder := filepath.Join(b.dir, "generations", "encrypted")
	b.render(folder, "routers = [\"127.0.0.1\"]\nsites = ["+strings.ReplaceAll(sites[1], "PRIVATE KEY", "ENCRYPTED PRIVATE KEY")+"]\n")
	out, err := b.cmd(b.job.Spec.Hooks[0].Command, "DEPLOY_STAGED="+folder).CombinedOutput()
	if want := "cannot serve k1.example over TLS: the private key is encrypted"; err == nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("%v: %s, want %s", err, out, want)
	}
}
