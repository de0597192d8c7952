package deployer

import (
	"github.com/clusterworks/deploy/deployer/internal/session"
)

// Event is something that happened in a run. Views print events; the deployer
// prints nothing itself.
type Event = session.Event

// Phase is a stretch of a run.
type Phase = session.Phase

// The phases, in the order of an apply.
const (
	PhaseLoad      = session.PhaseLoad      // manifest and state
	PhaseSurvey    = session.PhaseSurvey    // ask the agents
	PhaseVMs       = session.PhaseVMs       // the engine makes or removes VMs
	PhaseBootstrap = session.PhaseBootstrap // agents onto VMs
	PhasePackages  = session.PhasePackages  // packages to the bus, or to the VMs
	PhaseRollout   = session.PhaseRollout   // instances change
	PhaseBus       = session.PhaseBus       // agents are told their bus
	PhaseDestroy   = session.PhaseDestroy
)

// Counts is the cost of a run. A run that finds nothing to do has none of them.
type Counts = session.Counts
