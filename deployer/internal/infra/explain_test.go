package infra

import (
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/deployer/internal/terraform"
	"github.com/clusterworks/deploy/manifests"
)

// What a provider says is told in the manifest's words: whose it is, where that is
// written, what to do.
func TestProvidersErrorsAreExplained(t *testing.T) {
	line := func(n int) hcl.Range {
		return hcl.Range{Filename: "cluster.hcl", Start: hcl.Pos{Line: n}}
	}
	m := &manifests.Manifest{Groups: []*manifests.Group{{
		Name: "db", Instances: 1, Range: line(30), VM: &manifests.VM{Name: "small", Range: line(12)}, Disk: &manifests.Disk{Name: "data", Range: line(20)},
	}}}
	const vm, disk = `module.vms.openstack_compute_instance_v2.vm["db/0"]`, `module.vms.libvirt_volume.disk["db/0"]`
	for _, test := range []struct{ address, summary, detail, want string }{
		{vm, "Error creating OpenStack server", "Quota exceeded for cores: Requested 2, but already used 20 of 20 cores",
			`this is the VM of db/0 (group cluster.hcl:30): the infrastructure gives no more of this: raise its quota, or ask for less (instances of the group; cpus and memory_mb of vm "small" (cluster.hcl:12))`},
		{strings.Replace(vm, "db/0", "db/0+", 1), "No valid host was found", "", "this is the VM of db/0 (group cluster.hcl:30): the infrastructure gives no more of this"},
		{disk, "error creating libvirt volume", "cannot allocate 1073741824 bytes in file '/pool/disk-db-0.qcow2': No space left on device",
			`this is the disk of db/0 (group cluster.hcl:30), disk "data" (cluster.hcl:20): the infrastructure's disk is full: free some, then apply again; VMs that exist are as they were`},
		{vm, "creating EC2 Instance", "InvalidAMIID.NotFound: The image id '[ami-1]' does not exist", `the image is not there: correct image or stemcell of vm "small" (cluster.hcl:12)`},
		{vm, "Your query returned no results", "flavor m1.huge not found", `there is no machine of this size: correct options of vm "small" (cluster.hcl:12)`},
		{"", "Authentication failed", "401 Unauthorized", "check the credentials"},
		{vm, "internal error", "process exited while connecting to monitor: Cannot allocate memory", `the host has too little memory: ask for less (memory_mb of vm "small" (cluster.hcl:12)), or stop others`},
		{vm, "something else", "", "this is the VM of db/0 (group cluster.hcl:30)"},
	} {
		e := &terraform.Error{Doing: "make the VMs", Diagnostics: []terraform.Diagnostic{{Summary: test.summary, Detail: test.detail, Address: test.address}}, Advice: "What was made is kept."}
		if got := explain(e, m).Error(); !strings.Contains(got, "What was made is kept.\n"+test.want) && !strings.Contains(got, test.want) {
			t.Errorf("%s is explained as\n%s\nwithout\n%s", test.summary, got, test.want)
		}
	}
	for _, err := range []error{nil, errors.New("another")} {
		if got := explain(err, m); !errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
	}
	gone := &terraform.Error{Diagnostics: []terraform.Diagnostic{{Summary: "something", Address: `module.vms.libvirt_domain.vm["old/0"]`}}}
	if got := explain(gone, m); gone.Advice != "" {
		t.Errorf("what the manifest does not have is explained: %v", got)
	}
}
