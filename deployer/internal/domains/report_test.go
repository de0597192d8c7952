package domains

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2/hclparse"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/clusterworks/deploy/agent/host/tlspair"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

var update = flag.Bool("update", false, "write the golden files of testdata")

// The records are those of a zone file and of Terraform resources.
func TestRecords(t *testing.T) {
	records := Records([]string{"*.cf.localhost", "www.shop.co.uk", "*.shop.co.uk", "shop.co.uk", "intranet", "1.a-b.example", "a.b-c.example", "a-b.c.example"}, []string{"192.0.2.1", "2001:db8::1", "192.0.2.2"})
	for name, write := range map[string]func(*bytes.Buffer) error{
		"zone.txt":   func(b *bytes.Buffer) error { return WriteZone(b, records) },
		"records.tf": func(b *bytes.Buffer) error { return WriteTerraform(b, records) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		file := "testdata/" + name
		if *update {
			if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || b.String() != string(want) {
			t.Errorf("%s: %v, got\n%s", file, err, &b)
		}
		if strings.HasSuffix(name, ".tf") {
			if _, diags := hclparse.NewParser().ParseHCL(b.Bytes(), name); diags.HasErrors() {
				t.Error(diags)
			}
		}
	}
}

// A name must lead to load balancers only.
func TestJudge(t *testing.T) {
	want := []string{"192.0.2.1", "2001:db8::1"}
	for name, tc := range map[string]struct {
		dns  DNS
		want string
	}{
		"all":           {DNS{Asked: "a.example", Want: want, Found: []string{"192.0.2.1", "2001:DB8:0::1"}}, ""},
		"one of them":   {DNS{Asked: "a.example", Want: want, Found: []string{"192.0.2.1"}}, ""},
		"mapped":        {DNS{Asked: "a.example", Want: want, Found: []string{"::ffff:192.0.2.1"}}, ""},
		"elsewhere":     {DNS{Asked: "a.example", Want: want, Found: []string{"192.0.2.1", "198.51.100.7"}}, "a.example resolves to 198.51.100.7, and should to 192.0.2.1, 2001:db8::1"},
		"nowhere":       {DNS{Asked: "a.example", Want: want}, "has no address"},
		"an error":      {DNS{Asked: "a.example", Want: want, Error: "there is no such name"}, "does not resolve: there is no such name; add the records"},
		"nothing known": {DNS{Asked: "a.example", Found: []string{"198.51.100.7"}}, ""},
		"this machine":  {DNS{Asked: "a.localhost", Want: want}, ""},
	} {
		if got := tc.dns.Judge(); (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// dnsServer serves A records of names until the test ends.
func dnsServer(t *testing.T, names map[string]string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buffer[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			address, known := names[strings.TrimSuffix(strings.ToLower(q.Name.String()), ".")]
			if !known {
				m.RCode = dnsmessage.RCodeNameError
			} else if a := netip.MustParseAddr(address); q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}, Body: &dnsmessage.AResource{A: a.As4()}}}
			}
			if data, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(data, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

// Names are asked of a real server.
func TestResolve(t *testing.T) {
	server := dnsServer(t, map[string]string{"www.shop.example": "192.0.2.1", HostOf("*.shop.example"): "198.51.100.7"})
	want := []string{"192.0.2.1"}
	for domain, judged := range map[string]string{
		"www.shop.example":  "",
		"*.shop.example":    "resolves to 198.51.100.7, and should to 192.0.2.1",
		"none.shop.example": "there is no such name",
		"*.cf.localhost":    "",
	} {
		d := Resolve(t.Context(), server, HostOf(domain), want)
		if got := d.Judge(); (got == "") != (judged == "") || !strings.Contains(got, judged) {
			t.Errorf("%s: %+v: %q, want %q", domain, d, got, judged)
		}
	}
}

// A load balancer is asked over TLS, for the very certificate.
func TestAsk(t *testing.T) {
	pair, _ := issue(t, 90*day, "*.shop.example")
	other, _ := issue(t, 90*day, "*.shop.example")
	certificate, err := tls.X509KeyPair(pair.Certificate, pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host == "unknown.example" || strings.HasPrefix(r.Host, "unknown.example:") {
			w.WriteHeader(404)
			fmt.Fprint(w, "LOAD BALANCER: 404 - NO SUCH HOST HERE\n")
			return
		}
		w.WriteHeader(418)
	})
	serve := func(l net.Listener) int {
		s := &http.Server{Handler: handler}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		}()
		t.Cleanup(func() { _ = s.Close(); <-done })
		return l.Addr().(*net.TCPAddr).Port
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secure, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		t.Fatal(err)
	}
	e := Endpoint{Instance: "lb/0", Address: netip.MustParseAddr("127.0.0.1"), Port: serve(plain), TLSPort: serve(secure)}
	closed := e
	closed.Port, closed.TLSPort = 1, 1
	own := tlspair.Pair{Certificate: string(pair.Certificate), Key: string(pair.PrivateKey)}
	for name, tc := range map[string]struct {
		at     Endpoint
		domain string
		pair   tlspair.Pair
		status int
		want   string
	}{
		"plain":           {e, "a.example", tlspair.Pair{}, 418, ""},
		"unknown":         {e, "unknown.example", tlspair.Pair{}, 404, "does not serve the domain"},
		"TLS":             {e, "*.shop.example", own, 418, ""},
		"another's":       {e, "*.shop.example", tlspair.Pair{Certificate: string(other.Certificate), Key: string(other.PrivateKey)}, 0, "it shows another certificate"},
		"nobody listens":  {closed, "a.example", tlspair.Pair{}, 0, "does not answer at 127.0.0.1:1"},
		"nobody with TLS": {closed, "*.shop.example", own, 0, "does not answer at 127.0.0.1:1"},
	} {
		a := tc.at.Ask(context.Background(), tc.domain, tc.pair)
		if a.Status != tc.status || (a.Problem == "") != (tc.want == "") || !strings.Contains(a.Problem, tc.want) {
			t.Errorf("%s: %+v, want %d %q", name, a, tc.status, tc.want)
		}
	}
}

// A domain that nobody was asked about is not served.
func TestConclude(t *testing.T) {
	for want, s := range map[string]Status{
		"":                                  {DNS: DNS{Asked: "a.localhost"}, Answers: []Answer{{Instance: "lb/0", Status: 404}}},
		"no load balancer runs yet":         {DNS: DNS{Asked: "a.localhost"}},
		"lb/1: it does not answer":          {DNS: DNS{Asked: "a.localhost"}, Answers: []Answer{{Instance: "lb/0"}, {Instance: "lb/1", Problem: "it does not answer"}}},
		"a.example has no address; add the": {DNS: DNS{Asked: "a.example", Want: []string{"192.0.2.1"}}, Answers: []Answer{{Instance: "lb/0"}}},
	} {
		s.Conclude()
		if got := strings.Join(s.Problems, "; "); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if r := (&Report{Domains: []Status{s}}); r.Healthy() != (want == "") {
			t.Errorf("%q: healthy %v", want, r.Healthy())
		}
	}
}

// What is known without asking: target, certificate, days.
func TestDescribe(t *testing.T) {
	d := &manifests.Domain{Name: "www.shop.example", TLS: files(t, 90*day, "www.shop.example"), Target: manifests.Target{Kind: manifests.TargetGroup, Group: "shop", Port: 80},
		Paths: []manifests.DomainPath{{Path: "/old", Target: manifests.Target{Kind: manifests.TargetRedirect, Redirect: "https://old.example"}}, {Path: "/x", Target: manifests.Target{Kind: manifests.TargetAnswer, Answer: manifests.Answer{Status: 503}}}}}
	s := Describe(d, &state.Secrets{}, now.Add(10*day+time.Hour))
	if s.Target != "group shop, port 80" || !slices.Equal(s.Paths, []string{"/old: redirect to https://old.example", "/x: answer 503"}) || s.Certificate == nil || s.Certificate.Days != 79 || s.Certificate.Issuer != "test" || s.Certificate.From != "files" || len(s.Problems) != 0 {
		t.Errorf("%+v, %+v", s, s.Certificate)
	}
	if s := Describe(d, &state.Secrets{}, now.Add(91*day)); s.Certificate.Days != -1 && s.Certificate.Days != -2 || len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "ended on") {
		t.Errorf("%+v, %+v", s, s.Certificate)
	}
	d.TLS = manifests.DomainTLS{Kind: manifests.TLSACME}
	if s := Describe(d, &state.Secrets{}, now); s.Certificate != nil || len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "--renew") {
		t.Errorf("%+v", s)
	}
	d.TLS = manifests.DomainTLS{Kind: manifests.TLSInternal}
	if s := Describe(d, &state.Secrets{}, now); s.Certificate != nil || len(s.Problems) != 1 {
		t.Errorf("%+v", s)
	}
}
