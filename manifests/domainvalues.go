package manifests

import (
	"fmt"
	"strings"

	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/jobspec"
)

// domainValues returns the declared domains as a property with from = "domains"
// gets them: a tuple of objects, of which the property's type takes what it names.
// What it leaves out has the job's own default.
func (e *Evaluator) domainValues() cty.Value {
	var list []cty.Value
	for _, d := range e.m.Domains {
		if !d.Implied {
			list = append(list, e.domainValue(d))
		}
	}
	return tuple(list)
}

func tuple(list []cty.Value) cty.Value {
	if len(list) == 0 {
		return cty.EmptyTupleVal
	}
	return cty.TupleVal(list)
}

func (e *Evaluator) domainValue(d *Domain) cty.Value {
	v := e.targetValues(d.Target)
	var paths []cty.Value
	for _, p := range d.Paths {
		path := e.targetValues(p.Target)
		path["path"] = cty.StringVal(p.Path)
		paths = append(paths, cty.ObjectVal(path))
	}
	v["paths"] = tuple(paths)
	v["name"] = cty.StringVal(d.Name)
	v["certificate"], v["key"] = e.domainCertificate(d)
	a := d.Access
	v["https_only"] = cty.BoolVal(a.HTTPSOnly && !e.awaits(d)) // until there is one, plain HTTP serves
	v["acme"] = cty.StringVal("")
	if d.TLS.Kind == TLSACME {
		v["acme"] = cty.StringVal(e.facts.ACMEThumbprint)
	}
	v["hsts_s"] = number(a.HSTSSeconds)
	v["max_body_mb"] = numberOr(a.MaxBodyMB, -1)
	v["answer_timeout_s"] = numberOr(a.AnswerTimeoutS, 0)
	v["allow"], v["deny"] = stringList(a.Allow), stringList(a.Deny)
	v["rate_s"], v["burst"] = number(a.RatePerSecond), number(a.Burst)
	v["fronts"] = cty.NullVal(cty.List(cty.String))
	if a.Fronts != nil {
		v["fronts"] = stringList(a.Fronts)
	}
	v["users"] = stringList(d.Users)
	v["extra"] = cty.StringVal(d.Extra)
	return cty.ObjectVal(v)
}

func number(n int) cty.Value { return cty.NumberIntVal(int64(n)) }

// numberOr is a number, null if it is the one that means none.
func numberOr(n, none int) cty.Value {
	if n == none {
		return cty.NullVal(cty.Number)
	}
	return number(n)
}

// targetValues are the attributes of a domain, or of a path, that say where its
// requests go.
func (e *Evaluator) targetValues(t Target) map[string]cty.Value {
	v := map[string]cty.Value{
		"target":   cty.StringVal(string(t.Kind)),
		"servers":  cty.ListValEmpty(cty.String),
		"redirect": cty.StringVal(t.Redirect),
		"status":   number(t.Answer.Status),
		"body":     cty.StringVal(t.Answer.Body),
		"type":     cty.StringVal(t.Answer.Type),
	}
	if t.Kind != TargetGroup {
		return v
	}
	if _, ok := e.instances[t.Group]; !ok { // which was reported
		return v
	}
	instances := e.serving(t.Group)
	if !instances.IsKnown() {
		v["servers"] = cty.UnknownVal(cty.List(cty.String)).RefineNotNull()
		return v
	}
	var servers []cty.Value
	for _, in := range instances.AsValueSlice() {
		server := cty.UnknownVal(cty.String).RefineNotNull()
		if address := in.GetAttr("address"); address.IsKnown() {
			server = cty.StringVal(hostPort(address.AsString(), t.Port))
		}
		servers = append(servers, server)
	}
	if len(servers) > 0 {
		v["servers"] = cty.ListVal(servers)
	}
	return v
}

func hostPort(address string, port int) string {
	if strings.Contains(address, ":") {
		return fmt.Sprintf("[%s]:%d", address, port)
	}
	return fmt.Sprintf("%s:%d", address, port)
}

// awaits reports whether a domain's certificate is still to be got from its CA,
// which asks the load balancers first. Of facts that are only assumed nobody knows.
func (e *Evaluator) awaits(d *Domain) bool {
	return d.TLS.Kind == TLSACME && !e.assumed && e.facts.Domains[d.Name] == cty.NilVal
}

// domainCertificate returns a domain's certificate and key, PEM: "" if it has
// none, unknown if the facts do not have it yet.
func (e *Evaluator) domainCertificate(d *Domain) (certificate, key cty.Value) {
	var from cty.Value
	switch d.TLS.Kind {
	case TLSNone:
		return cty.StringVal(""), cty.StringVal("")
	case TLSFiles:
		return cty.StringVal(d.TLS.Files.Certificate), cty.StringVal(d.TLS.Files.Key).Mark(Sensitive)
	case TLSACME:
		if e.awaits(d) {
			return cty.StringVal(""), cty.StringVal("")
		}
		from = e.facts.Domains[d.Name]
	case TLSSecret:
		from = e.facts.Secrets[d.TLS.Secret]
	default:
		from = e.facts.Domains[d.Name]
	}
	pair := jobspec.Attributes(from, jobspec.CertificateAttributes())
	return pair.GetAttr("certificate"), pair.GetAttr("private_key")
}
