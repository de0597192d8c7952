package agenttest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/clusterworks/deploy/agent/api"
)

// Bus is a NATS server in the test's process: TLS with client certificates of
// a CA of its own, JetStream, and for agents the rights that the deployment's
// bus grants them and no more.
type Bus struct {
	DeploymentID string
	CA           []byte // PEM
	Address      string // host:port

	users sync.Map // passwords of components, by name

	t      testing.TB
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	tls    *tls.Config
	store  string
	server *server.Server
}

// StartBus starts a bus for a deployment. It ends with the test.
func StartBus(t testing.TB, deploymentID string) *Bus {
	t.Helper()
	b := &Bus{DeploymentID: deploymentID, t: t, store: t.TempDir()}
	b.makeCA()
	key := b.newKey()
	chain, _ := pem.Decode(b.Issue("", key.Public()))
	pool := x509.NewCertPool()
	pool.AddCert(b.cert)
	b.tls = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{chain.Bytes}, PrivateKey: key}},
		ClientCAs:    pool, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12,
	}
	t.Cleanup(b.Stop)
	b.Run(0)
	return b
}

// Run starts the server, again after Stop; port 0 takes any.
func (b *Bus) Run(port int) {
	b.t.Helper()
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true,
		TLSConfig: b.tls, TLSTimeout: 10,
		JetStream: true, StoreDir: b.store, CustomClientAuthentication: b,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	go s.Start()
	b.server = s
	if !s.ReadyForConnections(startTimeout) {
		b.t.Fatal("the bus does not start")
	}
	b.Address = s.Addr().String()
}

// Stop ends the server and waits for it.
func (b *Bus) Stop() {
	if b.server != nil {
		b.server.Shutdown()
		b.server.WaitForShutdown()
	}
}

// Check admits by the URI of the client's certificate (server.Authentication), or by
// user and password.
func (b *Bus) Check(c server.ClientAuthentication) bool {
	if options := c.GetOpts(); options.Username != "" {
		if password, ok := b.users.Load(options.Username); !ok || password != options.Password {
			return false
		}
		c.RegisterUser(&server.User{Username: options.Username, Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"router.register", "router.unregister"}},
			Subscribe: &server.SubjectPermission{Allow: []string{"router.start"}},
		}})
		return true
	}
	state := c.GetTLSConnectionState()
	if state == nil || len(state.PeerCertificates) == 0 || len(state.PeerCertificates[0].URIs) == 0 {
		return false
	}
	identity := state.PeerCertificates[0].URIs[0].String()
	if identity == api.DeployerIdentity(b.DeploymentID) {
		c.RegisterUser(&server.User{Username: identity})
		return true
	}
	instance, ok := strings.CutPrefix(identity, api.AgentIdentity(b.DeploymentID, ""))
	if !ok {
		return false
	}
	token := api.SubjectToken(instance)
	bucket := "$JS.API.DIRECT.GET.OBJ_" + api.PackageBucket
	c.RegisterUser(&server.User{Username: identity, Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{api.HeartbeatSubject(instance), bucket, bucket + ".>"}},
		Subscribe: &server.SubjectPermission{Allow: []string{
			"agent." + token + ".*", api.InboxPrefix(instance) + ".>",
			"$SRV.PING", "$SRV.INFO", "$SRV.STATS", "$SRV.*." + api.ServiceName, "$SRV.*." + api.ServiceName + ".*",
		}},
		Response: &server.ResponsePermission{MaxMsgs: 16, Expires: 2 * time.Minute},
	}})
	return true
}

// Admit lets a component connect, which may register routes and hear routers start.
func (b *Bus) Admit(user, password string) { b.users.Store(user, password) }

func (b *Bus) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	return key
}

func (b *Bus) makeCA() {
	b.key = b.newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, b.key.Public(), b.key)
	if err != nil {
		b.t.Fatal(err)
	}
	if b.cert, err = x509.ParseCertificate(der); err != nil {
		b.t.Fatal(err)
	}
	b.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Issue signs a certificate, PEM, for a key and an identity (api.AgentIdentity),
// or for a server where that is empty.
func (b *Bus) Issue(identity string, public crypto.PublicKey) []byte {
	b.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		b.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: b.cert.NotBefore, NotAfter: b.cert.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if identity == "" {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	} else {
		uri, err := url.Parse(identity)
		if err != nil {
			b.t.Fatal(err)
		}
		template.URIs = []*url.URL{uri}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, b.cert, public, b.key)
	if err != nil {
		b.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Settings returns what an agent with this public key (PKIX DER, as its inventory
// has it) is configured with.
func (b *Bus) Settings(instance string, publicKey []byte) *api.Bus {
	b.t.Helper()
	public, err := x509.ParsePKIXPublicKey(publicKey)
	if err != nil {
		b.t.Fatal(err)
	}
	certificate := b.Issue(api.AgentIdentity(b.DeploymentID, instance), public)
	digest := sha256.Sum256(append([]byte(b.Address), certificate...))
	return &api.Bus{URLs: []string{"tls://" + b.Address}, CA: b.CA, Certificate: certificate, Digest: hex.EncodeToString(digest[:])}
}

// Connect connects as a deployer, to this address instead of the bus's own if
// it is not empty (a proxy of the test's).
func (b *Bus) Connect(address string, options ...nats.Option) *nats.Conn {
	b.t.Helper()
	if address == "" {
		address = b.Address
	}
	key := b.newKey()
	block, _ := pem.Decode(b.Issue(api.DeployerIdentity(b.DeploymentID), key.Public()))
	pool := x509.NewCertPool()
	pool.AddCert(b.cert)
	nc, err := nats.Connect("tls://"+address, append([]nats.Option{
		nats.Secure(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{{Certificate: [][]byte{block.Bytes}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}),
		nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond), nats.ReconnectJitter(0, 0), nats.IgnoreDiscoveredServers(),
	}, options...)...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(nc.Close)
	return nc
}

// Publish puts a package into the bus's object store.
func (b *Bus) Publish(archive []byte) (digest string) {
	b.t.Helper()
	sum := sha256.Sum256(archive)
	digest = hex.EncodeToString(sum[:])
	if err := b.publish(digest, archive); err != nil {
		b.t.Fatal(err)
	}
	return digest
}

func (b *Bus) publish(name string, archive []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	js, err := jetstream.New(b.Connect(""))
	if err != nil {
		return err
	}
	store, err := js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: api.PackageBucket})
	if err != nil {
		return fmt.Errorf("cannot make the bucket: %w", err)
	}
	_, err = store.Put(ctx, jetstream.ObjectMeta{Name: name}, bytes.NewReader(archive))
	return err
}
