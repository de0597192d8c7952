package nats

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// Cluster describes how a server that is not the only one finds the others.
type Cluster struct {
	Port int `yaml:"port"` // for the other servers, on the same address
	// PeerName is the DNS name that every server's certificate has, and no other
	// certificate of the deployment's CA.
	PeerName string `yaml:"peer_name"`
	// PeersFile holds the addresses of all servers, a line each; that this one is
	// among them is no matter. It is read at the start only: a server that comes
	// later connects to those that are there, and they tell each other.
	PeersFile string `yaml:"peers_file"`
}

func (c *Cluster) validate() error {
	var problems []error
	if c.Port <= 0 || c.Port > 65535 {
		problems = append(problems, fmt.Errorf("cluster: port %d is none", c.Port))
	}
	if c.PeerName == "" {
		problems = append(problems, errors.New("cluster: peer_name is missing"))
	}
	if c.PeersFile == "" {
		problems = append(problems, errors.New("cluster: peers_file is missing"))
	}
	return errors.Join(problems...)
}

// routes reads where the peers are.
func (c *Cluster) routes() ([]*url.URL, error) {
	text, err := os.ReadFile(c.PeersFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the addresses of the bus's servers: %w", err)
	}
	var routes []*url.URL
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		address, err := netip.ParseAddr(line)
		if err != nil {
			return nil, fmt.Errorf("cannot use the addresses of the bus's servers in %s: %w", c.PeersFile, err)
		}
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: net.JoinHostPort(address.String(), strconv.Itoa(c.Port))})
	}
	if len(routes) == 0 {
		return nil, fmt.Errorf("cannot use the addresses of the bus's servers: %s has none", c.PeersFile)
	}
	return routes, nil
}

// join makes the server one of a cluster.
func (c *Cluster) join(options *natsserver.Options, cfg Config, admission *admission) error {
	routes, err := c.routes()
	if err != nil {
		return err
	}
	options.Routes = routes
	options.Cluster = natsserver.ClusterOpts{
		Name:        cfg.DeploymentID,
		Host:        cfg.Address,
		Port:        c.Port,
		TLSConfig:   admission.peerConfig(c.PeerName),
		TLSTimeout:  tlsTimeout.Seconds(),
		AuthTimeout: tlsTimeout.Seconds() + 1,
	}
	return nil
}

// clusterStore is the folder below Config.Store in which JetStream keeps its files
// while the server is one of several.
const clusterStore = "cluster"

// clearOtherStore removes what JetStream kept while the server was lone, when it
// is one of several now, and the other way round: nats-server takes over neither
// well, and all of it is a cache.
func clearOtherStore(cfg Config) (store string, err error) {
	lone, clustered := filepath.Join(cfg.Store, natsserver.JetStreamStoreDir), filepath.Join(cfg.Store, clusterStore)
	store, other := cfg.Store, clustered
	if cfg.Cluster != nil {
		store, other = clustered, lone
	}
	if err := os.RemoveAll(other); err != nil {
		return "", fmt.Errorf("cannot remove the cache of packages of another time: %w", err)
	}
	return store, nil
}

// peerConfig is TLS between servers. Both sides show the server's own
// certificate, as it is at the moment; it must be of the deployment's CA and
// have the name of the bus: any other certificate of the CA makes no server.
func (a *admission) peerConfig(name string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &a.credentials.Load().tls.Certificates[0], nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &a.credentials.Load().tls.Certificates[0], nil
		},
		ClientAuth: tls.RequireAnyClientCert,
		// Only crypto/tls's own verification is off, since its roots cannot
		// change; VerifyConnection takes its place, on both sides.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			return a.verifyPeer(state.PeerCertificates, name)
		},
		SessionTicketsDisabled: true,
	}
}

func (a *admission) verifyPeer(certificates []*x509.Certificate, name string) error {
	if len(certificates) == 0 {
		return errors.New("a server without a certificate is refused")
	}
	_, err := certificates[0].Verify(x509.VerifyOptions{
		Roots:       a.credentials.Load().tls.ClientCAs,
		DNSName:     name,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		CurrentTime: time.Now(),
	})
	if err != nil {
		return fmt.Errorf("a server whose certificate is not that of a server of this bus is refused: %w", err)
	}
	return nil
}
