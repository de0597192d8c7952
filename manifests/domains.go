package manifests

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"golang.org/x/net/idna"

	"github.com/clusterworks/deploy/manifests/internal/jobspec"
)

// Domain is a name, or all names below one, that the deployment's load balancers
// serve: a domain block. It says where requests go, with which certificate, and
// what clients may do.
type Domain struct {
	// Name is a host name, or "*." and one, which stands for all names below it: in
	// lower case, ASCII, without a final dot.
	Name   string
	Target Target
	Paths  []DomainPath // by path, the longest first
	TLS    DomainTLS
	Access DomainAccess
	// Users are the accounts that may map the name to their apps; empty: all.
	Users []string
	// Extra holds what the block says to the load balancer's program in its own words.
	Extra string
	// Implied: no block is for it. It is that of the apps, below the deployment's own
	// domain, and has the load balancers' own settings.
	Implied bool
	Range   hcl.Range // of the block, or of the deployment's
}

// TargetKind says what answers the requests for a domain.
type TargetKind string

// The kinds of targets.
const (
	TargetApps     TargetKind = "apps"     // the routers: what apps and components registered
	TargetGroup    TargetKind = "group"    // a port of a group's instances
	TargetRedirect TargetKind = "redirect" // another address
	TargetAnswer   TargetKind = "answer"   // always the same answer
)

// Target says where the requests for a domain, or for a path of it, go.
type Target struct {
	Kind     TargetKind
	Group    string // of TargetGroup
	Port     int
	Redirect string // of TargetRedirect: a URL, to which path and query are added
	Answer   Answer // of TargetAnswer
	Range    hcl.Range
}

// String returns the target as lists show it.
func (t Target) String() string {
	switch t.Kind {
	case TargetGroup:
		return fmt.Sprintf("group %s, port %d", t.Group, t.Port)
	case TargetRedirect:
		return "redirect to " + t.Redirect
	case TargetAnswer:
		return fmt.Sprintf("answer %d", t.Answer.Status)
	}
	return "apps"
}

// Answer is a fixed answer.
type Answer struct {
	Status int
	Body   string
	Type   string // of the body
}

// DomainPath is a path of a domain, and all below it, with a target of its own.
type DomainPath struct {
	Path   string // "/api", without a final slash
	Target Target
	Range  hcl.Range
}

// TLSKind says where a domain's certificate comes from.
type TLSKind string

// Where certificates come from.
const (
	TLSNone     TLSKind = ""         // there is none: plain HTTP
	TLSInternal TLSKind = "internal" // signed by the deployment's own CA
	TLSSecret   TLSKind = "secret"   // a secret of type certificate
	TLSFiles    TLSKind = "files"    // files beside the manifest
	TLSACME     TLSKind = "acme"     // a CA that speaks ACME, see ACME
)

// DomainTLS is a domain's certificate.
type DomainTLS struct {
	Kind   TLSKind
	Secret string // of TLSSecret
	// Files are those of TLSFiles, their contents PEM.
	Files CertificateFiles
	Range hcl.Range // of the argument
}

// ACME is the acme block: the CA that domains with tls = "acme" have their
// certificates from.
type ACME struct {
	Directory string // URL; "": Let's Encrypt
	Email     string // of the operator; "": none
	// Root holds what the CA's own server has its certificate from, PEM; "": a public one.
	Root string
	// Hook is the command that sets records for dns-01, which "*." needs; nil: none.
	Hook  []string
	Range hcl.Range
}

// CertificateFiles are a certificate and its key, read from files.
type CertificateFiles struct {
	Certificate string // the domain's own, then those that lead to a root
	Key         string
	Root        string // that clients trust, if it is none of the public ones; "": a public one
}

// DomainAccess says what clients of a domain may do, and how.
type DomainAccess struct {
	HTTPSOnly      bool // plain HTTP is redirected
	HSTSSeconds    int  // 0: browsers are not told to use HTTPS only
	MaxBodyMB      int  // -1: the load balancer's; 0: no limit
	AnswerTimeoutS int  // 0: the load balancer's
	Allow, Deny    []string
	// RatePerSecond is the number of requests a second from one client's address,
	// Burst how many may come at once beyond it; 0: no limit.
	RatePerSecond, Burst int
	// Fronts are the networks of proxies in front of this domain; nil: those of the
	// load balancer.
	Fronts []string
}

// Balancer is a job that serves the manifest's domains.
type Balancer struct {
	Group *Group
	Job   *GroupJob
}

// Balancers returns the jobs that serve the manifest's domains: those with a
// property that takes domains with their certificates.
func (m *Manifest) Balancers() []Balancer {
	var list []Balancer
	for _, g := range m.Groups {
		for _, job := range g.Jobs {
			for _, p := range job.Spec.Properties {
				if servesDomains(p) {
					list = append(list, Balancer{g, job})
				}
			}
		}
	}
	return list
}

// DNSLink is the link type of name servers that take the records of dns-01.
const DNSLink = "dns"

// Provider is a job that provides a link.
type Provider struct {
	Group *Group
	Job   *GroupJob
}

// Providers returns the jobs that provide links of a type.
func (m *Manifest) Providers(link string) []Provider {
	var list []Provider
	for _, g := range m.Groups {
		for _, job := range g.Jobs {
			for _, p := range job.Spec.Provides {
				if p.Type == link {
					list = append(list, Provider{g, job})
				}
			}
		}
	}
	return list
}

func servesDomains(p *Property) bool {
	return p.From == jobspec.FromDomains && p.Type.IsListType() && p.Type.ElementType().IsObjectType() && p.Type.ElementType().HasAttribute("certificate")
}

// Domain returns the one that serves a host, nil if none does: the block with
// that very name, or else the longest "*." that it is below.
func (m *Manifest) Domain(host string) *Domain {
	var names []string
	for _, d := range m.Domains {
		names = append(names, d.Name)
	}
	name, ok := ServedBy(names, host)
	if !ok {
		return nil
	}
	return m.Domains[slices.Index(names, name)]
}

// ServedBy returns the name that a host is served by among names of domains. The
// more specific one comes first: the host itself before any "*.", and a longer
// "*." before a shorter one.
func ServedBy(names []string, host string) (string, bool) {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	best, found := "", false
	for _, name := range names {
		if name == host {
			return name, true
		}
		if below, ok := strings.CutPrefix(name, "*"); ok && len(host) > len(below) && strings.HasSuffix(host, below) && len(name) > len(best) {
			best, found = name, true
		}
	}
	return best, found
}

// ParseDomain returns a domain's name as Domain.Name has it: lower case, ASCII,
// without a final dot.
func ParseDomain(text string) (string, error) {
	host, wildcard := strings.CutPrefix(text, "*.")
	if strings.Contains(host, "*") {
		return "", fmt.Errorf("%q is no domain: a \"*\" stands for all names below a domain, so it can only come first, as in \"*.example.com\"", text)
	}
	ascii, err := hostNames.ToASCII(strings.TrimSuffix(host, "."))
	switch _, address := netip.ParseAddr(ascii); {
	case err != nil, !utf8.ValidString(text), !domainPattern.MatchString(ascii), len(ascii) > 253-2:
		return "", fmt.Errorf("%q is no domain, such as \"www.example.com\" or \"*.example.com\"", text)
	case address == nil:
		return "", fmt.Errorf("%q is an address; a domain has a name, such as \"www.example.com\"", text)
	}
	if wildcard {
		return "*." + ascii, nil
	}
	return ascii, nil
}

// hostNames maps what people write to what is looked up: case, letters beyond
// ASCII.
var hostNames = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))

// sortPaths brings the longest first, as they are chosen.
func sortPaths(list []DomainPath) {
	slices.SortFunc(list, func(a, b DomainPath) int {
		return cmp.Or(cmp.Compare(len(b.Path), len(a.Path)), strings.Compare(a.Path, b.Path))
	})
}
