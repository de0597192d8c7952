package domains

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// Report lists the domains of a deployment.
type Report struct {
	Deployment string    `json:"deployment"`
	At         time.Time `json:"at"`
	// Addresses are those by which clients reach the load balancers.
	Addresses []string `json:"addresses"`
	Domains   []Status `json:"domains"`
}

// Healthy reports whether nothing is wrong with any domain.
func (r *Report) Healthy() bool {
	return !slices.ContainsFunc(r.Domains, func(s Status) bool { return len(s.Problems) > 0 })
}

// Status describes a domain as it was found.
type Status struct {
	Name   string   `json:"name"`
	Place  string   `json:"place"` // in the manifest, "file:line"
	Target string   `json:"target"`
	Paths  []string `json:"paths,omitempty"` // "/api: group shop, port 80"
	// Certificate is nil if the domain has none (yet).
	Certificate *Certificate `json:"certificate"`
	DNS         DNS          `json:"dns"`
	// Answers are those of the load balancers, by instance.
	Answers []Answer `json:"answers"`
	// RequestsPerSecond is what all load balancers together served of it in the last
	// minute, by their access logs; nil if one of them keeps or gives none.
	RequestsPerSecond *float64 `json:"requests_per_second,omitempty"`
	// Problems are all that is wrong; empty if nothing is.
	Problems []string `json:"problems,omitempty"`
}

// Certificate describes the certificate that a domain presents.
type Certificate struct {
	From   string    `json:"from"` // as the manifest says: internal, secret, files, acme
	Issuer string    `json:"issuer"`
	Ends   time.Time `json:"ends"`
	Days   int       `json:"days"` // left; below 0 after its end
}

// DNS compares the addresses of a name with those that it should have.
type DNS struct {
	Asked string   `json:"asked"`           // of a wildcard, a name below it
	Want  []string `json:"want"`            // addresses
	Found []string `json:"found,omitempty"` // addresses
	Error string   `json:"error,omitempty"`
}

// Answer is a load balancer's.
type Answer struct {
	Instance string `json:"instance"`
	URL      string `json:"url"`
	Status   int    `json:"status,omitempty"`
	// Problem holds what is wrong; "": the domain is served there.
	Problem string `json:"problem,omitempty"`
}

// Describe returns what is known of a domain without asking anybody.
func Describe(d *manifests.Domain, secrets *state.Secrets, now time.Time) Status {
	s := Status{Name: d.Name, Place: place(d), Target: d.Target.String()}
	for _, p := range d.Paths {
		s.Paths = append(s.Paths, p.Path+": "+p.Target.String())
	}
	if d.TLS.Kind == manifests.TLSNone {
		return s
	}
	pair, _, ok := Pair(d, secrets)
	if !ok {
		how := "apply makes one"
		if d.TLS.Kind == manifests.TLSACME {
			how = "deploy domains --renew gets one"
		}
		s.Problems = append(s.Problems, "it has no certificate yet: "+how)
		return s
	}
	leaf := first(pair)
	if leaf == nil {
		s.Problems = append(s.Problems, "its certificate cannot be read")
		return s
	}
	issuer := leaf.Issuer.CommonName
	if issuer == "" {
		issuer = leaf.Issuer.String()
	}
	s.Certificate = &Certificate{From: string(d.TLS.Kind), Issuer: issuer, Ends: leaf.NotAfter, Days: Days(leaf.NotAfter, now)}
	if now.After(leaf.NotAfter) {
		s.Problems = append(s.Problems, "its certificate "+ends(leaf.NotAfter, now))
	}
	return s
}

func place(d *manifests.Domain) string {
	if d.Range.Filename == "" {
		return ""
	}
	return d.Range.Filename + ":" + itoa(d.Range.Start.Line)
}

// HostOf returns the host that a domain is asked by: itself, or of a wildcard a
// name below it that nobody is likely to have.
func HostOf(domain string) string { return strings.Replace(domain, "*", "deploy-check", 1) }

// local reports whether a host is this machine by definition (RFC 6761), whatever
// DNS says.
func local(host string) bool { return host == "localhost" || strings.HasSuffix(host, ".localhost") }

// Judge says what is wrong with how a name resolves; "" if nothing is. All
// addresses that were found must be among those that lead to the load balancers,
// and there must be one.
func (d DNS) Judge() string {
	switch {
	case local(d.Asked):
		return ""
	case d.Error != "":
		return d.Asked + " does not resolve: " + d.Error + "; add the records that deploy domains --zone prints"
	case len(d.Want) == 0:
		return ""
	case len(d.Found) == 0:
		return d.Asked + " has no address; add the records that deploy domains --zone prints"
	}
	var strangers []string
	for _, f := range d.Found {
		if !slices.ContainsFunc(d.Want, func(w string) bool { return sameAddress(f, w) }) {
			strangers = append(strangers, f)
		}
	}
	if len(strangers) == 0 {
		return ""
	}
	return d.Asked + " resolves to " + strings.Join(strangers, ", ") + ", and should to " + strings.Join(d.Want, ", ")
}

func sameAddress(a, b string) bool {
	x, err := netip.ParseAddr(a)
	y, other := netip.ParseAddr(b)
	return err == nil && other == nil && x.Unmap() == y.Unmap()
}

// Conclude collects what is wrong with a domain.
func (s *Status) Conclude() {
	if why := s.DNS.Judge(); why != "" {
		s.Problems = append(s.Problems, why)
	}
	if len(s.Answers) == 0 {
		s.Problems = append(s.Problems, "no load balancer runs yet: apply makes one")
	}
	for _, a := range s.Answers {
		if a.Problem != "" {
			s.Problems = append(s.Problems, a.Instance+": "+a.Problem)
		}
	}
}
