package healthmanager

import (
	"maps"
	"slices"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Desired describes what a user wants of an app.
type Desired struct {
	Started   bool // else stopped
	Staged    bool // its droplet is ready
	Version   string
	Updating  string // the version that an update under way brings in; "": none is
	Instances int
	Updated   time.Time // last change; whole seconds, as the cloud controller compares it
	Framework string
	Runtime   string
}

// State is all that a health manager knows: for each app what is wanted and what
// was heard of its instances. Its methods take the time instead of asking for it.
// It is not safe for concurrent use.
type State struct {
	settings Settings
	// noise gives numbers from -1 to 1, for the delays of restarts.
	noise func() float64
	apps  map[wire.ID]*app
	// hearing is since when the bus is heard without a break; zero: it is away.
	hearing time.Time
	// started is when the first heartbeat could have been heard.
	started time.Time
	// heard is when a DEA was heard last, any of them.
	heard time.Time
	// passed is when the last complete reading of the wanted state began; zero:
	// none was.
	passed time.Time
}

// app is one app. instances are those alive, and those not yet forgotten, by id.
type app struct {
	desired   *Desired  // nil: the cloud controller does not have it, or was not asked yet
	quiet     time.Time // nothing is judged before
	instances map[string]*instance
	indices   map[int]*index   // of the wanted version
	crashes   map[string]crash // by instance
	// unclear are exits of a version that is not, or not yet, the wanted one. They
	// count when the wanted state is read the next time.
	unclear []wire.DropletExited
}

// instance describes what a DEA says of one instance.
type instance struct {
	version string
	index   int
	running bool      // else it starts
	since   time.Time // when it came into this state
	first   time.Time // heard first
	heard   time.Time // heard last
	stopped time.Time // its stop was asked for; zero: never
}

// crash is the end of an instance that ended by itself.
type crash struct {
	at      time.Time
	version string
}

// index is the history of one index of the wanted version.
type index struct {
	crashes   int
	crashed   time.Time // the last crash
	faults    int       // starts in a row that failed for no fault of the app's
	restart   time.Time // not before; zero: nothing is put off
	requested time.Time // the last start was asked for, and could be done
}

// maxUnclear bounds app.unclear.
const maxUnclear = 64

// startTime is the time that the start of one instance takes the original's cloud
// controller, which starts one after the other: a DEA waits up to 250 ms before it
// offers to run it. Whoever asks for many gives them the time.
const startTime = 300 * time.Millisecond

// NewState returns a state that knows nothing. noise gives numbers from -1 to 1.
func NewState(settings Settings, noise func() float64) *State {
	return &State{settings: settings, noise: noise, apps: map[wire.ID]*app{}}
}

// Connected says that the bus is heard from now on.
func (s *State) Connected(now time.Time) {
	s.hearing = now
	if s.started.IsZero() {
		s.started = now
	}
}

// Disconnected says that the bus is away: what is not heard means nothing.
func (s *State) Disconnected() { s.hearing = time.Time{} }

// Heard says that a DEA was heard, whatever it said. When none was for long, the
// silence was the bus's, and all have their time to be heard again.
func (s *State) Heard(now time.Time) {
	if !s.hearing.IsZero() && !s.listening(now) {
		s.hearing = now
	}
	s.heard = now
}

// listening says whether silence means something: the bus is there, and some DEA
// is heard. Where none is, nothing could be started either.
func (s *State) listening(now time.Time) bool {
	return !s.hearing.IsZero() && now.Sub(later(s.heard, s.hearing)) <= s.settings.DropletLost
}

// app finds or makes the record of an app.
func (s *State) app(id wire.ID) *app {
	a := s.apps[id]
	if a == nil {
		a = &app{instances: map[string]*instance{}, indices: map[int]*index{}, crashes: map[string]crash{}}
		s.apps[id] = a
	}
	return a
}

func (a *app) at(i int) *index {
	x := a.indices[i]
	if x == nil {
		x = &index{}
		a.indices[i] = x
	}
	return x
}

// concerns says whether a message is about apps of our cloud controllers; the
// older dialect does not say whose they are.
func (s *State) concerns(partition string) bool {
	return partition == "" || s.settings.Partition == "" || partition == s.settings.Partition
}

// Heartbeat takes what a DEA says of its instances. It returns the apps whose
// wanted state should be read, because an instance does not fit what is known.
func (s *State) Heartbeat(h wire.DEAHeartbeat, now time.Time) (read []wire.ID) {
	s.Heard(now)
	for _, d := range h.Droplets {
		if !s.concerns(d.CCPartition) {
			continue
		}
		switch d.State {
		case wire.StateStarting, wire.StateRunning:
			a := s.app(d.Droplet)
			i := a.instances[d.Instance]
			if i == nil {
				i = &instance{first: now}
				a.instances[d.Instance] = i
				if a.desired == nil || !a.desired.has(d.Version) || d.Index >= a.desired.Instances {
					read = append(read, d.Droplet)
				}
			}
			i.version, i.index, i.running = d.Version, d.Index, d.State == wire.StateRunning
			i.since, i.heard = time.Unix(d.StateTimestamp, 0), now
			if x := a.indices[d.Index]; x != nil && a.wants(d.Version, d.Index) {
				x.restart = time.Time{} // it was started by somebody
				if i.running {
					x.faults = 0
				}
			}
		case wire.StateCrashed:
			a := s.app(d.Droplet)
			delete(a.instances, d.Instance)
			a.crashes[d.Instance] = crash{stamp(d.StateTimestamp, now), d.Version}
		}
	}
	return read
}

// stamp is the time that a message tells, now if it tells none.
func stamp(seconds int64, now time.Time) time.Time {
	if seconds == 0 {
		return now
	}
	return time.Unix(seconds, 0)
}

// wants says whether an instance like this should run.
func (a *app) wants(version string, i int) bool {
	return a.desired != nil && a.desired.Started && a.desired.Staged && a.desired.Version == version && i < a.desired.Instances
}

// Exited takes the end of an instance, and returns the start that it asks for at
// once, if any, and whether the app's wanted state should be read.
func (s *State) Exited(e wire.DropletExited, now time.Time) (start *Start, read bool) {
	s.Heard(now)
	if !s.concerns(e.CCPartition) {
		return nil, false
	}
	id := e.Droplet
	a := s.app(id)
	delete(a.instances, e.Instance)
	if e.Reason == wire.ReasonCrashed {
		a.crashes[e.Instance] = crash{stamp(e.CrashTimestamp, now), e.Version}
	}
	switch {
	case e.Reason == wire.ReasonStopped:
		a.quiet = later(a.quiet, now.Add(s.settings.DropletLost))
		return nil, false
	case a.desired == nil || (a.desired.Started && a.desired.Version != e.Version):
		if len(a.unclear) < maxUnclear {
			a.unclear = append(a.unclear, e)
		}
		return nil, true
	case !a.wants(e.Version, e.Index):
		return nil, false
	}
	return s.ended(id, a, e, now), false
}

// ended judges the end of an instance that was wanted.
func (s *State) ended(id wire.ID, a *app, e wire.DropletExited, now time.Time) *Start {
	if _, found := s.keepers(a, now)[e.Index]; found {
		return nil // it was one too many, or is replaced already
	}
	x, start := a.at(e.Index), &Start{App: id, Indices: []int{e.Index}, Version: a.desired.Version, Updated: a.desired.Updated}
	switch e.Reason {
	case wire.ReasonShutdown:
		start.Urgency = Lost
	case wire.ReasonEvacuation:
		start.Urgency = Evacuated
	case wire.ReasonFault:
		// However often: whatever it is that lacks there, it comes back when that does.
		x.faults++
		x.restart = now.Add(s.delay(x.faults))
		return nil
	case wire.ReasonCrashed:
		if now.Sub(x.crashed) > s.settings.FlappingTimeout {
			x.crashes = 0
		}
		x.crashes, x.crashed = x.crashes+1, now
		if s.flaps(x) {
			x.restart = now.Add(s.delay(x.crashes - s.settings.FlappingDeath))
			return nil
		}
		start.Urgency = Crashed
	default:
		return nil
	}
	return start
}

// flaps says whether an index crashes again and again.
func (s *State) flaps(x *index) bool { return x != nil && x.crashes > s.settings.FlappingDeath }

// givenUp says whether an index crashed too often to be started again.
func (s *State) givenUp(x *index) bool {
	return s.flaps(x) && s.settings.GiveupCrashNumber >= 0 && x.crashes > s.settings.GiveupCrashNumber
}

// delay returns the time that the restart of an index is put off: from the second time on
// twice as long each time.
func (s *State) delay(times int) time.Duration {
	delay := s.settings.MinRestartDelay
	for range times - 1 {
		if delay *= 2; delay >= s.settings.MaxRestartDelay || delay <= 0 {
			break
		}
	}
	if delay > s.settings.MaxRestartDelay {
		delay = s.settings.MaxRestartDelay
	}
	return max(delay+time.Duration(s.noise()*float64(s.settings.DelayTimeNoise)), 0)
}

// Desire takes what is wanted of an app; nil: the cloud controller does not have
// it. It returns the starts for exits that it explains.
func (s *State) Desire(id wire.ID, d *Desired, now time.Time) (starts []Start) {
	if d == nil && s.apps[id] == nil {
		return nil
	}
	a := s.app(id)
	if d == nil || a.desired == nil || a.desired.Version != d.Version || !d.Started {
		clear(a.indices)
	}
	if more := a.more(d, now); more > 0 {
		a.quiet = later(a.quiet, now.Add(s.settings.DropletLost+time.Duration(more)*startTime))
	}
	a.desired = d
	unclear := a.unclear
	a.unclear = nil
	for _, e := range unclear {
		if !a.wants(e.Version, e.Index) {
			continue
		}
		if start := s.ended(id, a, e, now); start != nil {
			starts = append(starts, *start)
		}
	}
	return starts
}

// more returns the number of instances that the cloud controller starts because of a change. An
// app that is new to us was started just now only if we were told so.
func (a *app) more(d *Desired, now time.Time) int {
	switch {
	case d == nil || !d.Started || a.desired == nil && !now.Before(a.quiet):
		return 0
	case a.desired == nil || !a.desired.Started || a.desired.Version != d.Version:
		return d.Instances
	}
	return d.Instances - a.desired.Instances
}

// Passed says that all apps were read, beginning at that time, and which there
// are: the others are gone.
func (s *State) Passed(began time.Time, there map[wire.ID]bool, now time.Time) {
	for id, a := range s.apps {
		if !there[id] && a.desired != nil {
			s.Desire(id, nil, now)
		}
	}
	s.passed = began
}

// Updated says that a user changed an app: restarts that were put off are
// forgotten, and its instances have their time to change.
func (s *State) Updated(id wire.ID, now time.Time) {
	a := s.app(id)
	for _, x := range a.indices {
		x.restart = time.Time{}
	}
	a.quiet = later(a.quiet, now.Add(s.settings.DropletLost))
}

// Requested takes a request that this or another health manager has sent.
func (s *State) Requested(r wire.HealthManagerRequest, now time.Time) {
	a := s.apps[r.Droplet]
	if a == nil {
		return
	}
	switch r.Op {
	case wire.OpStart:
		if a.desired == nil || a.desired.Version != r.Version {
			return
		}
		for n, i := range r.Indices {
			if i < a.desired.Instances {
				x := a.at(i)
				x.requested, x.restart = now.Add(time.Duration(n)*startTime), time.Time{}
			}
		}
	case wire.OpStop:
		for _, id := range r.Instances {
			if i := a.instances[id]; i != nil {
				i.stopped = now
			}
		}
	}
}

// Forget drops what is of no use any more: lost instances, old crashes, and apps
// of which nothing is known.
func (s *State) Forget(now time.Time) {
	for id, a := range s.apps {
		maps.DeleteFunc(a.instances, func(_ string, i *instance) bool { return !s.alive(i, now) })
		maps.DeleteFunc(a.crashes, func(_ string, c crash) bool { return now.Sub(c.at) > s.settings.FlappingTimeout })
		if a.desired == nil && len(a.instances)+len(a.crashes)+len(a.unclear) == 0 {
			delete(s.apps, id)
		}
	}
}

// alive says whether an instance was heard of lately, or would not have been
// because the bus was away.
func (s *State) alive(i *instance, now time.Time) bool {
	return !s.listening(now) || now.Sub(later(i.heard, s.hearing)) <= s.settings.DropletLost
}

// has says whether instances of a version are wanted: of the present one, or of the
// one that an update brings in.
func (d *Desired) has(version string) bool {
	return version == d.Version || version == d.Updating && version != ""
}

// keepers are the instances of the wanted version by index, one each: if there
// are several, one that runs before one that starts, then the oldest.
func (s *State) keepers(a *app, now time.Time) map[int]string {
	keep := map[int]string{}
	for id, i := range a.instances {
		if !a.desired.has(i.version) || i.index >= a.desired.Instances || !s.alive(i, now) {
			continue
		}
		if other, found := keep[i.index]; !found || before(id, i, other, a.instances[other]) {
			keep[i.index] = id
		}
	}
	return keep
}

// before says whether instance a is kept rather than b.
func before(idA string, a *instance, idB string, b *instance) bool {
	switch {
	case a.running != b.running:
		return a.running
	case !a.since.Equal(b.since):
		return a.since.Before(b.since)
	}
	return idA < idB
}

// ids are all known apps, sorted.
func (s *State) ids() []wire.ID { return slices.Sorted(maps.Keys(s.apps)) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
