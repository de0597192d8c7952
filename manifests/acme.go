package manifests

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// decodeACME reads the acme block.
func (l *domainLoader) decodeACME() {
	b := l.Single(l.blocks["acme"])
	if b == nil {
		return
	}
	attrs := l.Content(b.Body, "directory email agree_terms! root_file dns_hook").Attributes
	a := &ACME{Directory: l.Text(attrs, "directory", ""), Email: l.Text(attrs, "email", ""), Hook: l.Texts(attrs, "dns_hook"), Range: b.DefRange}
	l.m.ACME = a
	if attr := attrs["directory"]; attr != nil && !strings.HasPrefix(a.Directory, "https://") {
		l.Report(syntax.Problem("Invalid directory", fmt.Sprintf("%q is not the URL of an ACME directory, which begins with \"https://\".", a.Directory), attr.Expr.Range(), attr.Range))
	}
	if attr := attrs["agree_terms"]; attr != nil && !l.Flag(attrs, "agree_terms", false) {
		l.Report(syntax.Problem("Terms are not agreed to", "The CA gives certificates only to who agrees to its terms of service. Read them, and set agree_terms = true.", attr.Expr.Range(), attr.Range))
	}
	if attr := attrs["dns_hook"]; attr != nil && len(a.Hook) == 0 {
		l.Report(syntax.Problem("Empty command", "dns_hook is a program and its arguments.", attr.Expr.Range(), attr.Range))
	}
	if attr := attrs["root_file"]; attr != nil {
		file := l.Text(attrs, "root_file", "")
		data, err := fs.ReadFile(l.folder, path.Clean(file))
		if err != nil {
			l.Report(syntax.Problem("Cannot read file", fmt.Sprintf("root_file %q: %v. It must be in the manifest's folder, or below it.", file, err), attr.Expr.Range(), attr.Range))
			return
		}
		a.Root = string(data)
		l.m.Files[l.options.Prefix+path.Clean(file)] = &hcl.File{Bytes: data}
	}
}

// checkACME reports domains that cannot have a certificate by ACME.
func (l *domainLoader) checkACME(d *Domain) {
	if d.TLS.Kind != TLSACME {
		return
	}
	switch {
	case l.m.ACME == nil:
		l.Report(syntax.Problem("Missing acme block", "tls = \"acme\" needs one acme block: acme { agree_terms = true }. Its directory is Let's Encrypt's unless it names another.", d.TLS.Range))
	case strings.HasPrefix(d.Name, "*.") && len(l.m.ACME.Hook) == 0 && len(l.m.Providers(DNSLink)) == 0:
		l.Report(syntax.Problem("Wildcard without dns_hook", fmt.Sprintf("A CA proves %q by a record in DNS (dns-01): name the command that sets it, dns_hook in the acme block at %s, or deploy the job dns.", d.Name, syntax.Place(l.m.ACME.Range)), d.TLS.Range))
	}
}
