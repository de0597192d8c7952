package deployer

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// ProgramFolder packs small files under the names of the given programs: for
// what is rendered and planned, only their digests count.
func ProgramFolder(t testing.TB, names ...string) string {
	t.Helper()
	from, out := t.TempDir(), t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(from, name), []byte(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := packages.Pack(from, filepath.Join(out, runtime.GOOS+"_"+runtime.GOARCH), runtime.GOOS, runtime.GOARCH, names); err != nil {
		t.Fatal(err)
	}
	return out
}

// validator is a deployer that has never applied anything.
func validator(t *testing.T, manifest string, jobs fs.FS, programs string) *Deployer {
	t.Helper()
	d, err := New(Config{
		Manifest: manifest, StateDir: filepath.Join(t.TempDir(), "state"),
		Jobs: jobs, Templates: os.DirFS("../templates"), Packages: programs,
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The guide to the language validates, and its plan on an empty field makes
// what it says.
func TestProductionExample(t *testing.T) {
	t.Parallel()
	d := validator(t, "../examples/production.hcl", os.DirFS("../jobs"), ProgramFolder(t, "agent", "nats", "router", "hello", "lb_check", "dns"))
	s, err := d.Validate()
	if err != nil {
		t.Fatal(err)
	}
	if *s != (Summary{Deployment: "production", Groups: 5, Instances: 15, Jobs: 6}) {
		t.Errorf("the summary is %+v", *s)
	}

	x, err := d.load()
	if err != nil {
		t.Fatal(err)
	}
	defer x.fleet.Close()
	wanted, err := x.desired.Render(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := plan.Make(s.Deployment, wanted, nil, x.infra.First().Changes)
	if len(p.VMs) != 15 || len(p.Changes()) != 15 {
		t.Fatalf("%d VMs and %d changed instances, want 15 of each", len(p.VMs), len(p.Changes()))
	}
	zones, position := map[string]int{}, map[string]int{}
	for i, c := range p.Instances {
		if c.Action != plan.Create {
			t.Errorf("%s: %s, want %s", c.Instance, c.Action, plan.Create)
		}
		zones[c.Group+" "+c.AZ]++
		position[c.Group] = i
	}
	for zone, want := range map[string]int{"app z1": 2, "app z2": 2, "app z3": 1, "router z3": 1, "lb z2": 1, "nats z1": 1} {
		if zones[zone] != want {
			t.Errorf("%d instances of %s, want %d", zones[zone], zone, want)
		}
	}
	if !(position["nats"] < position["router"] && position["router"] < position["lb"] && position["router"] < position["app"]) {
		t.Errorf("the order of the groups is %v", position)
	}

	in, err := x.infra.Inputs()
	if err != nil {
		t.Fatal(err)
	}
	if len(in.Disks) != 8 || in.Disks["app/4"].SizeGB != 50 {
		t.Errorf("the disks are %+v", in.Disks)
	}
	if in.Instances["app/2"].MemoryMB != 65536 || in.Instances["app/1"].MemoryMB != 8192 {
		t.Errorf("app/2 has %d MB, app/1 %d", in.Instances["app/2"].MemoryMB, in.Instances["app/1"].MemoryMB)
	}
	if in.Instances["lb/1"].StaticAddress != "127.43.0.21" {
		t.Errorf("lb/1 has the address %q", in.Instances["lb/1"].StaticAddress)
	}
	if _, err := os.Stat(d.config.StateDir); !os.IsNotExist(err) {
		t.Errorf("something was written: %v", err)
	}
}
