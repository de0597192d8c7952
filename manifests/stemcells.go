package manifests

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// Stemcell is an image that VMs boot, pinned by its digest.
type Stemcell struct {
	Name string
	// Path or URL is where it is; the other one is "". A path is taken from the
	// manifest's folder.
	Path, URL string
	Version   string // for people
	SHA256    string // 64 hex digits, lower case
	// SourceRange is that of path or url, SHA256Range that of the digest.
	Range, SourceRange, SHA256Range hcl.Range
}

// String is "debian 1.0".
func (s *Stemcell) String() string { return s.Name + " " + s.Version }

func (l *loader) decodeStemcells() {
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
func (l *loader) stemcellOf(attrs hcl.Attributes) *Stemcell {
	name, ok := l.named(attrs["stemcell"])
	if !ok {
		return nil
	}
	if image := attrs["image"]; image != nil {
		l.Report(syntax.Problem("Two images", "A VM boots either a stemcell of the manifest (stemcell) or what the template knows by name or path (image). Remove one of them.", image.Expr.Range(), image.Range))
	}
	return l.stemcells[name]
}
