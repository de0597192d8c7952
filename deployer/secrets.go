package deployer

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"golang.org/x/crypto/ssh"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/bus"
	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// deployerLife is that of the deployer's own certificate, made anew each run.
const deployerLife = 24 * time.Hour

// ensureSecrets makes, in memory, what the manifest wants and the state does
// not have yet. Nothing is ever replaced here.
func (r *run) ensureSecrets() error {
	if len(r.secrets.DigestKey) == 0 {
		r.secrets.DigestKey = make([]byte, 32)
		rand.Read(r.secrets.DigestKey)
	}
	if r.secrets.CA.Certificate == "" {
		var err error
		if r.secrets.CA, err = r.newCA(); err != nil {
			return err
		}
	}
	if r.secrets.SSH.PrivateKey == "" {
		pair, err := pki.NewSecret(rand.Reader, &manifests.Secret{Name: "ssh", Type: manifests.SecretSSH}, nil, r.now)
		if err != nil {
			return fmt.Errorf("cannot make the SSH key: %w", err)
		}
		r.secrets.SSH = state.SSHKey{PrivateKey: pair["private_key"], PublicKey: pair["public_key"]}
	}
	if r.secrets.Values == nil {
		r.secrets.Values = map[string]map[string]string{}
	}
	var errs []error
	make := func(s *manifests.Secret, ca map[string]string) {
		if _, there := r.secrets.Values[s.Name]; there {
			return
		}
		value, err := pki.NewSecret(rand.Reader, s, ca, r.now)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot make secret %q: %w", s.Name, err))
			return
		}
		r.secrets.Values[s.Name] = value
	}
	names := slices.Sorted(maps.Keys(r.manifest.Secrets))
	for _, name := range names { // CAs first: they sign the others
		if s := r.manifest.Secrets[name]; s.Type == manifests.SecretCA {
			make(s, nil)
		}
	}
	for _, name := range names {
		s := r.manifest.Secrets[name]
		make(s, r.secrets.Values[s.CA])
	}
	return errors.Join(errs...)
}

func keyPair(p pki.Pair) state.KeyPair {
	return state.KeyPair{Certificate: string(p.Certificate), PrivateKey: string(p.PrivateKey)}
}

// newCA makes an authority for the deployment; its name tells it from an earlier one.
func (r *run) newCA() (state.KeyPair, error) {
	name := fmt.Sprintf("deploy %s, %s", r.manifest.Deployment.Name, r.now.UTC().Format(time.RFC3339))
	ca, err := pki.NewCA(rand.Reader, name, r.now, r.manifest.PKI.CALife)
	if err != nil {
		return state.KeyPair{}, fmt.Errorf("cannot make the deployment's CA: %w", err)
	}
	pair, err := ca.Pair()
	return keyPair(pair), err
}

// trusted are the CAs that everybody in the deployment trusts now, PEM: while it
// gets another one, both. The order stays when the new one takes over, so that
// this changes nobody's file.
func (r *run) trusted() string {
	text := r.secrets.OldCA + r.secrets.CA.Certificate
	if r.secrets.NextCA != nil {
		text += r.secrets.NextCA.Certificate
	}
	return text
}

// ca is the authority that signs.
func (r *run) ca() (*pki.CA, error) {
	if r.parsedCA != nil && r.parsedOf == r.secrets.CA {
		return r.parsedCA, nil
	}
	ca, err := pki.ParseCA(pki.Pair{Certificate: []byte(r.secrets.CA.Certificate), PrivateKey: []byte(r.secrets.CA.PrivateKey)})
	if err != nil {
		return nil, fmt.Errorf("cannot use the deployment's CA in %s: %w", r.store.Dir, err)
	}
	r.parsedCA, r.parsedOf = ca, r.secrets.CA
	return ca, nil
}

// issueCertificates issues, in memory, the certificates that jobs ask for on
// instances whose address is known: new ones, those whose names changed, and
// those that end soon or are of a CA that was replaced. Certificates of instances that are gone are dropped.
func (r *run) issueCertificates() error {
	ca, err := r.ca()
	if err != nil {
		return err
	}
	evaluator := r.manifest.Evaluator(r.facts())
	kept := map[string]state.Certificate{}
	for _, g := range r.manifest.Groups {
		for _, slot := range r.state.Groups[g.Name] {
			id := api.InstanceID(g.Name, slot.Index)
			vm, ok := r.state.VMs[id]
			if !ok {
				continue
			}
			for _, j := range g.Jobs {
				for _, c := range j.Spec.Certificates {
					names, err := certificateNames(evaluator, g.Name, slot.Index, j, c)
					if err != nil {
						return err
					}
					names = append(names, vm.Address)
					slices.Sort(names)
					names = slices.Compact(names)
					key := certificateKey(manifests.CertificateKey{Group: g.Name, Index: slot.Index, Job: j.Spec.Name, Name: c.Name})
					issued, err := r.certificate(ca, id, r.secrets.Certificates[key], names)
					if err != nil {
						return fmt.Errorf("cannot issue certificate %q of job %s on %s: %w", c.Name, j.Spec.Name, id, err)
					}
					kept[key] = issued
				}
			}
		}
	}
	r.secrets.Certificates = kept
	return nil
}

// certificate is the one there is, or a new one if it does not serve any more.
func (r *run) certificate(ca *pki.CA, id string, had state.Certificate, names []string) (state.Certificate, error) {
	if had.KeyPair.Certificate != "" && slices.Equal(had.Names, names) {
		old, err := pki.NeedsRenewal([]byte(had.KeyPair.Certificate), r.now)
		if err != nil || !old && pki.SignedBy([]byte(had.KeyPair.Certificate), ca) {
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
	pair, err := ca.IssueServer(rand.Reader, id, dns, addresses, r.now, r.manifest.PKI.CertificateLife)
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
	return nil, &ManifestError{Diagnostics: diags, Files: j.Spec.Files}
}

// busURLs are the addresses of the deployment's bus, nil if it has none or its
// VMs do not exist yet.
func (r *run) busURLs() []string {
	evaluator := r.manifest.Evaluator(r.facts())
	var urls, leaving []string
	for _, g := range r.manifest.Groups {
		for _, j := range g.Jobs {
			if !providesBus(j) {
				continue
			}
			for _, slot := range r.state.Groups[g.Name] {
				vm, ok := r.state.VMs[api.InstanceID(g.Name, slot.Index)]
				ctx, diags := evaluator.JobContext(g.Name, slot.Index, j)
				if !ok || diags.HasErrors() {
					continue // rendering reports what is wrong
				}
				if port, ok := numberText(ctx.Variables["property"], "port"); ok {
					urls = append(urls, "tls://"+net.JoinHostPort(vm.Address, port))
					if had, ok := r.state.Leaving[api.InstanceID(g.Name, slot.Index)]; ok {
						leaving = append(leaving, "tls://"+net.JoinHostPort(had.Address, port))
					}
				}
			}
		}
	}
	return append(urls, leaving...)
}

func providesBus(j *manifests.GroupJob) bool {
	return slices.ContainsFunc(j.Spec.Provides, func(p *manifests.Provide) bool { return p.Type == manifests.BusLink })
}

// servesBus tells whether a server of the bus runs on an instance.
func (r *run) servesBus(id string) bool {
	group, _, _ := api.SplitInstance(id)
	g := r.manifest.Group(group)
	return g != nil && slices.ContainsFunc(g.Jobs, providesBus)
}

// numberText is an attribute of an object as text.
func numberText(object cty.Value, name string) (string, bool) {
	if object == cty.NilVal {
		return "", false
	}
	object, _ = object.UnmarkDeep()
	if !object.Type().IsObjectType() || !object.Type().HasAttribute(name) {
		return "", false
	}
	v, err := convert.Convert(object.GetAttr(name), cty.String)
	if err != nil || v.IsNull() || !v.IsKnown() {
		return "", false
	}
	return v.AsString(), true
}

// busFor are the bus settings that an agent shall have, given busURLs, nil as
// long as there is no bus. A certificate is issued, in memory, when the agent has
// none for its key, or it ends soon or is of a CA that was replaced.
func (r *run) busFor(urls []string, id string, inv *api.Inventory) *api.Bus {
	if len(urls) == 0 || len(inv.PublicKey) == 0 {
		return nil
	}
	ca, err := r.ca()
	if err != nil {
		r.config.Log.Warn("cannot issue an agent's certificate", "instance", id, "error", err)
		return nil
	}
	had, ok := r.secrets.Agents[id]
	old := false
	if ok {
		old, _ = pki.NeedsRenewal([]byte(had.Certificate), r.now) // unreadable is as good as none
	}
	if !ok || old || !slices.Equal(had.PublicKey, inv.PublicKey) || !pki.SignedBy([]byte(had.Certificate), ca) {
		certificate, err := ca.IssueClient(rand.Reader, api.AgentIdentity(r.state.DeploymentID, id), inv.PublicKey, r.now, r.manifest.PKI.CertificateLife)
		if err != nil {
			r.config.Log.Warn("cannot issue an agent's certificate", "instance", id, "error", err)
			return nil
		}
		had = state.AgentCertificate{Certificate: string(certificate), PublicKey: inv.PublicKey}
		if r.secrets.Agents == nil {
			r.secrets.Agents = map[string]state.AgentCertificate{}
		}
		r.secrets.Agents[id] = had
	}
	b := &api.Bus{URLs: urls, CA: []byte(r.trusted()), Certificate: []byte(had.Certificate)}
	mac := hmac.New(sha256.New, r.secrets.DigestKey)
	fmt.Fprintf(mac, "bus\n%s\n%s\n%s", strings.Join(urls, " "), b.CA, b.Certificate)
	b.Digest = hex.EncodeToString(mac.Sum(nil))
	return b
}

// busSettings are the deployer's own way onto the bus.
func (r *run) busSettings(urls []string) (bus.Settings, error) {
	ca, err := r.ca()
	if err != nil {
		return bus.Settings{}, err
	}
	pair, err := ca.IssueClientPair(rand.Reader, api.DeployerIdentity(r.state.DeploymentID), r.now, deployerLife)
	if err != nil {
		return bus.Settings{}, fmt.Errorf("cannot issue the deployer's certificate: %w", err)
	}
	return bus.Settings{URLs: urls, CA: []byte(r.trusted()), Certificate: pair.Certificate, Key: pair.PrivateKey}, nil
}

// publicKey is the SSH public key in authorized_keys form, checked.
func (r *run) publicKey() (string, error) {
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(r.secrets.SSH.PublicKey)); err != nil {
		return "", fmt.Errorf("cannot use the deployment's SSH key in %s: %w", r.store.Dir, err)
	}
	return strings.TrimSpace(r.secrets.SSH.PublicKey), nil
}
