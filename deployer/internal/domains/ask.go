package domains

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/host/tlspair"
)

func itoa(n int) string { return strconv.Itoa(n) }

// patience bounds one question.
const patience = 5 * time.Second

// Resolve asks DNS for a host: the server at an address with a port, or this
// machine's resolver if that is "".
func Resolve(ctx context.Context, server, host string, want []string) DNS {
	d := DNS{Asked: host, Want: want}
	if local(host) {
		return d
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resolver := net.DefaultResolver
	if server != "" {
		resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, network, server)
		}}
	}
	found, err := resolver.LookupNetIP(ctx, "ip", host+".")
	if err != nil {
		var unknown *net.DNSError
		if d.Error = err.Error(); errors.As(err, &unknown) {
			if d.Error = unknown.Err; unknown.IsNotFound {
				d.Error = "there is no such name"
			}
		}
		return d
	}
	for _, a := range found {
		d.Found = append(d.Found, a.Unmap().String())
	}
	slices.Sort(d.Found)
	return d
}

// Endpoint is a load balancer, as it is reached from here.
type Endpoint struct {
	Instance string
	Address  netip.Addr
	Port     int
	TLSPort  int
	// Job and Process write the access log; "" if none is kept.
	Job, Process string
}

// Ask requests a domain from a load balancer: over TLS if the domain has a
// certificate, which must be the one that is shown.
func (e Endpoint) Ask(ctx context.Context, domain string, pair tlspair.Pair) Answer {
	host := HostOf(domain)
	scheme, port := "http", e.Port
	if pair.Certificate != "" {
		scheme, port = "https", e.TLSPort
	}
	a := Answer{Instance: e.Instance, URL: fmt.Sprintf("%s://%s:%d/", scheme, host, port)}
	status, err := e.ask(ctx, a.URL, host, netip.AddrPortFrom(e.Address, uint16(port)), pair)
	if a.Status = status; err != nil {
		a.Problem = err.Error()
	}
	return a
}

// Get requests a path of a domain over plain HTTP, and returns the status and the
// beginning of the body.
func (e Endpoint) Get(ctx context.Context, domain, path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	at := netip.AddrPortFrom(e.Address, uint16(e.Port))
	transport := &http.Transport{DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Host = HostOf(domain)
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1000))
	return res.StatusCode, string(body), err
}

func (e Endpoint) ask(ctx context.Context, url, host string, at netip.AddrPort, pair tlspair.Pair) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, network, at.String())
		},
	}
	if pair.Certificate != "" {
		chain, err := pair.Chain()
		if err != nil {
			return 0, err
		}
		transport.TLSClientConfig = &tls.Config{
			ServerName: host, MinVersion: tls.VersionTLS12,
			// Whether clients trust it was asked before it was installed; here it must be
			// that very one.
			InsecureSkipVerify: true,
			VerifyConnection: func(s tls.ConnectionState) error {
				if len(s.PeerCertificates) == 0 || !s.PeerCertificates[0].Equal(chain[0]) {
					return errors.New("it shows another certificate; apply installs the right one")
				}
				return nil
			},
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, fmt.Errorf("it does not answer at %s: %w", at, err)
	}
	defer res.Body.Close()
	begin, err := io.ReadAll(io.LimitReader(res.Body, 200))
	if err == nil && strings.Contains(string(begin), "NO SUCH HOST HERE") {
		return res.StatusCode, errors.New("it does not serve the domain; apply adds it")
	}
	return res.StatusCode, nil
}
