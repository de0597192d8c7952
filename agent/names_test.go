package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/agenttest"
	"github.com/clusterworks/deploy/agent/api"
)

// TestNamesOfHosts: a VM that is the instance's alone calls all instances by their
// names, of which nothing is lost when the agent or somebody else changes the file.
func TestNamesOfHosts(t *testing.T) {
	f := startOnBus(t)
	etc := filepath.Join(agenttest.Root(f.agent.Dir), "etc")
	f.must(os.MkdirAll(etc, 0o755))
	hosts := filepath.Join(etc, "hosts")
	const theirs = "127.0.0.1 localhost\n"
	f.must(os.WriteFile(hosts, []byte(theirs), 0o600))
	read := func(name string) string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(etc, name))
		f.must(err)
		return string(data)
	}

	f.must(f.do(api.Configure{Deployment: "cf", VMID: "vm-1", Address: "127.0.0.1", Bus: f.busSettings()}))
	if in := f.inventory(); in.Names != "" || read("hosts") != theirs {
		t.Errorf("unasked, the names are %q and the file\n%s", in.Names, read("hosts"))
	}

	list := []api.Name{{Instance: instance, Address: "127.0.0.1"}, {Instance: "web/9", Address: "10.0.0.9"}}
	settings := api.Configure{Deployment: "cf", VMID: "vm-1", Address: "127.0.0.1", Bus: f.busSettings(), Names: list}
	f.must(f.do(settings))
	want := api.NamesDigest(instance, list)
	if in := f.inventory(); in.Names != want {
		t.Errorf("the names are %q, want %q", in.Names, want)
	}
	named := read("hosts")
	if !strings.Contains(named, "10.0.0.9 web-9.cf.internal web-9 9.web.cf.internal\n") || !strings.HasSuffix(named, theirs) {
		t.Errorf("the file is\n%s", named)
	}
	if got := read("hostname"); got != strings.ReplaceAll(instance, "/", "-")+"\n" {
		t.Errorf("the host name is %q", got)
	}

	f.must(os.WriteFile(hosts, []byte(theirs), 0o600))
	if in := f.inventory(); in.Names != "" {
		t.Error("that somebody took the names away is not told")
	}
	f.agent.Kill()
	f.agent.Run()
	if read("hosts") != named {
		t.Errorf("the next agent leaves the file as\n%s", read("hosts"))
	}

	settings.Names = []api.Name{{Instance: "web/9", Address: "10.0.0.9 evil"}}
	if err := f.do(settings); err == nil || !strings.Contains(err.Error(), "no address") {
		t.Errorf("an address that is none: %v", err)
	}
	settings.Names = nil
	f.must(f.do(settings))
	if read("hosts") != theirs {
		t.Errorf("no more wanted, they are still in\n%s", read("hosts"))
	}
}
