package session

import (
	"strconv"
	"sync/atomic"
	"time"
)

// Phase is a stretch of a run.
type Phase string

// The phases, in the order of an apply.
const (
	PhaseLoad      Phase = "load"      // manifest and state
	PhaseSurvey    Phase = "survey"    // ask the agents
	PhaseVMs       Phase = "vms"       // the engine makes or removes VMs
	PhaseBootstrap Phase = "bootstrap" // agents onto VMs
	PhasePackages  Phase = "packages"  // packages to the bus, or to the VMs
	PhaseRollout   Phase = "rollout"   // instances change
	PhaseBus       Phase = "bus"       // agents are told their bus
	PhaseDestroy   Phase = "destroy"
)

// Event is something that happened in a run. Views print events; the deployer
// prints nothing itself.
type Event struct {
	At    time.Time `json:"at"`
	Phase Phase     `json:"phase"`
	// Instance is set when the event is about one.
	Instance string `json:"instance,omitempty"`
	// Step names what is being done to the instance ("prepare", "update", or the
	// agent's own step). Done means that it ended, an Error that it failed.
	Step    string `json:"step,omitempty"`
	Done    bool   `json:"done,omitempty"`
	Message string `json:"message,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Event reports an event.
func (s *Session) Event(e Event) {
	e.At = time.Now()
	s.Report(e)
}

// Counts is the cost of a run. A run that finds nothing to do has none of them.
type Counts struct {
	EngineRuns  int `json:"engine_runs"`
	SSHDials    int `json:"ssh_dials"`
	StateWrites int `json:"state_writes"`
}

// Counters count while a run is under way.
type Counters struct{ Engine, SSH, State atomic.Int64 }

// Counts returns the counts so far.
func (c *Counters) Counts() Counts {
	return Counts{EngineRuns: int(c.Engine.Load()), SSHDials: int(c.SSH.Load()), StateWrites: int(c.State.Load())}
}

// Count returns a number of things in words, as "1 agent" or "3 agents".
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}
