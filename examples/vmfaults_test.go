//go:build e2e

package examples

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// machinesTemplate is a template of VMs that are there, with consoles and a time in
// which they must have booted, as one of an infrastructure has.
const machinesTemplate = `
variable "deployment" { type = object({ name = string, id = string }) }
variable "instances" { type = any }
variable "disks" { type = any }
variable "ssh_public_key" { type = string }
variable "settings" { type = any }
resource "terraform_data" "vm" {
  for_each = var.instances
  input    = var.settings.machines[each.key].host
}
output "instances" {
  value = { for id, vm in terraform_data.vm : id => {
    id = "vm-${id}", address = var.settings.machines[id].address
    ssh_host = var.settings.machines[id].host, ssh_port = var.settings.machines[id].port, ssh_user = "root", ssh_host_key = ""
    ssh_private_key_file = "id", agent_dir = "/var/lib/deploy", os = "linux", arch = "amd64", disk = "", running = true
    boot_seconds = 6, console = var.settings.console
  } }
}
`

// silentServer accepts connections and says nothing, as a VM that hangs in its boot.
func silentServer(t *testing.T) (port int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		all.Wait()
		for _, conn := range open {
			_ = conn.Close()
		}
	})
	return listener.Addr().(*net.TCPAddr).Port
}

// TestVMFaults: a VM whose boot hangs, one that was paused, and one whose network is
// cut: each ends an apply within its deadline with a message that says whose VM it is
// and what to do; the next apply after the fault does all of it.
func TestVMFaults(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread() // the machines end with the thread that started them
	private, public := newKey(t)
	n := newNetwork(t)
	hosts := n.newHosts(2, public)
	card := n.bridge + ".2" // of the second machine

	c := shellCluster(t, 2, waits)
	dir := filepath.Dir(c.manifest)
	console := filepath.Join(t.TempDir(), "console.log")
	for path, text := range map[string]string{
		filepath.Join(dir, "id"): string(private), filepath.Join(dir, "machines", "main.tf"): machinesTemplate,
		console: strings.Repeat("[    1.0] a line of the boot\n", 40) + "[    2.0] Kernel panic - not syncing: VFS: \x1b[31mUnable to mount root fs\n",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const hung = "host = \"127.0.0.1\", port = %d"
	port := silentServer(t)
	c.edit(fmt.Sprintf("infrastructure \"local\" {\n  cidr = %q\n}", c.cidr), fmt.Sprintf(`infrastructure "./machines" {
  console  = %q
  machines = {
    "app/0" = { address = %q, host = %q, port = 22 }
    "app/1" = { address = %q, `+hung+` }
  }
}`, console, hosts[0].address, hosts[0].address, hosts[1].address, port))

	t.Log("SSH of app/1 accepts connections and never answers")
	out, code := c.run("apply", "--auto-approve")
	mustTell(t, out, code, 1, "cannot reach the VM of app/1", "within 6s", "boot_seconds", "deploy recreate app/1", console, "Kernel panic - not syncing: VFS")
	if strings.Contains(out, "\x1b[31m") {
		t.Error("the console writes to the terminal")
	}

	t.Log("its boot comes to an end")
	c.edit(fmt.Sprintf(hung, port), fmt.Sprintf("host = %q, port = 22", hosts[1].address))
	c.mustApply()
	before := c.mustAllRun(2).pids()

	t.Log("app/1 is paused, as by its hypervisor")
	paused := hosts[1].processes()
	signal := func(s syscall.Signal) {
		t.Helper()
		for pid := range paused {
			if err := syscall.Kill(pid, s); err != nil {
				t.Fatal(err)
			}
		}
	}
	signal(syscall.SIGSTOP)
	out, code = c.run("status")
	mustTell(t, out, code, 0, "app/1")
	if !strings.Contains(out, "silent") && !strings.Contains(out, "unreachable") {
		t.Errorf("status does not say that app/1 does not answer:\n%s", out)
	}
	out, code = c.run("apply", "--auto-approve")
	t.Logf("apply beside a paused VM exited with %d:\n%s", code, out)
	mustTell(t, out, code, 1, "app/1")
	signal(syscall.SIGCONT)
	c.mustApply()
	if now := c.mustAllRun(2).pids(); now["app/1 script/main"] != before["app/1 script/main"] {
		t.Errorf("a pause cost the process: %v, were %v", now, before)
	}

	t.Log("the network of app/1 is cut")
	n.ip("link", "set", card, "down")
	begin := time.Now()
	out, code = c.run("apply", "--auto-approve")
	t.Logf("apply beside a VM without network exited with %d after %s:\n%s", code, time.Since(begin), out)
	mustTell(t, out, code, 1, "app/1")
	n.ip("link", "set", card, "up")
	c.mustApply()
	if now := c.mustAllRun(2).pids(); now["app/1 script/main"] != before["app/1 script/main"] {
		t.Errorf("a cut network cost the process: %v, were %v", now, before)
	}
	if out, code := c.run("plan"); code != 0 {
		t.Errorf("after all that there is something to do (%d):\n%s", code, out)
	}
	if out, code := c.run("destroy", "--auto-approve"); code != 0 {
		t.Errorf("destroy exited with %d:\n%s", code, out)
	}
}
