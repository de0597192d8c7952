package infra

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// RepairEngine puts back an engine's state that is not the one of the state's
// machines: from what the engine itself keeps, or from a copy. Each is believed
// only if CheckEngine would believe it. It sets what it replaces aside.
func RepairEngine(store state.Store, st *state.State, now time.Time) ([]state.Repaired, error) {
	var done []state.Repaired
	if data, err := os.ReadFile(filepath.Join(store.Terraform(), "applied.json")); err == nil && !json.Valid(data) {
		aside, err := state.SetAside(store, "terraform/applied.json", now)
		if err != nil {
			return nil, err
		}
		done = append(done, state.Repaired{File: "terraform/applied.json", From: "nothing: the next apply asks the engine", Aside: aside})
	}
	machines := slices.Collect(maps.Values(Machines(st)))
	if len(machines) == 0 {
		return done, nil
	}
	was := engineStateID(st)
	_, wrong := terraform.CheckState(store.Terraform(), was, machines)
	if wrong == nil || !errors.Is(wrong, terraform.ErrState) {
		return done, wrong
	}
	file := "terraform/" + terraform.StateFile
	paths, contents, err := state.CopiesOf(store, st.DeploymentID, file)
	if err != nil {
		return done, err
	}
	backup := filepath.Join(store.Terraform(), terraform.StateFile+".backup")
	if data, err := os.ReadFile(backup); err == nil {
		paths, contents = append(paths, backup), append(contents, data)
	}
	for i, data := range contents {
		fits, err := fitsEngine(data, was, machines)
		if err != nil {
			return done, err
		}
		if !fits {
			continue
		}
		r, err := state.Replace(store, file, data, paths[i], now)
		return append(done, r), err
	}
	return done, fmt.Errorf("%w; %d copies were looked at and none has these machines: bring the file back from elsewhere, "+
		"or, if the machines are gone or you delete them yourself, deploy state forget MANIFEST", wrong, len(contents))
}

// fitsEngine reports whether data is the engine's state of the machines.
func fitsEngine(data []byte, was terraform.StateID, machines []string) (bool, error) {
	dir, err := os.MkdirTemp("", "deploy-repair-")
	if err != nil {
		return false, fmt.Errorf("cannot make a folder to look at a copy in: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, terraform.StateFile), data, 0o600); err != nil {
		return false, fmt.Errorf("cannot look at a copy: %w", err)
	}
	_, err = terraform.CheckState(dir, was, machines)
	if errors.Is(err, terraform.ErrState) {
		return false, nil
	}
	return err == nil, err
}

// Rebuild makes a state of what the engine's work folder tells. What only the state
// knew is lost: which revisions there were, what is ignored, which canaries passed,
// and which defaults the deployment began with: it gets today's, which open nothing,
// and the plan shows what they change.
func Rebuild(store state.Store, deployment, id string) (*state.State, error) {
	r, err := terraform.Recover(store.Terraform())
	if err != nil {
		return nil, err
	}
	if id != "" && r.Deployment.ID != id {
		return nil, fmt.Errorf("%s is another deployment's (id %.8s, that of secrets.json is %.8s)", store.Terraform(), r.Deployment.ID, id)
	}
	if r.Deployment.Name != deployment {
		return nil, fmt.Errorf("%s is of the deployment %q, the manifest's is %q", store.Terraform(), r.Deployment.Name, deployment)
	}
	st := state.New(deployment)
	st.DeploymentID = r.Deployment.ID
	st.Groups, st.VMs = map[string][]state.Slot{}, map[string]state.VM{}
	for _, key := range slices.Sorted(maps.Keys(r.Instances)) {
		in := r.Inputs[key]
		instance := api.InstanceID(in.Group, in.Index)
		if _, twice := st.VMs[instance]; twice {
			return nil, fmt.Errorf("there are two VMs of %s, and only the lost state knew which is the new one", instance)
		}
		in.Image = stemcellsOf(store, "").Refer(in.Image)
		m := madeOf{VM: in}
		if d := r.Disks[instance]; d.Attached {
			m.Disk = &d
		}
		if st.VMs[instance], err = vmOf(r.Instances[key], m); err != nil {
			return nil, err
		}
		if key != instance {
			vm := st.VMs[instance]
			vm.Key = key
			st.VMs[instance] = vm
		}
		st.Groups[in.Group] = append(st.Groups[in.Group], state.Slot{Index: in.Index, AZ: in.AZ})
	}
	for _, id := range slices.Sorted(maps.Keys(r.Disks)) {
		if d := r.Disks[id]; !d.Attached {
			st.Orphans = append(st.Orphans, state.Orphan{ID: id, Group: d.Group, Index: d.Index, SizeGB: d.SizeGB})
		}
	}
	for _, slots := range st.Groups {
		slices.SortFunc(slots, func(a, b state.Slot) int { return a.Index - b.Index })
	}
	// Agents refuse earlier epochs; a run asks them, and the journal knows it too.
	entries, err := store.History()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		st.Epoch = max(st.Epoch, e.Epoch)
	}
	NoteEngine(store, st)
	return st, nil
}

// vmOf returns what the state keeps of a VM that the template's output describes.
func vmOf(x terraform.Instance, m madeOf) (state.VM, error) {
	input, err := json.Marshal(m)
	if err != nil {
		return state.VM{}, fmt.Errorf("cannot encode the inputs of a VM: %w", err)
	}
	return state.VM{
		ID: x.ID, Address: x.Address, SSHHost: x.SSHHost, SSHPort: x.SSHPort, SSHUser: x.SSHUser,
		HostKey: strings.TrimSpace(x.SSHHostKey), AgentDir: x.AgentDir, OS: x.OS, Arch: x.Arch,
		Disk: x.Disk, Running: x.Running, ImageDir: x.ImageDir, Input: input, PrivateKeyFile: x.SSHPrivateKeyFile, Keep: x.Keep,
		Beside: x.Beside, Console: x.Console, BootSeconds: x.BootSeconds, System: x.System,
	}, nil
}
