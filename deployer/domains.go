package deployer

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/domains"
	"github.com/clusterworks/deploy/manifests"
)

// DomainReport lists the domains of a deployment and what is known of each.
type DomainReport = domains.Report

// DomainRecord is a record that a public DNS needs for a domain.
type DomainRecord = domains.Record

// DomainsRequest says how domains are looked at.
type DomainsRequest struct {
	// DNSServer is asked, host:port; "": this machine's resolver.
	DNSServer string
}

// Domains looks at every domain: what the manifest says of it, how its name
// resolves, and whether each load balancer answers for it with its certificate. It
// changes nothing.
func (d *Deployer) Domains(ctx context.Context, q DomainsRequest) (*DomainReport, error) {
	x, err := d.load()
	if err != nil {
		return nil, err
	}
	defer x.fleet.Close()
	endpoints, err := x.balancers()
	if err != nil {
		return nil, err
	}
	report := &DomainReport{Deployment: x.Manifest.Deployment.Name, At: x.Now, Addresses: x.publicAddresses(endpoints)}
	report.Domains = make([]domains.Status, len(x.Manifest.Domains))
	err = x.Each(ctx, len(report.Domains), func(ctx context.Context, i int) error {
		domain := x.Manifest.Domains[i]
		status := domains.Describe(domain, x.Secrets, x.Now)
		var asking sync.WaitGroup
		asking.Go(func() {
			status.DNS = domains.Resolve(ctx, q.DNSServer, domains.HostOf(domain.Name), report.Addresses)
		})
		pair, _, _ := domains.Pair(domain, x.Secrets)
		status.Answers = make([]domains.Answer, len(endpoints))
		for j, e := range endpoints {
			asking.Go(func() { status.Answers[j] = e.Ask(ctx, domain.Name, pair) })
		}
		asking.Wait()
		status.Conclude()
		report.Domains[i] = status
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	if asked, ok := rates(ctx, x, endpoints); ok {
		report.Attribute(asked)
	}
	return report, nil
}

// logTail bounds what is read of each load balancer's access log, in lines.
const logTail = 20_000

// rates returns the requests a second by host, of all load balancers together. It
// reports whether each has told of its own.
func rates(ctx context.Context, x *deployment, endpoints []domains.Endpoint) (map[string]float64, bool) {
	if len(endpoints) == 0 || slices.ContainsFunc(endpoints, func(e domains.Endpoint) bool { return e.Process == "" }) {
		return nil, false
	}
	var mu sync.Mutex
	sum := map[string]float64{}
	err := x.Each(ctx, len(endpoints), func(ctx context.Context, i int) error {
		e := endpoints[i]
		var lines []string
		err := x.stream(ctx, e.Instance, e.Job, e.Process, LogsRequest{Lines: logTail}, func(l LogLine) error {
			lines = append(lines, l.Text)
			return nil
		})
		mu.Lock()
		defer mu.Unlock()
		for host, rate := range domains.Rates(lines, len(lines) >= logTail, time.Now()) {
			sum[host] += rate
		}
		return err
	})
	return sum, err == nil
}

// DomainRecords returns what a public DNS must have for the manifest's domains.
func (d *Deployer) DomainRecords() ([]DomainRecord, error) {
	x, err := d.load()
	if err != nil {
		return nil, err
	}
	defer x.fleet.Close()
	endpoints, err := x.balancers()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, domain := range x.Manifest.Domains {
		names = append(names, domain.Name)
	}
	return domains.Records(names, x.publicAddresses(endpoints)), nil
}

// Authority returns the certificates of the CAs that clients must trust for domains
// with the deployment's own certificates, PEM.
func (d *Deployer) Authority() (string, error) {
	x, err := d.load()
	if err != nil {
		return "", err
	}
	defer x.fleet.Close()
	return x.credentials.Trusted(), nil
}

// balancers returns the load balancers whose VMs exist.
func (x *deployment) balancers() ([]domains.Endpoint, error) {
	evaluator := x.Manifest.Evaluator(x.credentials.Facts(nil))
	vms := x.VMs()
	var list []domains.Endpoint
	for _, b := range x.Manifest.Balancers() {
		for _, slot := range x.State.Groups[b.Group.Name] {
			id := api.InstanceID(b.Group.Name, slot.Index)
			address, err := netip.ParseAddr(vms[id].Address)
			if err != nil {
				continue // it has no VM yet
			}
			ctx, diags := evaluator.JobContext(b.Group.Name, slot.Index, b.Job)
			if diags.HasErrors() {
				return nil, &manifests.Error{Diagnostics: diags, Files: x.Manifest.Files}
			}
			property := ctx.Variables["property"]
			e := domains.Endpoint{Instance: id, Address: address, Port: port(property, "port"), TLSPort: port(property, "tls_port")}
			if logs := text(property, "access_log"); logs != "" && logs != "off" && len(b.Job.Spec.Processes) > 0 {
				e.Job, e.Process = b.Job.Spec.Name, b.Job.Spec.Processes[0].Name
			}
			list = append(list, e)
		}
	}
	return list, nil
}

// port returns a property that is a port, 0 if there is none such.
func port(property cty.Value, name string) int {
	if !property.Type().IsObjectType() || !property.Type().HasAttribute(name) {
		return 0
	}
	v, _ := property.GetAttr(name).Unmark()
	if v.Type() != cty.Number || !v.IsKnown() || v.IsNull() {
		return 0
	}
	n, _ := v.AsBigFloat().Int64()
	return int(n)
}

// text returns a property that is a string, "" if there is none such.
func text(property cty.Value, name string) string {
	if !property.Type().IsObjectType() || !property.Type().HasAttribute(name) {
		return ""
	}
	v, _ := property.GetAttr(name).Unmark()
	if v.Type() != cty.String || !v.IsKnown() || v.IsNull() {
		return ""
	}
	return v.AsString()
}

// publicAddresses returns those that DNS must have: what the manifest says, or where
// the template publishes a load balancer, or the load balancers' own.
func (x *deployment) publicAddresses(endpoints []domains.Endpoint) []string {
	if list := x.Manifest.Deployment.PublicAddresses; len(list) > 0 {
		return list
	}
	var list []string
	if publish, ok := x.Manifest.Infrastructure.Settings["publish"]; ok && publish.CanIterateElements() && (publish.Type().IsObjectType() || publish.Type().IsMapType()) {
		for at, to := range publish.AsValueMap() {
			group := ""
			if !to.IsNull() && to.Type() == cty.String {
				group, _, _ = strings.Cut(to.AsString(), ":")
			}
			parsed, err := netip.ParseAddrPort(at)
			if err == nil && slices.ContainsFunc(x.Manifest.Balancers(), func(b manifests.Balancer) bool { return b.Group.Name == group }) {
				list = append(list, parsed.Addr().String())
			}
		}
	}
	if len(list) == 0 {
		for _, e := range endpoints {
			list = append(list, e.Address.String())
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// domainMetrics returns the seconds until each domain's certificate ends.
func (x *deployment) domainMetrics() api.MetricFamily {
	f := api.MetricFamily{Name: "deploy_domain_certificate_end_seconds", Help: "When a domain's certificate ends, seconds since 1970.", Type: api.MetricGauge}
	for _, domain := range x.Manifest.Domains {
		if c := domains.Describe(domain, x.Secrets, x.Now).Certificate; c != nil {
			f.Samples = append(f.Samples, api.MetricSample{Labels: []api.MetricLabel{{Name: "domain", Value: domain.Name}}, Value: float64(c.Ends.Unix())})
		}
	}
	slices.SortFunc(f.Samples, func(a, b api.MetricSample) int { return cmp.Compare(a.Labels[0].Value, b.Labels[0].Value) })
	return f
}
