package deployer

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// folder is the content of all files below a folder, but for the lock.
func folder(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "lock" {
			return err
		}
		data, err := os.ReadFile(path)
		out[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Each file of the state folder that is missing, empty, halved or another
// deployment's ends every command before it changes anything; the message names
// the file.
func TestDamagedStateFolders(t *testing.T) {
	t.Parallel()
	c, other := newCluster(t, 10), newCluster(t, 10)
	dir := c.store().Dir
	ctx := t.Context()
	half := func(s string) string { return s[:len(s)/2] }
	c.apply(t, "Changed", 4) // which keeps a copy
	damages := 0
	for _, name := range []string{"state.json", "secrets.json", "terraform/terraform.tfstate"} {
		path := filepath.Join(dir, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		foreign, err := os.ReadFile(filepath.Join(other.store().Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "terraform/terraform.tfstate" {
			foreign = []byte(strings.ReplaceAll(string(foreign), `"scale"`, `"another"`))
		}
		for _, damage := range []struct {
			what string
			text *string
		}{{"missing", nil}, {"empty", new("")}, {"halved", new(half(string(whole)))}, {"foreign", new(string(foreign))}} {
			if damages++; damages%everyDamage != 0 {
				continue
			}
			what, text := damage.what, damage.text
			t.Run(name+" "+what, func(t *testing.T) {
				defer func() {
					if err := os.WriteFile(path, whole, 0o600); err != nil {
						t.Fatal(err)
					}
				}()
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if text != nil {
					if err := os.WriteFile(path, []byte(*text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				before := folder(t, dir)
				_, planErr := c.deployer(t).Plan(ctx, PlanRequest{})
				_, applyErr := c.deployer(t).Apply(ctx, ApplyRequest{Approve: yes})
				_, destroyErr := c.deployer(t).Destroy(ctx, DestroyRequest{Approve: yes})
				for command, err := range map[string]error{"plan": planErr, "apply": applyErr, "destroy": destroyErr} {
					if err == nil || !strings.Contains(err.Error(), filepath.Base(name)) || !strings.Contains(err.Error(), "state import") {
						t.Errorf("%s: %v", command, err)
					}
				}
				if status, err := c.deployer(t).Status(ctx); err == nil && !strings.Contains(strings.Join(status.Warnings, " "), filepath.Base(name)) {
					t.Errorf("status is green: %+v", status.Warnings)
				}
				if d := c.deployer(t).Doctor(ctx); !d.Failed() || !strings.Contains(fmt.Sprint(d.Findings), filepath.Base(name)) {
					t.Errorf("doctor is green: %+v", d.Findings)
				}
				if after := folder(t, dir); !maps.Equal(before, after) {
					t.Errorf("something was written: %v", slices.Sorted(maps.Keys(after)))
				}
				if d, err := c.deployer(t).StateFolder().Check(ctx); err != nil || !d.Failed() || !strings.Contains(fmt.Sprint(d.Findings), filepath.Base(name)) {
					t.Errorf("state check is green: %+v, %v", d, err)
				}
				done, err := c.deployer(t).StateFolder().Repair(ctx)
				if err != nil || len(done) != 1 || done[0].File != name {
					t.Fatalf("repaired %+v: %v", done, err)
				}
				if d, err := c.deployer(t).StateFolder().Check(ctx); err != nil || d.Failed() {
					t.Errorf("after the repair: %+v, %v", d, err)
				}
				c.noop(t)
				if aside := done[0].Aside; (aside == "") != (text == nil) {
					t.Errorf("set aside as %q", aside)
				} else if aside != "" {
					if err := os.Remove(aside); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	c.noop(t)
}

// An engine that would make a VM whose agent answers has lost it.
func TestAnEngineThatHasLostAVM(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 10)
	r, err := c.deployer(t).load()
	if err != nil {
		t.Fatal(err)
	}
	defer r.fleet.Close()
	lost := infra.Plan{
		Actions: map[string][]terraform.Action{"hello/0": {terraform.Create}},
		Changes: []plan.VMChange{{Resource: "VM hello/0", Action: plan.Create}},
	}
	_, err = r.compare(t.Context(), lost, fleet.Quick)
	if err == nil || !strings.Contains(err.Error(), "lacks the VMs of hello/0, whose agents answer") {
		t.Errorf("got %v", err)
	}
}

// Without a copy of state.json it is made again from the engine's state, and the
// agents, that obeyed later runs, go on as they are.
func TestAStateIsMadeAgain(t *testing.T) {
	c := newCluster(t, 10)
	ctx := t.Context()
	store := c.store()
	st, secrets, err := store.Load()
	if err != nil {
		t.Fatal(err)
	}
	instances := map[string]map[string]any{}
	for id, vm := range st.VMs {
		instances[id] = map[string]any{
			"id": vm.ID, "address": vm.Address, "ssh_host": vm.SSHHost, "ssh_port": vm.SSHPort, "ssh_user": vm.SSHUser, "ssh_host_key": vm.HostKey,
			"agent_dir": vm.AgentDir, "os": vm.OS, "arch": vm.Arch, "running": true,
		}
	}
	outputs := map[string]any{"version": 4, "serial": 7, "lineage": "scale", "outputs": map[string]any{"instances": map[string]any{"value": instances}}}
	data, err := json.Marshal(outputs)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(store.Terraform(), terraform.StateFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(store.Dir, "state.json")); err != nil {
		t.Fatal(err)
	}
	done, err := c.deployer(t).StateFolder().Repair(ctx)
	if err != nil || len(done) != 1 || done[0].File != "state.json" {
		t.Fatalf("%+v, %v", done, err)
	}
	now, nowSecrets, err := store.Load()
	if err != nil {
		t.Fatal(err)
	}
	if now.DeploymentID != st.DeploymentID || len(now.VMs) != len(st.VMs) || !slices.Equal(now.Groups["hello"], st.Groups["hello"]) || nowSecrets.CA != secrets.CA {
		t.Errorf("made %+v of %+v", now, st)
	}
	for id, vm := range now.VMs {
		was := st.VMs[id]
		if vm.ID != was.ID || vm.HostKey != was.HostKey || vm.AgentDir != was.AgentDir {
			t.Errorf("%s: %+v, was %+v", id, vm, was)
		}
	}
	if d, err := c.deployer(t).StateFolder().Check(ctx); err != nil || d.Failed() {
		t.Errorf("%+v, %v", d, err)
	}
	if changes, _ := c.owed(t); changes != nil {
		t.Errorf("the agents are as they were, and owed is %v", changes)
	}
	// Another deployment's folder is not taken for this one's.
	if err := os.Remove(filepath.Join(store.Dir, "state.json")); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(store.Terraform(), "main.tf.json")
	text, err := os.ReadFile(root)
	if err == nil {
		err = os.WriteFile(root, []byte(strings.ReplaceAll(string(text), st.DeploymentID, "ab")), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if done, err := c.deployer(t).StateFolder().Repair(ctx); err == nil || len(done) > 0 || !strings.Contains(err.Error(), "another deployment's") {
		t.Errorf("%+v, %v", done, err)
	}
}

// Two manifests that name one deployment do not share its state: each would delete
// what the other describes.
func TestAManifestKeepsItsState(t *testing.T) {
	c := newCluster(t, 10)
	ctx := t.Context()
	c.apply(t, "One", 4)
	mine := c.manifest
	text, err := os.ReadFile(mine)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(filepath.Dir(mine), "other.hcl")
	if err := os.WriteFile(other, text, 0o600); err != nil {
		t.Fatal(err)
	}
	before := folder(t, c.store().Dir)
	c.manifest = other
	_, planErr := c.deployer(t).Plan(ctx, PlanRequest{})
	_, applyErr := c.deployer(t).Apply(ctx, ApplyRequest{Approve: yes})
	_, destroyErr := c.deployer(t).Destroy(ctx, DestroyRequest{Approve: yes})
	_, rollbackErr := c.deployer(t).Rollback(ctx, RollbackRequest{Revision: 1, Approve: yes})
	// Nor what goes by the last revision, since the manifest is wrong.
	if err := os.WriteFile(other, append(text, "\nnothing = 1\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	_, wrongErr := c.deployer(t).Destroy(ctx, DestroyRequest{Approve: yes})
	_, statusErr := c.deployer(t).Status(ctx)
	if err := os.WriteFile(other, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{planErr, applyErr, destroyErr, rollbackErr, wrongErr, statusErr} {
		if err == nil || !strings.Contains(err.Error(), mine) || !strings.Contains(err.Error(), "state adopt") {
			t.Errorf("got %v", err)
		}
	}
	if !maps.Equal(before, folder(t, c.store().Dir)) {
		t.Error("something was written")
	}
	// The way out that the message names.
	if was, err := c.deployer(t).StateFolder().Adopt(ctx); err != nil || was != mine {
		t.Fatalf("%s, %v", was, err)
	}
	c.apply(t, "Two", 4)
	// One that was renamed is the same, and so is a link to it.
	if err := os.Rename(other, mine); err != nil {
		t.Fatal(err)
	}
	c.manifest = mine
	c.apply(t, "Three", 4)
	if c.manifest = filepath.Join(filepath.Dir(mine), "link.hcl"); os.Symlink(mine, c.manifest) != nil {
		t.Fatal("no link")
	}
	c.noop(t)
}

// Another checkout of a repository has the same manifests.
func TestCheckoutsShareAState(t *testing.T) {
	c := newCluster(t, 10)
	text, err := os.ReadFile(c.manifest)
	if err != nil {
		t.Fatal(err)
	}
	at := func(repository, name string) string {
		path := filepath.Join(repository, name)
		for _, dir := range []string{filepath.Join(repository, ".git"), filepath.Dir(path)} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one, two := t.TempDir(), t.TempDir()
	if err := os.Remove(c.manifest); err != nil {
		t.Fatal(err)
	}
	c.manifest = at(one, "production/cf.hcl")
	c.apply(t, "One", 4)
	c.manifest = at(two, "production/cf.hcl")
	c.apply(t, "Two", 4)
	c.manifest = at(two, "staging/cf.hcl")
	if _, err := c.deployer(t).Apply(t.Context(), ApplyRequest{Approve: yes}); err == nil || !strings.Contains(err.Error(), "another manifest") {
		t.Errorf("another manifest of the same repository: %v", err)
	}
}
