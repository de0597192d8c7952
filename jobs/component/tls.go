package component

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// InternalTLS describes what components show each other over TLS: a certificate of the
// deployment's CA, which Config.CA holds. The files are read for each connection, so
// that a renewed certificate, or a new CA, needs no reload. Without them components
// speak HTTP.
type InternalTLS struct {
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// handshakeTimeout bounds a TLS handshake between components.
const handshakeTimeout = 10 * time.Second

// Secure reports whether components speak TLS to each other.
func (c Config) Secure() bool { return c.Internal.Certificate != "" }

func (c Config) validateTLS() error {
	if c.Secure() != (c.Internal.Key != "") {
		return errors.New("cannot use the configuration: internal_tls needs both certificate and key")
	}
	if c.Secure() && c.CA == "" {
		return errors.New("cannot use the configuration: internal_tls needs ca, the authority of the others' certificates")
	}
	return nil
}

// identity reads the own certificate and the authorities of the others'.
func (c Config) identity() (tls.Certificate, *x509.CertPool, error) {
	own, err := tls.LoadX509KeyPair(c.Internal.Certificate, c.Internal.Key)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("cannot read the certificate for other components: %w", err)
	}
	text, err := os.ReadFile(c.CA)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("cannot read the deployment's CA: %w", err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(text) {
		return tls.Certificate{}, nil, fmt.Errorf("cannot read the deployment's CA: no certificate in %s", c.CA)
	}
	return own, authorities, nil
}

// ServerTLS returns the settings of a server that only components of the deployment
// may speak to.
func (c Config) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			own, authorities, err := c.identity()
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion:   tls.VersionTLS13,
				Certificates: []tls.Certificate{own},
				ClientAuth:   tls.RequireAnyClientCert, // verified here: those of instances are made for servers
				VerifyConnection: func(state tls.ConnectionState) error {
					between := x509.NewCertPool()
					for _, certificate := range state.PeerCertificates[1:] {
						between.AddCert(certificate)
					}
					_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
						Roots: authorities, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
					})
					return err
				},
				SessionTicketsDisabled: true, // a session would outlive a change of the CA
			}, nil
		},
	}
}

// DialTLS returns a function for http.Transport that connects to a component with
// dial, shows the own certificate and expects one for the address that is dialled.
func (c Config) DialTLS(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		own, authorities, err := c.identity()
		if err != nil {
			return nil, err
		}
		plain, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		host, _, err := net.SplitHostPort(plain.RemoteAddr().String())
		if err != nil {
			plain.Close()
			return nil, err
		}
		conn := tls.Client(plain, &tls.Config{
			MinVersion: tls.VersionTLS13, RootCAs: authorities, ServerName: host, Certificates: []tls.Certificate{own},
		})
		ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
		defer cancel()
		if err := conn.HandshakeContext(ctx); err != nil {
			plain.Close()
			return nil, fmt.Errorf("cannot speak TLS to %s: %w", address, err)
		}
		return conn, nil
	}
}
