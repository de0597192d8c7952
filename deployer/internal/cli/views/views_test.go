package views

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test -update writes it anew):\n%s", file, got)
	}
}

var someLevels = []plan.LevelReport{
	{Instance: "dea/0", Job: "dea", Name: "isolation", Level: "full", Least: "namespaces"},
	{Instance: "dea/1", Job: "dea", Name: "isolation", Level: "processes", Least: "namespaces", Below: true},
	{Instance: "dea/2", Job: "dea", Name: "isolation", Least: "namespaces"},
	{Instance: "stager/0", Job: "stager", Name: "isolation", Level: "full", Least: "namespaces"},
}

func TestPlan(t *testing.T) {
	p := &plan.Plan{
		Deployment: "cf",
		VMs:        []plan.VMChange{{Resource: `deploy_vm.vm["hello/3"]`, Action: plan.Create}},
		Instances: []plan.InstanceChange{
			{Instance: "nats/0", Group: "nats", Action: plan.None},
			{Instance: "router/0", Group: "router", Action: plan.Update, Causes: []string{"file router/router.yml"},
				Files:     []plan.FileChange{{Job: "router", Path: "router.yml", Diff: "--- router/router.yml\n+++ router/router.yml\n@@ -1 +1 @@\n-port: 1\n+port: 2\n"}},
				Processes: []plan.ProcessChange{{Job: "router", Name: "router", Action: plan.ProcessRestart, Cause: "router.yml changed"}}},
			{Instance: "hello/3", Group: "hello", Action: plan.Create, Causes: []string{"no VM yet"},
				Files:     []plan.FileChange{{Job: "hello", Path: "hello.yml", Diff: "+x\n"}},
				Processes: []plan.ProcessChange{{Job: "hello", Name: "hello", Action: plan.ProcessStart, Cause: "first start"}}},
			{Instance: "hello/4", Group: "hello", Action: plan.Create, Causes: []string{"no VM yet"},
				Files:     []plan.FileChange{{Job: "hello", Path: "hello.yml", Diff: "+y\n"}},
				Processes: []plan.ProcessChange{{Job: "hello", Name: "hello", Action: plan.ProcessStart, Cause: "first start"}}},
			{Instance: "lb/1", Group: "lb", Action: plan.Delete, Causes: []string{"not in the manifest"}},
		},
		Levels: someLevels,
	}
	var b bytes.Buffer
	Plan(&b, p, false)
	golden(t, "plan.txt", b.Bytes())
	b.Reset()
	Plan(&b, &plan.Plan{Deployment: "cf", Instances: p.Instances[:1]}, false)
	golden(t, "plan-empty.txt", b.Bytes())
}

func TestStatus(t *testing.T) {
	s := &deployer.Status{Deployment: "cf", Instances: []deployer.InstanceStatus{
		{ID: "lb/0", Address: "127.0.0.2", VM: deployer.VMRunning, Agent: deployer.AgentAlive, State: "running",
			Processes: []deployer.ProcessStatus{{Job: "nginx", Name: "nginx", State: "running", PID: 12, UptimeS: 3700, RSSBytes: 5 << 20, CPUPercent: 0.3}}},
		{ID: "router/0", Address: "127.0.0.3", AZ: "z1", VM: deployer.VMRunning, Agent: deployer.AgentAlive, State: "failing",
			Reasons:   []string{"process router exited with status 7"},
			Processes: []deployer.ProcessStatus{{Job: "router", Name: "router", State: "backoff", Restarts: 4}}},
		{ID: "router/1", Address: "127.0.0.4", VM: deployer.VMRunning, Agent: deployer.AgentSilent, State: "failing", Reasons: []string{"the agent does not answer"}},
		{ID: "router/2", VM: deployer.VMMissing, Agent: deployer.AgentSilent, State: "stopped"},
		{ID: "router/3", Address: "127.0.0.5", VM: deployer.VMUnreachable, Agent: deployer.AgentSilent, State: "failing", Reasons: []string{"the agent does not answer"}},
	}, Levels: someLevels}
	var b bytes.Buffer
	Status(&b, s, false, 120)
	golden(t, "status.txt", b.Bytes())
	b.Reset()
	Status(&b, s, false, 60)
	golden(t, "status-narrow.txt", b.Bytes())
	for line := range strings.Lines(b.String()) {
		if !strings.HasPrefix(line, "!") && !strings.HasPrefix(line, "isolation:") && utf8.RuneCountInString(line) > 60+1 {
			t.Errorf("too wide: %q", line)
		}
	}
	b.Reset()
	Status(&b, s, true, 80)
	for _, want := range []string{"\x1b[31mfailing\x1b[0m ", "\x1b[31msilent\x1b[0m ", "\x1b[31mno VM\x1b[0m "} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not red in\n%s", want, b.String())
		}
	}
}

func TestErrorShowsTheLastLogLines(t *testing.T) {
	cause := &api.Error{
		Code: api.CodeFailed, Message: "process router ended before it was healthy",
		Process: &api.ProcessFailure{Job: "router", Name: "router", Exit: &api.Exit{Status: 7}, Log: []string{"cannot bind", "giving up"}},
	}
	err := errors.Join(fmt.Errorf("router/0: update failed: %w", cause), errors.New("the rest was not begun"))
	var b bytes.Buffer
	Error(&b, err, false, 80)
	golden(t, "error.txt", b.Bytes())
}
