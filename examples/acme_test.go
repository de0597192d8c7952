//go:build e2e

package examples

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

// zoneServer answers for every name with an address, and for TXT with what files of
// a folder hold that are called after the name: how a dns_hook sets records.
func zoneServer(t *testing.T, address netip.Addr, folder string) string {
	t.Helper()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		answer := new(dns.Msg).SetReply(question)
		answer.Authoritative, answer.RecursionAvailable = true, true
		q := question.Question[0]
		head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: q.Qclass, Ttl: 1}
		switch q.Qtype {
		case dns.TypeA:
			answer.Answer = []dns.RR{&dns.A{Hdr: head, A: address.AsSlice()}}
		case dns.TypeTXT:
			text, err := os.ReadFile(filepath.Join(folder, filepath.Base(strings.TrimSuffix(strings.ToLower(q.Name), "."))))
			if err == nil {
				answer.Answer = []dns.RR{&dns.TXT{Hdr: head, Txt: []string{string(text)}}}
			}
		}
		_ = w.WriteMsg(answer)
	})
	// The CA asks by TCP.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{Listener: listener, Handler: handler}
	served := make(chan struct{})
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() {
		defer close(served)
		_ = server.ActivateAndServe() // ends with Shutdown
	}()
	<-started
	t.Cleanup(func() { _ = server.Shutdown(); <-served })
	return listener.Addr().String()
}

// pebble is Let's Encrypt's CA for tests. It asks load balancers at port 8080, whose
// addresses a DNS server has.
func pebble(t *testing.T, resolver string) (server *httptest.Server, roots *x509.CertPool) {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default", ValidityPeriod: 90 * 24 * 3600}})
	front := wfe.New(quiet, store, va.New(quiet, 8080, 8443, true, resolver, store), authority, nil, true, false, 1, 1)
	server = httptest.NewTLSServer(front.Handler())
	t.Cleanup(server.Close)
	roots = x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority.GetRootCert(0).PEM()) {
		t.Fatal("the CA has no root")
	}
	return server, roots
}

// TestACME gets certificates from a real CA: of a name by http-01, which every load
// balancer can answer, and of a wildcard by dns-01 with a hook. Both are brought to
// the load balancers, renewed, and stay while the CA is away.
func TestACME(t *testing.T) {
	file := filepath.Join(t.TempDir(), "served.hcl")
	if err := os.WriteFile(file, []byte(served), 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, file)
	c.mustApply()
	lbs := []string{c.addressOf("lb/0"), c.addressOf("lb/1")}
	zone := t.TempDir()
	ca, roots := pebble(t, zoneServer(t, netip.MustParseAddr(lbs[1]), zone))
	dir := filepath.Dir(c.manifest)
	hook := "#!/bin/sh\ncase $1 in\npresent) printf %s \"$3\" > " + zone + "/$2 ;;\ncleanup) rm " + zone + "/$2 ;;\nesac\n"
	for name, data := range map[string]string{
		"hook.sh": hook,
		"ca.pem":  string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate().Raw})),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	source, err := os.ReadFile(c.manifest)
	if err != nil {
		t.Fatal(err)
	}
	write := func(domains ...string) {
		t.Helper()
		text := string(source) + fmt.Sprintf("\nacme {\n  directory   = %q\n  agree_terms = true\n  root_file   = \"ca.pem\"\n  dns_hook    = [\"./hook.sh\"]\n}\n", ca.URL+"/dir")
		for _, d := range domains {
			text += fmt.Sprintf("\ndomain %q {\n  tls   = \"acme\"\n  group = group.hello\n}\n", d)
		}
		if err := os.WriteFile(c.manifest, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	write("www.shop.example", "*.shop.example")
	if out, code := c.run("domains", "--renew"); code != 3 || !strings.Contains(out, "apply first") {
		t.Errorf("renew before the load balancers know the domain exited with %d:\n%s", code, out)
	}
	c.mustApply()
	if text, err := page(lbs[0]+":8080", "www.shop.example"); err != nil || !strings.HasPrefix(text, "Hello from") {
		t.Errorf("a domain without its certificate is not served: %q, %v", text, err)
	}
	renew := func(args ...string) string {
		t.Helper()
		out, code := c.run("domains", append([]string{"--renew"}, args...)...)
		if code != 0 {
			t.Fatalf("renew exited with %d:\n%s", code, out)
		}
		return out
	}
	if out := renew("--force"); !strings.Contains(out, "www.shop.example has a new certificate") || !strings.Contains(out, "*.shop.example has a new certificate") {
		t.Fatalf("renew:\n%s", out)
	}
	serials := func() (list []string) {
		t.Helper()
		for _, lb := range lbs {
			for _, host := range []string{"www.shop.example", "any.shop.example"} {
				res, body, err := secured(roots, lb+":8443", host, "/")
				if err != nil || !strings.HasPrefix(body, "Hello from") {
					t.Fatalf("%s at %s: %q, %v", host, lb, body, err)
				}
				list = append(list, res.TLS.PeerCertificates[0].SerialNumber.String())
			}
		}
		if list[0] != list[2] || list[1] != list[3] || list[0] == list[1] {
			t.Errorf("the load balancers' certificates are %v", list)
		}
		return list
	}
	first := serials()
	if left, err := os.ReadDir(zone); err != nil || len(left) > 0 {
		t.Errorf("records are left: %v, %v", left, err)
	}
	if out := renew(); strings.Count(out, "needs none before") != 2 || strings.Contains(out, "Load balancers") {
		t.Errorf("what is not due:\n%s", out)
	}
	if out := c.mustApply(); !strings.Contains(out, "nothing to do") && !strings.Contains(out, "matches the manifest") {
		t.Errorf("an apply after the renewal:\n%s", out)
	}
	renew("--force")
	second := serials()
	if second[0] == first[0] || second[1] == first[1] {
		t.Errorf("serials were %v and are %v", first, second)
	}

	ca.Close() // it is away
	out, code := c.run("domains", "--renew", "--force")
	if code != 3 || strings.Count(out, "the one that is there stays and is good for 89 days more") != 2 || !strings.Contains(out, "the next try is due at") {
		t.Errorf("renew without the CA exited with %d:\n%s", code, out)
	}
	began := time.Now()
	c.mustApply()
	t.Logf("an apply without the CA took %v", time.Since(began).Round(time.Millisecond))
	if now := serials(); now[0] != second[0] {
		t.Errorf("serials were %v and are %v", second, now)
	}

	// With the deployment's own name server no hook is needed.
	own, ownRoots := pebble(t, c.withNameServer(t, string(source)))
	other := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate().Raw}))
	if err := os.WriteFile(filepath.Join(dir, "own.pem"), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(c.manifest)
	if err != nil {
		t.Fatal(err)
	}
	text = fmt.Appendf(text, "\nacme {\n  directory   = %q\n  agree_terms = true\n  root_file   = \"own.pem\"\n}\ndomain \"*.apps.served.localhost\" {\n  tls   = \"acme\"\n  group = group.hello\n}\n", own.URL+"/dir")
	if err := os.WriteFile(c.manifest, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.mustApply()
	if out := renew(); !strings.Contains(out, "*.apps.served.localhost has a new certificate") {
		t.Fatalf("renew by the name server:\n%s", out)
	}
	for _, lb := range lbs {
		if _, body, err := secured(ownRoots, lb+":8443", "any.apps.served.localhost", "/"); err != nil || !strings.HasPrefix(body, "Hello from") {
			t.Errorf("a wildcard proven by the name server, at %s: %q, %v", lb, body, err)
		}
	}
	own.Close()
	if out, code := c.run("domains", "--renew", "--force"); code != 3 || !strings.Contains(out, "the one that is there stays") {
		t.Errorf("renew with that CA away exited with %d:\n%s", code, out)
	}
}

// withNameServer adds the job dns to a manifest, applies it, and returns where it
// answers, once it answers as it should.
func (c *cluster) withNameServer(t *testing.T, manifest string) (address string) {
	t.Helper()
	manifest += `
secret "dns" { type = "password" }
group "dns" {
  job "dns" {
    properties {
      port           = 5353
      load_balancers = group.lb.instances[*].address
      update_key     = secret.dns.value
    }
  }
}
`
	if err := os.WriteFile(c.manifest, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	c.mustApply()
	address = c.addressOf("dns/0") + ":5353"
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
	for name, want := range map[string][]string{
		"1.lb.served.internal.":      {c.addressOf("lb/1")},
		"lb.served.internal.":        {c.addressOf("lb/0"), c.addressOf("lb/1")},
		"anything.served.localhost.": {c.addressOf("lb/0"), c.addressOf("lb/1")},
	} {
		within(t, 60*time.Second, name+" leads where it should", func() bool {
			got, err := resolver.LookupHost(t.Context(), name)
			slices.Sort(got)
			slices.Sort(want)
			return err == nil && slices.Equal(got, want)
		})
	}
	if out, code := c.run("stop", "--auto-approve", "hello/1"); code != 0 {
		t.Fatalf("stop exited with %d:\n%s", code, out)
	}
	within(t, 60*time.Second, "a stopped instance is none of its group's", func() bool {
		got, err := resolver.LookupHost(t.Context(), "hello.served.internal.")
		return err == nil && slices.Equal(got, []string{c.addressOf("hello/0")})
	})
	if out, code := c.run("start", "--auto-approve", "hello/1"); code != 0 {
		t.Fatalf("start exited with %d:\n%s", code, out)
	}
	return address
}
