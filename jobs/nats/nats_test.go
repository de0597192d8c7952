package nats

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
)

const (
	testDeployment = "0a1b2c3d"
	testPassword   = "s3cret"
	testTimeout    = 45 * time.Second
)

// authority is a CA made for a test.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test CA"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	certificate, err := x509.ParseCertificate(der)
	must(t, err)
	return &authority{certificate, key, encode("CERTIFICATE", der)}
}

// issue signs a certificate, PEM, with its key.
func (a *authority) issue(t *testing.T, template *x509.Certificate) (certificate, key []byte) {
	t.Helper()
	private := newKey(t)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(t, err)
	template.SerialNumber = serial
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, private.Public(), a.key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER)
}

// testPeerName holds what a server's certificate is called.
const testPeerName = "nats.cf.internal"

func (a *authority) server(t *testing.T, address string) (certificate, key []byte) {
	return a.issue(t, &x509.Certificate{
		IPAddresses: []net.IP{net.ParseIP(address)},
		DNSNames:    []string{testPeerName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// client is the connect option for a certificate with these URIs.
func (a *authority) client(t *testing.T, uris ...string) nats.Option {
	return a.clientFrom(t, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, uris...)
}

func (a *authority) clientFrom(t *testing.T, template *x509.Certificate, uris ...string) nats.Option {
	t.Helper()
	for _, text := range uris {
		uri, err := url.Parse(text)
		must(t, err)
		template.URIs = append(template.URIs, uri)
	}
	pair, err := tls.X509KeyPair(a.issue(t, template))
	must(t, err)
	return nats.ClientTLSConfig(func() (tls.Certificate, error) { return pair, nil }, nil)
}

// bus is a running server with its CA and its files.
type bus struct {
	*Server
	cfg  Config
	ca   *authority
	stop func()
}

// startBus runs a real server until the test ends.
func startBus(t *testing.T, change func(*Config)) *bus {
	t.Helper()
	b := newBus(t, newAuthority(t))
	if change != nil {
		change(&b.cfg)
	}
	b.write(t, testPassword)
	b.start(t)
	return b
}

func newBus(t *testing.T, ca *authority) *bus {
	folder := t.TempDir()
	return &bus{ca: ca, cfg: Config{
		Name:            "nats-0",
		DeploymentID:    testDeployment,
		Address:         "127.0.0.1",
		Port:            -1,
		Store:           filepath.Join(folder, "data"),
		User:            "nats",
		SharedUser:      true,
		PasswordFile:    filepath.Join(folder, "password"),
		CAFile:          filepath.Join(folder, "ca.pem"),
		CertificateFile: filepath.Join(folder, "server.pem"),
		KeyFile:         filepath.Join(folder, "server.key"),
		MaxPayload:      8 << 20,
		MaxStoreMB:      64,
	}}
}

func (b *bus) start(t *testing.T) {
	t.Helper()
	server, err := New(b.cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	must(t, err)
	b.Server = server
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server ended with: %v", err)
		}
	})
	t.Cleanup(b.stop)
	select {
	case <-server.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("server did not start: %v", err)
	case <-time.After(testTimeout):
		t.Fatal("server is not ready")
	}
}

// write fills the credential files: this password and a new certificate.
func (b *bus) write(t *testing.T, password string) {
	t.Helper()
	certificate, key := b.ca.server(t, b.cfg.Address)
	must(t, os.WriteFile(b.cfg.PasswordFile, []byte(password+"\n"), 0o600))
	must(t, os.WriteFile(b.cfg.CAFile, b.ca.pem, 0o644))
	must(t, os.WriteFile(b.cfg.CertificateFile, certificate, 0o644))
	must(t, os.WriteFile(b.cfg.KeyFile, key, 0o600))
}

// dial connects over TLS.
func (b *bus) dial(t *testing.T, options ...nats.Option) (*nats.Conn, error) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(b.ca.certificate)
	options = append([]nats.Option{
		nats.Secure(&tls.Config{RootCAs: roots}),
		nats.NoReconnect(),
		nats.Timeout(testTimeout),
		// What is refused is read from LastError; the default handler prints.
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, options...)
	conn, err := nats.Connect("tls://"+b.Address(), options...)
	if err == nil {
		t.Cleanup(conn.Close)
	}
	return conn, err
}

func (b *bus) connect(t *testing.T, options ...nats.Option) *nats.Conn {
	t.Helper()
	conn, err := b.dial(t, options...)
	if err != nil {
		t.Fatalf("cannot connect: %v", err)
	}
	return conn
}

func (b *bus) agent(t *testing.T, instance string) *nats.Conn {
	t.Helper()
	return b.connect(t, b.ca.client(t, api.AgentIdentity(testDeployment, instance)),
		nats.CustomInboxPrefix(api.InboxPrefix(instance)))
}

func (b *bus) deployer(t *testing.T) *nats.Conn {
	t.Helper()
	return b.connect(t, b.ca.client(t, api.DeployerIdentity(testDeployment)))
}

func (b *bus) component(t *testing.T) *nats.Conn {
	t.Helper()
	return b.connect(t, nats.UserInfo("nats", testPassword))
}

// settle makes the server answer everything sent so far, and gives the
// permission error that came with it, if any.
func settle(t *testing.T, conn *nats.Conn) error {
	t.Helper()
	must(t, conn.FlushTimeout(testTimeout))
	return conn.LastError()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// The deployer finds agents as micro services and calls their methods; the
// answer may take its time.
func TestAgentServesAPI(t *testing.T) {
	t.Parallel()
	b := startBus(t, nil)
	agent := b.agent(t, "router/0")
	service, err := micro.AddService(agent, micro.Config{Name: api.ServiceName, Version: "1.0.0"})
	must(t, err)
	for _, method := range api.Methods() {
		must(t, service.AddEndpoint(string(method), micro.HandlerFunc(func(r micro.Request) {
			if err := r.Respond(r.Data()); err != nil {
				t.Errorf("cannot respond: %v", err)
			}
		}), micro.WithEndpointSubject(api.Subject("router/0", method))))
	}
	if err := settle(t, agent); err != nil {
		t.Fatalf("agent was refused: %v", err)
	}

	deployer := b.deployer(t)
	for _, method := range api.Methods() {
		reply, err := deployer.Request(api.Subject("router/0", method), []byte(method), testTimeout)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		if string(reply.Data) != string(method) {
			t.Errorf("%s answered %q", method, reply.Data)
		}
	}
	for _, verb := range []string{"PING", "INFO", "STATS"} {
		for _, subject := range []string{"$SRV." + verb, "$SRV." + verb + ".agent", "$SRV." + verb + ".agent." + service.Info().ID} {
			reply, err := deployer.Request(subject, nil, testTimeout)
			if err != nil {
				t.Fatalf("%s: %v", subject, err)
			}
			if !strings.Contains(string(reply.Data), service.Info().ID) {
				t.Errorf("%s answered %s", subject, reply.Data)
			}
		}
	}
	if err := settle(t, agent); err != nil {
		t.Errorf("agent was refused: %v", err)
	}
}

// A reload changes who may connect and touches nobody who is connected.
func TestReload(t *testing.T) {
	t.Parallel()
	port := componenttest.FreePort(t)
	b := startBus(t, func(c *Config) { c.Port = port })
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	must(t, Verify(ctx, b.cfg))
	component, agent := b.component(t), b.agent(t, "router/0")

	b.write(t, "changed")
	short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	if err := Verify(short, b.cfg); err == nil {
		t.Error("Verify believed files that were not loaded")
	}
	must(t, b.Reload())
	must(t, Verify(ctx, b.cfg))
	if _, err := b.dial(t, nats.UserInfo("nats", testPassword)); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("the old password: got %v", err)
	}
	b.connect(t, nats.UserInfo("nats", "changed"))

	good, err := os.ReadFile(b.cfg.CertificateFile)
	must(t, err)
	must(t, os.WriteFile(b.cfg.CertificateFile, []byte("damaged"), 0o644))
	if err := b.Reload(); err == nil {
		t.Error("a damaged certificate was loaded")
	}
	b.connect(t, nats.UserInfo("nats", "changed"))

	// Another CA: agents of the old one are strangers, components need only trust.
	before := b.ca
	b.ca = newAuthority(t)
	both := append(slices.Clone(before.pem), b.ca.pem...)
	must(t, os.WriteFile(b.cfg.CertificateFile, good, 0o644))
	must(t, os.WriteFile(b.cfg.CAFile, both, 0o644))
	if err := verifyOnce(ctx, b.cfg); err == nil || !strings.Contains(err.Error(), "other CAs") {
		t.Errorf("Verify believed CAs that were not loaded: %v", err)
	}
	must(t, b.Reload())
	must(t, Verify(ctx, b.cfg))
	b.write(t, "changed")
	must(t, b.Reload())
	stranger := before.client(t, api.AgentIdentity(testDeployment, "router/0"))
	if _, err := b.dial(t, stranger); err == nil {
		t.Error("a certificate of the replaced CA was admitted")
	}
	b.agent(t, "router/0")

	for _, conn := range []*nats.Conn{component, agent} {
		if err := settle(t, conn); err != nil || conn.Stats().Reconnects != 0 {
			t.Errorf("a connection did not survive: %v", err)
		}
	}
}

// An agent's connection ends with its certificate.
func TestConnectionEndsWithCertificate(t *testing.T) {
	t.Parallel()
	b := startBus(t, nil)
	closed := make(chan struct{})
	certificate := b.ca.clientFrom(t, &x509.Certificate{
		NotAfter:    time.Now().Add(5 * time.Second),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, api.AgentIdentity(testDeployment, "router/0"))
	b.connect(t, certificate, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	select {
	case <-closed:
	case <-time.After(testTimeout):
		t.Error("the connection outlived the certificate")
	}
}

func TestPlaintext(t *testing.T) {
	t.Parallel()
	for _, allowed := range []bool{false, true} {
		b := startBus(t, func(c *Config) { c.AllowPlaintext = allowed })
		conn, err := nats.Connect("nats://"+b.Address(), nats.UserInfo("nats", testPassword), nats.NoReconnect(), nats.Timeout(testTimeout))
		if err == nil {
			conn.Close()
		}
		if (err == nil) != allowed {
			t.Errorf("allow_plaintext %v: connecting gave %v", allowed, err)
		}
		// TLS works in both cases.
		b.component(t)
		b.agent(t, "router/0")
	}
}

func TestStoreIsBounded(t *testing.T) {
	t.Parallel()
	b := startBus(t, func(c *Config) { c.MaxStoreMB = 1 })
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()

	js, err := jetstream.New(b.deployer(t))
	must(t, err)
	if _, err := js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: "memory", Storage: jetstream.MemoryStorage, MaxBytes: 1 << 20}); err == nil {
		t.Error("a bucket in memory was made")
	}
	store, err := js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: api.PackageBucket, MaxBytes: 1 << 20})
	must(t, err)
	if _, err := store.PutBytes(ctx, "large", make([]byte, 2<<20)); err == nil {
		t.Error("more was stored than the account may")
	}

	js, err = jetstream.New(b.component(t))
	must(t, err)
	if _, err := js.AccountInfo(ctx); !errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		t.Errorf("components have JetStream: %v", err)
	}
}

func TestCannotStart(t *testing.T) {
	t.Parallel()
	t.Run("port in use", func(t *testing.T) {
		b := startBus(t, nil)
		_, port, err := net.SplitHostPort(b.Address())
		must(t, err)
		cfg := b.cfg
		cfg.Store = t.TempDir()
		cfg.Port, err = net.LookupPort("tcp", port)
		must(t, err)
		second, err := New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
		must(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		err = second.Run(ctx)
		if err == nil || !strings.Contains(err.Error(), "address already in use") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("config", func(t *testing.T) {
		_, err := New(Config{Port: 70000, Address: "nowhere"}, slog.New(slog.DiscardHandler))
		for _, want := range []string{"name", "deployment_id", "address", "port", "max_payload", "password_file"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s is not complained about: %v", want, err)
			}
		}
	})
}

// freePort finds a port that nobody listens on.
