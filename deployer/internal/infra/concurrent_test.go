package infra

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/credentials"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/memfs"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// fakeVMs is a template whose VMs exist in the engine's state only. Another size is
// another VM.
const fakeVMs = `
variable "deployment" {}
variable "instances" {}
variable "disks" {}
variable "ssh_public_key" {}
variable "settings" {}

resource "terraform_data" "vm" {
  for_each         = var.instances
  triggers_replace = each.value.memory_mb
}

output "instances" {
  value = { for key, x in var.instances : key => {
    id      = terraform_data.vm[key].id, address = "10.0.0.${x.index + (endswith(key, "+") ? 100 : 1)}"
    ssh_host = "10.0.0.1", ssh_port = 22, ssh_user = "deploy", agent_dir = "/agent", os = "linux", arch = "amd64"
    running = true, beside = true
  } }
}
`

// infraOf opens the deployment of a folder, whose VMs have that much memory.
func infraOf(t *testing.T, dir, memory string) *Infra {
	t.Helper()
	m, diags := manifests.Load(memfs.FS{"cluster.hcl": []byte(`deployment "d" {}
infrastructure "./vms" {}
vm "small" { memory_mb = ` + memory + ` }
group "bus" {
  vm = vm.small
  job "bus" {}
}
group "web" {
  vm = vm.small
  job "web" {}
}
`)}, "cluster.hcl", manifests.Options{Jobs: memfs.FS{
		"bus/job.hcl": []byte("description = \"bus\"\n"), "web/job.hcl": []byte("description = \"web\"\n"),
	}})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	o := session.Options{Report: func(session.Event) {}, Parallel: 4, Counters: &session.Counters{}}
	s, err := session.Open(o, state.Store{Dir: filepath.Join(dir, "state")}, m)
	if err != nil {
		t.Fatal(err)
	}
	s.Assign()
	c := credentials.Of(s)
	if err := c.Ensure(); err != nil {
		t.Fatal(err)
	}
	if err := s.Begin("test", 0); err != nil {
		t.Fatal(err)
	}
	return New(s, c, fleet.New(s, c, nil, fleet.Options{}), Options{Dir: dir})
}

// While the VM of one group is replaced, the new VM of a lone bus that does not come
// up is deleted, and the old one takes its place again. The rollout issues both at
// once; the engine runs once at a time.
func TestReplaceBesideAReturn(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	if err := os.Mkdir(filepath.Join(dir, "vms"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vms", "main.tf"), []byte(fakeVMs), 0o600); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	first := infraOf(t, dir, "128")
	_, err := first.Make(ctx, first.First())
	must(err)
	before := first.s.VMs()

	i := infraOf(t, dir, "256")
	p, err := i.Plan(ctx)
	must(err)
	if len(p.Pending) != 2 {
		t.Fatalf("pending are %v", p.Pending)
	}
	_, err = i.Make(ctx, p)
	must(err)
	_, moved, err := i.Replace(ctx, []string{"bus/0"}, map[string]bool{"bus/0": true})
	must(err)
	if beside := i.s.VM(state.Own("bus/0")); !moved || beside.Key != "bus/0+" || i.s.VM(state.PreviousOf("bus/0")).ID != before["bus/0"].ID {
		t.Fatalf("made beside: %+v", beside)
	}

	var work sync.WaitGroup
	var replaceErr, returnErr error
	work.Go(func() { _, _, replaceErr = i.Replace(ctx, []string{"web/0"}, nil) })
	work.Go(func() { returnErr = i.ReturnToPrevious(ctx, "bus/0") })
	work.Wait()
	must(replaceErr)
	must(returnErr)
	if after := i.s.VMs(); after["web/0"].ID == before["web/0"].ID || after["bus/0"].ID != before["bus/0"].ID || i.s.HasPrevious("bus/0") {
		t.Errorf("there are %+v, were %+v", after, before)
	}
	if left := i.Remaining(p).Pending; len(left) != 1 || left["bus/0"] == nil {
		t.Errorf("still pending: %v", left)
	}
	saved, err := i.s.Store.LoadState()
	must(err)
	if saved.VMs["bus/0"].ID != before["bus/0"].ID || saved.VMs["bus/0"].Key != "" || len(saved.Previous) > 0 {
		t.Errorf("saved is %+v", saved.VMs)
	}
}
