//go:build e2e

package examples

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs"
	"github.com/clusterworks/deploy/manifests"
)

// infrastructureBlock is a whole block whose end is a brace at the begin of a line.
var infrastructureBlock = regexp.MustCompile(`(?ms)^infrastructure "(\w+)" \{\n.*?^\}\n`)

// TestOnlyTheInfrastructureBlockDiffers: the example runs on this machine as it is,
// and on libvirt's VMs with the block of the README's first page; all that the
// manifest says of groups, jobs and disks is the same.
func TestOnlyTheInfrastructureBlockDiffers(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var swap string
	for block := range bytes.SplitSeq(readme, []byte("\n\n")) { // of indented code
		text := strings.ReplaceAll(string(block)+"\n", "\n    ", "\n")
		text = strings.TrimPrefix(text, "    ")
		if m := infrastructureBlock.FindStringSubmatch(text); m != nil && m[1] == "libvirt" {
			swap = m[0]
		}
	}
	if lines := strings.Count(swap, "\n"); lines == 0 || lines > 6 {
		t.Fatalf("README.md has no infrastructure block of at most six lines for libvirt:\n%s", swap)
	}
	local, err := os.ReadFile("cluster.hcl")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(infrastructureBlock.FindAll(local, -1)); n != 1 {
		t.Fatalf("cluster.hcl has %d infrastructure blocks", n)
	}
	onVMs := infrastructureBlock.ReplaceAllLiteral(local, []byte(swap))

	load := func(source []byte) *manifests.Manifest {
		dir := t.TempDir()
		path := filepath.Join(dir, "cluster.hcl")
		if err := os.WriteFile(path, source, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(deployBinary(t), "validate", path).CombinedOutput(); err != nil {
			t.Fatalf("deploy validate: %v\n%s", err, out)
		}
		m, diags := manifests.Load(os.DirFS(dir), "cluster.hcl", manifests.Options{Jobs: jobs.FS})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		return m
	}
	a, b := load(local), load(onVMs)
	if a.Infrastructure.Template != "local" || b.Infrastructure.Template != "libvirt" {
		t.Errorf("templates are %s and %s", a.Infrastructure.Template, b.Infrastructure.Template)
	}
	if len(a.Groups) != len(b.Groups) || len(a.Groups) < 7 {
		t.Fatalf("%d and %d groups", len(a.Groups), len(b.Groups))
	}
	for i, g := range a.Groups {
		h := b.Groups[i]
		if g.Name != h.Name || g.Instances != h.Instances || g.VM.Name != h.VM.Name || (g.Disk == nil) != (h.Disk == nil) ||
			!reflect.DeepEqual(g.Ports, h.Ports) || !reflect.DeepEqual(g.Requires, h.Requires) || !reflect.DeepEqual(g.Update, h.Update) || len(g.Jobs) != len(h.Jobs) {
			t.Errorf("group %s differs:\n%+v\n%+v", g.Name, g, h)
			continue
		}
		for k, job := range g.Jobs {
			if job.Spec.Name != h.Jobs[k].Spec.Name || !reflect.DeepEqual(job.Links, h.Jobs[k].Links) {
				t.Errorf("group %s, job %s differs", g.Name, job.Spec.Name)
			}
		}
	}
}
