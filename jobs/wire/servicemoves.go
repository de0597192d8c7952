package wire

import (
	"encoding/json"
	"errors"
	"maps"
)

// MovePhase describes how far an instance's move is.
type MovePhase string

// A move is copying until the instance's handle names the other node; from that moment
// on it is switched, and ends done. One that goes back ends undone.
const (
	MoveCopying  MovePhase = "copying"
	MoveSwitched MovePhase = "switched"
	MoveBack     MovePhase = "back"
	MoveDone     MovePhase = "done"
	MoveUndone   MovePhase = "undone"
)

// ServiceMove is the last move of an instance from one node to another. The instance's
// handle has it in its configuration, so that the controller's database keeps it.
type ServiceMove struct {
	Number int       `json:"number"` // of the instance's moves, from 1 on; 0: it has not moved
	From   string    `json:"from"`
	To     string    `json:"to"`
	Phase  MovePhase `json:"phase"`
	Why    string    `json:"why,omitempty"` // it goes back
}

// ServiceStepBusy is the description of a node's answer while it is at an instance: the
// gateway asks for the step again.
const ServiceStepBusy = "the node is at work on the instance"

// Over reports whether nothing is left to do.
func (m ServiceMove) Over() bool {
	return m.Number == 0 || m.Phase == MoveDone || m.Phase == MoveUndone
}

func (m ServiceMove) check() error {
	if m == (ServiceMove{}) {
		return nil
	}
	switch m.Phase {
	case MoveCopying, MoveSwitched, MoveBack, MoveDone, MoveUndone:
	default:
		return errors.New("the phase of its move is unknown")
	}
	if m.Number < 1 || !ValidServiceNode(m.From) || !ValidServiceNode(m.To) || m.From == m.To {
		return errors.New("its move has no number, or not two nodes")
	}
	return nil
}

// moveKey is the key under which a handle's configuration has its move.
const moveKey = "move"

// Move returns the instance's last move, the zero value if there was none.
func (h ServiceHandle) Move() (m ServiceMove, err error) {
	kept, there := h.Configuration[moveKey]
	if !there {
		return m, nil
	}
	data, err := json.Marshal(kept)
	if err != nil {
		return m, errors.New("its move cannot be read")
	}
	return parseService[ServiceMove](data, "an instance's move")
}

// WithMove returns a copy of the handle that has m as its move.
func (h ServiceHandle) WithMove(m ServiceMove) ServiceHandle {
	h.Configuration = maps.Clone(h.Configuration)
	if h.Configuration == nil {
		h.Configuration = map[string]any{}
	}
	h.Configuration[moveKey] = m
	return h
}

// ServiceLeave is asked, again and again, by a node that shall be removed: the gateway
// moves its instances away one by one. Stays takes it back.
type ServiceLeave struct {
	Stays bool `json:"stays,omitempty"`
	// Asked is the instance whose move an earlier answer named, and Move its number.
	Asked string `json:"asked,omitempty"`
	Move  int    `json:"move,omitempty"`
}

func (ServiceLeave) check() error { return nil }

// ParseServiceLeave decodes what a node asks that shall be removed.
func ParseServiceLeave(data []byte) (ServiceLeave, error) {
	return parseService[ServiceLeave](data, "a node's wish to leave")
}

// ServiceLeaving describes how far a node's leaving is.
type ServiceLeaving struct {
	Left    int    `json:"left"`             // instances that are still on the node
	Moving  string `json:"moving,omitempty"` // the one that moves now
	To      string `json:"to,omitempty"`
	Move    int    `json:"move,omitempty"`    // its number
	Refused string `json:"refused,omitempty"` // why the node cannot leave
}

func (l ServiceLeaving) check() error {
	if l.Left < 0 {
		return errors.New("a negative number of instances is left")
	}
	return nil
}

// ParseServiceLeaving decodes a gateway's answer to a node that shall be removed.
func ParseServiceLeaving(data []byte) (ServiceLeaving, error) {
	return parseService[ServiceLeaving](data, "the gateway's answer")
}
