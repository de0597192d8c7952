package infra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/localvm"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// There are two states of the machines: ours and the engine's. An engine that has
// lost its own would make machines anew that exist, and leave them running when
// they are to be deleted, so both are compared before anything is written.

// Machines returns the ids of the VMs that the state has, by their names for people.
func Machines(st *state.State) map[string]string {
	out := map[string]string{}
	for id, vm := range st.VMs {
		out[id] = vm.ID
	}
	for id, vm := range st.Previous {
		out[state.PreviousOf(id).String()] = vm.ID
	}
	return out
}

// CheckEngine returns an error if the engine's state cannot be the one that has the
// machines of the session's state.
func CheckEngine(s *session.Session) error {
	machines := Machines(s.State)
	if len(machines) == 0 {
		return nil
	}
	_, err := terraform.CheckState(s.Store.Terraform(), engineStateID(s.State), slices.Collect(maps.Values(machines)))
	if err == nil || !errors.Is(err, terraform.ErrState) {
		return err
	}
	return fmt.Errorf("%w; state.json has the VMs of %s, which the engine would create again or leave running; nothing was changed: restore it from the copies in the folder with deploy state repair MANIFEST, "+
		"deploy state import MANIFEST < FILE from an export; if these machines are gone, or you delete them yourself, deploy state forget MANIFEST",
		err, strings.Join(slices.Sorted(maps.Keys(machines)), ", "))
}

// NoteEngine notes in the state which state the engine has now.
func NoteEngine(store state.Store, st *state.State) {
	// What is wrong with it, the next run finds before it begins.
	if now, err := terraform.CheckState(store.Terraform(), terraform.StateID{}, nil); err == nil {
		st.Engine.Lineage, st.Engine.Serial = now.Lineage, now.Serial
	}
}

func engineStateID(st *state.State) terraform.StateID {
	return terraform.StateID{Lineage: st.Engine.Lineage, Serial: st.Engine.Serial}
}

// CheckKnown returns an error if the engine would make VMs whose agents answer: it
// has lost them.
func (i *Infra) CheckKnown(p Plan, inventories map[string]*api.Inventory) error {
	var lost []string
	for id, vm := range i.s.VMs() {
		inv := inventories[id]
		if inv != nil && inv.VMID == vm.ID && !vm.Keep && slices.Contains(p.Actions[id], terraform.Create) {
			lost = append(lost, id)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	slices.Sort(lost)
	return fmt.Errorf("cannot use the engine's state %s: it lacks the VMs of %s, whose agents answer, so the engine would create them again; nothing was changed: restore it from the copies in the folder with deploy state repair MANIFEST, "+
		"deploy state import MANIFEST < FILE from an export; deploy state forget MANIFEST gives these machines up",
		filepath.Join(i.s.Store.Terraform(), terraform.StateFile), strings.Join(lost, ", "))
}

// CheckEnded returns an error if something of the machines with these ids still
// runs here.
func CheckEnded(machines map[string]string) error {
	var left []string
	for _, name := range slices.Sorted(maps.Keys(machines)) {
		pids, err := localvm.Running(machines[name])
		if err != nil {
			return err
		}
		if len(pids) > 0 {
			left = append(left, fmt.Sprintf("%s (%s, processes %s)", name, machines[name], strings.Trim(fmt.Sprint(pids), "[]")))
		}
	}
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("cannot confirm that the deployment is destroyed: the engine reports it, but the VMs of %s still run; the state is kept: end these processes, then destroy again", strings.Join(left, ", "))
}

// Forget gives up the machines of a session's state. What runs of them on this
// machine is ended; machines elsewhere stay. The engine's state is set aside.
func Forget(ctx context.Context, s *session.Session, machines map[string]string) error {
	for _, id := range machines {
		if err := localvm.End(ctx, id); err != nil {
			return err
		}
	}
	old := filepath.Join(s.Store.Terraform(), terraform.StateFile)
	for _, err := range []error{
		os.Rename(old, old+".forgotten-"+time.Now().UTC().Format("20060102T150405Z")),
		os.Remove(filepath.Join(s.Store.Terraform(), "applied.json")),
	} {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot set the engine's state aside: %w", err)
		}
	}
	return s.UpdateAndSave(func() error {
		s.State.VMs, s.State.Previous, s.State.Engine, s.State.Bus = nil, nil, state.EngineState{}, nil
		s.Secrets.Agents = nil
		return nil
	})
}
