package credentials

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// Issue issues, in memory, the certificates that jobs ask for on instances whose
// address is known: new ones, those whose names changed, those that end soon and
// those of a CA that was replaced; and those of domains. It drops the certificates
// of instances and domains that no longer exist.
func (c *Credentials) Issue(places Places) error {
	c.issuing.Lock()
	defer c.issuing.Unlock()
	ca, err := c.CA()
	if err != nil {
		return err
	}
	evaluator := c.s.Manifest.Evaluator(c.Facts(places))
	vms := c.s.VMs()
	kept := map[string]state.Certificate{}
	for _, g := range c.s.Manifest.Groups {
		for _, slot := range c.s.State.Groups[g.Name] {
			id := api.InstanceID(g.Name, slot.Index)
			vm, made := vms[id]
			if !made {
				continue
			}
			for _, j := range g.Jobs {
				for _, wanted := range j.Spec.Certificates {
					names, err := certificateNames(evaluator, g.Name, slot.Index, j, wanted)
					if err != nil {
						return err
					}
					names = append(names, vm.Address)
					slices.Sort(names)
					names = slices.Compact(names)
					key := formatKey(manifests.CertificateKey{Group: g.Name, Index: slot.Index, Job: j.Spec.Name, Name: wanted.Name})
					if kept[key], err = c.certificate(ca, id, c.s.Secrets.Certificates[key], names); err != nil {
						return fmt.Errorf("cannot issue certificate %q of job %s on %s: %w", wanted.Name, j.Spec.Name, id, err)
					}
				}
			}
		}
	}
	domains, err := c.issueDomains(ca)
	if err != nil {
		return err
	}
	c.s.Update(func() { c.s.Secrets.Certificates, c.s.Secrets.Domains = kept, domains })
	return nil
}

// issueDomains returns the certificates of the manifest's domains that come from
// the deployment's CA, one for all load balancers.
func (c *Credentials) issueDomains(ca *pki.CA) (map[string]state.Certificate, error) {
	kept := map[string]state.Certificate{}
	for _, d := range c.s.Manifest.Domains {
		if had, ok := c.s.Secrets.Domains[d.Name]; ok && d.TLS.Kind == manifests.TLSACME {
			kept[d.Name] = had // who renews it asks its CA
		}
		if d.TLS.Kind != manifests.TLSInternal {
			continue
		}
		var err error
		if kept[d.Name], err = c.certificate(ca, d.Name, c.s.Secrets.Domains[d.Name], []string{d.Name}); err != nil {
			return nil, fmt.Errorf("cannot issue the certificate of domain %s: %w", d.Name, err)
		}
	}
	return kept, nil
}

// certificate returns the certificate had, or a new one if that cannot be used any
// more.
func (c *Credentials) certificate(ca *pki.CA, id string, had state.Certificate, names []string) (state.Certificate, error) {
	if had.KeyPair.Certificate != "" && slices.Equal(had.Names, names) {
		old, err := pki.NeedsRenewal([]byte(had.KeyPair.Certificate), c.s.Now)
		// An earlier deploy made them for servers only.
		if err != nil || !old && pki.ForClients([]byte(had.KeyPair.Certificate)) && pki.SignedBy([]byte(had.KeyPair.Certificate), ca) {
			return had, err
		}
	}
	var dns []string
	var addresses []netip.Addr
	for _, n := range names {
		if a, err := netip.ParseAddr(n); err == nil {
			addresses = append(addresses, a)
		} else {
			dns = append(dns, n)
		}
	}
	pair, err := ca.IssueServer(rand.Reader, id, dns, addresses, c.s.Now, c.s.Manifest.PKI.CertificateLife)
	if err != nil {
		return state.Certificate{}, err
	}
	return state.Certificate{KeyPair: keyPair(pair), Names: names}, nil
}

func certificateNames(e *manifests.Evaluator, group string, index int, j *manifests.GroupJob, c *manifests.Certificate) ([]string, error) {
	if c.Names == nil {
		return nil, nil
	}
	ctx, diags := e.JobContext(group, index, j)
	if !diags.HasErrors() {
		v, d := manifests.Value(c.Names, ctx)
		if diags = append(diags, d...); !d.HasErrors() {
			v, _ = v.UnmarkDeep()
			list, err := convert.Convert(v, cty.List(cty.String))
			switch {
			case err != nil:
				diags = append(diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Names of a certificate", Detail: err.Error(), Subject: c.Names.Range().Ptr()})
			case list.IsNull() || !list.IsWhollyKnown():
				return nil, nil
			default:
				var names []string
				for _, n := range list.AsValueSlice() {
					names = append(names, n.AsString())
				}
				return names, nil
			}
		}
	}
	return nil, &manifests.Error{Diagnostics: diags, Files: j.Spec.Files}
}
