package nginx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// proofHeader asks a domain's server for its names; it answers this VM, if the value
// is the generation that runs.
const proofHeader = "X-Deploy-Proof"

// wildcardLabel is the label that "*." is asked by.
const wildcardLabel = "deploy-proof"

// Prove waits until nginx serves the configuration of a folder: on each address that the
// VM has the generation answers, and for each domain its own server, with the domain's
// certificate. It says what was wrong last when ctx ends.
func Prove(ctx context.Context, folder string) error {
	wanted, err := readSetup(folder)
	if err != nil {
		return err
	}
	have, err := certificates(folder)
	if err != nil {
		return err
	}
	p := &prover{setup: wanted}
	for _, address := range wanted.Addresses {
		if err := p.until(ctx, address, func(ctx context.Context) error { return p.generation(ctx, address) }); err != nil {
			return err
		}
		for _, domain := range wanted.Domains {
			c, secure := have[domain]
			leaf, err := c.leaf()
			if secure && err != nil {
				return err
			}
			if err := p.until(ctx, address, func(ctx context.Context) error { return p.served(ctx, address, domain, nil) }); err != nil {
				return err
			}
			if !secure || wanted.TLSPort == 0 {
				continue
			}
			if err := p.until(ctx, address, func(ctx context.Context) error { return p.served(ctx, address, domain, leaf) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// leaf returns a certificate's own, of those that follow each other.
func (c Certificate) leaf() (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(c.Certificate))
	if block == nil {
		return nil, fmt.Errorf("cannot read the certificate of %s: it is not PEM", c.Name)
	}
	return x509.ParseCertificate(block.Bytes)
}

// prover asks nginx.
type prover struct{ setup }

// until tries until it succeeds. Workers of the configuration before may answer for
// a moment. What it returns is the last answer that was wrong, rather than that a
// last try was cut short. An address that moves between VMs is asked where it is only.
func (p *prover) until(ctx context.Context, address string, try func(context.Context) error) error {
	var said error
	for here(address) {
		limited, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := try(limited)
		cancel()
		if err == nil {
			return nil
		}
		if said == nil || !errors.Is(err, context.DeadlineExceeded) {
			said = err
		}
		select {
		case <-ctx.Done():
			return said
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// here reports whether this VM has an address now.
func here(address string) bool {
	a := net.ParseIP(address)
	all, err := net.InterfaceAddrs()
	return err != nil || a == nil || a.IsLoopback() || slices.ContainsFunc(all, func(has net.Addr) bool {
		network, ok := has.(*net.IPNet)
		return ok && network.IP.Equal(a)
	})
}

// generation asks an address which configuration answers.
func (p *prover) generation(ctx context.Context, address string) error {
	at := net.JoinHostPort(address, strconv.Itoa(p.Port))
	_, body, err := p.get(ctx, "http://"+at+"/.deploy/generation", at, &http.Transport{})
	if err != nil {
		return fmt.Errorf("nginx does not answer at %s: %w", at, err)
	}
	if !sameLine(body, p.Generation) {
		return fmt.Errorf("nginx at %s serves another configuration; its log says why it refused this one", at)
	}
	return nil
}

// served asks an address for a domain, over TLS if it has a certificate.
func (p *prover) served(ctx context.Context, address, domain string, leaf *x509.Certificate) error {
	host := strings.ToLower(strings.Replace(domain, "*", wildcardLabel, 1))
	scheme, port := "http", p.Port
	transport := &http.Transport{}
	if leaf != nil {
		scheme, port = "https", p.TLSPort
		transport.TLSClientConfig = &tls.Config{
			ServerName: host, MinVersion: tls.VersionTLS12,
			// Not whom it is trusted by is asked here, but whether it is this one: roots are
			// the clients' affair.
			InsecureSkipVerify: true,
			VerifyConnection: func(s tls.ConnectionState) error {
				if len(s.PeerCertificates) == 0 || !s.PeerCertificates[0].Equal(leaf) {
					return errors.New("it shows another certificate")
				}
				return nil
			},
		}
	}
	at := net.JoinHostPort(address, strconv.Itoa(port))
	status, body, err := p.get(ctx, scheme+"://"+at+"/", host, transport)
	if err != nil {
		return fmt.Errorf("domain %s is not served at %s over %s: %w", domain, at, scheme, err)
	}
	if names := strings.Fields(strings.ToLower(string(body))); status != http.StatusOK || !slices.Contains(names, strings.ToLower(domain)) {
		return fmt.Errorf("domain %s is not served at %s over %s: another server of the configuration answers, with status %d", domain, at, scheme, status)
	}
	return nil
}

// get sends a request on a connection of its own.
func (p *prover) get(ctx context.Context, url, host string, transport *http.Transport) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Host = host
	req.Header.Set(proofHeader, p.Generation)
	transport.DisableKeepAlives = true
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	return res.StatusCode, body, err
}

// healthPatience bounds one question whether nginx serves.
const healthPatience = time.Second

// healthy asks a URL of nginx once, which must answer with 200.
func healthy(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, healthPatience)
	defer cancel()
	status, _, err := (&prover{}).get(ctx, url, "", &http.Transport{})
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s answers with status %d", url, status)
	}
	return err
}
