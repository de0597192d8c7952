package jobs_test

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/clusterworks/deploy/jobs"
	"github.com/clusterworks/deploy/manifests"
)

// insideNetwork is set for a test that was run again in a network of its own.
const insideNetwork = "DEPLOY_TEST_NETWORK"

// inNetwork runs the test again in network and mount namespaces of its own, where it
// is root and nothing is but what it makes. It reports whether it is there.
func inNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideNetwork) != "" {
		return true
	}
	args := []string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"}
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--map-root-user")
	}
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command("unshare", append(args, self, "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "5m")...)
	cmd.Env = append(os.Environ(), insideNetwork+"=1")
	out, err := cmd.CombinedOutput()
	t.Logf("in a network of its own:\n%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a network of its own: %v", err)
	}
	return false
}

// sh runs a command that must succeed.
func sh(t *testing.T, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	words := strings.Fields(line)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
}

// keeper is job keepalived beside a real nginx, in a namespace that is a VM.
type keeper struct {
	*balancer
	name       string
	keeping    []string // keepalived's command within the namespace
	keepalived *exec.Cmd
}

var checkProgram = regexp.MustCompile(`[^ "]*/lb_check`)

// keepalived runs what only root can write to. ownCheck is lb_check: this program,
// whose start takes seconds where it is slow and looks for races, so that keepalived
// runs askOnce in its place.
const (
	ownCheck  = "/run/lb/own/lb_check"
	safeCheck = "/run/lb/lb_check"
	askOnce   = "#!/bin/sh\nexec curl -fs -m 1 -o /dev/null \"$2\"\n"
)

const virtual = "10.77.0.100"

// newKeeper makes a VM in the test's bridge, and starts both jobs in it.
func newKeeper(t *testing.T, index int, addresses []string) *keeper {
	t.Helper()
	k := &keeper{balancer: newBalancer(t), name: "lb" + strconv.Itoa(index)}
	k.address, k.within = addresses[index], []string{"ip", "netns", "exec", k.name}
	sh(t, "ip netns add %s", k.name)
	sh(t, "ip link add %[1]s type veth peer name eth0 netns %[1]s", k.name)
	sh(t, "ip link set %s master br0 up", k.name)
	for _, line := range []string{"link set lo up", "link set eth0 up", "addr add " + k.address + "/24 dev eth0"} {
		sh(t, "ip -n %s %s", k.name, line)
	}

	// keepalived's check comes before nginx's, which finds that it may listen.
	m, diags := manifests.Load(fstest.MapFS{"cluster.hcl": {Data: fmt.Appendf(nil, `
deployment "cf" {}
infrastructure "local" {}
group "lb" {
  instances = %d
  job "keepalived" {
    properties {
      addresses = ["%s/24"]
      interface = "eth0"
    }
  }
}
`, len(addresses), virtual)}}, "cluster.hcl", manifests.Options{Jobs: jobs.FS})
	mustBeFine(t, diags)
	facts := manifests.Facts{Instances: map[string][]manifests.Instance{}, Packages: map[string]string{"lb_check": "0"}}
	for n, address := range addresses {
		facts.Instances["lb"] = append(facts.Instances["lb"], manifests.Instance{Group: "lb", Index: n, Address: address, AgentDir: k.dir})
	}
	job := m.Group("lb").Jobs[0]
	vars, diags := m.JobContext(facts, "lb", index, job)
	mustBeFine(t, diags)
	text, err := fs.ReadFile(job.Spec.FS, "templates/keepalived.conf")
	must(t, err)
	expr, diags := hclsyntax.ParseTemplate(text, "keepalived.conf", hcl.InitialPos)
	mustBeFine(t, diags)
	k.vars = vars
	folder := filepath.Join(k.dir, "jobs", "keepalived")
	for _, f := range []string{folder, filepath.Join(k.dir, "run", "keepalived")} {
		must(t, os.MkdirAll(f, 0o755))
	}
	config := checkProgram.ReplaceAllString(k.strings(expr)[0], safeCheck)
	must(t, os.WriteFile(filepath.Join(folder, "keepalived.conf"), []byte(config), 0o640))
	args := k.strings(job.Spec.Hooks[0].Command)
	check := exec.Command("ip", append([]string{"netns", "exec", k.name}, args...)...)
	check.Env = append(os.Environ(), "DEPLOY_STAGED="+folder)
	if out, err := check.CombinedOutput(); err != nil {
		t.Fatalf("keepalived's check: %v: %s", err, out)
	}
	k.keeping = append([]string{"netns", "exec", k.name}, k.strings(job.Spec.Processes[0].Command)...)

	g1 := filepath.Join(k.dir, "generations", "1")
	k.render(g1, fmt.Sprintf("routers = [\"10.77.0.1\"]\naddresses = [%q]", virtual))
	if out, err := k.cmd(k.job.Spec.Hooks[0].Command, "DEPLOY_STAGED="+g1).CombinedOutput(); err != nil {
		t.Fatalf("nginx's check: %v: %s", err, out)
	}
	k.activate(g1)
	k.start()
	k.keep()
	return k
}

// keep starts keepalived.
func (k *keeper) keep() {
	k.t.Helper()
	cmd := exec.Command("ip", k.keeping...)
	cmd.Stdout, cmd.Stderr = k.t.Output(), k.t.Output()
	must(k.t, cmd.Start())
	k.keepalived = cmd
	k.t.Cleanup(k.release)
}

// release ends keepalived in order.
func (k *keeper) release() {
	_ = k.keepalived.Process.Signal(syscall.SIGTERM) // it may have ended
	_ = k.keepalived.Wait()
}

// holds reports whether the VM has the virtual address.
func (k *keeper) holds() bool {
	out, err := exec.Command("ip", "-n", k.name, "addr", "show", "dev", "eth0").Output()
	return err == nil && strings.Contains(string(out), virtual+"/")
}

// gap asks the virtual address until it answers after it did not, and returns for how
// long it did not: from the last answer before to the first after.
func gap(t *testing.T, do func()) time.Duration {
	t.Helper()
	client := &http.Client{Timeout: 200 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+virtual+":8080/", nil)
		must(t, err)
		req.Host = "www.example.com"
		res, err := client.Do(req)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	}
	for end := time.Now().Add(deadline); !ask(); {
		if time.Now().After(end) {
			t.Fatal("the virtual address does not answer")
		}
	}
	last := time.Now()
	do()
	for end := time.Now().Add(deadline); time.Now().Before(end); {
		if !ask() {
			break
		}
		last = time.Now()
	}
	for end := time.Now().Add(deadline); !ask(); {
		if time.Now().After(end) {
			t.Fatal("the virtual address does not answer again")
		}
	}
	return time.Since(last)
}

// TestVirtualAddress: of two real load balancers with keepalived one has the virtual
// address. It moves when nginx dies and when the machine does, and does not when what
// was dead comes back.
func TestVirtualAddress(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	sh(t, "mount -t tmpfs -o mode=755 tmpfs /run")
	sh(t, "mkdir -p /run/netns %s", filepath.Dir(ownCheck))
	must(t, os.WriteFile(safeCheck, []byte(askOnce), 0o755))
	self, err := os.Executable()
	must(t, err)
	sh(t, "cp %s %s", self, ownCheck)
	sh(t, "ip link set lo up")
	sh(t, "ip link add br0 type bridge")
	sh(t, "ip addr add 10.77.0.1/24 dev br0")
	sh(t, "ip link set br0 up")
	backend(t, "10.77.0.1")
	addresses := []string{"10.77.0.11", "10.77.0.12"}
	keepers := []*keeper{newKeeper(t, 0, addresses), newKeeper(t, 1, addresses)}
	holder := func() int {
		t.Helper()
		found := -1
		keepers[0].eventually("one instance has the virtual address", func() bool {
			a, b := keepers[0].holds(), keepers[1].holds()
			found = 0
			if b {
				found = 1
			}
			return a != b
		})
		return found
	}

	killNginx := func(k *keeper) { // workers too: what is left would answer
		out, err := exec.Command("ip", "netns", "pids", k.name).Output()
		must(t, err)
		for _, pid := range strings.Fields(string(out)) {
			name, err := os.ReadFile("/proc/" + pid + "/comm")
			n, parsed := strconv.Atoi(pid)
			if err == nil && parsed == nil && strings.TrimSpace(string(name)) == "nginx" {
				must(t, syscall.Kill(n, syscall.SIGKILL))
			}
		}
		_ = k.command.Wait()
	}
	// lb0 would come first if anybody did. On a busy machine an address may move for
	// nothing: three times in a row it does not.
	for try := 1; ; try++ {
		if holder() == 0 {
			took := gap(t, func() { killNginx(keepers[0]) })
			t.Logf("nginx was killed: the address answers again after %v", took.Round(time.Millisecond))
			if holder() == 0 {
				t.Fatal("lb0 still has the address")
			}
			keepers[0].start()
		}
		stays := true
		for end := time.Now().Add(5 * time.Second); stays && time.Now().Before(end); {
			stays = holder() == 1
		}
		if stays {
			break
		}
		if try == 3 {
			t.Fatal("the address moves back when what was dead is there again")
		}
	}

	took := gap(t, func() { sh(t, "ip link set %s down", keepers[1].name) }) // its cable is cut
	t.Logf("a machine was lost: the address answers again after %v", took.Round(time.Millisecond))
	if !keepers[0].holds() {
		t.Error("lb0 has not taken the address")
	}

	// By arithmetic, since this machine may be busy: three intervals and a skew of less
	// than one, or two checks that fail and a skew.
	config, err := os.ReadFile(filepath.Join(keepers[0].dir, "jobs", "keepalived", "keepalived.conf"))
	must(t, err)
	number := func(key string) float64 {
		words := regexp.MustCompile(key + ` ([0-9.]+)`).FindStringSubmatch(string(config))
		if words == nil {
			t.Fatalf("no %s in\n%s", key, config)
		}
		n, err := strconv.ParseFloat(words[1], 64)
		must(t, err)
		return n
	}
	skew := (256 - 199) / 256.0 * number("advert_int")
	if lost, died := 3*number("advert_int")+skew, number("fall")*number("interval")+skew; lost >= 3 || died >= 3 {
		t.Errorf("a lost machine is noticed after %.1f s, a dead nginx after %.1f s, want less than 3", lost, died)
	}
}
