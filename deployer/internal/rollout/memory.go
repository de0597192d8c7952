package rollout

import (
	"slices"
	"strings"
)

// Memory describes what must outlive a rollout: how far a digest got and which digests
// failed. It goes into New of the next one.
type Memory struct {
	Groups []GroupMemory `json:"groups,omitempty"`
}

// GroupMemory describes what is remembered of a group.
type GroupMemory struct {
	Name string `json:"name"`
	// Served: the group has passed a rollout as a whole, it is no first deploy.
	Served bool `json:"served,omitempty"`
	// Digest holds what the last rollout, as long as it has not ended well, was to
	// make of the group. Canaries are the instances that passed as its canaries,
	// Updated all that took it.
	Digest   string   `json:"digest,omitempty"`
	Canaries []string `json:"canaries,omitempty"`
	Updated  []string `json:"updated,omitempty"`
	// PostDeploy: it changed, and its post_deploy hooks have not all run since.
	PostDeploy bool `json:"post_deploy,omitempty"`
	// Bad are the last failures by digest, the latest last.
	Bad []Failure `json:"bad,omitempty"`
}

// badKept is the number of bad digests that are remembered of a group.
const badKept = 8

// Group finds what is remembered of a group.
func (m Memory) Group(name string) (GroupMemory, bool) {
	for _, g := range m.Groups {
		if g.Name == name {
			return g, true
		}
	}
	return GroupMemory{}, false
}

// Failed says why a digest of a group failed last time, nil if it did not.
func (m Memory) Failed(group, digest string) *Failure {
	g, _ := m.Group(group)
	for _, f := range g.Bad {
		if f.Digest == digest {
			return &f
		}
	}
	return nil
}

// Memory returns what the next rollout must know, at any moment of this one.
func (s State) Memory() Memory {
	var m Memory
	for _, g := range s.Remembered.Groups {
		if !slices.ContainsFunc(s.Plan.Groups, func(x Group) bool { return x.Name == g.Name }) {
			m.Groups = append(m.Groups, g) // not part of this rollout
		}
	}
	for i := range s.Plan.Groups {
		m.Groups = append(m.Groups, s.groupMemory(i))
	}
	slices.SortFunc(m.Groups, func(a, b GroupMemory) int { return strings.Compare(a.Name, b.Name) })
	return m
}

func (s State) groupMemory(at int) GroupMemory {
	spec, progress := s.Plan.Groups[at], s.Groups[at]
	known, _ := s.Remembered.Group(spec.Name)
	g := GroupMemory{Name: spec.Name, Served: known.Served, Digest: spec.Digest, PostDeploy: s.postDeployOwed(at)}
	all, some, left := true, false, false
	var failure *Failure
	for i, p := range progress.Instances {
		x := spec.Instances[i]
		if x.Exempt {
			// Its turn comes, perhaps; what the others showed is not forgotten till then.
			left = left || x.owes()
			if p.Canary {
				g.Canaries = append(g.Canaries, p.ID)
			}
			continue
		}
		stands := isUpdated(p)
		if stands && (!spec.FirstDeploy || p.Watched || x.Held) {
			some = true
		} else {
			all = false
		}
		if stands && p.Canary {
			g.Canaries = append(g.Canaries, p.ID)
		}
		if stands && p.Touched {
			g.Updated = append(g.Updated, p.ID)
		}
		if f := p.Failure; f != nil && failure == nil && (f.Command == CommandUpdate || f.Command == CommandWatch) {
			failure = f
		}
	}
	served := all && (some || len(progress.Instances) == 0)
	g.Served = g.Served || served
	for _, f := range known.Bad {
		// The digest is forgiven when it stands everywhere.
		if f.Digest != spec.Digest || failure == nil && (!served || left) {
			g.Bad = append(g.Bad, f)
		}
	}
	if failure != nil {
		g.Bad = append(g.Bad, *failure)
		g.Canaries = nil // they did not show what was wrong: again from the start
	}
	g.Bad = g.Bad[max(0, len(g.Bad)-badKept):]
	if !left && failure == nil && (s.Outcome == OutcomeDone || s.Phase == PhasePostDeploy) {
		g.Digest, g.Canaries, g.Updated = "", nil, nil
	}
	return g
}

// postDeployOwed tells whether a group has changed, in this rollout or an
// earlier one, and has post_deploy hooks that have not run since.
func (s State) postDeployOwed(g int) bool {
	known, _ := s.Remembered.Group(s.Plan.Groups[g].Name)
	changed, owed := known.PostDeploy, false
	for i, p := range s.Groups[g].Instances {
		x := s.Plan.Groups[g].Instances[i]
		changed = changed || p.reportsChange(x)
		owed = owed || x.runsPostDeploy() && !p.PostDeployed
	}
	return changed && owed
}

// reportsChange reports whether post_deploy hooks hear of the change of an
// instance, from its beginning on: nobody may hear of its end.
func (p InstanceProgress) reportsChange(x Instance) bool {
	return (p.InFlight || p.Status == StatusUpdated) && x.Action != ActionRestart
}

// runsPostDeploy tells whether its post_deploy hooks are run when its group changes.
func (x Instance) runsPostDeploy() bool { return x.PostDeploy && !x.Held && !x.Exempt }
