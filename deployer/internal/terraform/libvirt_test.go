//go:build vm

package terraform

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/zclconf/go-cty/cty"
)

// virsh runs a command of libvirt's client.
func virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", append([]string{"-c", "qemu:///system"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestLibvirtKeepsTheContract needs a libvirt of its own, see .ci/with-libvirt.sh, and
// the path of a stemcell in STEMCELL.
func TestLibvirtKeepsTheContract(t *testing.T) {
	image := os.Getenv("STEMCELL")
	if _, err := os.Stat(image); err != nil {
		t.Fatalf("STEMCELL names no image: %v; type make test-vm", err)
	}
	name := func(d *testDeployment) string {
		sum := sha256.Sum256([]byte(d.input.Deployment.ID))
		return d.input.Deployment.Name + "-" + hex.EncodeToString(sum[:])[:8]
	}
	another := func(t *testing.T, id string) *testDeployment {
		d := newDeployment(t, 0)
		d.options.Template = "libvirt"
		d.input.Deployment = Deployment{Name: id, ID: "d-" + id}
		d.input.Settings = map[string]cty.Value{
			"image": cty.StringVal(image), "mode": cty.StringVal("none"), "dir": cty.StringVal(t.TempDir()),
		}
		return d
	}
	t.Cleanup(func() { // after all is destroyed
		for what, args := range map[string][]string{
			"domains": {"list", "--all", "--name"}, "networks": {"net-list", "--all", "--name"}, "pools": {"pool-list", "--all", "--name"},
		} {
			if left := virsh(t, args...); left != "" {
				t.Errorf("these %s are left: %s", what, left)
			}
		}
	})
	keepsTheContract(t, subject{
		another: another,
		boot:    15 * time.Minute, // by emulation, beside other work
		stop: func(d *testDeployment, key string, _ Instance) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			domain := name(d) + "-" + strings.ReplaceAll(key, "/", "-")
			if out, err := exec.CommandContext(ctx, "virsh", "-c", "qemu:///system", "destroy", domain).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		},
	})
}
