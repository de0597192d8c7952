package state

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Move gives the instances of a group, their VMs and their disks the name of another
// group. It does nothing if there are none, and is an error if the other group has
// some of its own.
func Move(st *State, secrets *Secrets, from, to string) error {
	if !has(st, from) {
		return nil
	}
	if has(st, to) {
		return fmt.Errorf("cannot move group %q to %q: there are instances or disks of both; nothing was done: remove the moved block, or let an apply without it delete one of the two first", from, to)
	}
	rename := func(id string) string {
		if index, ok := strings.CutPrefix(id, from+"/"); ok {
			return to + "/" + index
		}
		return id
	}
	if slots, ok := st.Groups[from]; ok {
		delete(st.Groups, from)
		st.Groups[to] = slots
	}
	for _, vms := range []map[string]VM{st.VMs, st.Previous} {
		for id, vm := range vms {
			if now := rename(id); now != id {
				vm.Key = rename(vm.Key)
				delete(vms, id)
				vms[now] = vm
			}
		}
	}
	for i, o := range st.Orphans {
		if o.Group == from {
			st.Orphans[i].ID, st.Orphans[i].Group = rename(o.ID), to
		}
	}
	for i, id := range st.Ignored {
		st.Ignored[i] = rename(id)
	}
	slices.Sort(st.Ignored)
	for id, c := range secrets.Certificates {
		if now := rename(id); now != id {
			delete(secrets.Certificates, id)
			secrets.Certificates[now] = c
		}
	}
	for id := range secrets.Agents {
		if rename(id) != id { // an agent's certificate is for its name
			delete(secrets.Agents, id)
		}
	}
	return moveMemory(st, from, to, rename)
}

// has reports whether a group has instances, VMs or disks.
func has(st *State, group string) bool {
	in := func(id string) bool { return strings.HasPrefix(id, group+"/") }
	for id := range st.VMs {
		if in(id) {
			return true
		}
	}
	for id := range st.Previous {
		if in(id) {
			return true
		}
	}
	return slices.ContainsFunc(st.Orphans, func(o Orphan) bool { return o.Group == group })
}

// moveMemory renames a group in what the rollout remembers, of which only the names
// are known here.
func moveMemory(st *State, from, to string, rename func(string) string) error {
	if st.Memory == nil {
		return nil
	}
	var memory map[string]any
	if err := json.Unmarshal(st.Memory, &memory); err != nil {
		return fmt.Errorf("cannot read what is remembered of earlier rollouts: %w", err)
	}
	groups, _ := memory["groups"].([]any)
	for _, g := range groups {
		group, ok := g.(map[string]any)
		if !ok || group["name"] != from {
			continue
		}
		group["name"] = to
		for _, list := range []string{"canaries", "updated"} {
			ids, _ := group[list].([]any)
			for i, id := range ids {
				if text, ok := id.(string); ok {
					ids[i] = rename(text)
				}
			}
		}
		failures, _ := group["bad"].([]any)
		for _, f := range failures {
			if failure, ok := f.(map[string]any); ok {
				if id, ok := failure["instance"].(string); ok {
					failure["instance"] = rename(id)
				}
			}
		}
	}
	data, err := json.Marshal(memory)
	if err != nil {
		return fmt.Errorf("cannot encode what is remembered of earlier rollouts: %w", err)
	}
	st.Memory = data
	return nil
}
