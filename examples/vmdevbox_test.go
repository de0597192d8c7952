//go:build e2e && vm

package examples

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vmDevbox is template-vm/cluster.hcl on fewer VMs, each a clone of the stemcell devbox.
const vmDevbox = `deployment "devbox" { domain = "devbox.localhost" }
infrastructure "libvirt" {
  image = IMAGE
  dir   = DIR
  mode  = "none"
}
variable "listen" { default = "" }
release "components" { path = JOBS }
secret "nats" { type = "password" }
vm "clone" { memory_mb = 512 }
update {
  min_healthy_time = "3s"
  watch_time       = "0s-20m"
}
group "edge" {
  vm = vm.clone
  job "nats" {
    properties {
      password        = secret.nats.value
      allow_plaintext = true # the components in the image know nothing of TLS
    }
  }
  job "devbox-router" {}
}
group "control" {
  vm = vm.clone
  job "devbox-cloud_controller" {}
  job "devbox-health_manager" {}
  job "devbox-stager" {}
}
group "dea" {
  vm = vm.clone
  job "devbox-dea" {}
}
`

// TestLibvirtDevbox does with real VMs what the article does by hand: each is a clone of one
// image with every component, the URI of the bus is rewritten in all its files, and only what
// the VM is for runs. An app is served at the end.
func TestLibvirtDevbox(t *testing.T) {
	files := map[string]string{"devbox.hcl": vmDevbox}
	jobs, err := filepath.Glob("template-vm/components/*/job.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range jobs {
		data, err := os.ReadFile(job)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Join("jobs", filepath.Base(filepath.Dir(job)), "job.hcl")] = string(data)
	}
	v := startVMs(t, "STEMCELL_DEVBOX", files)
	v.logTimes(v.applies())
	bus := ""
	for _, in := range v.mustAllRun(3).Instances {
		if in.ID == "edge/0" {
			bus = in.Address
		}
	}

	programs := map[string]string{"edge/0": "router", "control/0": "cloud_controller health_manager stager", "dea/0": "dea"}
	for id, want := range programs {
		if got := v.on(id, `ps -eo args= | sed -n 's,^/*devbox/bin/\([a-z_]*\) .*,\1,p' | sort | paste -sd ' ' -`); got != want {
			t.Errorf("of the image %q run on %s, want %q", got, id, want)
		}
		uris := v.on(id, "grep -hoE '^[^#]*nats://[^/ ]*' /devbox/config/*.yml")
		if n := strings.Count(uris, "@"+bus+":4222"); n != 6 || strings.Count(uris, "nats://") != n {
			t.Errorf("not all files of %s name the bus at %s:\n%s", id, bus, uris)
		}
	}

	v.pushSite("devbox.localhost", net.JoinHostPort(bus, "8080"))
	if out, code := v.do("plan"); code != 0 {
		t.Errorf("after all that there is something to do (%d):\n%s", code, out)
	}
	v.must("destroy", "--auto-approve", "--accept-data-loss", "--delete-disks")
	v.mustLeaveNoVMs()
}
