package firewall

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/agent/api"
)

// Roles of the test binary that is run again.
const (
	roleDial   = "firewall-test-dial"   // FROM TO SECONDS: exits with 0 if it could connect
	roleInside = "FIREWALL_TEST_INSIDE" // in the environment: this is a network of the test's own
)

func TestMain(m *testing.M) {
	if len(os.Args) == 5 && os.Args[1] == roleDial {
		seconds, err := strconv.Atoi(os.Args[4])
		if err != nil {
			os.Exit(2)
		}
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(os.Args[2])}, Timeout: time.Duration(seconds) * time.Second}
		conn, err := d.Dial("tcp", os.Args[3])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		_ = conn.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestRules(t *testing.T) {
	f := api.Firewall{SSH: []int{22, 2222, 22}, Allow: []string{"192.168.0.0/16", "fd00::/8"}, Public: []api.PublicPort{{Network: "udp", Number: 53}, {Network: "tcp", Number: 443}}}
	table := Table{Dir: "/var/lib/deploy"}
	rules, err := table.Rules(f, []string{"10.0.0.12", "10.0.0.11", "10.0.0.12", "fd01::1"})
	if err != nil {
		t.Fatal(err)
	}
	name := table.name()
	want := `table inet ` + name + `
delete table inet ` + name + `
table inet ` + name + ` {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iifname "lo" accept
		meta l4proto { icmp, ipv6-icmp } accept
		udp dport { 68, 546 } accept
		tcp dport 22 accept
		tcp dport 443 accept
		tcp dport 2222 accept
		udp dport 53 accept
		ip saddr 10.0.0.11/32 accept
		ip saddr 10.0.0.12/32 accept
		ip saddr 192.168.0.0/16 accept
		ip6 saddr fd00::/8 accept
		ip6 saddr fd01::1/128 accept
	}
}
`
	if string(rules) != want {
		t.Errorf("the rules are\n%s\nwant\n%s", rules, want)
	}
	if other := (Table{Dir: "/var/lib/deploy2"}).name(); other == name {
		t.Error("two agents have one table")
	}
	for what, bad := range map[string]struct {
		f     api.Firewall
		peers []string
	}{
		"no address":  {api.Firewall{SSH: []int{22}}, []string{"10.0.0.1; accept"}},
		"a zone":      {api.Firewall{SSH: []int{22}}, []string{"fe80::1%eth0"}},
		"no range":    {api.Firewall{SSH: []int{22}, Allow: []string{"all"}}, nil},
		"no network":  {api.Firewall{SSH: []int{22}, Public: []api.PublicPort{{Network: "tcp dport 1-65535 accept;", Number: 1}}}, nil},
		"no port":     {api.Firewall{SSH: []int{22}, Public: []api.PublicPort{{Network: "tcp", Number: 65536}}}, nil},
		"no SSH port": {api.Firewall{SSH: []int{0}}, nil},
	} {
		if rules, err := table.Rules(bad.f, bad.peers); err == nil {
			t.Errorf("%s gave the rules\n%s", what, rules)
		}
	}
}

// TestRulesHaveNoWordOfOthers: whatever is given as an address, the rules are refused
// or hold addresses only.
func TestRulesHaveNoWordOfOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		peer := rapid.OneOf(rapid.StringMatching(`[0-9a-f.:/%{}; \n"]{1,20}`), rapid.String()).Draw(t, "peer")
		rules, err := Table{Dir: "/d"}.Rules(api.Firewall{SSH: []int{22}}, []string{peer})
		if err == nil && strings.Count(string(rules), "\n") != 13 {
			t.Errorf("%q gave the rules\n%s", peer, rules)
		}
	})
}

// inside runs the rest of a test in a network namespace of its own, and reports
// whether this is there.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(roleInside) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "4m")
	cmd.Env = append(os.Environ(), roleInside+"=yes", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in a network of its own: %v\n%s", err, out)
	}
	t.Logf("in a network of its own:\n%s", out)
	return false
}

func run(t *testing.T, command string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), command, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestFirewallLetsInWhatItSays applies real rules in a network namespace, and knocks
// from another one as a peer, as a stranger, and from a range that is allowed.
func TestFirewallLetsInWhatItSays(t *testing.T) {
	if !inside(t) {
		return
	}
	// Another network beside this one.
	other := exec.CommandContext(t.Context(), "sleep", "300")
	other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = other.Process.Kill()
		_ = other.Wait() // it was killed
	})
	pid := strconv.Itoa(other.Process.Pid)
	there := func(args ...string) string {
		return run(t, "nsenter", append([]string{"-t", pid, "-n", "--"}, args...)...)
	}
	const vm, peer, stranger, allowed = "10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.1.4"
	run(t, "ip", "link", "set", "lo", "up")
	run(t, "ip", "link", "add", "vm", "type", "veth", "peer", "name", "out")
	run(t, "ip", "link", "set", "out", "netns", pid)
	run(t, "ip", "address", "add", vm+"/16", "dev", "vm")
	run(t, "ip", "link", "set", "vm", "up")
	for _, a := range []string{peer, stranger, allowed} {
		there("ip", "address", "add", a+"/16", "dev", "out")
	}
	there("ip", "link", "set", "out", "up")

	const ssh, web, bus = 2022, 8080, 4222
	for _, port := range []int{ssh, web, bus} {
		l, err := net.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	reaches := func(from string, port, seconds int) (bool, string) {
		out, err := exec.CommandContext(t.Context(), "nsenter", "-t", pid, "-n", "--", os.Args[0], roleDial, from, fmt.Sprintf("%s:%d", vm, port), strconv.Itoa(seconds)).CombinedOutput()
		return err == nil, string(out)
	}
	// What is let in may be slow; what is dropped never comes, however long it takes.
	must := func(from string, ports ...int) {
		t.Helper()
		for _, port := range []int{ssh, web, bus} {
			want, seconds := false, 1
			for _, p := range ports {
				if p == port {
					want, seconds = true, 60
				}
			}
			if got, why := reaches(from, port, seconds); got != want {
				t.Errorf("%s reaches port %d: %v (%s)\n%s", from, port, got, why, run(t, "nft", "list", "ruleset"))
			}
		}
	}

	ctx, table := t.Context(), Table{Dir: t.TempDir()}
	must(stranger, ssh, web, bus)
	if table.InPlace(ctx) {
		t.Error("rules are there before they were made")
	}
	f := api.Firewall{SSH: []int{22, ssh}, Allow: []string{"10.9.1.0/24"}, Public: []api.PublicPort{{Network: "tcp", Number: web}}}
	if err := table.Apply(ctx, f, []string{peer}); err != nil {
		t.Fatal(err)
	}
	must(peer, ssh, web, bus)
	must(allowed, ssh, web, bus)
	must(stranger, ssh, web)
	if got, why := dialHere(ctx, bus); !got {
		t.Errorf("the VM does not reach itself: %s", why)
	}
	out, err := net.DialTimeout("tcp", net.JoinHostPort(peer, "1"), 30*time.Second)
	if err == nil {
		_ = out.Close()
	} else if !strings.Contains(err.Error(), "refused") { // its answer came back
		t.Errorf("the VM does not reach others: %v", err)
	}

	t.Log("other peers and ports take the place of these at once; other tables stay")
	run(t, "sh", "-c", "echo 'table inet theirs {}' | nft -f -")
	f.Public, f.Allow = nil, nil
	if err := table.Apply(ctx, f, []string{stranger}); err != nil {
		t.Fatal(err)
	}
	must(stranger, ssh, web, bus)
	must(peer, ssh)
	must(allowed, ssh)

	t.Log("rules that cannot be made leave those that are there")
	if err := table.Apply(ctx, f, []string{"nobody"}); err == nil {
		t.Error("an address that is none was taken")
	}
	locked := f
	locked.SSH = []int{22}
	if err := table.Apply(ctx, locked, []string{stranger}); err == nil || !strings.Contains(err.Error(), "no SSH server listens") {
		t.Errorf("rules that let nobody log in: %v", err)
	}
	must(peer, ssh)

	run(t, "nft", "flush", "ruleset")
	if table.InPlace(ctx) {
		t.Error("that somebody has flushed all rules is not seen")
	}
	if err := table.Apply(ctx, f, []string{stranger}); err != nil {
		t.Fatal(err)
	}
	must(peer, ssh)

	run(t, "sh", "-c", "echo 'table inet theirs {}' | nft -f -")
	if err := table.Remove(ctx); err != nil {
		t.Fatal(err)
	}
	must(peer, ssh, web, bus)
	if left := run(t, "nft", "list", "tables"); left != "table inet theirs\n" {
		t.Errorf("these tables are left: %q", left)
	}
	if files, err := filepath.Glob(filepath.Join(table.Dir, "*")); err != nil || len(files) > 0 {
		t.Errorf("these files are left: %v, %v", files, err)
	}
	if err := table.Remove(ctx); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
}

func dialHere(ctx context.Context, port int) (bool, string) {
	d := net.Dialer{Timeout: 30 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false, err.Error()
	}
	_ = conn.Close()
	return true, ""
}
