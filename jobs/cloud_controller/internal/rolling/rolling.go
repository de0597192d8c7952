// Package rolling is the state machine of an app's update: per index an instance
// of the new version starts beside what runs, and only when it serves is the old
// one stopped. A new version that fails ends the update, and the machine goes back
// the same way. It is pure: events go in, actions come out, the time is given.
// Package updates carries the actions out, and saves Update before it does.
package rolling

import (
	"fmt"
	"slices"
	"time"
)

// Outcomes of an update.
const (
	Running = ""       // it goes on
	Done    = "done"   // the new version runs
	Undone  = "undone" // the previous version runs on, for the reason that Update has
)

// Steps of an index.
const (
	Waiting  = "waiting"  // an instance is to be started
	Starting = "starting" // one was asked for
	Settling = "settling" // it serves; routers are given their time to hear of it
	Replaced = "replaced" // the others were told to stop
)

// Update describes what is saved of an update.
type Update struct {
	Target   string `json:"target"`   // the version that is to run
	Previous string `json:"previous"` // the version to go back to
	// Others are all other versions that may have instances: Previous, and those of
	// updates that this one has taken the place of.
	Others []string `json:"others"`
	// Hold is at how many indices the update waits to be promoted; 0: it does not.
	Hold    int     `json:"hold,omitempty"`
	Indices []Index `json:"indices"` // one each, in order
	// Back says that the update goes back: Target and Previous have changed places.
	Back    bool   `json:"back,omitempty"`
	Reason  string `json:"reason,omitempty"` // why it goes back
	Failed  string `json:"failed,omitempty"` // id of the instance that is the reason
	Outcome string `json:"outcome,omitempty"`
	// Rebalance says that nothing is to change but where the instances run.
	Rebalance bool `json:"rebalance,omitempty"`
	// Watch says that the version is watched when the update is done, see Watch.
	Watch bool `json:"watch,omitempty"`
	// Crashed are the instances of it that have crashed since.
	Crashed []string `json:"crashed,omitempty"`
}

// Index describes how far one index has come.
type Index struct {
	Step     string `json:"step"`
	Failures int    `json:"failures,omitempty"` // starts in vain
	// GivenUp says that the previous version does not start here either. It is the
	// app's version again, and whoever keeps apps running goes on with it.
	GivenUp bool `json:"given_up,omitempty"`
}

// New returns the update of an app's instances from one version to another.
func New(target, previous string, others []string, instances int) Update {
	u := Update{Target: target, Previous: previous, Others: []string{}}
	for _, version := range append([]string{previous}, others...) {
		if version != target && !slices.Contains(u.Others, version) {
			u.Others = append(u.Others, version)
		}
	}
	for range instances {
		u.Indices = append(u.Indices, Index{Step: Waiting})
	}
	return u
}

// Count returns how many indices the target has taken.
func (u Update) Count() int {
	n := 0
	for _, i := range u.Indices {
		if i.Step == Replaced {
			n++
		}
	}
	return n
}

// Held reports whether the update waits to be promoted.
func (u Update) Held() bool {
	return u.Hold > 0 && !u.Back && u.Outcome == Running && u.Count() >= min(u.Hold, len(u.Indices)) && u.Count() < len(u.Indices)
}

// Version returns the version that an index should have now, if its instance is
// lost: the target where it serves already, else the one before.
func (u Update) Version(index int) string {
	if index < len(u.Indices) && (u.Indices[index].Step == Replaced || u.Indices[index].Step == Settling) {
		return u.Target
	}
	if u.Back {
		return u.Target
	}
	return u.Previous
}

// Settings are the machine's times and bounds.
type Settings struct {
	MaxInFlight int           // indices that change at once
	MinHealthy  time.Duration // how long an instance must run that its DEA has not watched for this
	Settle      time.Duration // what routers have to hear of an instance that serves
	Unseen      time.Duration // after which a start of which nothing is seen is made again
	Silent      time.Duration // after which an instance that starts and is not seen any more is given up
	Room        time.Duration // how long room is waited for before anything was stopped
	RoomLater   time.Duration // the same, afterwards
	Tries       int           // starts of an index, for no fault of the app's
}

// DefaultSettings returns the settings for an update of so many indices at once,
// each healthy for so long.
func DefaultSettings(maxInFlight int, minHealthy time.Duration) Settings {
	return Settings{
		MaxInFlight: max(1, maxInFlight), MinHealthy: minHealthy, Settle: time.Second, Unseen: 5 * time.Second,
		Silent: 30 * time.Second, Room: 4 * time.Second, RoomLater: time.Minute, Tries: 3,
	}
}

// Machine is an update that is carried out. It is used by one goroutine.
type Machine struct {
	Update
	settings Settings
	changed  bool
	track    []track
	noRoom   time.Time // since when there is none; zero: there is
	quiet    bool      // the last look has seen none of the others
	looks    int       // since the last stop
	resumed  bool      // nothing was done yet: the last stops may be lost
}

// track describes what is known of an index, and is learned anew after a restart.
type track struct {
	instance string    // of the target
	began    time.Time // of the step; zero: not known
	seen     time.Time // last
	running  time.Time // since when the instance is seen running; zero: it is not
	present  bool      // the last look has seen it running
	after    time.Time // no start before
	resumed  bool      // the step is an earlier run's
	kept     bool      // going back, nothing was stopped here
}

// Resume returns the machine of an update, a new or a saved one.
func Resume(u Update, s Settings) *Machine {
	u.Indices, u.Others = slices.Clone(u.Indices), slices.Clone(u.Others)
	return &Machine{Update: u, settings: s, track: make([]track, len(u.Indices)), resumed: true}
}

// Changed reports whether Update differs from the last call's.
func (m *Machine) Changed() bool {
	defer func() { m.changed = false }()
	return m.changed
}

// Event describes what happened.
type Event interface{ event() }

// Instance is one that a look has found.
type Instance struct {
	ID      string
	Version string
	Index   int
	Running bool // else it starts
	Crashed bool
	// Proven says that its DEA has watched it for MinHealthy before it called it
	// running.
	Proven bool
}

type (
	// Looked has all instances of the app that answered. Those of a DEA that was
	// slow are missing.
	Looked struct{ Instances []Instance }
	// Exited says that an instance has ended. Crashed: by itself; else for no fault of
	// the app's, which Gone says was its DEA's end.
	Exited struct {
		ID, Version   string
		Index         int
		Crashed, Gone bool
		Why           string // "": not known
	}
	// NoRoom says that no DEA takes an instance of these indices.
	NoRoom struct {
		Indices []int
		Why     string
	}
	// Scaled says how many instances the app has now.
	Scaled struct{ Instances int }
	// Promoted ends the hold.
	Promoted struct{}
)

func (Looked) event()   {}
func (Exited) event()   {}
func (NoRoom) event()   {}
func (Scaled) event()   {}
func (Promoted) event() {}

// Action describes what is to be done.
type Action interface{ action() }

type (
	// Start starts instances. Watched: they count as running, and get to the routers,
	// only when they were healthy for MinHealthy.
	Start struct {
		Version string
		Indices []int
		Watched bool
	}
	// Stop stops the instances of other versions at an index, requests in progress
	// first. Everywhere: at all indices.
	Stop struct {
		Versions []string
		Index    int
	}
)

func (Start) action() {}
func (Stop) action()  {}

// Everywhere stands for all indices.
const Everywhere = -1

// Step takes an event at a time. Update.Outcome says when the update is over; that
// is to be saved when the actions were done, all else before.
func (m *Machine) Step(now time.Time, e Event) []Action {
	if m.Outcome != Running {
		return nil
	}
	switch e := e.(type) {
	case Looked:
		m.looked(now, e)
	case Exited:
		m.exited(now, e)
	case NoRoom:
		m.without(now, e)
	case Scaled:
		m.scaled(e.Instances)
	case Promoted:
		m.Hold, m.changed = 0, true
	}
	return m.advance(now)
}

func (m *Machine) enter(now time.Time, index int, step string) {
	m.Indices[index].Step, m.changed = step, true
	m.track[index].began = now
}

// looked compares what runs with what was asked for.
func (m *Machine) looked(now time.Time, l Looked) {
	m.quiet = true
	m.looks++
	found := map[int]Instance{}
	for _, i := range l.Instances {
		switch {
		case i.Index < 0:
		case i.Version == m.Target && i.Crashed:
			if !m.Back {
				m.goBack(fmt.Sprintf("instance %d of the new version crashed", i.Index), i.ID)
				return
			}
		case i.Crashed:
		case i.Version == m.Target:
			if known, ok := found[i.Index]; !ok || i.Running && !known.Running {
				found[i.Index] = i
			}
		case slices.Contains(m.Others, i.Version):
			if i.Index >= len(m.Indices) {
				break // the scaling has stopped it
			}
			m.quiet = false
			if x := m.Indices[i.Index]; x.Step == Replaced && (m.track[i.Index].present || x.GivenUp) {
				// The stop was lost, or it was started again meanwhile.
				m.enter(now, i.Index, Settling)
			}
		}
	}
	for index := range m.Indices {
		i, ok := found[index]
		m.saw(now, index, i, ok)
	}
}

// saw takes what a look has found of the target at an index.
func (m *Machine) saw(now time.Time, index int, i Instance, ok bool) {
	t := &m.track[index]
	t.present = ok && i.Running
	if !ok {
		m.missed(now, index)
		return
	}
	if t.instance != i.ID {
		t.instance, t.running = i.ID, time.Time{}
		m.noRoom = time.Time{}
	}
	t.seen = now
	switch {
	case !i.Running:
		t.running = time.Time{}
		if m.Indices[index].Step == Waiting || m.Indices[index].Step == Settling {
			m.enter(now, index, Starting)
		}
		return
	case t.running.IsZero():
		t.running = now
	}
	if step := m.Indices[index].Step; step == Waiting || step == Starting {
		if m.Back || i.Proven || now.Sub(t.running) >= m.settings.MinHealthy {
			m.enter(now, index, Settling)
		} else if step == Waiting {
			m.enter(now, index, Starting)
		}
	}
}

// missed says that a look has not found the target at an index. That alone means
// little: a DEA may be slow.
func (m *Machine) missed(now time.Time, index int) {
	t := &m.track[index]
	switch m.Indices[index].Step {
	case Starting, Settling:
		if m.Indices[index].GivenUp {
			return
		}
		if t.began.IsZero() {
			t.began, t.resumed = now, true
		}
		limit := m.settings.Unseen
		if !t.seen.IsZero() {
			limit = m.settings.Silent
		}
		if now.Sub(latest(t.began, t.seen)) > limit {
			m.again(now, index, fmt.Sprintf("no DEA says that it starts instance %d", index))
		}
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// again starts an index once more, or for this reason goes back, if that was tried
// often enough.
func (m *Machine) again(now time.Time, index int, why string) {
	if !m.track[index].resumed { // else it was perhaps never asked for
		m.Indices[index].Failures++
	}
	m.track[index] = track{after: now.Add(time.Second), kept: m.track[index].kept}
	m.enter(now, index, Waiting)
	switch {
	case m.Indices[index].Failures < m.settings.Tries:
	case m.Back:
		m.giveUp(now, index)
	default:
		m.goBack(why, "")
	}
}

// giveUp lets an index go on without the previous version.
func (m *Machine) giveUp(now time.Time, index int) {
	m.Indices[index].GivenUp = true
	m.enter(now, index, Settling)
}

// exited takes the end of an instance.
func (m *Machine) exited(now time.Time, e Exited) {
	if e.Version != m.Target || e.Index < 0 {
		return
	}
	if e.Crashed && !m.Back {
		reason := fmt.Sprintf("instance %d of the new version crashed", e.Index)
		if e.Why != "" {
			reason += ": " + e.Why
		}
		m.goBack(reason, e.ID)
		return
	}
	if e.Index >= len(m.Indices) {
		return
	}
	t := &m.track[e.Index]
	if t.instance != "" && t.instance != e.ID {
		return // another one is there in its place
	}
	switch step := m.Indices[e.Index].Step; {
	case step == Replaced && !e.Gone:
	case step == Replaced && m.Back:
	case e.Gone:
		*t = track{kept: t.kept}
		m.enter(now, e.Index, Waiting)
	case e.Crashed && t.kept && (step == Starting || step == Settling):
		m.giveUp(now, e.Index) // it crashes as it did before the update, and may take long to
	case step == Starting || step == Settling:
		why := fmt.Sprintf("the DEAs cannot start instance %d", e.Index)
		if e.Why != "" {
			why += ": " + e.Why
		}
		m.again(now, e.Index, why)
	}
}

// without waits for room, for a while.
func (m *Machine) without(now time.Time, e NoRoom) {
	for _, index := range e.Indices {
		if index >= 0 && index < len(m.Indices) && m.Indices[index].Step == Starting {
			m.enter(now, index, Waiting)
			m.track[index].after = now.Add(time.Second)
		}
	}
	for index, i := range m.Indices {
		if (i.Step == Starting || i.Step == Settling) && !slices.Contains(e.Indices, index) {
			m.noRoom = time.Time{} // what it takes the place of will make room
			return
		}
	}
	if m.noRoom.IsZero() {
		m.noRoom = now
	}
	patience := m.settings.Room
	if m.Back || m.Count() > 0 {
		patience = m.settings.RoomLater
	}
	switch {
	case now.Sub(m.noRoom) < patience:
	case !m.Back:
		m.goBack(e.Why, "")
	default:
		for _, index := range e.Indices {
			if index >= 0 && index < len(m.Indices) && m.Indices[index].Step == Waiting {
				m.giveUp(now, index)
			}
		}
	}
}

func (m *Machine) scaled(instances int) {
	if instances == len(m.Indices) || instances < 0 {
		return
	}
	m.changed = true
	for len(m.Indices) < instances {
		m.Indices = append(m.Indices, Index{Step: Waiting})
		m.track = append(m.track, track{})
	}
	m.Indices, m.track = m.Indices[:instances], m.track[:instances]
}

// goBack turns the update round. Where the previous version has never stopped,
// only the new one is to be stopped.
func (m *Machine) goBack(reason, instance string) {
	m.Back, m.Reason, m.Failed, m.Hold, m.changed = true, reason, instance, 0, true
	m.Others = slices.DeleteFunc(append(m.Others, m.Target), func(v string) bool { return v == m.Previous })
	m.Target, m.Previous = m.Previous, m.Target
	m.noRoom, m.quiet, m.looks = time.Time{}, false, 0
	for index := range m.Indices {
		i := &m.Indices[index]
		i.Failures = 0
		m.track[index] = track{}
		if i.Step == Replaced {
			i.Step = Waiting
		} else {
			i.Step = Settling // when the next look has seen that it runs
			m.track[index].kept = true
		}
	}
}

// advance does what can be done now.
func (m *Machine) advance(now time.Time) (actions []Action) {
	inFlight, begun := 0, 0
	for index := range m.Indices {
		switch m.Indices[index].Step {
		case Starting:
			inFlight++
			begun++
		case Settling:
			t := &m.track[index]
			if t.began.IsZero() {
				t.began = now
			}
			// One that runs since before the update needs no time.
			if m.Indices[index].GivenUp || t.present && (m.Back || now.Sub(t.began) >= m.settings.Settle) {
				m.enter(now, index, Replaced)
				actions = append(actions, Stop{Versions: slices.Clone(m.Others), Index: index})
				m.quiet, m.looks = false, 0
			} else {
				inFlight++
			}
			begun++
		case Replaced:
			if m.resumed {
				actions = append(actions, Stop{Versions: slices.Clone(m.Others), Index: index})
				m.quiet, m.looks = false, 0
			}
			begun++
		}
	}
	m.resumed = false
	start := Start{Version: m.Target, Watched: !m.Back}
	for index := range m.Indices {
		t := &m.track[index]
		if m.Indices[index].Step != Waiting || now.Before(t.after) {
			continue
		}
		if !m.Back && (inFlight >= m.settings.MaxInFlight || m.Hold > 0 && begun >= m.Hold) {
			break
		}
		m.enter(now, index, Starting)
		t.seen = time.Time{}
		inFlight++
		begun++
		start.Indices = append(start.Indices, index)
	}
	if len(start.Indices) > 0 {
		actions = append(actions, start)
	}
	if m.Count() == len(m.Indices) && m.quiet && m.looks > 0 {
		m.Outcome, m.changed = Done, true
		if m.Back {
			m.Outcome = Undone
		}
		actions = append(actions, Stop{Versions: slices.Clone(m.Others), Index: Everywhere})
	}
	return actions
}
