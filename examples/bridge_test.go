//go:build e2e

package examples

import (
	"context"
	"crypto/x509"
	"encoding/json"
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
)

// bridged is a cluster with two load balancers that share an address.
const bridged = `deployment "bridged" { domain = "bridged.localhost" }
infrastructure "local" {}
variable "listen" { default = "" }
release "examples" { path = "./jobs" }
release "seen" { path = "./seen" }
secret "nats" { type = "password" }
secret "front" { type = "password" }
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
  job "keepalived" {
    properties {
      addresses = ["10.40.9.9/16"]
      interface = "eth0"
    }
  }
  job "nginx" {
    properties {
      routers   = group.router.instances[*].address
      addresses = ["10.40.9.9"]
      tls_port  = 8443
      front_key = secret.front.value
    }
  }
}
group "router" {
  job "router" {
    properties { front_key = secret.front.value }
  }
}
group "seen" {
  job "seen" {}
}
group "hello" {
  job "hello" {}
}
domain "www.shop.localhost" {
  tls   = "internal"
  group = group.seen
}
domain "allowed.localhost" {
  allow = ["10.40.200.1"]
  answer { body = "come in" }
}
domain "limited.localhost" {
  rate_limit {
    requests_per_second = 1
    burst               = 3
  }
  answer { body = "one by one" }
}
`

// Job seen answers with the address that it is told its client has.
const (
	seenJob = `description = "Shows who asks"
package "perl" {
  system = "perl"
  apt    = ["perl-base"]
}
template "seen.pl" {}
process "seen" {
  command = [package.perl.path, "${path.config}/seen.pl"]
  route {
    host = "seen.${deployment.domain}"
    port = 8083
  }
}
listen "http" { port = 8083 }
`
	seenScript = `use strict; use warnings;
use IO::Socket::INET;
my $listen = IO::Socket::INET->new(LocalAddr => "$ENV{DEPLOY_ADDRESS}:8083", Listen => 64, ReuseAddr => 1) or die $@;
while (1) {
    my $client = $listen->accept or next;
    my $body = "nobody";
    while (my $line = <$client>) { $body = $1 if $line =~ /^X-Forwarded-For: (.*?)\r?\n/i; last if $line =~ /^\r?\n$/ }
    print $client "HTTP/1.0 200 OK\r\nContent-Length: " . length($body) . "\r\n\r\n" . $body;
    close $client;
}
`
)

// insideNetwork is set for a test that was run again in a network of its own.
const insideNetwork = "DEPLOY_TEST_NETWORK"

// TestBridge has its VMs on a bridge, in a network of its own, where connections show
// who made them: lists of addresses and limits hold for one client and not for another,
// an app is told its client, a virtual address moves when its load balancer dies, and
// the one that is made again serves what the other does. Nothing is left of it.
// An ordinary user is told at once that it takes root.
func TestBridge(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		c := start(t, "hello.hcl")
		c.edit(fmt.Sprintf("cidr = %q", c.cidr), `network = "bridge"`)
		if out, code := c.run("apply", "--auto-approve"); code != 1 || !strings.Contains(out, "that takes root") {
			t.Errorf("as an ordinary user apply exited with %d:\n%s", code, out)
		}
		return
	}
	if os.Getenv(insideNetwork) == "" {
		args := []string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"}
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "unshare", append(args, self, "-test.run=^TestBridge$", "-test.v", "-test.timeout=8m")...)
		cmd.Env = append(os.Environ(), insideNetwork+"=1")
		out, err := cmd.CombinedOutput()
		t.Logf("in a network of its own:\n%s", out)
		if err != nil || !strings.Contains(string(out), "--- PASS: TestBridge") {
			t.Fatalf("in a network of its own: %v", err)
		}
		return
	}
	// keepalived runs no program from a folder that others can write to.
	sh := func(line string) {
		t.Helper()
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	sh("mount -t tmpfs -o mode=755 tmpfs /run")
	sh("ip link set lo up")
	file := filepath.Join(t.TempDir(), "bridged.hcl")
	if err := os.WriteFile(file, []byte(bridged), 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, file)
	c.state = "/run/state"
	c.edit(fmt.Sprintf("cidr = %q", c.cidr), `network = "bridge"`)
	c.edit(`"./seen"`, fmt.Sprintf("%q", filepath.Join(filepath.Dir(c.manifest), "seen")))
	templates := filepath.Join(filepath.Dir(c.manifest), "seen", "seen", "templates")
	if err := os.MkdirAll(templates, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{filepath.Join(templates, "seen.pl"): seenScript, filepath.Join(templates, "..", "job.hcl"): seenJob} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	links := func() (out []string) {
		all, err := net.Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range all {
			out = append(out, i.Name)
		}
		return out
	}
	t.Cleanup(func() { // before start's, which destroys
		if out, code := c.run("destroy", "--auto-approve", "--accept-data-loss"); code != 0 {
			t.Errorf("destroy exited with %d:\n%s", code, out)
		}
		if left := links(); len(left) != 1 {
			t.Errorf("links are left: %v", left)
		}
	})

	c.mustApply()
	c.mustAllRun(6)
	const first, second, virtual = "10.40.200.1", "10.40.200.2", "10.40.9.9"
	for _, address := range []string{first, second} {
		sh("ip addr add " + address + "/16 dev deploy-0a280000")
	}
	// ask asks a load balancer over HTTP, from an address.
	ask := func(from, lb, host string, limit time.Duration) (int, string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		transport := &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+lb+":8080/", nil)
		if err != nil {
			return 0, "", err
		}
		req.Host = host
		res, err := transport.RoundTrip(req)
		if err != nil {
			return 0, "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return res.StatusCode, string(body), err
	}
	lbs := []string{c.addressOf("lb/0"), c.addressOf("lb/1")}
	for _, lb := range append(lbs, virtual) {
		for from, want := range map[string]int{first: 200, second: 403} {
			within(t, time.Minute, "an answer by who asks", func() bool {
				status, _, err := ask(from, lb, "allowed.localhost", 10*time.Second)
				return err == nil && status == want
			})
		}
		for _, from := range []string{first, second} {
			var got string
			told := func() bool {
				status, body, err := ask(from, lb, "seen.bridged.localhost", 10*time.Second)
				got = fmt.Sprintf("%d, %q, %v", status, body, err)
				client, _, _ := strings.Cut(body, ",") // what load balancers add follows
				return err == nil && client == from
			}
			for end := time.Now().Add(time.Minute); !told(); {
				if time.Now().After(end) {
					t.Fatalf("through %s from %s the app sees %s", lb, from, got)
				}
			}
			t.Logf("through %s from %s the app sees %s", lb, from, got)
		}
	}
	within(t, time.Minute, "a client's limit is reached", func() bool {
		status, _, err := ask(first, lbs[0], "limited.localhost", 10*time.Second)
		return err == nil && status == http.StatusTooManyRequests
	})
	if status, body, err := ask(second, lbs[0], "limited.localhost", 10*time.Second); err != nil || status != 200 {
		t.Errorf("another client, after one has reached its limit: %d, %q, %v", status, body, err)
	}

	// A power cut of the load balancer that has the virtual address.
	initOf := func(lb int) int {
		var s struct{ PID int }
		data, err := os.ReadFile(filepath.Join(c.state, "bridged", "vms", fmt.Sprintf("lb-%d", lb), "status.json"))
		if err == nil {
			err = json.Unmarshal(data, &s)
		}
		if err != nil {
			t.Fatal(err)
		}
		return s.PID
	}
	victim := -1
	within(t, time.Minute, "a load balancer has the virtual address", func() bool {
		for i := range lbs {
			table, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/fib_trie", initOf(i)))
			if strings.Contains(string(table), virtual) {
				victim = i
			}
		}
		return victim >= 0
	})
	answers := func() bool {
		status, _, err := ask(first, virtual, "allowed.localhost", 200*time.Millisecond)
		return err == nil && status == 200
	}
	within(t, time.Minute, "the virtual address answers", answers)
	if err := syscall.Kill(initOf(victim), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	died := time.Now()
	within(t, time.Minute, "the virtual address is away", func() bool { return !answers() })
	within(t, time.Minute, "the virtual address answers again", answers)
	// keepalived needs under two seconds; how long this takes depends on the machine as well.
	t.Logf("the virtual address answered %v after its load balancer had died", time.Since(died).Round(time.Millisecond))

	// Its VM is lost for good and made again, while the other one serves.
	folder := filepath.Join(c.state, "bridged", "vms", fmt.Sprintf("lb-%d", victim))
	within(t, time.Minute, "the VM's folder is removed", func() bool { return os.RemoveAll(folder) == nil })
	load := startLoad(t, virtual+":8080", "hello.bridged.localhost", 4, 40)
	c.mustApply()
	c.mustAllRun(6)
	load.stop()
	load.mustNotFail(t)
	out, code := c.run("domains", "--ca")
	roots := x509.NewCertPool()
	if code != 0 || !roots.AppendCertsFromPEM([]byte(out)) {
		t.Fatalf("domains --ca exited with %d:\n%s", code, out)
	}
	for _, lb := range []string{c.addressOf("lb/0"), c.addressOf("lb/1"), virtual} {
		res, _, err := secured(roots, lb+":8443", "www.shop.localhost", "/")
		if err != nil || res.StatusCode != 200 {
			t.Errorf("%s, after a load balancer was made again: %v, %v", lb, res, err)
		}
	}
}
