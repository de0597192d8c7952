//go:build e2e

package examples

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const stemcellManifest = `deployment "sc" { domain = "sc.localhost" }
infrastructure "local" {}
variable "listen" { default = "" }
stemcell "debian" {
  path    = "one.qcow2"
  version = "1.0"
  sha256  = "ONE"
}
vm "small" {
  memory_mb = 128
  stemcell  = stemcell.debian
}
secret "nats" { type = "password" }
update { min_healthy_time = "200ms" }
group "nats" {
  vm = vm.small
  job "nats" {
    properties { password = secret.nats.value }
  }
}
`

// An image is refused at its line before anything moves; another one replaces VMs;
// the one before is there to return to, also when its file is not.
func TestStemcellsAreRolledLikeAnyChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "sc.hcl")
	if err := os.WriteFile(path, []byte(stemcellManifest), 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, path)
	image := func(name, content string) (digest string) {
		if err := os.WriteFile(filepath.Join(filepath.Dir(c.manifest), name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte(content))
		return hex.EncodeToString(sum[:])
	}
	one, two := image("one.qcow2", "one"), image("two.qcow2", "two")

	c.edit("ONE", two)
	out, code := c.run("apply", "--auto-approve")
	mustTell(t, out, code, 1, "Another stemcell than was pinned", `sc.hcl line`, "sha256  = \""+two, "one.qcow2 has the sha256", one)
	if _, err := os.Stat(c.state); err == nil {
		t.Error("a stemcell that was refused left a state")
	}
	c.edit(two, one)
	c.edit("one.qcow2", "three.qcow2")
	out, code = c.run("plan")
	mustTell(t, out, code, 1, "Stemcell not found", "three.qcow2", "make stemcell")
	c.edit("three.qcow2", "one.qcow2")
	c.mustApply()
	first := c.mustAllRun(1).pids()

	c.edit("one.qcow2", "two.qcow2")
	c.edit(one, two)
	c.edit(`"1.0"`, `"1.1"`)
	out, code = c.run("plan")
	mustTell(t, out, code, 2, "nats/0 recreate", "stemcell debian 1.0 -> debian 1.1", "1 to recreate")
	c.mustApply()
	second := c.mustAllRun(1).pids()
	if first["nats/0 nats"] == second["nats/0 nats"] {
		t.Error("another stemcell left the VM as it was")
	}

	for _, name := range []string{"one.qcow2", "two.qcow2"} {
		if err := os.Remove(filepath.Join(filepath.Dir(c.manifest), name)); err != nil {
			t.Fatal(err)
		}
	}
	if out, code := c.run("plan"); code != 0 {
		t.Errorf("without the files there is something to do (%d):\n%s", code, out)
	}
	out, code = c.run("rollback", "--auto-approve")
	mustTell(t, out, code, 0, "stemcell debian 1.1 -> debian 1.0")
	c.mustAllRun(1)
	for _, digest := range []string{one, two} {
		if _, err := os.Stat(filepath.Join(c.state, "sc", "stemcells", fmt.Sprintf("%s.qcow2", digest))); err != nil {
			t.Errorf("a stemcell that a revision needs is gone: %v", err)
		}
	}
	if out := c.mustApply(); !strings.Contains(out, "recreate") { // the manifest still wants 1.1
		t.Errorf("the manifest's stemcell is not rolled again:\n%s", out)
	}
}
