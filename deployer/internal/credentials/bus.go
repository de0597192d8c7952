package credentials

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/bus"
	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// deployerLife is the life of the deployer's own certificate. Each run makes one.
const deployerLife = 24 * time.Hour

// BusURLs returns the addresses of the bus's servers, nil if there is no bus or
// its VMs do not exist yet.
func (c *Credentials) BusURLs(places Places) []string {
	evaluator := c.s.Manifest.Evaluator(c.Facts(places))
	vms := c.s.VMs()
	var urls, previous []string
	for _, g := range c.s.Manifest.Groups {
		for _, j := range g.Jobs {
			if !providesBus(j) {
				continue
			}
			for _, slot := range c.s.State.Groups[g.Name] {
				id := api.InstanceID(g.Name, slot.Index)
				vm, made := vms[id]
				ctx, diags := evaluator.JobContext(g.Name, slot.Index, j)
				if !made || diags.HasErrors() {
					continue // rendering reports what is wrong
				}
				if port, ok := numberText(ctx.Variables["property"], "port"); ok {
					urls = append(urls, "tls://"+net.JoinHostPort(vm.Address, port))
					if c.s.HasPrevious(id) {
						previous = append(previous, "tls://"+net.JoinHostPort(c.s.VM(state.PreviousOf(id)).Address, port))
					}
				}
			}
		}
	}
	return append(urls, previous...)
}

func providesBus(j *manifests.GroupJob) bool {
	return slices.ContainsFunc(j.Spec.Provides, func(p *manifests.Provide) bool { return p.Type == manifests.BusLink })
}

// ServesBus reports whether a server of the bus runs on an instance.
func (c *Credentials) ServesBus(id string) bool {
	group, _, _ := api.SplitInstance(id)
	g := c.s.Manifest.Group(group)
	return g != nil && slices.ContainsFunc(g.Jobs, providesBus)
}

// numberText returns an attribute of an object as text.
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

// BusFor returns the bus settings that an agent needs, given BusURLs, nil if
// there is no bus. It issues the agent's certificate, in memory, if the agent has
// none for its key, or one that ends soon or is of a CA that was replaced.
func (c *Credentials) BusFor(urls []string, id string, inv *api.Inventory) *api.Bus {
	if len(urls) == 0 || len(inv.PublicKey) == 0 {
		return nil
	}
	had, err := c.agentCertificate(id, inv.PublicKey)
	if err != nil {
		c.s.Log.Warn("cannot issue an agent's certificate", "instance", id, "error", err)
		return nil
	}
	b := &api.Bus{URLs: urls, CA: []byte(c.Trusted()), Certificate: []byte(had.Certificate)}
	mac := hmac.New(sha256.New, c.s.Secrets.DigestKey)
	fmt.Fprintf(mac, "bus\n%s\n%s\n%s", strings.Join(urls, " "), b.CA, b.Certificate)
	b.Digest = hex.EncodeToString(mac.Sum(nil))
	return b
}

func (c *Credentials) agentCertificate(id string, key []byte) (state.AgentCertificate, error) {
	ca, err := c.CA()
	if err != nil {
		return state.AgentCertificate{}, err
	}
	had, ok := c.s.Secrets.Agents[id]
	if ok && slices.Equal(had.PublicKey, key) && pki.SignedBy([]byte(had.Certificate), ca) {
		if old, err := pki.NeedsRenewal([]byte(had.Certificate), c.s.Now); err != nil || !old {
			return had, nil
		}
	}
	certificate, err := ca.IssueClient(rand.Reader, api.AgentIdentity(c.s.State.DeploymentID, id), key, c.s.Now, c.s.Manifest.PKI.CertificateLife)
	if err != nil {
		return state.AgentCertificate{}, err
	}
	had = state.AgentCertificate{Certificate: string(certificate), PublicKey: key}
	c.s.Update(func() {
		if c.s.Secrets.Agents == nil {
			c.s.Secrets.Agents = map[string]state.AgentCertificate{}
		}
		c.s.Secrets.Agents[id] = had
	})
	return had, nil
}

// BusSettings returns the deployer's own way onto the bus.
func (c *Credentials) BusSettings(urls []string) (bus.Settings, error) {
	ca, err := c.CA()
	if err != nil {
		return bus.Settings{}, err
	}
	pair, err := ca.IssueClientPair(rand.Reader, api.DeployerIdentity(c.s.State.DeploymentID), c.s.Now, deployerLife)
	if err != nil {
		return bus.Settings{}, fmt.Errorf("cannot issue the deployer's certificate: %w", err)
	}
	return bus.Settings{URLs: urls, CA: []byte(c.Trusted()), Certificate: pair.Certificate, Key: pair.PrivateKey}, nil
}
