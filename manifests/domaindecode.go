package manifests

import (
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

var (
	redirectPattern = regexp.MustCompile(`^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~!&()*+,=:@%/-]*)?$`)
	pathPattern     = regexp.MustCompile(`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$`)
	typePattern     = regexp.MustCompile(`^[a-z0-9.+-]+/[a-z0-9.+-]+(; ?charset=[A-Za-z0-9._-]+)?$`)
)

// certificateFolder returns the folder that the paths of certificates begin in: the
// manifest's, unless there is another one.
func certificateFolder(fsys fs.FS, name string, other fs.FS) fs.FS {
	if other != nil {
		return other
	}
	if info, err := fs.Stat(fsys, name); err == nil && !info.IsDir() {
		name = path.Dir(name)
	}
	if sub, err := fs.Sub(fsys, name); err == nil {
		return sub
	}
	return fsys
}

// domainLoader is the part of a loader that reads domain blocks.
type domainLoader struct{ *loader }

// decode reads the domain blocks. Without one for them, the apps have the
// names below the deployment's own domain.
func (l *domainLoader) decode() {
	l.decodeACME()
	first := map[string]*Domain{}
	for _, b := range l.blocks["domain"] {
		d := l.domain(b)
		if d == nil {
			continue
		}
		if other := first[d.Name]; other != nil {
			l.Report(syntax.Problem("Duplicate domain",
				fmt.Sprintf("Domain %q was already declared at %s. A name is served by one block: remove one of them, or give its paths to the other.", d.Name, syntax.Place(other.Range)), d.Range))
			continue
		}
		first[d.Name] = d
		l.checkACME(d)
		l.m.Domains = append(l.m.Domains, d)
	}
	balancers := l.checkBalancers()
	own := "*." + l.m.Deployment.Domain
	if first[own] == nil && len(balancers) > 0 && !l.listsDomains(balancers) {
		implied := &Domain{Name: own, Target: Target{Kind: TargetApps}, Access: DomainAccess{MaxBodyMB: -1}, Implied: true, Range: l.m.Deployment.Range}
		l.m.Domains = slices.Insert(l.m.Domains, 0, implied)
	}
	l.checkRedirects()
}

// balancer is a job that serves domains.
type balancer struct {
	group    *Group
	job      *GroupJob
	property *Property // that takes them
}

// balancers returns the jobs that serve domains: those with a property that takes
// their certificates.
func (l *domainLoader) balancers() []balancer {
	var list []balancer
	for _, g := range l.m.Groups {
		for _, job := range g.Jobs {
			for _, p := range job.Spec.Properties {
				if servesDomains(p) {
					list = append(list, balancer{g, job, p})
				}
			}
		}
	}
	return list
}

// listsDomains reports whether a load balancer is told by its own properties which
// names it passes to the apps.
func (l *domainLoader) listsDomains(all []balancer) bool {
	return slices.ContainsFunc(all, func(b balancer) bool { return b.job.properties["domains"] != nil })
}

// checkBalancers lets the load balancers start after the groups that domains lead
// to, and reports domains that none serves or two places declare.
func (l *domainLoader) checkBalancers() []balancer {
	all := l.balancers()
	if len(l.m.Domains) == 0 {
		return all
	}
	if len(all) == 0 && !l.incomplete {
		l.Report(syntax.Problem("Domain without a load balancer",
			"No job of this manifest serves domains. Add a group with the job \"nginx\".", l.m.Domains[0].Range))
	}
	for _, b := range all {
		if attr := b.job.properties[b.property.Name]; attr != nil {
			l.Report(syntax.Problem("Domains declared twice",
				fmt.Sprintf("Property %q of job %q has the domains that domain blocks declare, the first at %s. Remove the property, or write its entries as domain blocks.", b.property.Name, b.job.Spec.Name, syntax.Place(l.m.Domains[0].Range)),
				attr.NameRange, attr.Range))
		}
		l.checkListed(b.job)
		for _, d := range l.m.Domains {
			for _, t := range d.targets() {
				if t.Kind == TargetGroup && slices.Contains(l.groupRoot.Names, t.Group) {
					l.requires(b.group, t.Group, t.Range)
				}
			}
		}
	}
	return all
}

// checkListed reports names of a load balancer's property domains for which there
// are blocks. What the property says is not known for certain before the VMs are,
// so what cannot be evaluated yet is left alone.
func (l *domainLoader) checkListed(job *GroupJob) {
	attr := job.properties["domains"]
	if attr == nil {
		return
	}
	quiet := syntax.Decoder{Constants: l.Constants, Context: l.Context}
	for _, name := range quiet.Texts(hcl.Attributes{"domains": attr}, "domains") {
		for _, d := range l.m.Domains {
			if d.Name == strings.ToLower(name) {
				l.Report(syntax.Problem("Duplicate domain",
					fmt.Sprintf("Domain %q has a block, at %s, and is in the property domains of job %q. Remove it from the property.", d.Name, syntax.Place(d.Range), job.Spec.Name), attr.Expr.Range(), attr.Range))
			}
		}
	}
}

// targets returns those of a domain and of its paths.
func (d *Domain) targets() []*Target {
	list := []*Target{&d.Target}
	for i := range d.Paths {
		list = append(list, &d.Paths[i].Target)
	}
	return list
}

// checkRedirects reports redirects that lead back to where they began.
func (l *domainLoader) checkRedirects() {
	for _, d := range l.m.Domains {
		var way []string
		at, seen := d, map[*Domain]bool{}
		for at != nil && !seen[at] {
			seen[at] = true
			if at = l.redirected(at); at != nil && at != d {
				way = append(way, fmt.Sprintf("%q at %s", at.Name, syntax.Place(at.Range)))
			}
		}
		if at != d {
			continue
		}
		via := ""
		if len(way) > 0 {
			via = " by way of " + strings.Join(way, ", ")
		}
		l.Report(syntax.Problem("Redirect to itself", fmt.Sprintf("Domain %q redirects to %s, which leads back to it%s. Browsers would never arrive.", d.Name, d.Target.Redirect, via), d.Target.Range))
	}
}

// redirected returns the domain that serves what a domain redirects to, nil if it
// redirects nowhere, to elsewhere, or to a path that is served otherwise.
func (l *domainLoader) redirected(d *Domain) *Domain {
	if d.Target.Kind != TargetRedirect {
		return nil
	}
	_, rest, _ := strings.Cut(d.Target.Redirect, "://")
	host, path, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, ":")
	next := l.m.Domain(host)
	if next == nil {
		return nil
	}
	for _, p := range next.Paths {
		if "/"+path == p.Path || strings.HasPrefix("/"+path, p.Path+"/") {
			return nil
		}
	}
	return next
}

// mostBody is the largest body of a fixed answer, bytes.
const mostBody = 32_000

const domainArguments = "name tls https_only hsts max_body_mb answer_timeout allow deny trusted_fronts users extra "

// targetArguments and targetBlocks say where requests go.
const targetArguments = "group port redirect"

// domain reads a domain block; nil if its name cannot be one.
func (l *domainLoader) domain(b *hcl.Block) *Domain {
	content := l.Content(b.Body, domainArguments+targetArguments, "answer", "path:path", "rate_limit")
	attrs, blocks := content.Attributes, content.Blocks.ByType()
	text, at := b.Labels[0], b.LabelRanges[0]
	if attr := attrs["name"]; attr != nil {
		text, at = l.Text(attrs, "name", text), attr.Expr.Range()
	}
	name, err := ParseDomain(text)
	if err != nil {
		l.Report(syntax.Problem("Invalid domain", err.Error()+".", at, b.DefRange))
		return nil
	}
	d := &Domain{Name: name, Range: b.DefRange, Target: l.target(content, b.DefRange), TLS: l.domainTLS(attrs["tls"])}
	d.Access = l.access(attrs, d.TLS.Kind)
	d.Users = l.Texts(attrs, "users")
	d.Extra = l.Text(attrs, "extra", "")
	if attr := attrs["users"]; attr != nil && d.Target.Kind != TargetApps {
		l.Report(syntax.Problem("Unsupported argument", "\"users\" says whose apps may have the name, and this domain does not go to apps. Remove one of the two.", attr.NameRange, attr.Range))
	}
	if rate := l.Single(blocks["rate_limit"]); rate != nil {
		limits := l.Content(rate.Body, "requests_per_second! burst").Attributes
		d.Access.RatePerSecond = l.Whole(limits, "requests_per_second", 0, 1, 1_000_000)
		d.Access.Burst = l.Whole(limits, "burst", d.Access.RatePerSecond, 0, 1_000_000)
	}
	paths := map[string]hcl.Range{}
	for _, p := range blocks["path"] {
		path := strings.TrimSuffix(p.Labels[0], "/")
		target := l.target(l.Content(p.Body, targetArguments+" apps", "answer"), p.DefRange)
		if !pathPattern.MatchString(path) {
			l.Report(syntax.Problem("Invalid path",
				fmt.Sprintf("%q is no path such as \"/api\": a \"/\", then letters, digits, '.', '_', '~' and '-'. It stands for itself and all that is below it; the rest of the domain goes where the domain block says.", p.Labels[0]), p.LabelRanges[0], p.DefRange))
			continue
		}
		if other, twice := paths[path]; twice {
			l.Report(syntax.Problem("Duplicate path", fmt.Sprintf("Path %q of domain %q was already declared at %s. Remove one of them.", path, d.Name, syntax.Place(other)), p.DefRange))
			continue
		}
		paths[path] = p.DefRange
		d.Paths = append(d.Paths, DomainPath{Path: path, Target: target, Range: p.DefRange})
	}
	sortPaths(d.Paths)
	return d
}

// target reads where requests go. Without any argument for it, that is the apps.
func (l *domainLoader) target(content *hcl.BodyContent, at hcl.Range) Target {
	attrs := content.Attributes
	t := Target{Kind: TargetApps, Range: at}
	var said []string
	if attr := attrs["group"]; attr != nil {
		said = append(said, "group")
		t.Kind, t.Range = TargetGroup, attr.Range
		name, d := l.groupRoot.Reference(attr.Expr, "group")
		if d != nil {
			d.Context = attr.Range.Ptr()
			l.Report(d)
		}
		t.Group = name
		t.Port = l.Whole(attrs, "port", 0, 1, 65535)
	} else if attr := attrs["port"]; attr != nil {
		l.Report(syntax.Problem("Port without a group", "\"port\" is that of a group's instances: add group = group.<name>.", attr.NameRange, attr.Range))
	}
	if attr := attrs["redirect"]; attr != nil {
		said = append(said, "redirect")
		t.Kind, t.Range = TargetRedirect, attr.Range
		t.Redirect = strings.TrimSuffix(l.Text(attrs, "redirect", ""), "/")
		if t.Redirect != "" && !redirectPattern.MatchString(t.Redirect) {
			l.Report(syntax.Problem("Invalid redirect",
				fmt.Sprintf("%q is not a URL such as \"https://www.example.com\". Path and query of the request are added to it.", t.Redirect), attr.Expr.Range(), attr.Range))
		}
	}
	if b := l.Single(content.Blocks.OfType("answer")); b != nil {
		said = append(said, "answer")
		t.Kind, t.Range, t.Answer = TargetAnswer, b.DefRange, l.answer(b)
	}
	if attr := attrs["apps"]; l.Flag(attrs, "apps", false) {
		said = append(said, "apps")
		t.Kind, t.Range = TargetApps, attr.Range
	}
	if len(said) > 1 {
		l.Report(syntax.Problem("Two targets", fmt.Sprintf("Requests go to one place, and there are %s. Keep one of them; paths of a domain may go elsewhere, each with a path block.", strings.Join(said, " and ")), t.Range))
	}
	return t
}

func (l *domainLoader) answer(b *hcl.Block) Answer {
	attrs := l.Content(b.Body, "status body type").Attributes
	a := Answer{
		Status: l.Whole(attrs, "status", 200, 200, 599),
		Body:   l.Text(attrs, "body", ""),
		Type:   l.Text(attrs, "type", "text/plain; charset=utf-8"),
	}
	if !typePattern.MatchString(a.Type) {
		l.Report(syntax.Problem("Invalid type", fmt.Sprintf("%q is not the type of a body, such as \"text/html\" or \"text/plain; charset=utf-8\".", a.Type), attrs["type"].Expr.Range(), attrs["type"].Range))
	}
	if a.Status >= 300 && a.Status < 400 {
		l.Report(syntax.Problem("Invalid status", fmt.Sprintf("A status of %d leads elsewhere. Use redirect.", a.Status), attrs["status"].Expr.Range(), attrs["status"].Range))
	}
	if strings.ContainsRune(a.Body, 0) || len(a.Body) > mostBody {
		l.Report(syntax.Problem("Invalid body", fmt.Sprintf("A body has at most %d bytes, none of them 0. An app serves larger pages.", mostBody), attrs["body"].Expr.Range(), attrs["body"].Range))
	}
	return a
}

// access reads what clients may do.
func (l *domainLoader) access(attrs hcl.Attributes, tls TLSKind) DomainAccess {
	a := DomainAccess{
		HTTPSOnly:      l.Flag(attrs, "https_only", tls != TLSNone),
		HSTSSeconds:    l.seconds(attrs, "hsts"),
		MaxBodyMB:      l.Whole(attrs, "max_body_mb", -1, 0, syntax.MostMegabytes),
		AnswerTimeoutS: l.seconds(attrs, "answer_timeout"),
		Allow:          l.addresses(attrs, "allow"),
		Deny:           l.addresses(attrs, "deny"),
		Fronts:         l.addresses(attrs, "trusted_fronts"),
	}
	if attrs["trusted_fronts"] != nil && a.Fronts == nil {
		a.Fronts = []string{}
	}
	for _, name := range []string{"https_only", "hsts"} {
		// Behind a front that speaks HTTPS, both make sense without a certificate here.
		if attr := attrs[name]; attr != nil && tls == TLSNone && attrs["trusted_fronts"] == nil && (a.HTTPSOnly || a.HSTSSeconds > 0) {
			l.Report(syntax.Problem("No HTTPS to lead to", fmt.Sprintf("%q sends clients to HTTPS, for which this domain has no certificate. Add tls, or name the proxy in front that speaks HTTPS in trusted_fronts.", name), attr.NameRange, attr.Range))
		}
	}
	return a
}

// seconds reads a length of time of whole seconds; 0 if there is none.
func (l *domainLoader) seconds(attrs hcl.Attributes, name string) int {
	d := l.Duration(attrs, name, 0, time.Second)
	if d%time.Second != 0 {
		l.Report(syntax.Problem("Not whole seconds", fmt.Sprintf("%q must be whole seconds, such as \"30s\" or \"1h\".", name), attrs[name].Expr.Range(), attrs[name].Range))
	}
	return int(d / time.Second)
}

// addresses reads a list of addresses and networks.
func (l *domainLoader) addresses(attrs hcl.Attributes, name string) []string {
	list := l.Texts(attrs, name)
	if name == "allow" && attrs[name] != nil && len(list) == 0 {
		l.Report(syntax.Problem("Nobody is allowed", "\"allow\" is empty, which is not everybody. Name who is served, or leave it out for everybody.", attrs[name].Expr.Range(), attrs[name].Range))
	}
	for _, text := range list {
		_, err := netip.ParsePrefix(text)
		if _, single := netip.ParseAddr(text); err != nil && single != nil {
			l.Report(syntax.Problem("Invalid network", fmt.Sprintf("%q in %q is neither an address nor a network such as \"192.0.2.0/24\".", text, name), attrs[name].Expr.Range(), attrs[name].Range))
		}
	}
	return list
}

// domainTLS reads tls = "internal", secret.<name>, or { certificate_file = ...,
// key_file = ... }.
func (l *domainLoader) domainTLS(attr *hcl.Attribute) DomainTLS {
	if attr == nil {
		return DomainTLS{}
	}
	t := DomainTLS{Range: attr.Range}
	if syntax.RefersTo(attr.Expr, "secret") {
		name, d := l.secretRoot().Reference(attr.Expr, "secret")
		switch s := l.m.Secrets[name]; {
		case d != nil:
			d.Context = attr.Range.Ptr()
			l.Report(d)
		case s == nil || s.Type != SecretCertificate:
			l.Report(syntax.Problem("Not a certificate", fmt.Sprintf("Secret %q is not of type \"certificate\".", name), attr.Expr.Range(), attr.Range))
		default:
			t.Kind, t.Secret = TLSSecret, name
		}
		return t
	}
	v, ok := l.Eval(attr, cty.DynamicPseudoType)
	if !ok {
		return t
	}
	if v.Type() == cty.String && (v.AsString() == string(TLSInternal) || v.AsString() == string(TLSACME)) {
		t.Kind = TLSKind(v.AsString())
		return t
	}
	if !v.Type().IsObjectType() && !v.Type().IsMapType() {
		l.Report(syntax.Problem("Unknown tls",
			"\"tls\" says where the certificate comes from: \"internal\" (the deployment's own CA), \"acme\" (Let's Encrypt, or what the acme block says), secret.<name> of type \"certificate\", or files, { certificate_file = \"shop.pem\", key_file = \"shop.key\" }.", attr.Expr.Range(), attr.Range))
		return t
	}
	t.Kind = TLSFiles
	t.Files = l.certificateFiles(attr, v)
	return t
}

// certificateFiles reads the files that { certificate_file, key_file, root_file }
// names.
func (l *domainLoader) certificateFiles(attr *hcl.Attribute, v cty.Value) CertificateFiles {
	var f CertificateFiles
	fields := map[string]*string{"certificate_file": &f.Certificate, "key_file": &f.Key, "root_file": &f.Root}
	given := v.AsValueMap()
	problem := func(summary, format string, a ...any) {
		l.Report(syntax.Problem(summary, fmt.Sprintf(format, a...), attr.Expr.Range(), attr.Range))
	}
	for _, name := range syntax.SortedKeys(given) {
		field := fields[name]
		if field == nil {
			problem("Unsupported argument", "\"tls\" takes no %q. %s", name, syntax.Suggest(name, syntax.SortedKeys(fields), "file"))
			continue
		}
		if given[name].IsNull() || given[name].Type() != cty.String {
			problem("Wrong type", "%q must be the path of a file.", name)
			continue
		}
		file := given[name].AsString()
		data, err := fs.ReadFile(l.folder, path.Clean(file))
		if err != nil {
			problem("Cannot read file", "%s %q: %v. It must be in the manifest's folder, or below it.", name, file, err)
			continue
		}
		if block, _ := pem.Decode(data); block == nil {
			problem("Not PEM", "%s %q holds no PEM, text that begins with \"-----BEGIN\".", name, file)
		}
		if *field = string(data); name != "key_file" {
			l.m.Files[l.options.Prefix+path.Clean(file)] = &hcl.File{Bytes: data}
		}
	}
	for _, name := range []string{"certificate_file", "key_file"} {
		if _, ok := given[name]; !ok {
			problem("Missing file", "A certificate needs certificate_file and key_file; %s is missing.", name)
		}
	}
	return f
}

// findPorts gives targets that name only a group the port that its instances
// listen on, and reports ports on which nothing listens. What is known only with
// the VMs is left alone.
func (l *domainLoader) findPorts() {
	var e *Evaluator
	for _, d := range l.m.Domains {
		for _, t := range d.targets() {
			g := l.m.Group(t.Group)
			if t.Kind != TargetGroup || g == nil || slices.ContainsFunc(g.Jobs, func(j *GroupJob) bool { return l.unresolved[j] }) {
				continue
			}
			if e == nil {
				e = l.m.evaluator(l.m.assumed(1), true)
			}
			ports, all := listenedPorts(e, g)
			var texts []string
			for _, p := range ports {
				texts = append(texts, fmt.Sprint(p))
			}
			switch {
			case t.Port != 0:
				if all && len(ports) > 0 && !slices.Contains(ports, t.Port) { // a job may leave listen out
					l.Report(syntax.Problem("Unknown port", fmt.Sprintf("No job of group %q listens on port %d. %s", g.Name, t.Port, syntax.Suggest("", texts, "port")), t.Range))
				}
			case len(ports) == 1 && all:
				t.Port = ports[0]
			default:
				l.Report(syntax.Problem("Which port?", fmt.Sprintf("Group %q does not listen on just one port, so the domain must say which one: port = ... %s", g.Name, syntax.Suggest("", texts, "port")), t.Range))
			}
		}
	}
}

// listenedPorts returns the TCP ports of a group's instances, and reports whether
// those are all.
func listenedPorts(e *Evaluator, g *Group) (ports []int, all bool) {
	all = true
	for _, job := range g.Jobs {
		ctx, diags := e.JobContext(g.Name, 0, job)
		if diags.HasErrors() {
			return nil, false
		}
		for _, listen := range job.Spec.Listens {
			if listen.Port == nil || listen.Network != "tcp" {
				continue
			}
			v, d := listen.Port.Value(ctx)
			v = syntax.Unmarked(v)
			switch {
			case d.HasErrors() || !v.IsKnown():
				all = false
			case !v.IsNull() && v.Type() == cty.Number:
				n, _ := v.AsBigFloat().Int64()
				ports = append(ports, int(n))
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports), all
}
