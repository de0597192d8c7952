package manifests

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// namePattern is what groups, jobs and deployments may be called: their names
// become parts of paths, host names and message subjects.
var namePattern = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)

// domainPattern is what host names look like.
var domainPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// syslogPattern is where logs can be sent.
var syslogPattern = regexp.MustCompile(`^(udp|tcp)://([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$`)

// checkName reports a label that is no name in the sense of namePattern.
func (d *decoder) checkName(b *hcl.Block) {
	if !namePattern.MatchString(b.Labels[0]) {
		d.report(problem("Invalid name",
			fmt.Sprintf("%q cannot be the name of a %s: a lower-case letter first, then lower-case letters, digits, '_' and '-' only.", b.Labels[0], b.Type),
			b.LabelRanges[0], b.DefRange))
	}
}

// checkIdentifier reports a label that expressions could not refer to.
func (d *decoder) checkIdentifier(b *hcl.Block) {
	if !hclsyntax.ValidIdentifier(b.Labels[0]) {
		d.report(problem("Invalid name",
			fmt.Sprintf("%q cannot be the name of a %s: a letter first, then letters, digits, '_' and '-' only.", b.Labels[0], b.Type),
			b.LabelRanges[0], b.DefRange))
	}
}

// only returns the block that there must be exactly one of.
func (l *loader) only(kind, example string) *hcl.Block {
	b := l.single(l.blocks[kind])
	if b == nil {
		at := hcl.Range{}
		if len(l.bodies) > 0 {
			at = l.bodies[0].MissingItemRange()
		}
		l.report(problem("Missing "+kind+" block", fmt.Sprintf("A manifest needs one %s block: %s", kind, example), at))
	}
	return b
}

func (l *loader) decodeDeployment() {
	l.ns["deployment"] = refused("The deployment block cannot refer to itself.")
	l.ns["local"] = refused("The deployment block can use variables only: locals may refer to it.")
	if b := l.only("deployment", `deployment "cf" { domain = "cf.localhost" }`); b != nil {
		l.checkName(b)
		content := l.content(b.Body, "domain", "metrics", "logging")
		name := b.Labels[0]
		l.m.Deployment = Deployment{
			Name:   name,
			Domain: l.text(content.Attributes, "domain", name+".localhost"),
			Range:  b.DefRange,
		}
		if metrics := l.single(content.Blocks.OfType("metrics")); metrics != nil {
			l.m.Deployment.MetricsPort = l.whole(l.content(metrics.Body, "port!").Attributes, "port", 0, 1, 65535)
		}
		if logging := l.single(content.Blocks.OfType("logging")); logging != nil {
			attrs := l.content(logging.Body, "syslog!").Attributes
			l.m.Deployment.Syslog = l.text(attrs, "syslog", "")
			if attr := attrs["syslog"]; attr != nil && l.m.Deployment.Syslog != "" && !syslogPattern.MatchString(l.m.Deployment.Syslog) {
				l.report(problem("Invalid syslog server",
					fmt.Sprintf("%q is not an address such as \"udp://10.0.0.5:514\" or \"tcp://logs.example.com:601\".", l.m.Deployment.Syslog), attr.Expr.Range(), attr.Range))
			}
		}
		if attr := content.Attributes["domain"]; attr != nil && !domainPattern.MatchString(l.m.Deployment.Domain) {
			l.report(problem("Invalid domain",
				fmt.Sprintf("%q is not a domain in lower case, such as \"cf.localhost\".", l.m.Deployment.Domain), attr.Expr.Range(), attr.Range))
		}
	}
	l.ns["deployment"] = &root{noun: "attribute of the deployment", names: []string{"name", "id", "domain"}, refuse: func(name string) string {
		if name == "id" {
			return "The deployment's id is made at the first apply, so it is not known when the manifest is read. Use it in the properties of a job."
		}
		return ""
	}}
	l.ctx.Variables["deployment"] = l.m.Deployment.value("")
}

// value is what expressions see of the deployment; an empty id is not known.
func (d Deployment) value(id string) cty.Value {
	return cty.ObjectVal(map[string]cty.Value{
		"name":   cty.StringVal(d.Name),
		"id":     known(id),
		"domain": cty.StringVal(d.Domain),
	})
}

// known is a string that is unknown as long as it is empty.
func known(s string) cty.Value {
	if s == "" {
		return cty.UnknownVal(cty.String).RefineNotNull()
	}
	return cty.StringVal(s)
}

// leastLife is the shortest life of a certificate: an apply has to fit in.
const leastLife = 10 * time.Second

func (l *loader) decodePKI() {
	l.m.PKI = DefaultPKI()
	b := l.single(l.blocks["pki"])
	if b == nil {
		return
	}
	attrs := l.content(b.Body, "certificate_life ca_life").Attributes
	l.m.PKI.CertificateLife = l.duration(attrs, "certificate_life", l.m.PKI.CertificateLife, leastLife)
	l.m.PKI.CALife = l.duration(attrs, "ca_life", l.m.PKI.CALife, leastLife)
	if l.m.PKI.CALife < l.m.PKI.CertificateLife {
		l.report(problem("Certificates would outlive their CA",
			fmt.Sprintf("ca_life is %s, certificate_life %s: nothing that a CA signs is good after its own end. Raise ca_life or lower certificate_life.", l.m.PKI.CALife, l.m.PKI.CertificateLife), b.DefRange))
	}
}

func (l *loader) decodeInfrastructure() {
	b := l.only("infrastructure", `infrastructure "local" {}`)
	if b == nil {
		return
	}
	l.m.Infrastructure = Infrastructure{Template: b.Labels[0], Settings: map[string]cty.Value{}, Range: b.DefRange}
	if b.Labels[0] == "" {
		l.report(problem("Invalid infrastructure", "The label names the template that makes the VMs, such as \"local\"; it is empty.", b.LabelRanges[0], b.DefRange))
	}
	attrs, diags := b.Body.JustAttributes()
	l.report(diags...)
	for _, name := range sortedKeys(attrs) {
		if v, ok := l.eval(attrs[name], cty.DynamicPseudoType); ok {
			l.m.Infrastructure.Settings[name] = v
		}
	}
}

// secretAttributes are the attributes of a secret's value, by its type; true
// are those that must not be shown.
func secretAttributes(t SecretType) map[string]bool {
	switch t {
	case SecretPassword:
		return map[string]bool{"value": true}
	case SecretCA:
		return map[string]bool{"certificate": false, "private_key": true}
	case SecretCertificate:
		return map[string]bool{"ca": false, "certificate": false, "private_key": true}
	case SecretSSH, SecretRSA:
		return map[string]bool{"public_key": false, "private_key": true}
	}
	return nil
}

// Attributes are the names of the attributes of a secret's value, sorted.
func (t SecretType) Attributes() []string { return sortedKeys(secretAttributes(t)) }

// secretRoot is what expressions may refer to as secret. It looks at the
// blocks' raw types, because locals are decoded before secrets are.
func (l *loader) secretRoot() *root {
	return &root{noun: "secret", names: labels(l.blocks["secret"]), attributes: func(name string) []string {
		if s := l.m.Secrets[name]; s != nil {
			return sortedKeys(secretAttributes(s.Type))
		}
		return []string{"value", "certificate", "private_key", "ca", "public_key"}
	}}
}

func (l *loader) decodeSecrets() {
	authorities := map[string]*hcl.Attribute{}
	l.each(l.blocks["secret"], func(b *hcl.Block, name string) {
		l.checkIdentifier(b)
		content := l.content(b.Body, "type! length ca common_name names")
		attrs := content.Attributes
		s := &Secret{Name: name, Range: b.DefRange}
		s.Type = SecretType(l.choice(attrs, "type", "",
			string(SecretPassword), string(SecretCA), string(SecretCertificate), string(SecretSSH), string(SecretRSA)))
		l.m.Secrets[name] = s
		if s.Type == "" {
			return
		}
		s.Length = l.whole(attrs, "length", 32, 8, 1024)
		s.CommonName = l.text(attrs, "common_name", "")
		s.Names = l.texts(attrs, "names")
		switch {
		case s.CommonName != "":
		case len(s.Names) > 0:
			s.CommonName = s.Names[0]
		default:
			s.CommonName = name
		}
		authorities[name] = attrs["ca"]
		for attr, types := range map[string][]SecretType{
			"length":      {SecretPassword},
			"ca":          {SecretCertificate},
			"names":       {SecretCertificate},
			"common_name": {SecretCertificate, SecretCA},
		} {
			if a := attrs[attr]; a != nil && !contains(types, s.Type) {
				l.report(problem("Unsupported argument",
					fmt.Sprintf("A secret of type %q has no %q. Remove it, or choose another type.", s.Type, attr), a.NameRange, a.Range))
			}
		}
		if s.Type == SecretCertificate && attrs["ca"] == nil {
			l.report(problem("Missing required argument",
				"A certificate needs someone to sign it: write ca = secret.<name>, with the name of a secret of type \"ca\".", b.Body.MissingItemRange(), b.DefRange))
		}
	})
	for name, attr := range authorities {
		if attr != nil && l.m.Secrets[name].Type == SecretCertificate {
			l.m.Secrets[name].CA = l.authority(attr)
		}
	}
}

func contains[T comparable](list []T, x T) bool {
	for _, e := range list {
		if e == x {
			return true
		}
	}
	return false
}

// authority reads `ca = secret.<name>`.
func (l *loader) authority(attr *hcl.Attribute) string {
	name, d := l.reference(attr.Expr, l.secretRoot(), "secret")
	if d != nil {
		l.report(d)
		return ""
	}
	if s := l.m.Secrets[name]; s == nil || s.Type != SecretCA {
		l.report(problem("Not a certificate authority",
			fmt.Sprintf("Secret %q is not of type \"ca\", so it cannot sign certificates.", name), attr.Expr.Range(), attr.Range))
		return ""
	}
	return name
}

// reference reads an expression that must be a plain reference, such as
// group.router, and returns the name.
func (l *loader) reference(expr hcl.Expression, r *root, first string) (string, *hcl.Diagnostic) {
	t, diags := hcl.AbsTraversalForExpr(expr)
	if diags.HasErrors() || t.RootName() != first || len(t) != 2 {
		if !diags.HasErrors() && t.RootName() == first && len(t) < 2 {
			return "", namespace{first: r}.checkReference(t)
		}
		return "", problem("Not a reference",
			fmt.Sprintf("This must name a %s, without quotes: %s.<name>. %s", first, first, suggest("", r.names, r.noun)), expr.Range())
	}
	if d := (namespace{first: r}).checkReference(t); d != nil {
		return "", d
	}
	name, _ := stepName(t[1])
	return name, nil
}

const (
	mostInstances = 100_000
	mostMegabytes = math.MaxInt32
)

func (l *loader) decodeVMs() {
	l.vms = map[string]*VM{}
	values := map[string]cty.Value{}
	l.each(l.blocks["vm"], func(b *hcl.Block, name string) {
		l.checkIdentifier(b)
		attrs := l.content(b.Body, "cpus memory_mb disk_gb image options").Attributes
		vm := defaultVM()
		vm.Name, vm.Range = name, b.DefRange
		vm.CPUs = l.whole(attrs, "cpus", vm.CPUs, 1, 4096)
		vm.MemoryMB = l.whole(attrs, "memory_mb", vm.MemoryMB, 1, mostMegabytes)
		vm.DiskGB = l.whole(attrs, "disk_gb", 0, 0, mostMegabytes)
		vm.Image = l.text(attrs, "image", "")
		vm.Options = l.textMap(attrs, "options")
		l.vms[name] = vm
		values[name] = vm.value()
	})
	l.ctx.Variables["vm"] = cty.ObjectVal(values)
	l.ns["vm"] = &root{noun: "vm", names: sortedKeys(l.vms), attributes: fixed(sortedKeys(defaultVM().value().Type().AttributeTypes())...)}
}

// defaultVM is the size of machine where the manifest names none.
func defaultVM() *VM { return &VM{Name: "default", CPUs: 1, MemoryMB: 512} }

func (v *VM) value() cty.Value {
	return cty.ObjectVal(map[string]cty.Value{
		"name":      cty.StringVal(v.Name),
		"cpus":      cty.NumberIntVal(int64(v.CPUs)),
		"memory_mb": cty.NumberIntVal(int64(v.MemoryMB)),
		"disk_gb":   cty.NumberIntVal(int64(v.DiskGB)),
		"image":     cty.StringVal(v.Image),
		"options":   stringMap(v.Options),
	})
}

func stringMap(m map[string]string) cty.Value {
	if len(m) == 0 {
		return cty.MapValEmpty(cty.String)
	}
	values := make(map[string]cty.Value, len(m))
	for k, s := range m {
		values[k] = cty.StringVal(s)
	}
	return cty.MapVal(values)
}

func (l *loader) decodeDisks() {
	l.disks = map[string]*Disk{}
	values := map[string]cty.Value{}
	l.each(l.blocks["disk"], func(b *hcl.Block, name string) {
		l.checkIdentifier(b)
		attrs := l.content(b.Body, "size_gb!").Attributes
		disk := &Disk{Name: name, SizeGB: l.whole(attrs, "size_gb", 1, 1, mostMegabytes), Range: b.DefRange}
		l.disks[name] = disk
		values[name] = cty.ObjectVal(map[string]cty.Value{
			"name": cty.StringVal(name), "size_gb": cty.NumberIntVal(int64(disk.SizeGB)),
		})
	})
	l.ctx.Variables["disk"] = cty.ObjectVal(values)
	l.ns["disk"] = &root{noun: "disk", names: sortedKeys(l.disks), attributes: fixed("name", "size_gb")}
}

func (l *loader) decodeNetworks() {
	l.networks = map[string]*Network{}
	values := map[string]cty.Value{}
	l.each(l.blocks["network"], func(b *hcl.Block, name string) {
		l.checkIdentifier(b)
		attrs := l.content(b.Body, "static options").Attributes
		n := &Network{Name: name, Static: l.texts(attrs, "static"), Options: l.textMap(attrs, "options"), Range: b.DefRange}
		seen := map[netip.Addr]bool{}
		for _, s := range n.Static {
			a, err := netip.ParseAddr(s)
			switch {
			case err != nil:
				l.report(problem("Not an address", fmt.Sprintf("Network %q: %q is not an IP address.", name, s), attrs["static"].Expr.Range(), attrs["static"].Range))
			case seen[a]:
				l.report(problem("Duplicate address", fmt.Sprintf("Network %q has the address %s twice.", name, s), attrs["static"].Expr.Range(), attrs["static"].Range))
			}
			seen[a] = true
		}
		l.networks[name] = n
		values[name] = cty.ObjectVal(map[string]cty.Value{"name": cty.StringVal(name), "static": stringList(n.Static)})
	})
	l.ctx.Variables["network"] = cty.ObjectVal(values)
	l.ns["network"] = &root{noun: "network", names: sortedKeys(l.networks), attributes: fixed("name", "static")}
}

func stringList(list []string) cty.Value {
	if len(list) == 0 {
		return cty.ListValEmpty(cty.String)
	}
	values := make([]cty.Value, len(list))
	for i, s := range list {
		values[i] = cty.StringVal(s)
	}
	return cty.ListVal(values)
}

// update reads an update block over what it inherits.
func (l *loader) update(b *hcl.Block, u Update) Update {
	attrs := l.content(b.Body, "canaries max_in_flight min_available watch_time min_healthy_time on_failure").Attributes
	u.Canaries = l.whole(attrs, "canaries", u.Canaries, 0, mostInstances)
	if attr := attrs["max_in_flight"]; attr != nil {
		if a, ok := l.amount(attr, 1); ok {
			u.MaxInFlight = a
		}
	}
	if attr := attrs["min_available"]; attr != nil {
		if a, ok := l.amount(attr, 0); ok {
			u.MinAvailable = &a
		}
	}
	if attr := attrs["watch_time"]; attr != nil {
		if v, ok := l.eval(attr, cty.String); ok {
			least, most, ok := watchTime(v.AsString())
			if ok {
				u.WatchMin, u.WatchMax = least, most
			} else {
				l.report(problem("Invalid watch_time",
					fmt.Sprintf("%q is not a span of time. Write the shortest and the longest wait, \"5s-60s\", or just the longest, \"60s\".", v.AsString()), attr.Expr.Range(), attr.Range))
			}
		}
	}
	u.MinHealthyTime = l.duration(attrs, "min_healthy_time", u.MinHealthyTime, 0)
	u.OnFailure = OnFailure(l.choice(attrs, "on_failure", string(u.OnFailure),
		string(OnFailureRollback), string(OnFailureHalt), string(OnFailureRollbackAll)))
	if u.MinHealthyTime > u.WatchMax {
		l.report(problem("Update can never succeed",
			fmt.Sprintf("An instance must be healthy for %s, but is watched for at most %s. Raise watch_time or lower min_healthy_time.", u.MinHealthyTime, u.WatchMax), b.DefRange))
	}
	return u
}

// checkMinAvailable refuses what a group cannot hold and be updated.
func (l *loader) checkMinAvailable(g *Group, b *hcl.Block) {
	attrs, _ := b.Body.JustAttributes() // what else is wrong was reported
	attr, a := attrs["min_available"], g.Update.MinAvailable
	if attr == nil || a == nil || a.Percent || g.Instances == 0 || a.Number < g.Instances {
		return
	}
	l.report(problem("Group can never be updated",
		fmt.Sprintf("min_available is %d and group %q has %d instances: not one of them could be updated. One less at the most.", a.Number, g.Name, g.Instances),
		attr.Expr.Range(), attr.Range))
}

// amount reads a number from least on, or a percentage as text.
func (l *loader) amount(attr *hcl.Attribute, least int) (Amount, bool) {
	v, ok := l.eval(attr, cty.String)
	if !ok {
		return Amount{}, false
	}
	text, percent := strings.CutSuffix(v.AsString(), "%")
	most := mostInstances
	if percent {
		most = 100
	}
	n := 0
	_, err := fmt.Sscanf(text, "%d", &n)
	if err != nil || n < least || n > most || fmt.Sprint(n) != text {
		l.report(problem("Invalid "+attr.Name,
			fmt.Sprintf("%q is neither a number of instances, %d or more, nor a percentage of the group from \"%d%%\" to \"100%%\".", v.AsString(), least, least), attr.Expr.Range(), attr.Range))
		return Amount{}, false
	}
	return Amount{Number: n, Percent: percent}, true
}

// watchTime reads "0s-60s" or "60s".
func watchTime(s string) (least, most time.Duration, ok bool) {
	first, second, span := strings.Cut(s, "-")
	if !span {
		first, second = "0s", s
	}
	least, err := time.ParseDuration(strings.TrimSpace(first))
	if err != nil {
		return 0, 0, false
	}
	most, err = time.ParseDuration(strings.TrimSpace(second))
	return least, most, err == nil && least >= 0 && most > 0 && least <= most
}
