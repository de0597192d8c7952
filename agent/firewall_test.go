package agent_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/clusterworks/deploy/agent"
	"github.com/clusterworks/deploy/agent/api"
)

// insideNetwork is in the environment of the test binary that runs in a network
// namespace of its own.
const insideNetwork = "AGENT_TEST_INSIDE_NETWORK"

// TestFirewallFollowsTheGeneration: an agent makes its VM's firewall what the active
// generation wants, with the addresses that it was told; it goes back with a rollback,
// comes back with the agent, and is removed with it.
func TestFirewallFollowsTheGeneration(t *testing.T) {
	if os.Getenv(insideNetwork) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "8m")
		cmd.Env = append(os.Environ(), insideNetwork+"=yes", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if os.Getuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("in a network of its own: %v\n%s", err, out)
		}
		return
	}
	run := func(command string, args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), command, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("ip", "link", "set", "lo", "up")
	ssh, err := net.Listen("tcp", "127.0.0.1:2022")
	if err != nil {
		t.Fatal(err)
	}
	defer ssh.Close()
	f := startOnBus(t)
	f.must(os.MkdirAll(filepath.Join(f.agent.Dir, "machine", "etc"), 0o755))
	rules := func() string { return run("nft", "list", "ruleset") }
	holds := func(words ...string) {
		t.Helper()
		got := rules()
		for _, w := range words {
			if w == "" && got != "" || !strings.Contains(got, w) {
				t.Errorf("the rules lack %q:\n%s", w, got)
			}
		}
	}

	f.apply(specOf("g1", jobOf("app", sleeper("main", "d1"))))
	holds("")
	walled := specOf("g2", jobOf("app", sleeper("main", "d1")))
	walled.Firewall = &api.Firewall{SSH: []int{2022}, Allow: []string{"192.168.0.0/16"}, Public: []api.PublicPort{{Network: "tcp", Number: 8080}}}
	f.must(f.prepare(walled))
	if err := f.update("g2"); err == nil || !strings.Contains(err.Error(), "was not told the addresses") {
		t.Errorf("without addresses: %v", err)
	}
	holds("")

	settings := api.Configure{Deployment: "cf", VMID: "vm-1", Address: "127.0.0.1", Bus: f.busSettings(), Names: []api.Name{{Instance: instance, Address: "127.0.0.1"}, {Instance: "db/0", Address: "10.0.0.9"}}}
	f.must(f.do(settings))
	pids := f.pids()
	f.must(f.update("g2"))
	holds("policy drop", "10.0.0.9", "192.168.0.0/16", "dport 8080", "dport 2022")
	if after := f.pids(); after["app/main"] != pids["app/main"] {
		t.Error("a firewall restarted a process")
	}
	settings.Names[1].Address = "10.0.0.10"
	f.must(f.do(settings))
	holds("10.0.0.10")
	if strings.Contains(rules(), "10.0.0.9 ") {
		t.Errorf("an address that nobody has any more is let in:\n%s", rules())
	}

	run("nft", "flush", "ruleset")
	f.agent.Kill()
	f.agent.Run()
	holds("policy drop", "10.0.0.10")

	f.must(f.do(api.Rollback{}))
	holds("")
	f.apply(walled)
	holds("policy drop")
	f.agent.Kill()
	f.must(os.MkdirAll(filepath.Join(f.agent.Dir, "bin"), 0o755))
	f.must(os.WriteFile(filepath.Join(f.agent.Dir, "bin", "agent-test"), nil, 0o755)) // by it the folder is known
	f.must(agent.Uninstall(f.context(), f.agent.Dir, "", nil))
	holds("")
}
