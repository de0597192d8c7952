package deployer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/acme"
	"github.com/clusterworks/deploy/deployer/internal/domains"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// Renewal says what was done about the certificates of domains with tls = "acme".
type Renewal struct {
	Deployment string          `json:"deployment"`
	Domains    []DomainRenewal `json:"domains"`
	// Result is that of bringing new certificates to the load balancers; nil if there
	// were none.
	Result *Result `json:"result,omitempty"`
}

// DomainRenewal describes what was done about one domain's certificate.
type DomainRenewal struct {
	Name string `json:"name"`
	// Renewed: it has a new certificate. Else Next is when it will be tried for.
	Renewed bool      `json:"renewed"`
	Next    time.Time `json:"next,omitzero"`
	Error   string    `json:"error,omitempty"`
}

// Failed reports whether a certificate was due and could not be got.
func (r *Renewal) Failed() bool {
	return slices.ContainsFunc(r.Domains, func(d DomainRenewal) bool { return d.Error != "" })
}

// RenewRequest says what to renew.
type RenewRequest struct {
	// Force renews also what is not due: a key may have become known.
	Force bool
}

// renewPatience bounds one domain's order.
const renewPatience = 10 * time.Minute

// Renew gets the certificates that are missing or due from their CA, and brings them
// to all load balancers. What cannot be got stays as it is: an old certificate
// serves until its end.
func (d *Deployer) Renew(ctx context.Context, q RenewRequest) (*Renewal, error) {
	r := &Renewal{Domains: []DomainRenewal{}}
	var targets []string
	err := d.change(ctx, func(x *deployment) error {
		r.Deployment = x.Manifest.Deployment.Name
		if x.Fresh || len(x.State.VMs) == 0 {
			return errors.New("cannot get certificates: nothing is deployed, and the CA asks the load balancers; apply first")
		}
		for _, b := range x.Manifest.Balancers() {
			targets = append(targets, b.Group.Name)
		}
		return x.renew(ctx, q, r)
	})
	if err != nil || !slices.ContainsFunc(r.Domains, func(d DomainRenewal) bool { return d.Renewed }) {
		return r, err
	}
	r.Result, err = d.Apply(ctx, ApplyRequest{Targets: targets, Approve: func(*plan.Plan) (bool, error) { return true, nil }})
	return r, err
}

// renew orders what is due, and saves each certificate as soon as it is there.
func (x *deployment) renew(ctx context.Context, q RenewRequest, r *Renewal) error {
	var client *acme.Client
	began := false
	for _, domain := range x.Manifest.Domains {
		if domain.TLS.Kind != manifests.TLSACME {
			continue
		}
		leaf := domains.Leaf(domain, x.Secrets)
		last := x.Secrets.ACME.Failed[domain.Name]
		now := time.Now()
		due, next := domains.Due(leaf, domains.Attempt{At: last.At, Failures: last.Failures}, now)
		if !due && !q.Force {
			r.Domains = append(r.Domains, DomainRenewal{Name: domain.Name, Next: next})
			continue
		}
		if !began {
			if err := x.begin("renew certificates"); err != nil {
				return err
			}
			began = true
		}
		x.Event(Event{Phase: PhaseLoad, Message: "asking the CA for a certificate of " + domain.Name})
		certificate, key, err := func() (string, string, error) {
			ctx, cancel := context.WithTimeout(ctx, renewPatience)
			defer cancel()
			if err := x.provable(ctx, domain); err != nil {
				return "", "", err
			}
			if client == nil {
				settings, err := x.acmeSettings()
				if err != nil {
					return "", "", err
				}
				if client, err = acme.Open(ctx, settings, x.Secrets.ACME.Key); err != nil {
					return "", "", err
				}
			}
			return client.Obtain(ctx, domain.Name)
		}()
		if ctx.Err() != nil {
			return ctx.Err() // not the CA's failure
		}
		done := DomainRenewal{Name: domain.Name, Renewed: err == nil}
		if err != nil {
			last.At, last.Failures, last.Error = now, last.Failures+1, err.Error()
			_, done.Next = domains.Due(leaf, domains.Attempt{At: last.At, Failures: last.Failures}, now)
			done.Error = fmt.Sprintf("%v; %s", err, domains.Keeps(leaf, now))
		}
		r.Domains = append(r.Domains, done)
		err = x.UpdateAndSave(func() error {
			if done.Error != "" {
				if x.Secrets.ACME.Failed == nil {
					x.Secrets.ACME.Failed = map[string]state.ACMEFailure{}
				}
				x.Secrets.ACME.Failed[domain.Name] = last
				return nil
			}
			delete(x.Secrets.ACME.Failed, domain.Name)
			if x.Secrets.Domains == nil {
				x.Secrets.Domains = map[string]state.Certificate{}
			}
			x.Secrets.Domains[domain.Name] = state.Certificate{KeyPair: state.KeyPair{Certificate: certificate, PrivateKey: key}, Names: []string{domain.Name}}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (x *deployment) acmeSettings() (acme.Settings, error) {
	a := x.Manifest.ACME
	s := acme.Settings{Directory: a.Directory, Email: a.Email, Root: a.Root, Hook: a.Hook, Dir: x.manifestDir}
	if s.Directory == "" {
		s.Directory = acme.LetsEncrypt
	}
	var err error
	s.Servers, s.Key, err = x.nameServers()
	return s, err
}

// nameServers returns where the deployment's own name servers are, host:port, and the
// key that they take records with; none if there are none, or they take none.
func (x *deployment) nameServers() (servers []string, key string, err error) {
	evaluator := x.Manifest.Evaluator(x.credentials.Facts(nil))
	vms := x.VMs()
	for _, p := range x.Manifest.Providers(manifests.DNSLink) {
		for _, slot := range x.State.Groups[p.Group.Name] {
			ctx, diags := evaluator.JobContext(p.Group.Name, slot.Index, p.Job)
			if diags.HasErrors() {
				return nil, "", &manifests.Error{Diagnostics: diags, Files: x.Manifest.Files}
			}
			property := ctx.Variables["property"]
			address := vms[api.InstanceID(p.Group.Name, slot.Index)].Address
			text := word(property, "update_key")
			if address == "" || text == "" {
				continue
			}
			servers, key = append(servers, net.JoinHostPort(address, strconv.Itoa(port(property, "port")))), text
		}
	}
	return servers, key, nil
}

// word returns a property that is a text, "" if there is none such.
func word(property cty.Value, name string) string {
	if !property.Type().IsObjectType() || !property.Type().HasAttribute(name) {
		return ""
	}
	v, _ := property.GetAttr(name).Unmark()
	if v.Type() != cty.String || !v.IsKnown() || v.IsNull() {
		return ""
	}
	return v.AsString()
}

// provable asks every load balancer for a token, as the CA will: CAs allow few
// failures, so what cannot succeed is not tried.
func (x *deployment) provable(ctx context.Context, domain *manifests.Domain) error {
	if strings.HasPrefix(domain.Name, "*.") {
		return nil
	}
	thumbprint, err := acme.Thumbprint(x.Secrets.ACME.Key)
	if err != nil {
		return err
	}
	endpoints, err := x.balancers()
	if err != nil {
		return err
	}
	for _, e := range endpoints {
		status, body, err := e.Get(ctx, domain.Name, "/.well-known/acme-challenge/deploy")
		if err != nil {
			return fmt.Errorf("%s would not answer the CA: %w", e.Instance, err)
		}
		if want := "deploy." + thumbprint; status != http.StatusOK || body != want {
			return fmt.Errorf("%s would not answer the CA with the proof (status %d): apply first", e.Instance, status)
		}
	}
	return nil
}
