// Package moves decides how an instance of a service moves from one node to another, so
// that at most one node lets its users in at any moment, even if a process dies at any
// message. It is pure: packages gateway and node do what it says.
//
// The instance's handle, which the controller's database keeps, has the move with its
// number and its phase. The handle names the node to which the instance belongs:
//
//	copying   the old one, closed      disable, import, update
//	switched  the new one              update, enable, the bindings' handles, clean up
//	back      the old one              enable, clean up
//
// The gateway takes the steps of the present phase, from the first one on after a death,
// and only then writes the next phase. Each step may be taken twice. A message may come
// late, even after its move: so each node keeps the number of the last move that it took
// part in, and refuses steps of earlier moves.
package moves

import (
	"errors"
	"fmt"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Step is something that the gateway does for a move.
type Step struct {
	Operation string // of the node; "": Give
	Node      string
	// Give tells the controller the handles of the bindings as the node has them.
	Give bool
	// Optional is a step whose node need not be there any more.
	Optional bool
}

// Steps returns what is done in the present phase, in order, and the phase after it.
func Steps(m wire.ServiceMove) ([]Step, wire.MovePhase) {
	switch m.Phase {
	case wire.MoveCopying:
		return []Step{{Operation: wire.ServiceDisable, Node: m.From}, {Operation: wire.ServiceImport, Node: m.To}, {Operation: wire.ServiceUpdate, Node: m.To}}, wire.MoveSwitched
	case wire.MoveSwitched:
		return []Step{
			{Operation: wire.ServiceUpdate, Node: m.To}, {Operation: wire.ServiceEnable, Node: m.To}, {Give: true},
			{Operation: wire.ServiceCleanUp, Node: m.To}, {Operation: wire.ServiceCleanUp, Node: m.From, Optional: true},
		}, wire.MoveDone
	case wire.MoveBack:
		return []Step{{Operation: wire.ServiceEnable, Node: m.From}, {Operation: wire.ServiceCleanUp, Node: m.From}, {Operation: wire.ServiceCleanUp, Node: m.To, Optional: true}}, wire.MoveUndone
	}
	return nil, m.Phase
}

// Failed returns the move after a step has failed: what is not switched goes back, and
// everything else is tried again.
func Failed(m wire.ServiceMove, why string) wire.ServiceMove {
	if m.Phase == wire.MoveCopying {
		m.Phase, m.Why = wire.MoveBack, why
	}
	return m
}

// Record describes what a node knows of an instance.
type Record struct {
	There  bool
	Whole  bool // neither half-made nor half-removed
	Closed bool // nobody is let in
	Last   int  // number of the last move in which it took part
}

// Admission describes what a node does with a step.
type Admission int

// What a node may do.
const (
	Do      Admission = iota
	Done              // it was done before
	Replace           // what is there is worth nothing, and is removed first
)

var errOver = errors.New("that move is over")

// Admit decides on a step that reaches a node. An error refuses it.
func Admit(operation string, m wire.ServiceMove, here string, r Record) (Admission, error) {
	if m.Number == 0 {
		return 0, errors.New("no move of the instance is in progress; the errand migrate begins one")
	}
	if !belongs(operation, m, here) {
		return 0, fmt.Errorf("%s is no step of a move that is %s from %s to %s", operation, m.Phase, m.From, m.To)
	}
	if r.There && r.Last > m.Number {
		return 0, errOver
	}
	switch {
	case operation == wire.ServiceImport:
		switch {
		case !r.There:
			return Do, nil
		case !r.Whole:
			return Replace, nil
		case !r.Closed:
			return 0, errors.New("the node serves the instance itself")
		case r.Last == m.Number:
			return Done, nil
		}
		return Replace, nil
	case operation == wire.ServiceCleanUp && m.Phase == wire.MoveBack && here == m.To:
		if r.There && r.Last == m.Number && r.Closed {
			return Replace, nil
		}
		return Do, nil
	case operation == wire.ServiceCleanUp:
		return Do, nil
	case !r.There || !r.Whole:
		return 0, errors.New("the node does not have the instance")
	case operation == wire.ServiceDisable && r.Last == m.Number && !r.Closed:
		return 0, errOver
	case here == m.To && r.Last != m.Number:
		return 0, errors.New("the node does not have what this move has copied")
	}
	return Do, nil
}

// belongs reports whether a phase has a step for a node.
func belongs(operation string, m wire.ServiceMove, here string) bool {
	steps, _ := Steps(m)
	for _, s := range steps {
		if s.Operation == operation && s.Node == here {
			return true
		}
	}
	return false
}
