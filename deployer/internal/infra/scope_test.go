package infra

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
	"github.com/clusterworks/deploy/manifests"
)

func TestScopeCheck(t *testing.T) {
	in := input{
		VMs:   map[state.VMID]terraform.InstanceInput{state.Own("db/0"): {}, state.Own("db/1"): {}, state.Own("db/2"): {}},
		Input: terraform.Input{Disks: map[string]terraform.DiskInput{"db/0": {}, "db/1": {}}},
	}
	vms := map[string]state.VM{"db/0": {}, "db/1": {}, "db/9": {}}
	batch := scope{what: "replace the VMs of db/0", replace: []state.VMID{state.Own("db/0")}}
	start := scope{what: "change the VMs", create: true, update: true}
	remove := scope{what: "delete the VMs of db/9", remove: []state.VMID{state.Own("db/9")}, disks: []string{"db/9"}, update: true}
	for _, test := range []struct {
		name   string
		scope  scope
		change terraform.Change
		allow  bool
	}{
		{"the batch's VM", batch, terraform.Change{Name: "vm", Key: "db/0", Action: terraform.Replace}, true},
		{"the batch's VM, which is gone", batch, terraform.Change{Name: "vm", Key: "db/0", Action: terraform.Create}, true},
		{"another's VM", batch, terraform.Change{Name: "vm", Key: "db/1", Action: terraform.Replace}, false},
		{"another's VM, in place", batch, terraform.Change{Name: "vm", Key: "db/1", Action: terraform.Update}, false},
		{"another's VM, which is gone", batch, terraform.Change{Name: "vm", Key: "db/1", Action: terraform.Create}, false},
		{"the batch's own disk", batch, terraform.Change{Name: "disk", Key: "db/0", Action: terraform.Replace}, false},
		{"the batch's own disk, deleted", batch, terraform.Change{Name: "disk", Key: "db/0", Action: terraform.Delete}, false},
		{"a new disk for the batch", batch, terraform.Change{Name: "disk", Key: "db/0", Action: terraform.Create}, true},
		{"a publication follows", batch, terraform.Change{Name: "address", Key: "127.0.0.1:80", Action: terraform.Update}, true},
		{"a publication goes", batch, terraform.Change{Name: "address", Key: "127.0.0.1:80", Action: terraform.Delete}, false},
		{"a network goes", batch, terraform.Change{Name: "network", Action: terraform.Replace}, false},
		{"an image for the batch", batch, terraform.Change{Name: "image", Key: "/images/b.qcow2", Action: terraform.Create}, true},
		{"an image that no VM needs any more", batch, terraform.Change{Name: "image", Key: "/images/a.qcow2", Action: terraform.Delete}, true},
		{"an image under VMs", start, terraform.Change{Name: "image", Key: "/images/a.qcow2", Action: terraform.Replace}, false},
		{"an image of another instance", batch, terraform.Change{Name: "image", Key: "db/1", Action: terraform.Delete}, false},
		{"a new VM", start, terraform.Change{Name: "vm", Key: "db/2", Action: terraform.Create}, true},
		{"a VM is started", start, terraform.Change{Name: "vm", Key: "db/1", Action: terraform.Update}, true},
		{"a VM goes before its turn", start, terraform.Change{Name: "vm", Key: "db/9", Action: terraform.Delete}, false},
		{"a VM is replaced before its turn", start, terraform.Change{Name: "vm", Key: "db/1", Action: terraform.Replace}, false},
		{"a publication goes with its setting", start, terraform.Change{Name: "address", Key: "127.0.0.1:80", Action: terraform.Delete}, true},
		{"a VM that is to go", remove, terraform.Change{Name: "vm", Key: "db/9", Action: terraform.Delete}, true},
		{"the disk of one that goes", remove, terraform.Change{Name: "disk", Key: "db/9", Action: terraform.Delete}, true},
		{"a disk that shall stay", remove, terraform.Change{Name: "disk", Key: "db/1", Action: terraform.Delete}, false},
		{"a VM that shall stay", remove, terraform.Change{Name: "vm", Key: "db/1", Action: terraform.Delete}, false},
	} {
		test.change.Address = "module.vms.x." + test.change.Name
		err := test.scope.check([]terraform.Change{test.change}, in, vms, nil)
		if (err == nil) != test.allow {
			t.Errorf("%s: %v", test.name, err)
		}
		if err != nil && !strings.Contains(err.Error(), resource(test.change, in.vm(test.change.Key), in.VMs, nil)) {
			t.Errorf("%s: %v does not name the resource", test.name, err)
		}
	}
}

func TestMadeOfChanges(t *testing.T) {
	was := madeOf{VM: terraform.InstanceInput{MemoryMB: 512, AZ: "z1"}, Disk: &terraform.DiskInput{SizeGB: 5}}
	same := madeOf{VM: terraform.InstanceInput{MemoryMB: 512, AZ: "z1", Options: map[string]string{}, UserData: "#!/bin/sh"}, Disk: &terraform.DiskInput{SizeGB: 5}}
	if got := was.changes(same); got != nil {
		t.Errorf("the same differs: %q", got)
	}
	other := madeOf{VM: terraform.InstanceInput{MemoryMB: 1024, AZ: "z1", Image: "big", Options: map[string]string{"flavor": "x"}}}
	want := []string{"memory_mb 512 -> 1024", `image "" -> "big"`, "options", "disk 5 GB -> none"}
	if got := was.changes(other); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A disk that the state knows and the engine does not find is made anew only where
// that was approved.
func TestALostDiskIsNotMadeAnewInSilence(t *testing.T) {
	made, err := json.Marshal(madeOf{Disk: &terraform.DiskInput{Group: "db", Index: 0, SizeGB: 5}})
	if err != nil {
		t.Fatal(err)
	}
	st := &state.State{
		VMs:     map[string]state.VM{"db/0": {Input: made, Disk: "/disks/db-0"}, "db/1": {Input: []byte(`{}`)}},
		Orphans: []state.Orphan{{ID: "db/7", Group: "db", Index: 7, SizeGB: 3}},
	}
	newInput := input{}
	for id, known := range map[string]bool{"db/0": true, "db/1": false, "db/7": true, "db/8": false} {
		change := []terraform.Change{{Name: terraform.DiskResource, Key: id, Action: terraform.Create}}
		err := scope{what: "change the VMs", create: true}.check(change, newInput, st.VMs, st.Orphans)
		if (err != nil) != known || err != nil && !strings.Contains(err.Error(), "--accept-data-loss") {
			t.Errorf("%s: %v", id, err)
		}
		if err := (scope{what: "change the VMs", create: true, lost: map[string]bool{id: true}}).check(change, newInput, st.VMs, st.Orphans); err != nil {
			t.Errorf("%s, approved: %v", id, err)
		}
	}
	i := &Infra{s: &session.Session{State: st, Manifest: &manifests.Manifest{}}}
	changes, err := i.DiskChanges(map[string]bool{"db/0": true, "db/7": true}, func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	p := plan.Plan{Disks: changes}
	want := []plan.DiskChange{{Instance: "db/0", Action: plan.Lost, SizeGB: 5, Folder: "/disks/db-0"}, {Instance: "db/7", Action: plan.Lost, SizeGB: 3}}
	if !p.LosesData() || !p.LostDisk() || !slices.Equal(changes, want) {
		t.Errorf("got %+v", changes)
	}
}

// TestResourcesAreCalledAsPeopleDo: no view has an engine's address of what an
// instance has.
func TestResourcesAreCalledAsPeopleDo(t *testing.T) {
	wanted := map[state.VMID]terraform.InstanceInput{state.Own("db/0"): {}}
	for _, test := range []struct{ kind, name, key, want string }{
		{"localvm_machine", "vm", "db/0", "VM db/0"},
		{"localvm_disk", "disk", "db/0", "disk of db/0"},
		{"libvirt_volume", "disk", "db/0", "disk of db/0"},
		{"localvm_publish", "address", "127.0.0.1:8080", "published address 127.0.0.1:8080"},
		{"libvirt_network", "network", "", "libvirt_network.network"},
	} {
		address := "module.vms." + test.kind + "." + test.name
		if test.key != "" {
			address += `["` + test.key + `"]`
		}
		c := terraform.Change{Type: test.kind, Name: test.name, Key: test.key, Address: address, Action: terraform.Create}
		if got := resource(c, state.Own(test.key), wanted, nil); got != test.want {
			t.Errorf("in a plan, %s is called %q, not %q", address, got, test.want)
		}
		failed := &terraform.Error{Doing: "make the VMs", Diagnostics: []terraform.Diagnostic{{Address: address, Summary: "no"}}}
		if text := failed.Error(); strings.Contains(text, "module.vms") || !strings.Contains(text, "\n  "+test.want) {
			t.Errorf("in an error, %s is called otherwise: %s", address, text)
		}
	}
}
