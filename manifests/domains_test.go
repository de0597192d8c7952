package manifests

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/zclconf/go-cty/cty"
	"pgregory.net/rapid"
)

// What a job gets of the domains follows from the manifest and the facts.
func TestDomainValues(t *testing.T) {
	m := loadFile(t, "testdata/valid/domains")
	var names []string
	for _, d := range m.Domains {
		names = append(names, d.Name)
	}
	if want := []string{"*.cf.example", "www.shop.example", "shop.example", "api.shop.example"}; !slices.Equal(names, want) {
		t.Fatalf("domains %v, want %v", names, want)
	}
	if got := m.Group("lb").Requires; !slices.Equal(got, []string{"nats", "shop"}) {
		t.Errorf("the load balancer starts after %v", got)
	}
	pair := func(name string) cty.Value {
		return cty.ObjectVal(map[string]cty.Value{"ca": cty.StringVal("ca"), "certificate": cty.StringVal("certificate of " + name), "private_key": cty.StringVal("key of " + name)})
	}
	facts := Facts{
		Secrets: map[string]cty.Value{"web": pair("web")},
		Domains: map[string]cty.Value{"*.cf.example": pair("cf")},
		Instances: map[string][]Instance{
			"nats": {{Group: "nats", Address: "10.0.0.1"}},
			"shop": {{Group: "shop", Address: "10.0.0.2"}, {Group: "shop", Index: 1, Address: "2001:db8::1"}},
			"lb":   {{Group: "lb", Address: "10.0.0.3"}},
		},
		Leaving: map[string][]Instance{"shop": {{Group: "shop", Address: "10.0.0.9"}}},
	}
	ctx, diags := m.JobContext(facts, "lb", 0, m.Group("lb").Jobs[0])
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	sites := ctx.Variables["property"].GetAttr("sites")
	if _, paths := sites.UnmarkDeepWithPaths(); len(paths) != 3 {
		t.Errorf("%d values are sensitive, want the three keys: %v", len(paths), paths)
	}
	list := unmarked(sites).AsValueSlice()
	if len(list) != 4 {
		t.Fatalf("%d sites", len(list))
	}
	text := func(v cty.Value, name string) string { return v.GetAttr(name).AsString() }
	if own := list[0]; text(own, "certificate") != "certificate of cf" || text(own, "key") != "key of cf" || !own.GetAttr("https_only").True() || !own.GetAttr("max_body_mb").IsNull() {
		t.Errorf("%#v", own)
	}
	www := list[1]
	if !strings.HasPrefix(text(www, "certificate"), "-----BEGIN CERTIFICATE") || !strings.Contains(text(www, "key"), "PRIVATE KEY") || !www.GetAttr("max_body_mb").RawEquals(cty.NumberIntVal(50)) {
		t.Errorf("%#v", www)
	}
	var paths []string
	for _, p := range www.GetAttr("paths").AsValueSlice() {
		paths = append(paths, text(p, "path")+" "+text(p, "target")+fmt.Sprint(texts(p.GetAttr("servers"))))
	}
	if want := []string{"/api/v2 apps[]", "/down answer[]", "/api group[10.0.0.1:4222]"}; !slices.Equal(paths, want) {
		t.Errorf("paths %q, want %q", paths, want)
	}
	if text(list[2], "redirect") != "https://www.shop.example" || list[2].GetAttr("https_only").True() {
		t.Errorf("%#v", list[2])
	}
	if got, want := texts(list[3].GetAttr("servers")), []string{"10.0.0.2:8080", "[2001:db8::1]:8080", "10.0.0.9:8080"}; !slices.Equal(got, want) || text(list[3], "certificate") != "certificate of web" {
		t.Errorf("servers %v, want %v; %#v", got, want, list[3])
	}
	for _, d := range m.Domains[1:2] {
		a := d.Access
		if a.Fronts == nil || len(a.Fronts) != 0 || a.RatePerSecond != 50 || a.Burst != 50 || a.AnswerTimeoutS != 30 || a.Allow[1] != "2001:db8::/32" {
			t.Errorf("%+v", a)
		}
	}
	if a := m.Domains[0]; a.Access.HSTSSeconds != 8760*3600 || !slices.Equal(a.Users, []string{"ops@shop.example"}) {
		t.Errorf("%+v", a)
	}
}

// Until a CA has given the certificate, the domain is served over HTTP, with which
// the CA is answered.
func TestAwaitedCertificate(t *testing.T) {
	m, diags := loadText(t, "deployment \"d\" {}\ninfrastructure \"local\" {}\ngroup \"lb\" {\n job \"balancer\" {}\n}\nacme { agree_terms = true }\ndomain \"a.example\" { tls = \"acme\" }")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	pair := cty.ObjectVal(map[string]cty.Value{"certificate": cty.StringVal("theirs"), "private_key": cty.StringVal("key")})
	for want, have := range map[string]map[string]cty.Value{"": nil, "theirs": {"a.example": pair}} {
		ctx, diags := m.JobContext(Facts{Domains: have, ACMEThumbprint: "thumb"}, "lb", 0, m.Group("lb").Jobs[0])
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		site := unmarked(ctx.Variables["property"].GetAttr("sites")).AsValueSlice()[0]
		if got := site.GetAttr("certificate").AsString(); got != want || site.GetAttr("https_only").True() != (want != "") {
			t.Errorf("certificate %q, want %q, https_only %v", got, want, site.GetAttr("https_only").True())
		}
		if got := m.Evaluator(Facts{ACMEThumbprint: "thumb"}).domains.AsValueSlice()[0].GetAttr("acme").AsString(); got != "thumb" {
			t.Errorf("thumbprint %q", got)
		}
	}
}

func unmarked(v cty.Value) cty.Value { v, _ = v.UnmarkDeep(); return v }

func texts(v cty.Value) []string {
	var out []string
	for _, e := range v.AsValueSlice() {
		out = append(out, e.AsString())
	}
	return out
}

// The names below the deployment's own domain are the apps', unless a block or the
// load balancer says otherwise.
func TestImpliedDomain(t *testing.T) {
	const rest = "deployment \"d\" {}\ninfrastructure \"local\" {}\n"
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"no load balancer": {rest, nil},
		"none said":        {rest + "group \"lb\" {\n job \"balancer\" {}\n}", []string{"*.d.localhost implied"}},
		"listed":           {rest + "group \"lb\" {\n job \"balancer\" {\n properties { domains = [\"*.x\"] }\n}\n}", nil},
		"another":          {rest + "group \"lb\" {\n job \"balancer\" {}\n}\ndomain \"d.localhost\" {}", []string{"*.d.localhost implied", "d.localhost"}},
		"its own block":    {rest + "group \"lb\" {\n job \"balancer\" {}\n}\ndomain \"*.d.localhost\" {}", []string{"*.d.localhost"}},
	} {
		m, diags := loadText(t, tc.text)
		if diags.HasErrors() {
			t.Fatalf("%s: %v", name, diags)
		}
		var got []string
		for _, d := range m.Domains {
			if d.Implied {
				got = append(got, d.Name+" implied")
			} else {
				got = append(got, d.Name)
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// Certificates' files of a kept manifest are today's.
func TestDomainFiles(t *testing.T) {
	text := "deployment \"d\" {}\ninfrastructure \"local\" {}\ngroup \"lb\" {\n job \"balancer\" {}\n}\ndomain \"a.example\" { tls = { certificate_file = \"a.pem\", key_file = \"../a.key\" } }"
	pem := func(kind string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte("-----BEGIN " + kind + "-----\nAA==\n-----END " + kind + "-----\n")}
	}
	manifest := fstest.MapFS{"m.hcl": {Data: []byte(text)}}
	o := Options{Jobs: os.DirFS("testdata/jobs"), Files: fstest.MapFS{"a.pem": pem("CERTIFICATE"), "a.key": pem("PRIVATE KEY")}}
	if _, diags := Load(manifest, "m.hcl", o); !diags.HasErrors() || !strings.Contains(diags.Error(), "below it") {
		t.Errorf("a file outside of the folder: %v", diags)
	}
	manifest["m.hcl"].Data = []byte(strings.Replace(text, "../", "./", 1))
	m, diags := Load(manifest, "m.hcl", o)
	if diags.HasErrors() || !strings.Contains(m.Domains[1].TLS.Files.Key, "PRIVATE KEY") {
		t.Fatalf("%v", diags)
	}
	if len(m.Sources) != 1 || m.Files["a.pem"] == nil || m.Files["a.key"] != nil {
		t.Error("a key is no source of the manifest, and nowhere to be shown")
	}
}

// A host is served by the most specific of the names that cover it, whatever their
// order; a name covers itself.
func TestServedBy(t *testing.T) {
	label := rapid.SampledFrom([]string{"a", "b", "www"})
	host := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(label, 1, 4).Draw(t, "labels"), ".")
	})
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfDistinct(rapid.Custom(func(t *rapid.T) string {
			return rapid.SampledFrom([]string{"", "*."}).Draw(t, "wildcard") + host.Draw(t, "name")
		}), rapid.ID[string]).Draw(t, "names")
		asked := host.Draw(t, "asked")
		var candidates []string // from the most specific on
		candidates = append(candidates, asked)
		for rest := asked; ; {
			_, after, more := strings.Cut(rest, ".")
			if !more {
				break
			}
			candidates, rest = append(candidates, "*."+after), after
		}
		want := ""
		for _, c := range candidates {
			if slices.Contains(names, c) {
				want = c
				break
			}
		}
		for _, form := range []string{asked, strings.ToUpper(asked), asked + "."} {
			if got, ok := ServedBy(names, form); got != want || ok != (want != "") {
				t.Fatalf("%s is served by %q, want %q of %v", form, got, want, names)
			}
		}
		shuffled := rapid.Permutation(names).Draw(t, "order")
		if got, _ := ServedBy(shuffled, asked); got != want {
			t.Fatalf("in another order %s is served by %q, want %q", asked, got, want)
		}
	})
}

// What is parsed is a name as it is looked up, and parses to itself.
func FuzzParseDomain(f *testing.F) {
	for _, s := range []string{"www.example.com", "*.Example.COM.", "bücher.example", "*", "*.", "a..b", "1.2.3.4", "::1", "a_b.c", "-a.b", "ß.de", "x.\n", "\u3002a.b", strings.Repeat("a.", 130) + "b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := ParseDomain(s)
		if err != nil {
			if name != "" {
				t.Errorf("%q and an error", name)
			}
			return
		}
		host := strings.TrimPrefix(name, "*.")
		if !domainPattern.MatchString(host) || len(name) > 253 || strings.HasPrefix(s, "*.") != (host != name) {
			t.Errorf("%q became %q", s, name)
		}
		if again, err := ParseDomain(name); err != nil || again != name {
			t.Errorf("%q became %q, and that %q, %v", s, name, again, err)
		}
		if served, ok := ServedBy([]string{name}, strings.Replace(name, "*", "x", 1)); !ok || served != name {
			t.Errorf("%q does not serve itself", name)
		}
	})
}

// What a VM finds fault with is found in the manifest.
func TestPlaces(t *testing.T) {
	m := loadFile(t, "testdata/valid/domains")
	at := func(line int) string { return fmt.Sprintf("testdata/valid/domains/cluster.hcl:%d", line) }
	for message, want := range map[string][]string{
		`nginx does not take extra of domain "www.shop.example":`:               {at(41)},
		"domain *.cf.example is not served at 10.0.0.1:8443":                    {at(34)},
		"domain shop.example and domain api.shop.example":                       {at(68), at(72)},
		"cannot open tcp 10.0.0.1:4222 for job nats, listen bus: in use":        {at(13)},
		"domain none.example, job nats, listen none, and nothing that is known": nil,
	} {
		if got := m.Places(message); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", message, got, want)
		}
	}
}
