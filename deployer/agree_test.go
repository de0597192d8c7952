package deployer

import (
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
	c, other := newCluster(t, 10), newCluster(t, 10)
	dir := c.store().Dir
	ctx := t.Context()
	half := func(s string) string { return s[:len(s)/2] }
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
		for what, text := range map[string]*string{"missing": nil, "empty": new(""), "halved": new(half(string(whole))), "foreign": new(string(foreign))} {
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
			})
		}
	}
	c.noop(t)
}

// An engine that would make a VM whose agent answers has lost it.
func TestAnEngineThatHasLostAVM(t *testing.T) {
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
