package manifests

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/jobspec"
	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// domainPattern matches host names.
var domainPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// syslogPattern matches the addresses of syslog servers.
var syslogPattern = regexp.MustCompile(`^(udp|tcp)://([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$`)

// only returns the block that there must be exactly one of.
func (l *loader) only(kind, example string) *hcl.Block {
	b := l.Single(l.blocks[kind])
	if b == nil {
		at := hcl.Range{}
		if len(l.bodies) > 0 {
			at = l.bodies[0].MissingItemRange()
		}
		l.Report(syntax.Problem("Missing "+kind+" block", fmt.Sprintf("A manifest needs one %s block: %s", kind, example), at))
	}
	return b
}

func (l *loader) decodeDeployment() {
	l.Constants["deployment"] = syntax.Refused("The deployment block cannot refer to itself.")
	l.Constants["local"] = syntax.Refused("The deployment block can use variables only: locals may refer to it.")
	if b := l.only("deployment", `deployment "cf" { domain = "cf.localhost" }`); b != nil {
		l.CheckName(b)
		content := l.Content(b.Body, "domain public_addresses tags", "metrics", "logging", "firewall")
		name := b.Labels[0]
		l.m.Deployment = Deployment{
			Name:   name,
			Domain: l.Text(content.Attributes, "domain", name+".localhost"),
			Range:  b.DefRange,
		}
		l.m.Deployment.Tags = l.TextMap(content.Attributes, "tags")
		l.m.Deployment.PublicAddresses = l.Texts(content.Attributes, "public_addresses")
		for _, text := range l.m.Deployment.PublicAddresses {
			if _, err := netip.ParseAddr(text); err != nil {
				attr := content.Attributes["public_addresses"]
				l.Report(syntax.Problem("Invalid address", fmt.Sprintf("%q in \"public_addresses\" is not an IP address.", text), attr.Expr.Range(), attr.Range))
			}
		}
		if metrics := l.Single(content.Blocks.OfType("metrics")); metrics != nil {
			l.m.Deployment.MetricsPort = l.Whole(l.Content(metrics.Body, "port!").Attributes, "port", 0, 1, 65535)
		}
		if logging := l.Single(content.Blocks.OfType("logging")); logging != nil {
			attrs := l.Content(logging.Body, "syslog!").Attributes
			l.m.Deployment.Syslog = l.Text(attrs, "syslog", "")
			if attr := attrs["syslog"]; attr != nil && l.m.Deployment.Syslog != "" && !syslogPattern.MatchString(l.m.Deployment.Syslog) {
				l.Report(syntax.Problem("Invalid syslog server",
					fmt.Sprintf("%q is not an address such as \"udp://10.0.0.5:514\" or \"tcp://logs.example.com:601\".", l.m.Deployment.Syslog), attr.Expr.Range(), attr.Range))
			}
		}
		if firewall := l.Single(content.Blocks.OfType("firewall")); firewall != nil {
			attrs := l.Content(firewall.Body, "allow").Attributes
			l.m.Deployment.Firewall = &Firewall{Allow: l.Texts(attrs, "allow")}
			for _, text := range l.m.Deployment.Firewall.Allow {
				_, address := netip.ParseAddr(text)
				if prefix, err := netip.ParsePrefix(text); address != nil && (err != nil || prefix != prefix.Masked()) {
					l.Report(syntax.Problem("Invalid range", fmt.Sprintf("%q in \"allow\" is neither an IP address nor a range of them such as \"10.0.0.0/8\".", text), attrs["allow"].Expr.Range(), attrs["allow"].Range))
				}
			}
		}
		if attr := content.Attributes["domain"]; attr != nil && !domainPattern.MatchString(l.m.Deployment.Domain) {
			l.Report(syntax.Problem("Invalid domain",
				fmt.Sprintf("%q is not a domain in lower case, such as \"cf.localhost\".", l.m.Deployment.Domain), attr.Expr.Range(), attr.Range))
		}
	}
	l.Constants["deployment"] = &syntax.Root{Noun: "attribute of the deployment", Names: []string{"name", "id", "domain"}, Refuse: func(name string) string {
		if name == "id" {
			return "The deployment's id is made at the first apply, so it is not known when the manifest is read. Use it in the properties of a job."
		}
		return ""
	}}
	l.Context.Variables["deployment"] = l.m.Deployment.value("")
}

// value returns the deployment as an object for expressions. An empty id is
// unknown.
func (d Deployment) value(id string) cty.Value {
	return cty.ObjectVal(map[string]cty.Value{
		"name":   cty.StringVal(d.Name),
		"id":     jobspec.Known(id),
		"domain": cty.StringVal(d.Domain),
	})
}

// leastLife is the shortest life of a certificate: an apply has to fit in.
const leastLife = 10 * time.Second

func (l *loader) decodePKI() {
	l.m.PKI = DefaultPKI()
	b := l.Single(l.blocks["pki"])
	if b == nil {
		return
	}
	attrs := l.Content(b.Body, "certificate_life ca_life").Attributes
	l.m.PKI.CertificateLife = l.Duration(attrs, "certificate_life", l.m.PKI.CertificateLife, leastLife)
	l.m.PKI.CALife = l.Duration(attrs, "ca_life", l.m.PKI.CALife, leastLife)
	if l.m.PKI.CALife < l.m.PKI.CertificateLife {
		l.Report(syntax.Problem("Certificates would outlive their CA",
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
		l.Report(syntax.Problem("Invalid infrastructure", "The label names the template that makes the VMs, such as \"local\"; it is empty.", b.LabelRanges[0], b.DefRange))
	}
	attrs, diags := b.Body.JustAttributes()
	l.Report(diags...)
	for _, name := range syntax.SortedKeys(attrs) {
		if v, ok := l.Eval(attrs[name], cty.DynamicPseudoType); ok {
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
func (t SecretType) Attributes() []string { return syntax.SortedKeys(secretAttributes(t)) }

// secretRoot returns what expressions may refer to below secret. It looks at the
// blocks' raw types, because locals are decoded before secrets are.
func (l *loader) secretRoot() *syntax.Root {
	return &syntax.Root{Noun: "secret", Names: syntax.Labels(l.blocks["secret"]), Attributes: func(name string) []string {
		if s := l.m.Secrets[name]; s != nil {
			return syntax.SortedKeys(secretAttributes(s.Type))
		}
		return []string{"value", "certificate", "private_key", "ca", "public_key"}
	}}
}

func (l *loader) decodeSecrets() {
	authorities := map[string]*hcl.Attribute{}
	l.Each(l.blocks["secret"], func(b *hcl.Block, name string) {
		l.CheckIdentifier(b)
		content := l.Content(b.Body, "type! length ca common_name names")
		attrs := content.Attributes
		s := &Secret{Name: name, Range: b.DefRange}
		s.Type = SecretType(l.Choice(attrs, "type", "",
			string(SecretPassword), string(SecretCA), string(SecretCertificate), string(SecretSSH), string(SecretRSA)))
		l.m.Secrets[name] = s
		if s.Type == "" {
			return
		}
		s.Length = l.Whole(attrs, "length", 32, 8, 1024)
		s.CommonName = l.Text(attrs, "common_name", "")
		s.Names = l.Texts(attrs, "names")
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
				l.Report(syntax.Problem("Unsupported argument",
					fmt.Sprintf("A secret of type %q has no %q. Remove it, or choose another type.", s.Type, attr), a.NameRange, a.Range))
			}
		}
		if s.Type == SecretCertificate && attrs["ca"] == nil {
			l.Report(syntax.Problem("Missing required argument",
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
	name, d := l.secretRoot().Reference(attr.Expr, "secret")
	if d != nil {
		l.Report(d)
		return ""
	}
	if s := l.m.Secrets[name]; s == nil || s.Type != SecretCA {
		l.Report(syntax.Problem("Not a certificate authority",
			fmt.Sprintf("Secret %q is not of type \"ca\", so it cannot sign certificates.", name), attr.Expr.Range(), attr.Range))
		return ""
	}
	return name
}

const mostInstances = 100_000

func decodeStemcells(l *loader) {
	l.stemcells = map[string]*Stemcell{}
	values := map[string]cty.Value{}
	l.Each(l.blocks["stemcell"], func(b *hcl.Block, name string) {
		l.CheckIdentifier(b)
		attrs := l.Content(b.Body, "path url version! sha256!").Attributes
		s := &Stemcell{Name: name, Range: b.DefRange}
		l.stemcells[name], values[name] = s, cty.ObjectVal(map[string]cty.Value{"name": cty.StringVal(name)})
		path, address, pin := attrs["path"], attrs["url"], attrs["sha256"]
		if (path == nil) == (address == nil) {
			l.Report(syntax.Problem("Stemcell without a source",
				fmt.Sprintf("Stemcell %q must name either a file on this machine (path) or one that is fetched (url).", name), b.DefRange))
			return
		}
		s.Path, s.URL, s.Version = l.Text(attrs, "path", ""), l.Text(attrs, "url", ""), l.Text(attrs, "version", "")
		s.SHA256 = strings.ToLower(l.Text(attrs, "sha256", ""))
		source := path
		if source == nil {
			source = address
			if u, err := url.Parse(s.URL); s.URL != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
				l.Report(syntax.Problem("Not an address of a file", fmt.Sprintf("The url of stemcell %q must begin with https:// or http://; it is pinned by its sha256.", name), address.Expr.Range(), address.Range))
			}
		}
		s.SourceRange = source.Expr.Range()
		if pin != nil {
			s.SHA256Range = pin.Expr.Range()
			if s.SHA256 != "" && !sha256Pattern.MatchString(s.SHA256) {
				l.Report(syntax.Problem("Not a sha256", "A sha256 has 64 hexadecimal digits; beside what make stemcell builds lies a file with it.", pin.Expr.Range(), pin.Range))
			}
		}
	})
	l.Context.Variables["stemcell"] = cty.ObjectVal(values)
	l.Constants["stemcell"] = &syntax.Root{Noun: "stemcell", Names: syntax.SortedKeys(l.stemcells), Attributes: syntax.Fixed("name")}
}

// stemcellOf reads which stemcell a vm block boots, nil if none is named.
func stemcellOf(l *loader, attrs hcl.Attributes) *Stemcell {
	name, ok := l.named(attrs["stemcell"])
	if !ok {
		return nil
	}
	if image := attrs["image"]; image != nil {
		l.Report(syntax.Problem("Two images", "A VM boots either a stemcell of the manifest (stemcell) or what the template knows by name or path (image). Remove one of them.", image.Expr.Range(), image.Range))
	}
	return l.stemcells[name]
}

// userDataPattern matches what cloud-init takes for settings or for a script.
var userDataPattern = regexp.MustCompile(`^(#cloud-config\r?\n|#!\s*/)`)

func (l *loader) decodeVMs() {
	l.vms = map[string]*VM{}
	values := map[string]cty.Value{}
	l.Each(l.blocks["vm"], func(b *hcl.Block, name string) {
		l.CheckIdentifier(b)
		attrs := l.Content(b.Body, "cpus memory_mb disk_gb image stemcell options user_data").Attributes
		vm := defaultVM()
		vm.Name, vm.Range = name, b.DefRange
		vm.CPUs = l.Whole(attrs, "cpus", vm.CPUs, 1, 4096)
		vm.MemoryMB = l.Whole(attrs, "memory_mb", vm.MemoryMB, 1, syntax.MostMegabytes)
		vm.DiskGB = l.Whole(attrs, "disk_gb", 0, 0, syntax.MostMegabytes)
		vm.Image = l.Text(attrs, "image", "")
		vm.Stemcell = stemcellOf(l, attrs)
		vm.Options = l.TextMap(attrs, "options")
		vm.UserData = l.Text(attrs, "user_data", "")
		if attr := attrs["user_data"]; attr != nil && vm.UserData != "" && !userDataPattern.MatchString(vm.UserData) {
			l.Report(syntax.Problem("Invalid user data",
				"\"user_data\" must begin with a line \"#cloud-config\", or \"#!\" and an interpreter: else cloud-init does not know what it is, and does nothing.", attr.Expr.Range(), attr.Range))
		}
		l.vms[name] = vm
		values[name] = vm.value()
	})
	l.Context.Variables["vm"] = cty.ObjectVal(values)
	l.Constants["vm"] = &syntax.Root{Noun: "vm", Names: syntax.SortedKeys(l.vms), Attributes: syntax.Fixed(syntax.SortedKeys(defaultVM().value().Type().AttributeTypes())...)}
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
	l.Each(l.blocks["disk"], func(b *hcl.Block, name string) {
		l.CheckIdentifier(b)
		attrs := l.Content(b.Body, "size_gb!").Attributes
		disk := &Disk{Name: name, SizeGB: l.Whole(attrs, "size_gb", 1, 1, syntax.MostMegabytes), Range: b.DefRange}
		if attr := attrs["size_gb"]; attr != nil {
			disk.Range = attr.Range
		}
		l.disks[name] = disk
		values[name] = cty.ObjectVal(map[string]cty.Value{
			"name": cty.StringVal(name), "size_gb": cty.NumberIntVal(int64(disk.SizeGB)),
		})
	})
	l.Context.Variables["disk"] = cty.ObjectVal(values)
	l.Constants["disk"] = &syntax.Root{Noun: "disk", Names: syntax.SortedKeys(l.disks), Attributes: syntax.Fixed("name", "size_gb")}
}

func (l *loader) decodeNetworks() {
	l.networks = map[string]*Network{}
	values := map[string]cty.Value{}
	l.Each(l.blocks["network"], func(b *hcl.Block, name string) {
		l.CheckIdentifier(b)
		attrs := l.Content(b.Body, "static options").Attributes
		n := &Network{Name: name, Static: l.Texts(attrs, "static"), Options: l.TextMap(attrs, "options"), Range: b.DefRange}
		seen := map[netip.Addr]bool{}
		for _, s := range n.Static {
			a, err := netip.ParseAddr(s)
			switch {
			case err != nil:
				l.Report(syntax.Problem("Not an address", fmt.Sprintf("Network %q: %q is not an IP address.", name, s), attrs["static"].Expr.Range(), attrs["static"].Range))
			case seen[a]:
				l.Report(syntax.Problem("Duplicate address", fmt.Sprintf("Network %q has the address %s twice.", name, s), attrs["static"].Expr.Range(), attrs["static"].Range))
			}
			seen[a] = true
		}
		l.networks[name] = n
		values[name] = cty.ObjectVal(map[string]cty.Value{"name": cty.StringVal(name), "static": stringList(n.Static)})
	})
	l.Context.Variables["network"] = cty.ObjectVal(values)
	l.Constants["network"] = &syntax.Root{Noun: "network", Names: syntax.SortedKeys(l.networks), Attributes: syntax.Fixed("name", "static")}
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
	attrs := l.Content(b.Body, "canaries max_in_flight min_available watch_time min_healthy_time on_failure").Attributes
	u.Canaries = l.Whole(attrs, "canaries", u.Canaries, 0, mostInstances)
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
		if v, ok := l.Eval(attr, cty.String); ok {
			least, most, ok := watchTime(v.AsString())
			if ok {
				u.WatchMin, u.WatchMax = least, most
			} else {
				l.Report(syntax.Problem("Invalid watch_time",
					fmt.Sprintf("%q is not a span of time. Write the shortest and the longest wait, \"5s-60s\", or just the longest, \"60s\".", v.AsString()), attr.Expr.Range(), attr.Range))
			}
		}
	}
	u.MinHealthyTime = l.Duration(attrs, "min_healthy_time", u.MinHealthyTime, 0)
	u.OnFailure = OnFailure(l.Choice(attrs, "on_failure", string(u.OnFailure),
		string(OnFailureRollback), string(OnFailureHalt), string(OnFailureRollbackAll)))
	if u.MinHealthyTime > u.WatchMax {
		l.Report(syntax.Problem("Update can never succeed",
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
	l.Report(syntax.Problem("Group can never be updated",
		fmt.Sprintf("min_available is %d and group %q has %d instances: not one of them could be updated. One less at the most.", a.Number, g.Name, g.Instances),
		attr.Expr.Range(), attr.Range))
}

// amount reads a number from least on, or a percentage as text.
func (l *loader) amount(attr *hcl.Attribute, least int) (Amount, bool) {
	v, ok := l.Eval(attr, cty.String)
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
		l.Report(syntax.Problem("Invalid "+attr.Name,
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
