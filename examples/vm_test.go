//go:build e2e && vm

package examples

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// vmLimit bounds one command on VMs that a busy machine emulates.
const vmLimit = 40 * time.Minute

const vmLife = `deployment "life" { domain = "life.localhost" }
infrastructure "libvirt" {
  image = IMAGE
  dir   = DIR
  mode  = "none"
}
variable "listen" { default = "" }
release "test" { path = JOBS }
secret "nats" { type = "password" }
vm "small" { memory_mb = 384 }
disk "data" { size_gb = 1 }
update {
  min_healthy_time = "1s"
  watch_time       = "0s-10m"
}
group "db" {
  instances = 1
  vm        = vm.small
  disk      = disk.data
  job "nats" {
    properties { password = secret.nats.value }
  }
  job "keeper" {}
}
`

// vmCluster is a deployment of libvirt's VMs, see .ci/with-libvirt.sh.
type vmCluster struct {
	*cluster
	dir   string // where libvirt's volumes are
	image string // the stemcell
}

// startVMs prepares a deployment whose VMs boot the image that a variable names.
func startVMs(t *testing.T, stemcell string, files map[string]string) *vmCluster {
	t.Helper()
	image, err := filepath.Abs(os.Getenv(stemcell))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(image); err != nil || os.Getenv(stemcell) == "" {
		t.Fatalf("%s names no image: %v; type make test-vm", stemcell, err)
	}
	folder, volumes := t.TempDir(), t.TempDir()
	replace := strings.NewReplacer("IMAGE", strconv.Quote(image), "DIR", strconv.Quote(volumes), "JOBS", strconv.Quote(filepath.Join(folder, "jobs")))
	manifest := ""
	for path, content := range files {
		path = filepath.Join(folder, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(path) == ".hcl" && filepath.Dir(path) == folder {
			manifest, content = path, replace.Replace(content)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v := &vmCluster{dir: volumes, image: image, cluster: &cluster{t: t, manifest: manifest, state: filepath.Join(t.TempDir(), "state")}}
	t.Cleanup(func() {
		if _, err := os.Stat(v.state); err == nil {
			out, code := v.do("destroy", "--auto-approve", "--accept-data-loss", "--delete-disks")
			t.Logf("destroy exited with %d:\n%s", code, out)
		}
	})
	return v
}

// do runs a command as run does, with a VM's patience.
func (v *vmCluster) do(name string, args ...string) (string, int) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), vmLimit)
	defer cancel()
	cmd := v.command(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		v.t.Fatalf("deploy %s did not run: %v\n%s", name, err, out.String())
	}
	v.t.Logf("deploy %s took %.0f s", name, time.Since(begin).Seconds())
	return out.String(), cmd.ProcessState.ExitCode()
}

func (v *vmCluster) must(name string, args ...string) string {
	v.t.Helper()
	out, code := v.do(name, args...)
	if code != 0 {
		v.t.Fatalf("deploy %s exited with %d:\n%s", name, code, out)
	}
	return out
}

// on returns what a line of its shell prints on a VM.
func (v *vmCluster) on(id, command string) string {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := v.command(ctx, "ssh", id, "--", command)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		v.t.Fatalf("%s on %s: %v\n%s%s", command, id, err, out.String(), stderr.String())
	}
	return strings.TrimSpace(out.String())
}

// waitRunning waits until status says that all of an instance runs.
func (v *vmCluster) waitRunning(id string, limit time.Duration) status {
	v.t.Helper()
	var last status
	took := within(v.t, limit, "status says that "+id+" runs", func() bool {
		last = v.status()
		for _, in := range last.Instances {
			if in.ID != id || in.State != "running" || in.Agent != "alive" || in.VM != "running" {
				continue
			}
			for _, p := range in.Processes {
				if p.State != "running" {
					return false
				}
			}
			return len(in.Processes) > 0
		}
		return false
	})
	v.t.Logf("status says that %s runs after %.0f s", id, took.Seconds())
	return last
}

// domain is the name of an instance's VM in libvirt.
func (v *vmCluster) domain(deployment, id string) string {
	v.t.Helper()
	data, err := os.ReadFile(filepath.Join(v.state, deployment, "state.json"))
	if err != nil {
		v.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), `"deployment_id": "`)
	uuid, _, found := strings.Cut(rest, `"`)
	if !found {
		v.t.Fatalf("the state has no deployment_id:\n%.400s", data)
	}
	sum := sha256.Sum256([]byte(uuid))
	return deployment + "-" + hex.EncodeToString(sum[:])[:8] + "-" + strings.ReplaceAll(id, "/", "-")
}

func virsh(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "virsh", append([]string{"-c", "qemu:///system"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// mustLeaveNoVMs checks that libvirt has nothing any more, nor its folder.
func (v *vmCluster) mustLeaveNoVMs() {
	v.t.Helper()
	for what, args := range map[string][]string{
		"domains": {"list", "--all", "--name"}, "networks": {"net-list", "--all", "--name"}, "pools": {"pool-list", "--all", "--name"},
	} {
		if left := virsh(v.t, args...); left != "" {
			v.t.Errorf("these %s are left: %s", what, left)
		}
	}
	var files []string
	err := filepath.WalkDir(v.dir, func(path string, _ os.DirEntry, err error) error {
		files = append(files, path)
		return err
	})
	if err != nil || len(files) != 1 {
		v.t.Errorf("these files are left: %v, %v", files, err)
	}
	if _, err := os.Stat(v.state); !errors.Is(err, os.ErrNotExist) {
		v.t.Errorf("the state folder is left: %v", err)
	}
}

// TestLibvirtVMLife follows one VM: made, a job healthy, rebooted as by a power cut,
// its QEMU killed, made anew with its disk, destroyed.
func TestLibvirtVMLife(t *testing.T) {
	files := keeperFiles()
	files["life.hcl"] = vmLife
	v := startVMs(t, "STEMCELL", files)
	v.must("apply", "--auto-approve")
	first := v.waitRunning("db/0", vmLimit)
	const data = "/var/lib/deploy/data/keeper"
	born := v.on("db/0", "cat "+data+"/born")
	if born == "" || v.on("db/0", "findmnt -no SOURCE --target "+data+"/") != "/dev/vdb" {
		t.Fatalf("the job's data is not on the disk /dev/vdb: born %q, %s", born, v.on("db/0", "findmnt; ls -l "+data))
	}
	if out, code := v.do("plan"); code != 0 {
		t.Errorf("after an apply there is something to do (%d):\n%s", code, out)
	}

	t.Log("the unit of the agent: limits, and groups of its own for its processes")
	unit := v.on("db/0", "systemctl show -p Delegate -p LimitNOFILE -p LimitNOFILESoft -p TasksMax -p KillMode deploy-agent-var-lib-deploy.service")
	for _, want := range []string{"Delegate=yes", "LimitNOFILE=524288", "LimitNOFILESoft=65536", "TasksMax=infinity", "KillMode=process"} {
		if !strings.Contains(unit, want) {
			t.Errorf("the unit lacks %s:\n%s", want, unit)
		}
	}

	t.Log("reboot -f: its jobs are back by themselves")
	boot := v.on("db/0", "cat /proc/sys/kernel/random/boot_id")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	_ = v.command(ctx, "ssh", "db/0", "--", "reboot", "-f").Run() // the connection ends with the VM
	cancel()
	within(t, vmLimit, "another boot", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := v.command(ctx, "ssh", "db/0", "--", "cat", "/proc/sys/kernel/random/boot_id").Output()
		now := strings.TrimSpace(string(out))
		return err == nil && now != "" && now != boot
	})
	v.waitRunning("db/0", vmLimit)
	if now := v.on("db/0", "cat "+data+"/born"); now != born {
		t.Errorf("after the reboot the data is another: %q, was %q", now, born)
	}
	if out, code := v.do("plan"); code != 0 {
		t.Errorf("after a reboot there is something to do (%d):\n%s", code, out)
	}

	t.Log("its QEMU is killed: the next apply starts it")
	virsh(t, "destroy", v.domain("life", "db/0"))
	v.must("apply", "--auto-approve")
	killed := v.waitRunning("db/0", vmLimit)
	if now := v.on("db/0", "cat "+data+"/born"); now != born {
		t.Errorf("after it was killed the data is another: %q, was %q", now, born)
	}

	t.Log("recreate: another VM, the same address and data")
	root := v.on("db/0", "cat /etc/machine-id")
	v.must("recreate", "--auto-approve", "db/0")
	again := v.waitRunning("db/0", vmLimit)
	if v.on("db/0", "cat /etc/machine-id") == root {
		t.Error("recreate left the VM as it was")
	}
	if now := v.on("db/0", "cat "+data+"/born"); now != born {
		t.Errorf("the new VM has other data: %q, was %q", now, born)
	}
	if a, b := first.Instances[0].Address, again.Instances[0].Address; a != b || killed.Instances[0].Address != a {
		t.Errorf("the address was %s, is %s", a, b)
	}

	v.must("destroy", "--auto-approve", "--accept-data-loss", "--delete-disks")
	v.mustLeaveNoVMs()
}
