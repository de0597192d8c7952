package deployer

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/agext/levenshtein"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// matches tells whether "router", or "router/0", means an instance.
func matches(target, id string) bool {
	group, _, _ := strings.Cut(id, "/")
	return target == id || target == group
}

// known are the groups and instances of manifest and state, sorted.
func (r *run) known() (groups, instances []string) {
	g, in := map[string]bool{}, map[string]bool{}
	for _, x := range r.manifest.Groups {
		g[x.Name] = true
	}
	for group, slots := range r.state.Groups {
		for _, s := range slots {
			in[api.InstanceID(group, s.Index)] = true
		}
	}
	for id := range r.state.VMs {
		in[id] = true
	}
	for id := range in {
		group, _, _ := strings.Cut(id, "/")
		g[group] = true
	}
	return slices.Sorted(maps.Keys(g)), slices.SortedFunc(maps.Keys(in), compareIDs)
}

// compareIDs orders instances by group and index.
func compareIDs(a, b string) int {
	groupA, indexA, _ := api.SplitInstance(a)
	groupB, indexB, _ := api.SplitInstance(b)
	if c := strings.Compare(groupA, groupB); c != 0 {
		return c
	}
	return indexA - indexB
}

// resolve turns targets into the instances that they mean, each once. A target
// that means none is an error.
func (r *run) resolve(targets []string) ([]string, error) {
	groups, instances := r.known()
	found := map[string]bool{}
	for _, target := range targets {
		any := slices.Contains(groups, target) // a group may be empty
		for _, id := range instances {
			if matches(target, id) {
				found[id], any = true, true
			}
		}
		if !any {
			return nil, fmt.Errorf("cannot find %q: there is no such group or instance%s", target, suggestion(target, append(groups, instances...)))
		}
	}
	return slices.SortedFunc(maps.Keys(found), compareIDs), nil
}

// nearest suggests what may have been meant.
func suggestion(word string, among []string) string {
	best, distance := "", len(word)/2+1
	for _, candidate := range among {
		if d := levenshtein.Distance(word, candidate, nil); d < distance {
			best, distance = candidate, d
		}
	}
	if best == "" {
		return "; see deploy status"
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// exempt says why this run leaves an instance as it is, "" if it does not.
func (r *run) exempt(id string) string {
	switch {
	case slices.Contains(r.state.Ignored, id):
		return plan.ExemptIgnored
	case len(r.targets) > 0 && !slices.ContainsFunc(r.targets, func(t string) bool { return matches(t, id) }):
		return plan.ExemptTarget
	case r.fleet != nil && r.fleet.distrusted.of(id) != nil && !slices.Contains(r.recreate, id):
		return plan.ExemptDistrusted
	}
	return ""
}

// target restricts the run.
func (r *run) target(targets []string) error {
	if _, err := r.resolve(targets); err != nil {
		return err
	}
	r.targets = targets
	return nil
}

// touches tells whether the manifest wants an instance and this run may change it.
func (r *run) touches(id string) bool { return r.has(id) && r.exempt(id) == "" }

// split are the instances with a VM that the manifest no longer has: those that
// leave in this run, and those that stay because they are exempt.
func (r *run) split() (leave, stay []string) {
	for _, id := range r.parted {
		if r.exempt(id) == "" {
			leave = append(leave, id)
		} else {
			stay = append(stay, id)
		}
	}
	return leave, stay
}
