package infra

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
	"github.com/clusterworks/deploy/manifests"
)

// A disk that would shrink, or have to leave its zone, is found before anything
// moves, where the manifest says it.
func TestCheckDisks(t *testing.T) {
	for _, c := range []struct {
		size, zones, want string
	}{
		{"2", `["z1", "z2"]`, ""},
		{"3", `["z1", "z2", "z3"]`, ""},
		{"1", `["z1", "z2"]`, "m.hcl:3,15-26: Disk cannot shrink; Disk \"data\" of group \"db\" has 1 GB now, but db/0 has one of 2 GB, db/1 has one of 2 GB, with data on it"},
		{"2", `["z1", "z3"]`, "m.hcl:6,3-27: Disk cannot leave its zone; The zones of group \"db\" are z1, z3 now, but db/1 is in z2"},
		{"1", `["z3"]`, "and 1 other diagnostic"},
	} {
		m, diags := manifests.Load(fstest.MapFS{"m.hcl": {Data: fmt.Appendf(nil, `deployment "d" {}
infrastructure "local" {}
disk "data" { size_gb = %s }
group "db" {
  instances = 2
  azs       = %s
  disk      = disk.data
}
`, c.size, c.zones)}}, "m.hcl", manifests.Options{})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		st := state.New("d")
		st.Groups = map[string][]state.Slot{"db": {{Index: 0, AZ: "z1"}, {Index: 1, AZ: "z2"}}}
		input, err := json.Marshal(madeOf{Disk: &terraform.DiskInput{Group: "db", SizeGB: 2}})
		if err != nil {
			t.Fatal(err)
		}
		// One instance has its disk, that of the other waits for it.
		st.VMs = map[string]state.VM{"db/0": {ID: "v0", Disk: "/d0", Input: input}}
		st.Orphans = []state.Orphan{{ID: "db/1", Group: "db", Index: 1, AZ: "z2", SizeGB: 2}}
		s := &session.Session{Manifest: m, State: st}
		s.Assign()
		err = CheckDisks(s)
		got := ""
		var problems *manifests.Error
		if errors.As(err, &problems) {
			got = problems.Diagnostics.Error()
		}
		if c.want == "" && err != nil || !strings.Contains(got, c.want) {
			t.Errorf("size %s, zones %s: got %v, want %q", c.size, c.zones, got, c.want)
		}
	}
}

// A zone that is added and stays empty, since disks keep the instances of the
// fullest zone where they are, is said.
func TestAZoneThatStaysEmptyIsSaid(t *testing.T) {
	for _, c := range []struct {
		disk  bool
		slots string // the zone of each instance
		want  []string
	}{
		{true, "z1 z2 z1", []string{`zone "z3" of group "db" stays empty: instances with a persistent disk cannot leave their zones; raise instances to use it (m.hcl:5)`}},
		{true, "z1 z2", nil}, // there is nobody to take
		{true, "z1 z2 z3", nil},
		{false, "z1 z2 z1", nil}, // one of z1 goes there
	} {
		m, diags := manifests.Load(fstest.MapFS{"m.hcl": {Data: []byte(`deployment "d" {}
infrastructure "local" {}
disk "data" { size_gb = 2 }
group "db" {
  azs = ["z1", "z2", "z3"]
}
`)}}, "m.hcl", manifests.Options{})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		st := state.New("d")
		st.Groups, st.VMs = map[string][]state.Slot{}, map[string]state.VM{}
		for i, zone := range strings.Fields(c.slots) {
			st.Groups["db"] = append(st.Groups["db"], state.Slot{Index: i, AZ: zone})
			made := madeOf{}
			if c.disk {
				made.Disk = &terraform.DiskInput{Group: "db", Index: i, SizeGB: 2}
			}
			input, err := json.Marshal(made)
			if err != nil {
				t.Fatal(err)
			}
			st.VMs[fmt.Sprintf("db/%d", i)] = state.VM{Input: input}
		}
		s := &session.Session{Manifest: m, State: st}
		var got []string
		s.Report = func(e session.Event) { got = append(got, e.Message) }
		WarnZones(s)
		if !slices.Equal(got, c.want) {
			t.Errorf("disks %v in %s: %q, want %q", c.disk, c.slots, got, c.want)
		}
	}
}

// TestRenamedGroupsAreNamed: whoever renames a group with a disk, and forgets the moved block,
// reads it before data is left behind.
func TestRenamedGroupsAreNamed(t *testing.T) {
	const question = `group "db", which has disks, is deleted, and "store" gets empty ones; if the group was renamed, a moved block (from = "db", to = "store") keeps them`
	for _, c := range []struct {
		name, groups string
		want         []string
	}{
		{"renamed", `group "store" { disk = disk.data }`, []string{question}},
		{"renamed, and no disk", `group "store" {}`, nil},
		{"another group beside", `group "db" { disk = disk.data }` + "\n" + `group "store" { disk = disk.data }`, nil},
		{"deleted", ``, nil},
	} {
		m, diags := manifests.Load(fstest.MapFS{"m.hcl": {Data: []byte("deployment \"d\" {}\ninfrastructure \"local\" {}\ndisk \"data\" { size_gb = 2 }\n" + c.groups + "\n")}}, "m.hcl", manifests.Options{})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		input, err := json.Marshal(madeOf{Disk: &terraform.DiskInput{Group: "db", Index: 0, SizeGB: 2}})
		if err != nil {
			t.Fatal(err)
		}
		st := state.New("d")
		st.Groups, st.VMs = map[string][]state.Slot{"db": {{}}}, map[string]state.VM{"db/0": {Input: input}}
		var got []string
		s := &session.Session{Manifest: m, State: st}
		s.Report = func(e session.Event) { got = append(got, e.Message) }
		WarnRenamed(s)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
