//go:build e2e

package examples

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// evacuated is a platform of which the DEAs can be rolled by a variable: apps
// have 256 MB on each.
const evacuated = `deployment "evacuated" { domain = "evacuated.localhost" }
infrastructure "local" {
  publish = { (var.listen) = "lb:8080" }
}
variable "listen" { default = "" }
variable "cache_mb" { default = 500 }
secret "nats" { type = "password" }
secret "cloud_controller" { type = "password" }
disk "data" { size_gb = 1 }
update {
  min_healthy_time = "1s"
  watch_time       = "0s-60s"
}
group "nats" {
  job "nats" {
    properties { password = secret.nats.value }
  }
}
group "lb" {
  job "nginx" {
    properties {
      domains = ["*.${deployment.domain}"]
      routers = group.router.instances[*].address
    }
  }
}
group "router" {
  instances = 2
  job "router" {}
}
group "cloud_controller" {
  disk = disk.data
  job "cloud_controller" {
    properties {
      external_uri       = "api.${deployment.domain}"
      secret             = secret.cloud_controller.value
      allow_registration = true
    }
  }
  job "health_manager" {
    properties {
      intervals = { desired_state_update = 5, droplet_lost = 15, droplets_analysis = 1, restart_timeout = 10, min_restart_delay = 2, delay_time_noise = 0.5 }
    }
  }
}
group "stager" {
  job "stager" {}
}
group "dea" {
  instances = 3
  update { max_in_flight = 1 }
  job "dea" {
    properties {
      max_memory_mb = 256
      cache_mb      = var.cache_mb
      intervals     = { heartbeat = 1, advertise = 1, evacuation_delay = 60 }
    }
  }
}
`

// echo is an app for load: a page, and what is posted comes back. It leaves as
// the example apps do.
const echo = `const http = require('http');
const server = http.createServer((req, res) => {
  if (leaving) res.setHeader('Connection', 'close');
  const parts = [];
  req.on('data', (part) => parts.push(part));
  req.on('end', () => {
    const body = req.method === 'POST' ? Buffer.concat(parts) : 'hello from ' + process.env.VMC_APP_ID + '\n';
    res.setHeader('Content-Length', Buffer.byteLength(body));
    res.end(body);
  });
});
server.keepAliveTimeout = 90000;
let leaving = false;
process.on('SIGTERM', () => {
  if (leaving) return;
  leaving = true;
  setTimeout(() => server.close(() => process.exit(0)), 3000);
});
server.listen(process.env.VCAP_APP_PORT);
`

// TestDEAsRollUnderLoad rolls three DEAs under the load of 64 clients on an app
// with two instances: they move from DEA to DEA, and no request fails. Then the
// DEAs are so full that an update of one would take apps down: that is said, and
// nothing has moved.
func TestDEAsRollUnderLoad(t *testing.T) {
	t.Parallel()
	manifest := filepath.Join(t.TempDir(), "evacuated.hcl")
	if err := os.WriteFile(manifest, []byte(evacuated), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startPlatform(t, manifest, "evacuated.localhost")
	p.mustApply()
	p.mustAllRun(9)
	app := t.TempDir()
	if err := os.WriteFile(filepath.Join(app, "server.js"), []byte(echo), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(app, "package.json"), []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.register()
	p.mustVmc("push", "echo", "--path", app, "--memory", "64M")
	p.mustVmc("scale", "echo", "2")
	p.mustRun("echo", 2, nil)
	p.mustServe("echo", "hello from ")

	l := startLoad(t, p.listen, "echo.evacuated.localhost", loadClients, *rate)
	for round := 1; round == 1 || l.answered() < *soak; round++ {
		pids := p.status().pids()
		begin := time.Now()
		if out, code := p.run("apply", "--auto-approve", fmt.Sprintf("--var=cache_mb=%d", 600+round%2)); code != 0 {
			t.Fatalf("apply exited with %d:\n%s", code, out)
		}
		took := time.Since(begin).Round(time.Second)
		for name, pid := range p.status().pids() {
			if (pid != pids[name]) != strings.HasPrefix(name, "dea/") {
				t.Errorf("%s: pid was %d and is %d", name, pids[name], pid)
			}
		}
		p.mustRun("echo", 2, nil)
		t.Logf("rolling update %d in %v: %v", round, took, l)
		if t.Failed() || l.failed.Load() > 0 {
			break
		}
	}
	l.stop()
	l.mustNotFail(t)
	if l.again() > 0 {
		t.Error("requests had to be sent again")
	}
	if l.answered() < *soak {
		t.Errorf("%d requests are too few to tell", l.answered())
	}

	// Each DEA has room for four. However ten are spread, the others have no room
	// for two of those that one has.
	p.mustVmc("scale", "echo", "10")
	before := p.processes(p.mustRun("echo", 10, nil), "server.js")
	pids := p.status().pids()
	out, code := p.run("apply", "--auto-approve", "--var=cache_mb=700")
	if code == 0 || !strings.Contains(out, "the other DEAs have no room for the apps") || !strings.Contains(out, "echo (") {
		t.Errorf("apply exited with %d:\n%s", code, out)
	}
	t.Logf("of full DEAs it is said:\n%s", out)
	if now := p.status().pids(); !reflect.DeepEqual(now, pids) {
		t.Errorf("processes were %v and are %v", pids, now)
	}
	if after := p.processes(p.mustRun("echo", 10, nil), "server.js"); !reflect.DeepEqual(before, after) {
		t.Errorf("the app's processes were %v and are %v", before, after)
	}
}
