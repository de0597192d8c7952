// Package core is the state machine of a DEA: which instances it has, what
// happens to each, and what is said of it on the bus. It is pure: events go in,
// actions come out, the time is given; there is no clock, no goroutine, no file
// and no network. The rest of the DEA carries the actions out and reports what
// came of them as further events.
package core

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// The delays before a dea.discover is answered: who is used more answers later,
// so that others are chosen. As in the original.
const (
	TaintPerInstance = 10 * time.Millisecond  // for each instance of that app here
	TaintForMemory   = 100 * time.Millisecond // if all memory were reserved
	TaintMax         = 250 * time.Millisecond
)

// Config describes what a machine is made with.
type Config struct {
	DEA         string // uuid
	IP          string
	FilePort    int // of the file server
	SessionPort int // of sessions; 0: there are none
	Credentials [2]string
	Cores       int
	MaxMemory   int // MB; the sum of the instances' limits stays within it
	MaxClients  int // instances that start or run
	Prod        *bool
	Isolation   string // level, for the advertisement
	Zone        string
	Runtimes    []string      // names, for the advertisement
	Partition   string        // cc_partition of instances that were not given one
	CrashedFor  time.Duration // how long what is left of a crashed instance is kept
}

// Instance is one instance of an app, as it is saved.
type Instance struct {
	ID        string        `json:"id"`         // 32 hexadecimal digits
	PrivateID string        `json:"private_id"` // 64; the sticky session's value
	Folder    string        `json:"folder"`     // its name below apps/
	Start     wire.DEAStart `json:"start"`      // URIs are the present ones
	State     string        `json:"state"`      // wire.State*
	Since     int64         `json:"since"`      // of State, Unix seconds
	Began     time.Time     `json:"began"`      // when the start was accepted

	Launched    bool `json:"launched"` // there is, or was, a process
	Port        int  `json:"port,omitempty"`
	DebugPort   int  `json:"debug_port,omitempty"`
	ConsolePort int  `json:"console_port,omitempty"`

	// Told says that droplet.exited was sent.
	Told bool `json:"told,omitempty"`
	// Left says of a stopped instance that it has ended, and that its logs are kept.
	Left bool `json:"left,omitempty"`
	// Unwanted says of a stopped instance that nothing of it is to be kept.
	Unwanted bool `json:"unwanted,omitempty"`

	Usage *wire.Usage `json:"-"`
}

func (i *Instance) live() bool { return i.State == wire.StateStarting || i.State == wire.StateRunning }

// Machine is the state of a DEA. It is used by one goroutine.
type Machine struct {
	config    Config
	instances map[string]*Instance
	draining  bool
	diskFull  bool
	changed   bool // since the last Save
}

// New is a DEA with the instances that an earlier run has saved. Each of them
// that lives is to be followed by an event that tells what became of it.
func New(c Config, saved []Instance) *Machine {
	m := &Machine{config: c, instances: map[string]*Instance{}}
	for _, i := range saved {
		// An evacuation ends with the run that began it.
		i.Told = i.Told && !i.live()
		m.instances[i.ID] = &i
	}
	return m
}

// Changed says whether what Instances returns differs from the last call.
func (m *Machine) Changed() bool {
	defer func() { m.changed = false }()
	return m.changed
}

// Instances are all there are, the oldest first.
func (m *Machine) Instances() []Instance {
	all := make([]Instance, 0, len(m.instances))
	for _, i := range m.sorted() {
		all = append(all, *i)
	}
	return all
}

func (m *Machine) sorted() []*Instance {
	all := make([]*Instance, 0, len(m.instances))
	for _, i := range m.instances {
		all = append(all, i)
	}
	slices.SortFunc(all, func(a, b *Instance) int {
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// Draining says whether the DEA is leaving, Drained whether nothing runs any
// more.
func (m *Machine) Draining() bool { return m.draining }

// Drained says whether a DEA that drains has nothing left that runs.
func (m *Machine) Drained() bool {
	for _, i := range m.instances {
		if i.State != wire.StateCrashed && !i.Left {
			return false
		}
	}
	return m.draining
}

// Step takes an event at a time.
func (m *Machine) Step(now time.Time, e Event) []Action {
	switch e := e.(type) {
	case Start:
		return m.start(now, e)
	case Stop:
		return m.stop(now, e.Filter)
	case Update:
		return m.update(e.Update)
	case Reap:
		return m.reap(now)
	case DiskFull:
		m.diskFull = e.Full
		if e.Full {
			return forgetLeft(m)
		}
		return nil
	case Evacuate:
		return m.evacuate()
	case Replaced:
		return m.replaced(now, e)
	case GiveUp:
		return m.endAll(now, false)
	case Shutdown:
		return m.shutdown(now)
	}
	return m.one(now, e)
}

// one takes the events that concern one instance. What comes late, for an
// instance that is gone, means nothing.
func (m *Machine) one(now time.Time, e Event) []Action {
	switch e := e.(type) {
	case Launched:
		if i := m.instances[e.ID]; i != nil {
			i.Launched, i.Port, i.DebugPort, i.ConsolePort = true, e.Port, e.DebugPort, e.ConsolePort
			m.changed = true
			if i.State == wire.StateStopped { // meanwhile
				return disclaim(m.config.IP, i)
			}
			return claim(m.config.IP, i)
		}
	case Ready:
		if i := m.instances[e.ID]; i != nil {
			return m.ready(now, i)
		}
	case Failed:
		if i := m.instances[e.ID]; i != nil {
			reason := wire.ReasonCrashed
			if e.Fault {
				reason = wire.ReasonFault
			}
			return m.ended(now, i, e.Why, reason, !e.Logged)
		}
	case Unfit:
		if i := m.instances[e.ID]; i != nil {
			return append(m.forget(i), m.advertise()...)
		}
	case Ended:
		if i := m.instances[e.ID]; i != nil {
			return m.ended(now, i, e.Why, wire.ReasonCrashed, false)
		}
	case Lost:
		if i := m.instances[e.ID]; i != nil && i.State != wire.StateCrashed {
			actions := m.tell(now, i, wire.ReasonShutdown, "")
			return append(actions, m.forget(i)...)
		}
	case Over:
		if i := m.instances[e.ID]; i != nil && i.live() {
			return []Action{Log{i.ID, e.Why}, Kill{i.ID}}
		}
	case Used:
		if i := m.instances[e.ID]; i != nil {
			i.Usage = &e.Usage
		}
	}
	return nil
}

// Fits says why the DEA does not take another instance with these limits, nil
// if it does.
func (m *Machine) Fits(limits wire.Limits, prod bool) error {
	clients, reserved := m.clients(), m.Reserved()
	switch {
	case m.draining:
		return fmt.Errorf("this DEA is draining")
	case m.diskFull:
		return fmt.Errorf("the disk is nearly full")
	case clients >= m.config.MaxClients:
		return fmt.Errorf("%d instances are as many as this DEA may have", clients)
	case reserved+limits.Mem > m.config.MaxMemory:
		return fmt.Errorf("%d MB are needed, %d MB of %d MB are reserved", limits.Mem, reserved, m.config.MaxMemory)
	case m.config.Prod != nil && *m.config.Prod && !prod:
		return fmt.Errorf("this DEA is for production apps only")
	}
	return nil
}

// Taint returns the time to wait before answering a dea.discover for an app.
func (m *Machine) Taint(droplet wire.ID) time.Duration {
	delay := time.Duration(0)
	for _, i := range m.instances {
		if i.Start.Droplet == droplet {
			delay += TaintPerInstance
		}
	}
	if m.config.MaxMemory > 0 {
		delay += TaintForMemory * time.Duration(m.Reserved()) / time.Duration(m.config.MaxMemory)
	}
	return min(delay, TaintMax)
}

// Reserved is the sum of the limits of all that starts or runs, MB.
func (m *Machine) Reserved() int {
	sum := 0
	for _, i := range m.instances {
		if i.live() {
			sum += i.Start.Limits.Mem
		}
	}
	return sum
}

func (m *Machine) clients() int {
	n := 0
	for _, i := range m.instances {
		if i.live() {
			n++
		}
	}
	return n
}

func (m *Machine) start(now time.Time, e Start) []Action {
	d := e.Document
	if err := m.Fits(d.Limits, d.Prod); err != nil {
		return []Action{Refused{d, err}}
	}
	if d.CCPartition == "" {
		d.CCPartition = m.config.Partition
	}
	i := &Instance{
		ID: e.ID, PrivateID: e.PrivateID, Folder: folder(d.Name, d.Index, e.ID),
		Start: d, State: wire.StateStarting, Since: now.Unix(), Began: now,
	}
	m.instances[i.ID] = i
	m.changed = true
	return append(m.advertise(), Attend{*i})
}

func (m *Machine) ready(now time.Time, i *Instance) []Action {
	if i.State != wire.StateStarting {
		return nil
	}
	m.enter(now, i, wire.StateRunning)
	return append(m.register(i),
		Publish{Subject: wire.SubjectDEAHeartbeat, Message: m.heartbeat(i)})
}

// ended takes the end of an instance, whoever wanted it.
func (m *Machine) ended(now time.Time, i *Instance, why, reason string, neverRan bool) []Action {
	switch i.State {
	case wire.StateStopped:
		return leave(m, i)
	case wire.StateStarting, wire.StateRunning:
	default:
		return nil
	}
	var actions []Action
	if why != "" {
		actions = append(actions, Log{i.ID, why})
	}
	actions = append(actions, withdraw(m, i)...)
	m.enter(now, i, wire.StateCrashed)
	i.Usage = nil
	actions = append(actions, m.tell(now, i, reason, why)...)
	// What never ran has no log to read, most often, and of what crashes again and again
	// enough was kept.
	if neverRan || i.Start.Flapping {
		actions = append(actions, m.forget(i)...)
	}
	return append(actions, m.advertise()...)
}

// LeftOfApp is of how many stopped instances of an app a DEA keeps the logs.
const LeftOfApp = 4

// leave keeps the logs of an instance that was stopped, for a while, and of its app's
// newest ones only. Of one that was never launched, or whose app was deleted, nothing
// is kept.
func leave(m *Machine, i *Instance) []Action {
	if i.Left {
		return nil
	}
	if !i.Launched || i.Unwanted || m.diskFull {
		return m.forget(i)
	}
	i.Left, m.changed = true, true
	// What is not needed any more has passwords.
	i.Start = wire.DEAStart{Droplet: i.Start.Droplet, Name: i.Start.Name, Index: i.Start.Index, Version: i.Start.Version}
	actions := []Action{Trim{i.ID, i.Folder}}
	newer := 0
	for _, other := range slices.Backward(m.sorted()) {
		if !other.Left || other.Start.Droplet != i.Start.Droplet {
			continue
		}
		if newer++; newer > LeftOfApp {
			actions = append(actions, m.forget(other)...)
		}
	}
	return actions
}

// forgetLeft forgets the stopped instances of which only logs are left.
func forgetLeft(m *Machine) []Action {
	var actions []Action
	for _, i := range m.sorted() {
		if i.Left {
			actions = append(actions, m.forget(i)...)
		}
	}
	return actions
}

func (m *Machine) stop(now time.Time, filter wire.DEAStop) []Action {
	var actions []Action
	// Only who deletes an app stops all of it, whatever its state.
	all := filter.Version == "" && filter.Instances == nil && filter.Indices == nil && filter.States == nil
	for _, i := range m.sorted() {
		if i.Start.Droplet != filter.Droplet || !filter.Matches(i.Start.Version, i.ID, i.Start.Index, i.State) {
			continue
		}
		switch i.State {
		case wire.StateCrashed:
			actions = append(actions, m.forget(i)...)
		case wire.StateStarting, wire.StateRunning:
			i.Unwanted = all
			actions = append(actions, m.end(now, i, wire.ReasonStopped, false)...)
		case wire.StateStopped:
			switch {
			case all && i.Left:
				actions = append(actions, m.forget(i)...)
			case all:
				i.Unwanted, m.changed = true, true
			}
		}
	}
	if len(actions) > 0 {
		actions = append(actions, m.advertise()...)
	}
	return actions
}

// end withdraws a live instance and stops it.
func (m *Machine) end(now time.Time, i *Instance, reason string, quick bool) []Action {
	actions := withdraw(m, i)
	m.enter(now, i, wire.StateStopped)
	actions = append(actions, m.tell(now, i, reason, "")...)
	return append(actions, End{i.ID, quick})
}

func (m *Machine) update(u wire.DEAUpdate) []Action {
	var actions []Action
	for _, i := range m.sorted() {
		if i.Start.Droplet != u.Droplet || !i.live() {
			continue
		}
		gone := slices.DeleteFunc(slices.Clone(i.Start.URIs), func(uri string) bool { return slices.Contains(u.URIs, uri) })
		came := slices.ContainsFunc(u.URIs, func(uri string) bool { return !slices.Contains(i.Start.URIs, uri) })
		if len(gone) == 0 && !came {
			continue
		}
		i.Start.URIs = slices.Clone(u.URIs)
		m.changed = true
		if i.State != wire.StateRunning {
			continue
		}
		if len(gone) > 0 {
			actions = append(actions, m.unregister(i, gone)...)
		}
		actions = append(actions, m.register(i)...)
	}
	return actions
}

func (m *Machine) reap(now time.Time) []Action {
	var actions []Action
	for _, i := range m.sorted() {
		if (i.State == wire.StateCrashed || i.Left) && now.Sub(time.Unix(i.Since, 0)) > m.config.CrashedFor {
			actions = append(actions, m.forget(i)...)
		}
	}
	return actions
}

func (m *Machine) evacuate() []Action {
	if m.draining {
		return nil
	}
	m.draining = true
	counts := map[wire.ID]int{}
	var actions []Action
	for _, i := range m.sorted() {
		if !i.live() {
			continue
		}
		counts[i.Start.Droplet]++
		actions = append(actions, m.tell(time.Time{}, i, wire.ReasonEvacuation, "")...)
	}
	return append([]Action{Publish{Subject: wire.SubjectDEAShutdown, Message: wire.DEAShutdown{
		ID: m.config.DEA, IP: m.config.IP, Version: wire.DEAVersion, AppIDToCount: counts,
	}}}, actions...)
}

// replaced ends the instance that runs elsewhere now.
func (m *Machine) replaced(now time.Time, e Replaced) []Action {
	if !m.draining {
		return nil
	}
	var actions []Action
	for _, i := range m.sorted() {
		if i.live() && i.Start.Droplet == e.Droplet && i.Start.Version == e.Version && i.Start.Index == e.Index {
			actions = append(actions, m.end(now, i, wire.ReasonEvacuation, false)...)
		}
	}
	return actions
}

func (m *Machine) endAll(now time.Time, quick bool) []Action {
	var actions []Action
	for _, i := range m.sorted() {
		if i.live() {
			actions = append(actions, m.end(now, i, wire.ReasonShutdown, quick)...)
		}
	}
	return actions
}

func (m *Machine) shutdown(now time.Time) []Action {
	m.draining = true
	var actions []Action
	for _, i := range m.sorted() {
		if i.State == wire.StateStopped && !i.Left {
			actions = append(actions, End{i.ID, true})
		}
	}
	return append(actions, m.endAll(now, true)...)
}

// tell sends droplet.exited, once per instance. why says how it ended, "" if there
// is nothing to say.
func (m *Machine) tell(now time.Time, i *Instance, reason, why string) []Action {
	if i.Told {
		return nil
	}
	i.Told, m.changed = true, true
	exited := wire.DropletExited{
		Droplet: i.Start.Droplet, Version: i.Start.Version, Instance: i.ID, Index: i.Start.Index,
		Reason: reason, CCPartition: i.Start.CCPartition, ExitDescription: why,
	}
	if reason == wire.ReasonCrashed {
		exited.CrashTimestamp = now.Unix()
	}
	return []Action{Publish{Subject: wire.SubjectDropletExited, Message: exited, Kept: true}}
}

// forget drops the record, and what is left on the disk.
func (m *Machine) forget(i *Instance) []Action {
	delete(m.instances, i.ID)
	m.changed = true
	return []Action{Discard{i.ID, i.Folder}}
}

func (m *Machine) enter(now time.Time, i *Instance, state string) {
	i.State, i.Since = state, now.Unix()
	m.changed = true
}

// route returns what the routers are told of the instance; false if it has none.
func (m *Machine) route(i *Instance, uris []string) (wire.Registration, bool) {
	tags := wire.Tags{}
	if i.Start.Framework != "" {
		tags["framework"] = i.Start.Framework
	}
	if i.Start.Runtime != "" {
		tags["runtime"] = i.Start.Runtime
	}
	return wire.Registration{
		DEA: m.config.DEA, App: i.Start.Droplet, AppName: i.Start.Name, Host: m.config.IP, Port: i.Port, URIs: uris, Tags: tags,
		PrivateInstanceID: i.PrivateID, PrivateInstanceIndex: wire.ID(fmt.Sprint(i.Start.Index)),
	}, i.Port != 0 && len(uris) > 0
}

// Claim returns what routers are told of an instance that is not to be reached yet: the
// port is its app's, so whatever routes of another app still lead there are stale.
// Routers of others see a registration of nothing.
func Claim(ip string, droplet wire.ID, port int) wire.Registration {
	return wire.Registration{App: droplet, Host: ip, Port: port, URIs: []string{}}
}

func claim(ip string, i *Instance) []Action {
	if i.Port == 0 {
		return nil
	}
	return []Action{Register{Claim(ip, i.Start.Droplet, i.Port)}}
}

func disclaim(ip string, i *Instance) []Action {
	if i.Port == 0 {
		return nil
	}
	return []Action{Unregister{Claim(ip, i.Start.Droplet, i.Port)}}
}

// withdraw takes away what routers were told of a live instance.
func withdraw(m *Machine, i *Instance) []Action {
	if i.State == wire.StateRunning && len(i.Start.URIs) > 0 {
		return m.unregister(i, i.Start.URIs)
	}
	return disclaim(m.config.IP, i)
}

func (m *Machine) register(i *Instance) []Action {
	if route, ok := m.route(i, i.Start.URIs); ok {
		return []Action{Register{route}}
	}
	return claim(m.config.IP, i)
}

// unregister withdraws routes of an instance that runs; others have none.
func (m *Machine) unregister(i *Instance, uris []string) []Action {
	if i.State != wire.StateRunning {
		return nil
	}
	if route, ok := m.route(i, uris); ok {
		return []Action{Unregister{route}}
	}
	return nil
}
