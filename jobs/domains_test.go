package jobs_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/jobs/nginx"
	"github.com/clusterworks/deploy/manifests"
)

// newDomains starts nginx for domain blocks, with the servers of the group shop.
func newDomains(t *testing.T, blocks, properties string, facts manifests.Facts) *balancer {
	t.Helper()
	b := newBalancer(t)
	b.blocks, b.facts = blocks, facts
	g1 := filepath.Join(b.dir, "generations", "1")
	b.render(g1, properties)
	if out, err := b.cmd(b.job.Spec.Hooks[0].Command, "DEPLOY_STAGED="+g1).CombinedOutput(); err != nil {
		t.Fatalf("check: %v: %s", err, out)
	}
	b.activate(g1)
	b.start()
	return b
}

// next renders the same manifest with other properties, and lets nginx take it.
func (b *balancer) next(name, properties string) {
	b.t.Helper()
	folder := filepath.Join(b.dir, "generations", name)
	b.render(folder, properties)
	if out, err := b.cmd(b.job.Spec.Hooks[0].Command, "DEPLOY_STAGED="+folder).CombinedOutput(); err != nil {
		b.t.Fatalf("check: %v: %s", err, out)
	}
	b.activate(folder)
	must(b.t, b.command.Process.Signal(syscall.SIGHUP))
	if out, err := b.cmd(b.job.Spec.Processes[0].Reload.Verify).CombinedOutput(); err != nil {
		b.t.Fatalf("verify: %v: %s", err, out)
	}
}

// server serves for a while and says who it is.
func server(t *testing.T, address, says string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	must(t, err)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s for=%s", says, r.Host, r.URL.Path, r.Header.Get("X-Forwarded-For"))
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
}

// ask sends a request from an address.
func (b *balancer) ask(from, method, host, path string, header ...string) (*http.Response, string) {
	b.t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	ctx, cancel := context.WithTimeout(b.t.Context(), deadline)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", b.address+":8080")
	must(b.t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\nConnection: close\r\n%s\r\n", method, path, host, strings.Join(append(header, ""), "\r\n"))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(b.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(b.t, err)
	return res, string(body)
}

// shop are the facts of a group with two instances.
func shop(t *testing.T) manifests.Facts {
	facts := manifests.Facts{Instances: map[string][]manifests.Instance{"empty": {}}}
	for i := range 2 {
		address := loopback()
		server(t, address+":9000", "shop")
		facts.Instances["shop"] = append(facts.Instances["shop"], manifests.Instance{Group: "shop", Index: i, Address: address})
	}
	return facts
}

const shopGroups = `
group "shop" {
  instances = 2
}
group "empty" {
  instances = 0
}
`

// TestDomains: the real nginx does what domain blocks say: where requests of each
// name and path go, and who may make them.
func TestDomains(t *testing.T) {
	long := strings.Repeat(`0123456789 "quoted" \back\ $host ${dollar}`+"\n", 700)
	blocks := shopGroups + fmt.Sprintf(`
domain "www.shop.example" {
  group = group.shop
  port  = 9000
  path "/api" {
    apps = true
  }
  path "/api/v2.0" {
    answer { body = "v2" }
  }
  path "/old" {
    redirect = "https://archive.example/x/"
  }
}
domain "*.shop.example" {
  answer {
    status = 404
    body   = %q
    type   = "text/html"
  }
}
domain "shop.example" {
  redirect = "https://www.shop.example/"
  allow    = ["127.0.0.0/30"]
  deny     = ["127.0.0.2"]
}
domain "slow.example" {
  answer {}
  rate_limit {
    requests_per_second = 1
    burst               = 3
  }
}
domain "front.example" {
  group          = group.shop
  port           = 9000
  trusted_fronts = ["127.0.0.5"]
}
domain "nofront.example" {
  group          = group.shop
  port           = 9000
  trusted_fronts = []
}
domain "empty.example" {
  group = group.empty
  port  = 1
}
acme { agree_terms = true }
domain "acme.example" {
  tls   = "acme"
  allow = ["192.0.2.1"]
}
`, long)
	blocks = strings.ReplaceAll(blocks, "${dollar}", "$${dollar}")
	router := loopback()
	server(t, router+":8081", "router")
	properties := fmt.Sprintf("routers = [%q]\ntrusted_fronts = [\"127.0.0.9\"]\n", router)
	facts := shop(t)
	facts.ACMEThumbprint = "thumb_-1"
	b := newDomains(t, blocks, properties, facts)

	for _, tc := range []struct {
		from, host, path string
		status           int
		body             string // its beginning
	}{
		{"", "www.shop.example", "/", 200, "shop www.shop.example / for=127.0.0.1"},
		{"", "WWW.shop.example:8080", "/x//y", 200, "shop www.shop.example:8080 /x//y"},
		{"", "www.shop.example", "/api", 200, "router www.shop.example /api"},
		{"", "www.shop.example", "/api/a%2Fb", 200, "router www.shop.example /api/a/b"},
		{"", "www.shop.example", "/apix", 200, "shop www.shop.example /apix"},
		{"", "www.shop.example", "/api/v2.0/users", 200, "v2"},
		{"", "www.shop.example", "/api/v2x0/users", 200, "router"},
		{"", "www.shop.example", "/API", 200, "shop"},
		{"", "www.shop.example", "/api/v2.0/users/../x", 200, "v2"},
		{"", "www.shop.example", "//api//v2.0/users", 200, "v2"},
		{"", "www.shop.example", "/api;a=1/v2.0;b=2", 200, "v2"},
		{"", "www.shop.example", "/%61pi/v2.0", 200, "v2"},
		{"", "www.shop.example", "/x/../api/v2%2E0", 200, "v2"},
		{"", "www.shop.example", "/x/api/v2.0", 200, "shop"},
		{"", "www.shop.example.", "/", 200, "shop www.shop.example"},
		{"", "www.shop.example:", "/", 200, "shop www.shop.example"},
		{"", "xwww.shop.example", "/", 404, long},
		{"", "www.shop.example.evil.example", "/", 404, "LOAD BALANCER: 404"},
		{"", "[::1]", "/", 404, "LOAD BALANCER: 404"},
		{"", "www.shop.example", "/old/p?q=1", 308, ""},
		{"", "any.shop.example", "/", 404, long},
		{"", "a.b.shop.example", "/x", 404, long},
		{"", "shop.example", "/p?q=1", 308, ""},
		{"127.0.0.2", "shop.example", "/", 403, "LOAD BALANCER: 403"},
		{"127.0.0.8", "shop.example", "/", 403, "LOAD BALANCER: 403"},
		{"", "empty.example", "/", 502, "LOAD BALANCER: 502 - NO SERVER OF THIS DOMAIN ANSWERS"},
		{"", "elsewhere.example", "/", 404, "LOAD BALANCER: 404"},
		{"", "app.cf.localhost", "/", 200, "router app.cf.localhost /"},
		{"", "cf.localhost", "/", 404, "LOAD BALANCER: 404"},
	} {
		from := tc.from
		if from == "" {
			from = "127.0.0.1"
		}
		res, body := b.ask(from, "POST", tc.host, tc.path)
		if res.StatusCode != tc.status || !strings.HasPrefix(body, tc.body) {
			t.Errorf("%s%s from %s: %d %.200q, want %d %.200q", tc.host, tc.path, from, res.StatusCode, body, tc.status, tc.body)
		}
		if tc.body == long && (body != long || res.Header.Get("Content-Type") != "text/html") {
			t.Errorf("%s: %d bytes of %s, want %d", tc.host, len(body), res.Header.Get("Content-Type"), len(long))
		}
		if location := map[string]string{"/old/p?q=1": "https://archive.example/x/old/p?q=1", "/p?q=1": "https://www.shop.example/p?q=1"}[tc.path]; res.Header.Get("Location") != location {
			t.Errorf("%s%s leads to %q, want %q", tc.host, tc.path, res.Header.Get("Location"), location)
		}
	}

	t.Run("a CA's token", func(t *testing.T) {
		for path, want := range map[string]string{"/.well-known/acme-challenge/a_-9": "200 a_-9.thumb_-1", "/.well-known/acme-challenge/a.b": "403 LOAD", "/.well-known/acme-challenge/a/b": "403 LOAD", "/": "403 LOAD"} {
			res, body := b.ask("127.0.0.1", "GET", "acme.example", path)
			if got := fmt.Sprintf("%d %s", res.StatusCode, body); !strings.HasPrefix(got, want) || res.StatusCode == 200 && got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
		if res, body := b.ask("127.0.0.1", "GET", "www.shop.example", "/.well-known/acme-challenge/a"); !strings.HasPrefix(body, "shop") {
			t.Errorf("a token of a domain without ACME: %d %s", res.StatusCode, body)
		}
	})

	t.Run("rate limit", func(t *testing.T) {
		// Four at once: the one of this second and the burst; whatever time passes, the
		// twentieth is too many.
		statuses := map[int]int{}
		for range 20 {
			res, _ := b.ask("127.0.0.1", "GET", "slow.example", "/")
			statuses[res.StatusCode]++
		}
		if statuses[200] < 4 || statuses[429] < 1 || statuses[200]+statuses[429] != 20 {
			t.Errorf("answers %v", statuses)
		}
		if res, _ := b.ask("127.0.0.3", "GET", "slow.example", "/"); res.StatusCode != 200 {
			t.Errorf("another client pays for it: %d", res.StatusCode)
		}
	})

	t.Run("fronts", func(t *testing.T) {
		for _, tc := range []struct{ host, from, want string }{
			{"front.example", "127.0.0.5", "for=1.2.3.4, 127.0.0.5"},
			{"front.example", "127.0.0.9", "for=127.0.0.9"},
			{"nofront.example", "127.0.0.9", "for=127.0.0.9"},
			{"nofront.example", "127.0.0.5", "for=127.0.0.5"},
			{"www.shop.example", "127.0.0.9", "for=1.2.3.4, 127.0.0.9"},
			{"www.shop.example", "127.0.0.5", "for=127.0.0.5"},
		} {
			if _, body := b.ask(tc.from, "GET", tc.host, "/", "X-Forwarded-For: 1.2.3.4"); !strings.HasSuffix(body, tc.want) {
				t.Errorf("%s from %s: %q, want %q", tc.host, tc.from, body, tc.want)
			}
		}
	})

	t.Run("balancing and settings", func(t *testing.T) {
		for _, balancing := range []string{"least_conn", "random", "client"} {
			b.next(balancing, properties+fmt.Sprintf("balancing = %q\nkeepalive = 8\ngzip = true\nextra = \"add_header X-All yes always;\"\n", balancing))
			// Old workers may take a connection until they have heard of the new ones.
			b.eventually(balancing, func() bool {
				res, body := b.ask("127.0.0.1", "GET", "www.shop.example", "/")
				return res.StatusCode == 200 && strings.HasPrefix(body, "shop") && res.Header.Get("X-All") == "yes"
			})
		}
	})

	t.Run("maintenance", func(t *testing.T) {
		b.next("maintenance", properties+"maintenance = \"<h1>Back at 5 $</h1>\"\n")
		b.eventually("maintenance", func() bool {
			res, _ := b.ask("127.0.0.1", "GET", "www.shop.example", "/api")
			return res.StatusCode == 503
		})
		for _, host := range []string{"www.shop.example", "app.cf.localhost", "shop.example"} {
			res, body := b.ask("127.0.0.1", "GET", host, "/api")
			if res.StatusCode != 503 || body != "<h1>Back at 5 $</h1>" || res.Header.Get("Content-Type") != "text/html; charset=utf-8" || res.Header.Get("Retry-After") == "" {
				t.Errorf("%s: %d %q %v", host, res.StatusCode, body, res.Header)
			}
		}
		if res, _ := b.ask(b.address, "GET", b.address, "/.deploy/health"); res.StatusCode != 200 {
			t.Errorf("health: %d", res.StatusCode)
		}
	})
}

// TestCompression: text is compressed for who takes it, if that is asked for, and
// once.
func TestCompression(t *testing.T) {
	text := strings.Repeat("text ", 2000)
	app := loopback() + ":9000"
	server(t, app, text)
	facts := manifests.Facts{Instances: map[string][]manifests.Instance{"shop": {{Group: "shop", Address: strings.TrimSuffix(app, ":9000")}}, "empty": {}}}
	blocks := shopGroups + fmt.Sprintf(`
domain "text.example" {
  answer { body = %q }
}
domain "data.example" {
  answer {
    body = %[1]q
    type = "application/octet-stream"
  }
}
domain "app.example" {
  group = group.shop
  port  = 9000
}
`, text)
	b := newDomains(t, blocks, "routers = [\"127.0.0.1\"]\n", facts)
	for n, tc := range []struct {
		properties, accept string
		want               string // encoding
		host               string
	}{
		{"", "gzip, br", "", "text.example"},
		{"gzip = true", "gzip, br", "gzip", "text.example"},
		{"gzip = true", "gzip, br", "gzip", "app.example"},
		{"gzip = true", "", "", "text.example"},
		{"gzip = true", "br", "", "text.example"},
		{"gzip = true", "gzip;q=0", "", "text.example"},
		{"gzip = true", "gzip", "", "data.example"},
		{"brotli = true", "gzip, br", "br", "text.example"},
		{"brotli = true", "gzip, br", "br", "app.example"},
		{"brotli = true", "gzip", "", "text.example"},
		{"brotli = true", "gzip, br", "", "data.example"},
		{"gzip = true\nbrotli = true", "gzip, deflate, br", "br", "text.example"},
		{"gzip = true\nbrotli = true", "gzip, deflate", "gzip", "text.example"},
		{"gzip = true\nbrotli = true", "br;q=0, gzip", "gzip", "text.example"},
		{"", "gzip, br", "", "app.example"},
	} {
		b.next(fmt.Sprintf("c%d", n), "routers = [\"127.0.0.1\"]\n"+tc.properties+"\n")
		var res *http.Response
		var got string
		// Old workers may take a connection until they have heard of the new ones.
		b.eventually(fmt.Sprintf("%s for %q of %s with %q", tc.want, tc.accept, tc.host, tc.properties), func() bool {
			res, got = b.ask("127.0.0.1", "GET", tc.host, "/", "Accept-Encoding: "+tc.accept)
			return res.Header.Get("Content-Encoding") == tc.want
		})
		if tc.want == "" {
			if !strings.HasPrefix(got, text) {
				t.Errorf("%+v: %d bytes, %v", tc, len(got), res.Header)
			}
			continue
		}
		if len(got) > len(text)/10 || res.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%+v: %d bytes, %v", tc, len(got), res.Header)
		}
		if tc.want == "br" {
			cmd := exec.Command("/usr/bin/node", "-e", `process.stdout.write(require("zlib").brotliDecompressSync(require("fs").readFileSync(0)))`)
			cmd.Stdin = strings.NewReader(got)
			if all, err := cmd.Output(); err != nil || !strings.HasPrefix(string(all), text) {
				t.Errorf("%+v: %d bytes, %v", tc, len(all), err)
			}
		}
		if tc.want == "gzip" {
			unpacked, err := gzip.NewReader(strings.NewReader(got))
			must(t, err)
			all, err := io.ReadAll(unpacked)
			must(t, err)
			if !strings.HasPrefix(string(all), text) {
				t.Errorf("%+v: %d bytes", tc, len(all))
			}
		}
	}

	folder := filepath.Join(b.dir, "generations", "without")
	b.render(folder, "routers = [\"127.0.0.1\"]\nbrotli = true\nmodules = \"/nowhere\"\n")
	out, err := b.cmd(b.job.Spec.Hooks[0].Command, "DEPLOY_STAGED="+folder).CombinedOutput()
	if want := "cannot compress by brotli: /nowhere/ngx_http_brotli_filter_module.so does not exist on this machine; apt-get install"; err == nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("%v: %s, want %s", err, out, want)
	}
}

// TestDomainTLS: a domain's certificate comes from the facts, opens the port for
// HTTPS by itself, and HTTP leads there.
func TestDomainTLS(t *testing.T) {
	ca := newWebCA(t)
	certificate := func(names ...string) cty.Value {
		text := ca.settings(time.Now().Add(time.Hour), names...)
		var pair [2]string
		_, err := fmt.Sscanf(text, "certificate = %q\nkey = %q\n", &pair[0], &pair[1])
		must(t, err)
		return cty.ObjectVal(map[string]cty.Value{"certificate": cty.StringVal(pair[0]), "private_key": cty.StringVal(pair[1]), "ca": cty.StringVal(
			string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})))})
	}
	blocks := `
domain "*.cf.localhost" { tls = "internal" }
domain "hsts.example" {
  tls  = "internal"
  hsts = "1h"
  answer { body = "over TLS" }
}
domain "plain.example" {
  tls        = "internal"
  https_only = false
  answer { body = "either" }
}
`
	facts := manifests.Facts{Domains: map[string]cty.Value{"*.cf.localhost": certificate("*.cf.localhost"), "hsts.example": certificate("hsts.example"), "plain.example": certificate("plain.example")}}
	router := loopback()
	server(t, router+":8081", "router")
	p := &platform{balancer: newDomains(t, blocks, fmt.Sprintf("routers = [%q]\npublic_tls_port = 8443\n", router), facts)}
	for host, want := range map[string]string{"a.cf.localhost": "router a.cf.localhost:8443 /page", "hsts.example": "over TLS", "plain.example": "either"} {
		res, body, err := p.https(ca, "GET", host, nil)
		must(t, err)
		if res.StatusCode != 200 || !strings.HasPrefix(body, want) || res.ProtoMajor != 2 {
			t.Errorf("%s: %v %q", host, res.Status, body)
		}
		if hsts := res.Header.Get("Strict-Transport-Security"); (hsts == "max-age=3600") != (host == "hsts.example") {
			t.Errorf("%s: HSTS %q", host, hsts)
		}
		plain, body := p.ask("127.0.0.1", "GET", host, "/x")
		if host == "plain.example" {
			if plain.StatusCode != 200 || body != "either" {
				t.Errorf("%s: %d %s", host, plain.StatusCode, body)
			}
		} else if plain.StatusCode != 308 || plain.Header.Get("Location") != "https://"+host+":8443/x" {
			t.Errorf("%s: %d %v", host, plain.StatusCode, plain.Header)
		}
	}
}

// TestProof: after a reload, each domain is asked for on each address, with its
// certificate; what nginx does not serve as wanted is said, so that the agent
// returns to what ran before.
func TestProof(t *testing.T) {
	ca := newWebCA(t)
	domain := func(name, until string, end time.Time) string {
		return fmt.Sprintf("{ name = %q, %s }", name, strings.ReplaceAll(ca.settings(end, until), "\nkey", ", key"))
	}
	later := time.Now().Add(time.Hour)
	second := loopback()
	properties := "routers = [\"127.0.0.1\"]\n"
	sites := fmt.Sprintf("addresses = [%q]\nsites = [%s, %s, { name = \"plain.example\", redirect = \"https://shop.example\" }]\n",
		second, strings.ReplaceAll(domain("shop.example", "shop.example", later), "\n", ""), strings.ReplaceAll(domain("*.b.example", "*.b.example", later), "\n", ""))
	b := newBalancer(t)
	g1 := filepath.Join(b.dir, "generations", "1")
	b.render(g1, properties)
	b.activate(g1)
	b.start()

	t.Run("an address of IPv6", func(t *testing.T) { // which not every machine has
		g := filepath.Join(b.dir, "generations", "six")
		b.render(g, properties+"addresses = [\"2001:db8::1\"]\n"+sites[strings.Index(sites, "sites"):])
		text, err := os.ReadFile(filepath.Join(g, "nginx.conf"))
		must(t, err)
		for _, want := range []string{"listen [2001:db8::1]:8080 default_server;", "listen [2001:db8::1]:8443 ssl http2;", "    2001:db8::1 1;"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("no %q", want)
			}
		}
	})
	prove := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		return nginx.Prove(ctx, filepath.Join(b.dir, "jobs", "nginx"))
	}
	if err := prove(); err != nil {
		t.Fatalf("what runs: %v", err)
	}

	t.Run("an added address is taken", func(t *testing.T) {
		other, err := net.Listen("tcp", net.JoinHostPort(second, "8443"))
		must(t, err)
		defer other.Close()
		g := filepath.Join(b.dir, "generations", "taken")
		b.render(g, properties+sites)
		out, err := b.cmd(b.job.Spec.Hooks[0].Command, "DEPLOY_STAGED="+g).CombinedOutput()
		if want := "cannot listen on " + second + ":8443: another process does"; err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%v: %s, want %s", err, out, want)
		}
	})
	b.next("2", properties+sites)
	for _, address := range []string{b.address, second} {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, "8443"), deadline)
		must(t, err)
		conn.Close()
	}
	b.next("3", properties+sites+"gzip = true\n") // its own listeners do not count as taken

	for name, tc := range map[string]struct {
		edit [2]string // of nginx.conf, as if nginx did otherwise than it is told
		want string
	}{
		"another certificate": {[2]string{"ssl_certificate", "ssl_certificate"}, "domain *.b.example is not served at " + b.address + ":8443 over https: it shows another certificate"},
		"another server":      {[2]string{"server_name plain.example", "server_name plain2.example"}, "domain plain.example is not served at " + b.address + ":8080 over http: another server of the configuration answers, with status 404"},
		"a silent address":    {[2]string{"listen " + second + ":8443", "listen " + second + ":8444"}, "domain shop.example is not served at " + second + ":8443 over https"},
		"another generation":  {[2]string{"gzip on;", "syntax error;"}, "nginx at " + b.address + ":8080 serves another configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			g := filepath.Join(b.dir, "generations", strings.ReplaceAll(name, " ", "_"))
			b.edit = func(text string) string {
				if tc.edit[0] == "ssl_certificate" { // that of shop.example for all
					var first [2]string
					lines := strings.Split(text, "\n")
					for i, line := range lines {
						for j, directive := range []string{"    ssl_certificate ", "    ssl_certificate_key "} {
							if strings.HasPrefix(line, directive) {
								if first[j] == "" {
									first[j] = line
								}
								lines[i] = first[j]
							}
						}
					}
					return strings.Join(lines, "\n")
				}
				return strings.ReplaceAll(text, tc.edit[0], tc.edit[1])
			}
			b.render(g, properties+sites+fmt.Sprintf("gzip = true\nmaintenance = %q\n", name))
			b.edit = nil
			if out, err := b.cmd(b.job.Spec.Hooks[0].Command, "DEPLOY_STAGED="+g).CombinedOutput(); err != nil && !strings.Contains(name, "generation") {
				t.Fatalf("check: %v: %s", err, out)
			}
			b.activate(g)
			must(t, b.command.Process.Signal(syscall.SIGHUP))
			b.eventually(tc.want, func() bool { // a busy machine may be slower than one proof's patience
				err := prove()
				return err != nil && strings.Contains(err.Error(), tc.want)
			})
			b.next("after_"+strings.ReplaceAll(name, " ", "_"), properties+sites) // as the agent does
		})
	}

	t.Run("extra", func(t *testing.T) {
		for extra, want := range map[string]string{
			"sites = [{ name = \"x.example\", extra = \"no_such on;\" }]":       `nginx does not take extra of domain "x.example":`,
			"sites = [{ name = \"x.example\", extra = \"location /a {\" }]":     `nginx does not take extra of domain "x.example":`,
			"sites = [{ name = \"x.example\" }]\nextra = \"no_such on;\"":       "nginx does not take property extra:",
			"sites = [{ name = \"x.example\", extra = \"add_header X y;\" }]\n": "",
		} {
			g := filepath.Join(b.dir, "generations", "extra")
			b.render(g, properties+extra)
			out, err := b.cmd(b.job.Spec.Hooks[0].Command, "DEPLOY_STAGED="+g).CombinedOutput()
			if (err == nil) != (want == "") || !strings.Contains(string(out), want) {
				t.Errorf("%s: %v: %s, want %s", extra, err, out, want)
			}
		}
	})
}
