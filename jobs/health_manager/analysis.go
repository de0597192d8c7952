package healthmanager

import (
	"slices"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Urgency orders the starts that wait: the higher ones go first.
type Urgency int

const (
	Crashed   Urgency = iota // an instance ended by itself
	Missing                  // an instance is not heard of
	Lost                     // a DEA has ended
	Evacuated                // a DEA will end, the instance still runs
)

// Start asks for instances of an app's wanted version.
type Start struct {
	App      wire.ID
	Version  string
	Updated  time.Time
	Indices  []int // sorted
	Flapping bool
	Urgency  Urgency
}

// Stop asks for the end of instances.
type Stop struct {
	App       wire.ID
	Updated   time.Time // zero: the app is gone
	Instances []string  // sorted
}

// Verdict describes what has to be done, sorted by app.
type Verdict struct {
	Starts []Start
	Stops  []Stop
}

// Analyse compares what is wanted with what was heard. It changes nothing. It
// judges nothing before everybody had DropletLost to be heard: since the start
// and since the bus was away; nor on the word of a cloud controller that could
// not be asked for DesiredStateLost.
func (s *State) Analyse(now time.Time) Verdict {
	var v Verdict
	if !s.judges(now) {
		return v
	}
	for _, id := range s.ids() {
		a := s.apps[id]
		if now.Before(a.quiet) || a.desired != nil && a.desired.Started && !a.desired.Staged {
			continue
		}
		keep := map[int]string{}
		if a.desired != nil && a.desired.Started {
			keep = s.keepers(a, now)
			if start := s.missing(id, a, keep, now); len(start.Indices) > 0 {
				v.Starts = append(v.Starts, start)
			}
		}
		if stop := s.extra(id, a, keep, now); len(stop.Instances) > 0 {
			v.Stops = append(v.Stops, stop)
		}
	}
	return v
}

// judges says whether silence means something.
func (s *State) judges(now time.Time) bool {
	return s.listening(now) && now.Sub(s.hearing) > s.settings.DropletLost &&
		!s.passed.IsZero() && now.Sub(s.passed) <= s.settings.DesiredStateLost
}

// missing are the indices without an instance, whose start neither was asked for
// just now nor is put off nor given up.
func (s *State) missing(id wire.ID, a *app, keep map[int]string, now time.Time) Start {
	start := Start{App: id, Version: a.desired.Version, Updated: a.desired.Updated, Urgency: Missing}
	for i := range a.desired.Instances {
		if _, found := keep[i]; found {
			continue
		}
		x := a.indices[i]
		if x != nil && (!x.restart.IsZero() || s.givenUp(x) || now.Sub(x.requested) <= s.settings.RestartTimeout) {
			continue
		}
		start.Indices = append(start.Indices, i)
		start.Flapping = start.Flapping || s.flaps(x)
	}
	return start
}

// extra are the instances that nobody wants. One of an app that the cloud
// controller does not know is given the time to become known.
func (s *State) extra(id wire.ID, a *app, keep map[int]string, now time.Time) Stop {
	stop := Stop{App: id}
	if a.desired != nil && a.desired.Started && a.desired.Updating != "" {
		return stop // the update stops what it has replaced
	}
	if a.desired != nil {
		stop.Updated = a.desired.Updated
	}
	for name, i := range a.instances {
		if keep[i.index] == name || !s.alive(i, now) || now.Sub(i.stopped) <= s.settings.RestartTimeout {
			continue
		}
		if grace := 2 * s.settings.DesiredStateUpdate; a.desired == nil &&
			(now.Sub(s.started) <= grace || now.Sub(i.first) <= grace || !s.passed.After(i.first)) {
			continue
		}
		stop.Instances = append(stop.Instances, name)
	}
	slices.Sort(stop.Instances)
	return stop
}

// Due are the restarts that were put off until now, and when the next one is
// due; zero: there is none.
func (s *State) Due(now time.Time) (starts []Start, next time.Time) {
	for _, id := range s.ids() {
		a := s.apps[id]
		for i, x := range a.indices {
			switch {
			case x.restart.IsZero():
			case a.desired == nil || !a.wants(a.desired.Version, i) || s.givenUp(x):
			case x.restart.After(now):
				if next.IsZero() || x.restart.Before(next) {
					next = x.restart
				}
			default:
				starts = append(starts, Start{App: id, Version: a.desired.Version, Updated: a.desired.Updated, Indices: []int{i}, Flapping: s.flaps(x), Urgency: Crashed})
			}
		}
	}
	slices.SortStableFunc(starts, func(a, b Start) int { return a.Indices[0] - b.Indices[0] })
	return starts, next
}

// StillMissing returns what is left of a start that has waited: indices that are
// wanted in this version and have no instance.
func (s *State) StillMissing(start Start, now time.Time) Start {
	a := s.apps[start.App]
	left := start
	left.Indices = nil
	if a == nil || a.desired == nil {
		return left
	}
	keep := s.keepers(a, now)
	for _, i := range start.Indices {
		if _, found := keep[i]; !found && a.wants(start.Version, i) {
			left.Indices = append(left.Indices, i)
		}
	}
	left.Updated = a.desired.Updated
	return left
}
