package manifests

import (
	"os"
	"slices"
	"testing"
)

// TestPortsOfAGroup: those that its jobs listen on, the load balancer's for all.
func TestPortsOfAGroup(t *testing.T) {
	dir := t.TempDir()
	const manifest = `
deployment "d" {
  tags = { team = "shop" }
  metrics { port = 9100 }
}
infrastructure "local" {}
secret "nats" { type = "password" }
group "nats" {
  instances = 2
  job "nats" {
    properties {
      password = secret.nats.value
    }
  }
}
group "router" {
  job "router" {
    properties { port = 8099 }
  }
}
group "lb" {
  job "nginx" {
    properties {
      port    = 80
      routers = group.router.instances[*].address
    }
  }
}
`
	if err := os.WriteFile(dir+"/m.hcl", []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	m, diags := Load(os.DirFS(dir), "m.hcl", Options{Jobs: os.DirFS("../jobs")})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if m.Deployment.Tags["team"] != "shop" {
		t.Errorf("tags: %v", m.Deployment.Tags)
	}
	for group, want := range map[string]Port{
		"nats": {"tcp", 4222, false}, "router": {"tcp", 8099, false}, "lb": {"tcp", 80, true},
	} {
		ports := m.Group(group).Ports
		if !slices.Contains(ports, want) || !slices.Contains(ports, Port{"tcp", 9100, false}) {
			t.Errorf("%s has the ports %v, without %v or the agent's 9100", group, ports, want)
		}
		if group != "lb" && slices.ContainsFunc(ports, func(p Port) bool { return p.Public }) {
			t.Errorf("%s is open for all: %v", group, ports)
		}
	}
}
