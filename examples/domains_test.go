//go:build e2e

package examples

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// served is a cluster with two load balancers.
const served = `deployment "served" { domain = "served.localhost" }
infrastructure "local" {}
variable "listen" { default = "" }
variable "tls_port" { default = 8443 }
variable "routers" { default = 3 }
release "examples" { path = "./jobs" }
secret "nats" { type = "password" }
update {
  min_healthy_time = "1s"
  watch_time       = "0s-60s"
}
group "nats" {
  job "nats" {
    properties { password = secret.nats.value }
  }
}
group "lb" {
  instances = 2
  job "nginx" {
    properties {
      routers    = group.router.instances[*].address
      tls_port   = var.tls_port
      access_log = "json"
    }
  }
}
group "router" {
  instances = var.routers
  job "router" {}
}
group "hello" {
  instances = 2
  job "hello" {}
}
group "guest" {
  instances = 2
  job "guest" {}
}
`

// wwwBlock is a domain that leads to hello without routers.
const wwwBlock = `
domain "www.shop.localhost" {
  tls   = "internal"
  hsts  = "1h"
  group = group.hello

  path "/status" {
    answer { body = "open" }
  }
}
`

// secured asks a load balancer for a host over TLS, with the CAs that clients
// trust.
func secured(roots *x509.CertPool, address, host, path string) (*http.Response, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+path, nil)
	if err != nil {
		return nil, "", err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// daemonWithURL asks for a daemon that knows nothing of the platform: it is served
// while it runs, by the instances that run.
func daemonWithURL(t *testing.T, c *cluster, lbs []string) {
	const host = "guest.served.localhost"
	for _, lb := range lbs {
		seen := map[string]bool{}
		within(t, 30*time.Second, "both instances answer", func() bool {
			if body, err := page(lb+":8080", host); err == nil {
				seen[body] = true
			}
			return seen["Hello from guest/0\n"] && seen["Hello from guest/1\n"]
		})
	}
	operate := func(args ...string) {
		t.Helper()
		if out, code := c.run(args[0], append([]string{"--auto-approve"}, args[1:]...)...); code != 0 {
			t.Fatalf("%v exited with %d:\n%s", args, code, out)
		}
	}
	operate("stop", "guest/0")
	for range 20 { // it was off the routers before it ended
		if body, err := page(lbs[0]+":8080", host); err != nil || body != "Hello from guest/1\n" {
			t.Fatalf("with guest/0 stopped: %q, %v", body, err)
		}
	}
	operate("stop", "guest/1")
	if body, err := page(lbs[0]+":8080", host); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("with both stopped: %q, %v", body, err)
	}
	operate("start", "guest")
	within(t, 30*time.Second, "it answers again", func() bool {
		_, err := page(lbs[1]+":8080", host)
		return err == nil
	})
}

// TestDomains adds a domain to a running cluster and removes it, under load: it is
// served over TLS with the right certificate by one reload of each load balancer,
// and no request for others fails; none fails either while routers are added and
// removed. What is broken is refused before anything changes.
func TestDomains(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "served.hcl")
	if err := os.WriteFile(file, []byte(served), 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, file)
	c.mustApply()
	before := c.mustAllRun(10)
	lbs := []string{c.addressOf("lb/0"), c.addressOf("lb/1")}
	for _, lb := range lbs {
		within(t, 30*time.Second, "the page is served", func() bool {
			_, err := page(lb+":8080", "hello.served.localhost")
			return err == nil
		})
	}
	t.Run("a daemon with a URL", func(t *testing.T) { daemonWithURL(t, c, lbs) })
	out, code := c.run("domains", "--ca")
	roots := x509.NewCertPool()
	if code != 0 || !roots.AppendCertsFromPEM([]byte(out)) {
		t.Fatalf("domains --ca exited with %d:\n%s", code, out)
	}
	source, err := os.ReadFile(c.manifest)
	if err != nil {
		t.Fatal(err)
	}
	write := func(blocks string) {
		t.Helper()
		if err := os.WriteFile(c.manifest, append(slices.Clone(source), blocks...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { write("") }) // what is broken cannot be destroyed
	sameNginx := func() {
		t.Helper()
		now := c.status().pids()
		for _, id := range []string{"lb/0 nginx", "lb/1 nginx"} {
			if now[id] != before.pids()[id] {
				t.Errorf("%s was restarted: pid %d, was %d", id, now[id], before.pids()[id])
			}
		}
	}

	var loads []*load
	for _, lb := range lbs {
		loads = append(loads, startLoad(t, lb+":8080", "hello.served.localhost", loadClients/2, *rate/4))
	}
	write(wwwBlock)
	if out, code := c.run("plan"); code != 2 || !strings.Contains(out, "2 to reload") {
		t.Fatalf("plan exited with %d:\n%s", code, out)
	}
	began := time.Now()
	c.mustApply()
	t.Logf("a domain was added in %v", time.Since(began).Round(time.Millisecond))
	sameNginx()
	for _, lb := range lbs {
		for path, want := range map[string]string{"/": "Hello from hello/", "/status": "open"} {
			res, body, err := secured(roots, lb+":8443", "www.shop.localhost", path)
			if err != nil || res.StatusCode != 200 || !strings.HasPrefix(body, want) || res.Header.Get("Strict-Transport-Security") != "max-age=3600" {
				t.Fatalf("%s%s: %v, %q, %v", lb, path, res, body, err)
			}
		}
	}
	var report struct {
		Domains []struct {
			Name, Target string
			Certificate  *struct {
				From string
				Days int
			}
			Answers []struct {
				Instance string
				Status   int
				Problem  string
			}
			Problems []string
			Rate     *float64 `json:"requests_per_second"`
		}
	}
	out, code = c.run("domains", "--json")
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 0 || len(report.Domains) != 2 {
		t.Fatalf("domains exited with %d, %v:\n%s", code, err, out)
	}
	if d := report.Domains[1]; d.Name != "www.shop.localhost" || d.Target != "group hello, port 8082" || d.Certificate == nil || d.Certificate.From != "internal" || d.Certificate.Days < 360 ||
		len(d.Answers) != 2 || d.Answers[1].Status != 200 || d.Answers[1].Instance != "lb/1" {
		t.Errorf("%+v", d)
	}
	if rate := report.Domains[0].Rate; rate == nil || *rate <= 0 {
		t.Errorf("under load %s has the rate %v", report.Domains[0].Name, rate)
	}
	if out, code := c.run("domains"); code != 0 || !strings.Contains(out, "2 of 2") || !strings.Contains(out, "All domains are served.") {
		t.Errorf("domains exited with %d:\n%s", code, out)
	}

	// What is broken changes nothing.
	generations := func() []string {
		var list []string
		for _, in := range c.status().Instances {
			list = append(list, in.ID+" "+in.Generation)
		}
		return list
	}
	was := generations()
	lines := strings.Count(string(source)+wwwBlock, "\n")
	at := func(line int) string { return fmt.Sprintf("%s:%d", c.manifest, lines+line) }
	taken, err := net.Listen("tcp", lbs[1]+":9443")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	expired, err := os.ReadFile("../deployer/testdata/diagnostics/domain_expired/www.pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile("../deployer/testdata/diagnostics/domain_expired/www.key")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"old.pem": expired, "old.key": key} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(c.manifest), name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const old = `{ certificate_file = "old.pem", key_file = "old.key" }`
	for name, tc := range map[string]struct {
		blocks string
		args   []string
		want   []string
	}{
		"a broken snippet":      {"\ndomain \"x.localhost\" {\n  extra = \"no_such on;\"\n}\n", nil, []string{`extra of domain "x.localhost"`, `unknown directive "no_such"`, at(2)}},
		"an expired one":        {"\ndomain \"www.shop.example\" { tls = " + old + " }\n", nil, []string{"expired at 2020-01-01", fmt.Sprintf("line %d", lines+2)}},
		"another's":             {"\ndomain \"b.example\" { tls = " + old + " }\n", nil, []string{"not for b.example", fmt.Sprintf("line %d", lines+2)}},
		"a domain given twice":  {"\ndomain \"WWW.shop.localhost\" {}\n", nil, []string{"Duplicate domain", fmt.Sprintf("line %d", lines+2), "served.hcl:"}},
		"a port in use":         {"", []string{"--var=tls_port=9443"}, []string{"cannot open tcp " + lbs[1] + ":9443", "the manifest has it at " + c.manifest + ":"}},
		"a group that is not":   {"\ndomain \"y.localhost\" { group = group.none }\n", nil, []string{"Unknown group", fmt.Sprintf("line %d", lines+2)}},
		"a port nobody opens":   {"\ndomain \"y.localhost\" {\n  group = group.hello\n  port  = 1\n}\n", nil, []string{"Unknown port", fmt.Sprintf("line %d", lines+3)}},
		"a redirect to itself":  {"\ndomain \"y.localhost\" { redirect = \"http://y.localhost\" }\n", nil, []string{"Redirect to itself", fmt.Sprintf("line %d", lines+2)}},
		"a certificate missing": {"\ndomain \"y.localhost\" { tls = { certificate_file = \"none.pem\", key_file = \"old.key\" } }\n", nil, []string{"Cannot read file", fmt.Sprintf("line %d", lines+2)}},
	} {
		write(wwwBlock + tc.blocks)
		out, code := c.run("apply", append([]string{"--auto-approve"}, tc.args...)...)
		flat := strings.Join(strings.Fields(out), " ")
		for _, want := range tc.want {
			if !strings.Contains(flat, want) && !strings.Contains(strings.ReplaceAll(flat, " ", ""), strings.ReplaceAll(want, " ", "")) {
				t.Errorf("%s: no %q in\n%s", name, want, out)
			}
		}
		if code != 1 {
			t.Errorf("%s: apply exited with %d:\n%s", name, code, out)
		}
		write(wwwBlock)
		if now := generations(); !slices.Equal(now, was) {
			t.Errorf("%s: it changed %v to %v", name, was, now)
		}
	}
	sameNginx()
	serves := func(after string) {
		t.Helper()
		for _, lb := range lbs {
			if _, body, err := secured(roots, lb+":8443", "www.shop.localhost", "/status"); err != nil || body != "open" {
				t.Errorf("%s after %s: %q, %v", lb, after, body, err)
			}
		}
	}
	serves("what was refused")

	// What only nginx itself finds out, or nobody but who asks: the proof fails on the
	// first load balancer, which returns to what it served before; the second is not
	// touched.
	for _, lb := range lbs {
		busy, err := net.Listen("tcp", lb+":9555")
		if err != nil {
			t.Fatal(err)
		}
		defer busy.Close()
	}
	for name, tc := range map[string]struct{ extra, want string }{
		"a port in use, in a snippet": {"server { listen ${instance.address}:9555; }", "serves another configuration"},
		"another's certificate is shown": {fmt.Sprintf("server { listen ${instance.address}:8443 ssl http2; server_name www.shop.localhost; ssl_certificate %[1]s/old.pem; ssl_certificate_key %[1]s/old.key; if ($proof) { return 200 www.shop.localhost; } return 204; }",
			filepath.Dir(c.manifest)), "it shows another certificate"},
	} {
		broken := strings.Replace(string(source)+wwwBlock, "tls_port   = var.tls_port", "tls_port   = var.tls_port\n      extra    = "+strconv.Quote(tc.extra), 1)
		if err := os.WriteFile(c.manifest, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		out, code := c.run("apply", "--auto-approve")
		if flat := strings.Join(strings.Fields(out), " "); code != 1 || !strings.Contains(flat, tc.want) {
			t.Errorf("%s: apply exited with %d, want %q:\n%s", name, code, tc.want, out)
		}
		if now := generations(); !slices.Equal(now, was) {
			t.Errorf("%s: %v was not brought back, it is %v", name, was, now)
		}
		sameNginx()
		serves(name)
		write(wwwBlock)
		if out, code := c.run("plan"); code != 0 {
			t.Errorf("%s: after it plan exits with %d:\n%s", name, code, out)
		}
	}

	write("")
	c.mustApply()
	sameNginx()
	for _, lb := range lbs {
		if res, _, err := secured(roots, lb+":8443", "www.shop.localhost", "/"); err == nil {
			t.Errorf("%s still serves a domain that is gone: %v", lb, res.Status)
		}
	}

	// Routers come and go: load balancers use a new one when it knows the routes, and
	// leave an obsolete one before it ends.
	routers := 3
	for _, n := range []int{5, 2} {
		was := loads[0].answered() + loads[1].answered()
		began := time.Now()
		c.edit(fmt.Sprintf("\"routers\" { default = %d }", routers), fmt.Sprintf("\"routers\" { default = %d }", n))
		routers = n
		c.mustApply()
		t.Logf("%d routers after %v", n, time.Since(began).Round(time.Millisecond))
		sameNginx()
		c.mustAllRun(7 + n)
		for i := range n {
			if body, err := page(c.addressOf(fmt.Sprintf("router/%d", i))+":8081", "hello.served.localhost"); err != nil {
				t.Errorf("router/%d of %d: %q, %v", i, n, body, err)
			}
		}
		within(t, 30*time.Second, "more is answered with these routers", func() bool {
			return loads[0].answered()+loads[1].answered() > was+loadClients
		})
	}
	for _, l := range loads {
		l.stop()
		l.mustNotFail(t)
		if l.answered() < 200 {
			t.Errorf("%d requests are too few to tell", l.answered())
		}
	}
}
