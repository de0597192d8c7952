//go:build e2e && vm

package examples

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// forwarder passes connections from an address of this machine on, so that names
// below localhost lead to VMs.
func forwarder(t testing.TB, to string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer from.Close()
				there, err := net.DialTimeout("tcp", to, time.Minute)
				if err != nil {
					return
				}
				defer there.Close()
				var back sync.WaitGroup
				back.Go(func() {
					_, _ = io.Copy(there, from) // it ends when either side does
					_ = there.(*net.TCPConn).CloseWrite()
				})
				_, _ = io.Copy(from, there)
				_ = from.Close()
				back.Wait()
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		all.Wait()
	})
	return listener.Addr().String()
}

// progress matches a line of an apply with the seconds since its begin.
var progress = regexp.MustCompile(`(?m)^\s*([0-9.]+)s\s+(\S+)\s+(.*)$`)

// logTimes logs when each VM of an apply let us in, had its agent, and was on the bus.
func (v *vmCluster) logTimes(out string) {
	v.t.Helper()
	for _, m := range progress.FindAllStringSubmatch(out, -1) {
		if strings.Contains(m[3], "trusting host key") || m[3] == "agent ready" || m[3] == "on the bus" || m[3] == "healthy" {
			v.t.Logf("after %s s: %s %.30s", m[1], m[2], m[3])
		}
	}
}

// qemu is the process of an instance's VM.
func (v *vmCluster) qemu(deployment, id string) int {
	v.t.Helper()
	data, err := os.ReadFile(filepath.Join("/run/libvirt/qemu", v.domain(deployment, id)+".pid"))
	if err != nil {
		v.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		v.t.Fatal(err)
	}
	return pid
}

// applies applies until it succeeds: what a VM of a busy machine did not manage in time,
// the next apply does.
func (v *vmCluster) applies() string {
	v.t.Helper()
	var out string
	within(v.t, 2*vmLimit, "an apply succeeds", func() bool {
		var code int
		out, code = v.do("apply", "--auto-approve")
		if code != 0 {
			v.t.Logf("apply exited with %d:\n%s", code, out)
		}
		return code == 0
	})
	return out
}

// pushSite pushes the static app to a platform of VMs as site.DOMAIN and waits until it is
// served. It returns a function that repeats a command of vmc until it succeeds, and one
// that reports whether the app is served.
func (v *vmCluster) pushSite(domain, front string) (slowly func(what string, args ...string), served func() bool) {
	v.t.Helper()
	v.listen = forwarder(v.t, front)
	p := &platform{cluster: v.cluster, domain: domain, limit: 10 * time.Minute, env: append(os.Environ(), "XDG_CONFIG_HOME="+v.t.TempDir(), "VMC_PASSWORD=of-a-user-of-the-test")}
	slowly = func(what string, args ...string) {
		v.t.Helper()
		within(v.t, vmLimit, what, func() bool {
			begin := time.Now()
			out, code := p.vmc(args...)
			if code != 0 {
				v.t.Logf("vmc %s exited with %d after %.0f s: %s", strings.Join(args, " "), code, time.Since(begin).Seconds(), out)
			}
			return code == 0
		})
	}
	_, port, _ := net.SplitHostPort(v.listen)
	slowly("the API answers", "target", "api."+domain+":"+port)
	slowly("an account is made", "register", "somebody@example.com")
	want, err := os.ReadFile("apps/static/index.html")
	if err != nil {
		v.t.Fatal(err)
	}
	served = func() bool {
		body, err := page(v.listen, "site."+domain)
		return err == nil && body == string(want)
	}
	// A push gives up before an emulated VM of a busy machine has staged or started the app.
	begin := time.Now()
	slowly("the app is pushed", "push", "site", "--path", "apps/static", "--memory", "32M", "--instances", "1", "--url", "site."+domain)
	within(v.t, vmLimit, "the app is served", served)
	v.t.Logf("the app is served %.0f s after the push began", time.Since(begin).Seconds())
	return slowly, served
}

// TestLibvirtCluster stands examples/vms.hcl up: a platform on three virtual machines.
// An app is pushed and served through nginx; an update rolls; the QEMU of the VM with
// the controller's data is killed, and the VM comes back with its disk; nothing is left.
func TestLibvirtCluster(t *testing.T) {
	source, err := os.ReadFile("vms.hcl")
	if err != nil {
		t.Fatal(err)
	}
	// As a user has it, but for the folder of the volumes and the patience of a busy machine.
	manifest := strings.NewReplacer("= var.image", "= IMAGE\n  dir = DIR", `"0s-600s"`, `"0s-20m"`).Replace(string(source)) +
		"\nvariable \"listen\" { default = \"\" }\n"
	manifest = regexp.MustCompile(`(?s)variable "image" \{.*?\n\}\n`).ReplaceAllString(manifest, "")
	v := startVMs(t, "STEMCELL_RUNTIMES", map[string]string{"vms.hcl": manifest})

	v.logTimes(v.applies())
	before := v.mustAllRun(3)
	address := map[string]string{}
	for _, in := range before.Instances {
		address[in.ID] = in.Address
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.qemu("vms", in.ID)))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the VM of %s takes %s of this machine's memory", in.ID, regexp.MustCompile(`VmRSS:\s*(.*)`).FindStringSubmatch(string(data))[1])
	}
	if out, code := v.do("plan"); code != 0 {
		t.Errorf("after an apply there is something to do (%d):\n%s", code, out)
	}

	t.Log("every VM knows every instance by its name, and itself")
	for id, at := range address {
		want := strings.ReplaceAll(id, "/", "-")
		if got := v.on("dea/0", "getent hosts "+want); !strings.HasPrefix(got, at+" ") {
			t.Errorf("%s is %q on dea/0, want %s", want, got, at)
		}
		if got := v.on(id, "hostname"); got != want {
			t.Errorf("the host of %s is called %q", id, got)
		}
	}

	t.Log("an app is pushed, and served through nginx")
	slowly, served := v.pushSite("vms.localhost", net.JoinHostPort(address["edge/0"], "8080"))

	t.Log("an update rolls")
	v.edit(`max_memory_mb       = 256`, `max_memory_mb       = 192`)
	v.edit("      front_key = secret.front.value\n    }\n  }\n}\n\n# What steers", "      front_key = secret.front.value\n      gzip = true\n    }\n  }\n}\n\n# What steers")
	v.applies()
	after := v.mustAllRun(3).pids()
	var restarted []string
	for name, pid := range before.pids() {
		if after[name] != pid {
			restarted = append(restarted, name)
		}
	}
	if !slices.Equal(restarted, []string{"control/0 stager"}) {
		t.Errorf("restarted: %v, want the stager only: nginx reloads", restarted)
	}
	within(t, vmLimit, "the app is served after the update", served)

	t.Log("QEMU of the VM with the controller's data is killed")
	born := v.on("control/0", "cat /proc/sys/kernel/random/boot_id")
	qemu := v.qemu("vms", "control/0")
	if err := syscall.Kill(qemu, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	within(t, time.Minute, "libvirt sees that it is gone", func() bool {
		return virsh(t, "domstate", v.domain("vms", "control/0")) == "shut off"
	})
	v.logTimes(v.applies())
	v.waitRunning("control/0", vmLimit)
	if v.on("control/0", "cat /proc/sys/kernel/random/boot_id") == born || v.qemu("vms", "control/0") == qemu {
		t.Error("it was not booted again")
	}
	slowly("the controller has its data", "app", "site")
	within(t, vmLimit, "the app is served again", served)
	if out, code := v.do("plan"); code != 0 {
		t.Errorf("after all that there is something to do (%d):\n%s", code, out)
	}

	v.must("destroy", "--auto-approve", "--accept-data-loss", "--delete-disks")
	v.mustLeaveNoVMs()
}
