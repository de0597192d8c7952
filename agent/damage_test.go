package agent_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/agenttest"
	"github.com/clusterworks/deploy/agent/api"
)

// listing are the agent's own files below its folder: all but what was installed,
// which drift is about, what the jobs write, and sockets.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if slices.Contains([]string{"store", "generations", "data", "log", "incoming"}, name) {
			return filepath.SkipDir
		}
		if e.Type().IsRegular() {
			out = append(out, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// sleeping returns how many of the sleepers' processes run.
func sleeping(a *agenttest.Agent) int {
	n := 0
	for _, pid := range a.Processes() {
		line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err == nil && string(line) == "sleep\x001000\x00" {
			n++
		}
	}
	return n
}

// Each of the agent's own files that is removed, emptied, halved or another's: the
// agent starts all the same, says which file was set aside if it could not use it,
// and what a deployer does next makes everything run again.
func TestEachOfTheAgentsFilesDamaged(t *testing.T) {
	f := &fixture{T: t, agent: agenttest.Start(t), epoch: 1}
	f.c = f.agent.Client
	spec := specOf("g1", jobOf("web", sleeper("sleeper", "d1"), sleeper("other", "d1")))
	repair := func() {
		f.Helper()
		f.must(f.configure(nil))
		f.apply(spec)
	}
	repair()
	files := listing(t, f.agent.Dir)
	for _, name := range []string{"agent.json", "key.pem", "generations.json", "processes/web/sleeper.json", "agent.lock", "run/web/sleeper.shim/start.json"} {
		if !slices.Contains(files, name) {
			t.Fatalf("%s is not among %v", name, files)
		}
	}
	damages := map[string]func([]byte) []byte{
		"removed": nil,
		"emptied": func([]byte) []byte { return nil },
		"halved":  func(b []byte) []byte { return b[:len(b)/2] },
		"foreign": func([]byte) []byte { return []byte(`[{"of": "something else"}]` + "\n") },
	}
	for _, name := range files {
		for what, damage := range damages {
			path := filepath.Join(f.agent.Dir, name)
			whole, err := os.ReadFile(path)
			if err != nil {
				continue // that start's; another has another name
			}
			f.agent.Stop()
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if damage != nil {
				if err := os.WriteFile(path, damage(whole), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f.agent.Run() // fails the test if it does not answer
			inventory, err := f.agent.Inventory(f.context())
			f.must(err)
			told := strings.Join(inventory.Agent.Damaged, "; ")
			if aside, err := os.Stat(path + ".damaged"); err == nil && !strings.Contains(told, name) {
				t.Errorf("%s %s: %s was set aside in silence: %q", name, what, aside.Name(), told)
			}
			mustTell := slices.Contains([]string{"agent.json", "key.pem", "generations.json", "processes/web/sleeper.json"}, name) && damage != nil || name == "generations.json"
			if mustTell && !strings.Contains(told, name) {
				t.Errorf("%s %s: nothing is told of it: %q", name, what, told)
			}
			if name == "generations.json" && inventory.State != api.InstanceFailing {
				t.Errorf("%s %s: it is not known what is installed, and the instance is %s", name, what, inventory.State)
			}
			repair()
			inventory, err = f.agent.Inventory(f.context())
			f.must(err)
			if inventory.State != api.InstanceRunning || inventory.Active != spec.Generation || len(inventory.Drift)+len(inventory.Agent.Damaged) > 0 {
				t.Errorf("%s %s: after the next apply it is %s (%v), active %.12s, drift %v, damaged %v", name, what,
					inventory.State, inventory.Reasons, inventory.Active, inventory.Drift, inventory.Agent.Damaged)
			}
			if n := sleeping(f.agent); n != 2 {
				t.Errorf("%s %s: %d processes run, not 2", name, what, n)
			}
			_ = os.Remove(path + ".damaged")
		}
	}
}

// An agent's folder that is removed under it: the agent that comes next ends what
// nobody could reach any more, and makes all of it again.
func TestTheAgentsFolderRemoved(t *testing.T) {
	f := &fixture{T: t, agent: agenttest.Start(t), epoch: 1}
	f.c = f.agent.Client
	spec := specOf("g1", jobOf("web", sleeper("sleeper", "d1"), sleeper("other", "d1")))
	f.must(f.configure(nil))
	f.apply(spec)
	for _, what := range []string{"run", "processes", "."} {
		f.agent.Stop()
		entries, err := os.ReadDir(filepath.Join(f.agent.Dir, what))
		f.must(err)
		for _, e := range entries {
			f.must(os.RemoveAll(filepath.Join(f.agent.Dir, what, e.Name())))
		}
		f.agent.Run()
		f.must(f.configure(nil))
		f.apply(spec)
		if in := f.inventory(); in.State != api.InstanceRunning || sleeping(f.agent) != 2 {
			t.Errorf("%s removed: it is %s (%v), %d processes run", what, in.State, in.Reasons, sleeping(f.agent))
		}
	}
}

// An agent that cannot read what is active does not know what should run: that is a
// failure, told with the file, and the next apply ends it.
func TestActiveSpecDamaged(t *testing.T) {
	f := &fixture{T: t, agent: agenttest.Start(t), epoch: 1}
	f.c = f.agent.Client
	spec := specOf("g1", jobOf("web", sleeper("sleeper", "d1")))
	f.must(f.configure(nil))
	f.apply(spec)
	other := specOf("g2", jobOf("web", sleeper("other", "d2")))
	foreign, err := json.Marshal(other)
	f.must(err)
	path := filepath.Join(f.agent.Dir, "generations", spec.Generation, "spec.json")
	whole, err := os.ReadFile(path)
	f.must(err)
	for what, data := range map[string][]byte{"removed": nil, "emptied": {}, "halved": whole[:len(whole)/2], "foreign": foreign} {
		f.agent.Stop()
		f.must(os.Remove(path))
		if data != nil {
			f.must(os.WriteFile(path, data, 0o600))
		}
		f.agent.Run()
		in := f.inventory()
		if in.State != api.InstanceFailing || !strings.Contains(strings.Join(in.Reasons, " "), spec.Generation) {
			t.Errorf("%s: it is %s, %v", what, in.State, in.Reasons)
		}
		if len(in.Drift) == 0 {
			t.Errorf("%s: no drift is told", what)
		}
		f.apply(spec)
		if in := f.inventory(); in.State != api.InstanceRunning || len(in.Drift) > 0 || sleeping(f.agent) != 1 {
			t.Errorf("%s: after the next apply it is %s (%v), drift %v, %d processes run", what, in.State, in.Reasons, in.Drift, sleeping(f.agent))
		}
	}
}
