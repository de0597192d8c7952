package session

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/agext/levenshtein"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/manifests"
)

// Matches reports whether a target, "router" or "router/0", names an instance.
func Matches(target, id string) bool {
	group, _, _ := strings.Cut(id, "/")
	return target == id || target == group
}

// CompareIDs orders instances by group and index.
func CompareIDs(a, b string) int {
	groupA, indexA, _ := api.SplitInstance(a)
	groupB, indexB, _ := api.SplitInstance(b)
	if c := strings.Compare(groupA, groupB); c != 0 {
		return c
	}
	return indexA - indexB
}

// Renamed reports whether an instance had the other name before its group was moved.
func Renamed(moves []manifests.Move, other, id string) bool {
	group, index, err := api.SplitInstance(other)
	now, nowIndex, err2 := api.SplitInstance(id)
	return err == nil && err2 == nil && index == nowIndex &&
		slices.ContainsFunc(moves, func(m manifests.Move) bool { return m.From == group && m.To == now })
}

// Known returns the groups and instances of manifest and state, sorted.
func (s *Session) Known() (groups, instances []string) {
	g, in := map[string]bool{}, map[string]bool{}
	for _, x := range s.Manifest.Groups {
		g[x.Name] = true
	}
	for group, slots := range s.State.Groups {
		for _, slot := range slots {
			in[api.InstanceID(group, slot.Index)] = true
		}
	}
	for id := range s.State.VMs {
		in[id] = true
	}
	for id := range in {
		group, _, _ := strings.Cut(id, "/")
		g[group] = true
	}
	return slices.Sorted(maps.Keys(g)), slices.SortedFunc(maps.Keys(in), CompareIDs)
}

// Resolve returns the instances that targets name.
func (s *Session) Resolve(targets []string) ([]string, error) {
	groups, instances := s.Known()
	found := map[string]bool{}
	for _, target := range targets {
		any := slices.Contains(groups, target) // a group may be empty
		for _, id := range instances {
			if Matches(target, id) {
				found[id], any = true, true
			}
		}
		if !any {
			return nil, fmt.Errorf("cannot find %q: there is no such group or instance%s", target, suggestion(target, append(groups, instances...)))
		}
	}
	return slices.SortedFunc(maps.Keys(found), CompareIDs), nil
}

// suggestion names the nearest candidate of a word, for an error.
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

// Target restricts the session to targets, which must exist.
func (s *Session) Target(targets []string) error {
	if _, err := s.Resolve(targets); err != nil {
		return err
	}
	s.Targets = targets
	return nil
}

// Exempt returns why the session leaves an instance as it is, "" if it may
// change it.
func (s *Session) Exempt(id string) string {
	switch {
	case slices.Contains(s.State.Ignored, id):
		return plan.ExemptIgnored
	case len(s.Targets) > 0 && !slices.ContainsFunc(s.Targets, func(t string) bool { return Matches(t, id) }):
		return plan.ExemptTarget
	case s.Distrusted.Of(id) != nil && !s.Recreates(id):
		return plan.ExemptDistrusted
	}
	return ""
}

// Touches reports whether the manifest has an instance and the session may
// change it.
func (s *Session) Touches(id string) bool { return s.Has(id) && s.Exempt(id) == "" }

// SplitRemoved divides the removed instances into those that the session
// deletes and those that it leaves because they are exempt.
func (s *Session) SplitRemoved() (deleted, kept []string) {
	for _, id := range s.Removed {
		if s.Exempt(id) == "" {
			deleted = append(deleted, id)
		} else {
			kept = append(kept, id)
		}
	}
	return deleted, kept
}

// Recreate returns the instances that get another VM because an operator asks for
// it, and do not have it yet.
func (s *Session) Recreate() []string {
	s.recreating.Lock()
	defer s.recreating.Unlock()
	return slices.Clone(s.recreate)
}

// SetRecreate names the instances that are to get another VM.
func (s *Session) SetRecreate(ids []string) {
	s.recreating.Lock()
	defer s.recreating.Unlock()
	s.recreate = ids
}

// Recreates reports whether an instance is one of Recreate.
func (s *Session) Recreates(id string) bool { return slices.Contains(s.Recreate(), id) }

// Recreated takes an instance from Recreate, and reports whether it was there.
func (s *Session) Recreated(id string) bool {
	s.recreating.Lock()
	defer s.recreating.Unlock()
	i := slices.Index(s.recreate, id)
	if i >= 0 {
		s.recreate = slices.Delete(slices.Clone(s.recreate), i, i+1)
	}
	return i >= 0
}
