package moves

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/jobs/wire"
)

// copyOf is an instance on a node, with how many writes it has.
type copyOf struct {
	Record
	writes int
}

// model is a controller's handle, three nodes, and messages that are on their way.
type model struct {
	t        *rapid.T
	move     wire.ServiceMove // in the controller's database
	owner    string
	nodes    map[string]*copyOf
	exports  map[int]int // writes, by the number of the move
	inFlight []message
	writes   int // that were acknowledged
}

type message struct {
	operation, node string
	move            wire.ServiceMove
}

// receive is a node that a message reaches; false: it has failed.
func (m *model) receive(msg message) bool {
	n := m.nodes[msg.node]
	admission, err := Admit(msg.operation, msg.move, msg.node, n.Record)
	if err != nil {
		return false
	}
	if admission == Replace {
		*n = copyOf{}
	}
	switch msg.operation {
	case wire.ServiceDisable:
		n.Closed, n.Last = true, msg.move.Number
		if _, there := m.exports[msg.move.Number]; !there {
			m.exports[msg.move.Number] = n.writes
		}
	case wire.ServiceImport:
		if admission == Done {
			return true
		}
		writes, there := m.exports[msg.move.Number]
		if !there {
			return false
		}
		if rapid.IntRange(0, 5).Draw(m.t, "the import is cut") == 0 {
			*n = copyOf{Record: Record{There: true, Closed: true, Last: msg.move.Number}}
			return false
		}
		*n = copyOf{Record{true, true, true, msg.move.Number}, writes}
	case wire.ServiceEnable:
		n.Closed, n.Last = false, msg.move.Number
	case wire.ServiceCleanUp:
		delete(m.exports, msg.move.Number)
	}
	return true
}

// send sends a message, which arrives now, later, or twice; and its answer, which may
// be lost.
func (m *model) send(msg message) bool {
	switch rapid.IntRange(0, 9).Draw(m.t, "fate") {
	case 0:
		m.inFlight = append(m.inFlight, msg)
		return false
	case 1:
		m.receive(msg)
		return false // the answer is lost
	case 2:
		m.inFlight = append(m.inFlight, msg)
	}
	return m.receive(msg)
}

// write writes the handle; false: the gateway does not know whether it has.
func (m *model) write(move wire.ServiceMove) bool {
	switch rapid.IntRange(0, 9).Draw(m.t, "fate of the handle") {
	case 0:
		return false
	case 1:
		m.keep(move)
		return false
	}
	m.keep(move)
	return true
}

func (m *model) keep(move wire.ServiceMove) {
	m.move = move
	if move.Phase == wire.MoveSwitched {
		m.owner = move.To
	}
}

// pass is the gateway: it reads the handle and takes the steps of its phase.
func (m *model) pass(givesUp bool) {
	move := m.move
	steps, next := Steps(move)
	for _, s := range steps {
		if s.Give {
			continue
		}
		if rapid.IntRange(0, 9).Draw(m.t, "the gateway dies") == 0 {
			return
		}
		if m.send(message{s.Operation, s.Node, move}) || s.Optional {
			continue
		}
		if failed := Failed(move, "it failed"); failed != move && givesUp {
			m.write(failed)
		}
		return
	}
	move.Phase = next
	m.write(move)
}

func (m *model) check() {
	var open []string
	for name, n := range m.nodes {
		if n.There && n.Whole && !n.Closed {
			open = append(open, name)
		}
	}
	if len(open) > 1 {
		m.t.Fatalf("two nodes let users in, %v: %+v", open, m.move)
	}
	if len(open) == 1 && open[0] != m.owner {
		m.t.Fatalf("%s lets users in, and the instance is on %s: %+v", open[0], m.owner, m.move)
	}
	if n := m.nodes[m.owner]; !n.There || !n.Whole || n.writes != m.writes {
		m.t.Fatalf("%s has %+v, and %d writes were acknowledged: %+v", m.owner, n, m.writes, m.move)
	}
	if m.move.Over() && len(open) != 1 {
		m.t.Fatalf("nobody lets users in after %+v", m.move)
	}
}

// TestOneSide: whatever is lost, late, twice or cut, never do two nodes let users in, the
// node that the handle names has all that was acknowledged, and a move that is given time
// ends, wholly on one side.
func TestOneSide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, owner: "a", exports: map[int]int{}, nodes: map[string]*copyOf{
			"a": {Record: Record{There: true, Whole: true}}, "b": {}, "c": {},
		}}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { m.check() },
			"an app writes": func(*rapid.T) {
				for _, n := range m.nodes {
					if n.There && n.Whole && !n.Closed {
						n.writes++
						m.writes++
					}
				}
			},
			"a move begins": func(t *rapid.T) {
				if m.move.Over() {
					to := rapid.SampledFrom(slices.DeleteFunc([]string{"a", "b", "c"}, func(n string) bool { return n == m.owner })).Draw(t, "to")
					m.write(wire.ServiceMove{Number: m.move.Number + 1, From: m.owner, To: to, Phase: wire.MoveCopying})
				}
			},
			"the gateway works": func(t *rapid.T) { m.pass(rapid.Bool().Draw(t, "gives up")) },
			"a late message": func(t *rapid.T) {
				if len(m.inFlight) > 0 {
					at := rapid.IntRange(0, len(m.inFlight)-1).Draw(t, "which")
					msg := m.inFlight[at]
					m.inFlight = slices.Delete(m.inFlight, at, at+1)
					m.receive(msg)
				}
			},
			"a node tidies up": func(*rapid.T) {
				for _, n := range m.nodes {
					if n.There && !n.Whole {
						*n = copyOf{}
					}
				}
			},
		})
	})
}

// TestEnds: with nothing lost a move takes three passes at most, both ways.
func TestEnds(t *testing.T) {
	for _, back := range []bool{false, true} {
		move := wire.ServiceMove{Number: 1, From: "a", To: "b", Phase: wire.MoveCopying}
		if back {
			move = Failed(move, "no room")
		}
		for passes := 0; !move.Over(); passes++ {
			if passes == 3 {
				t.Fatalf("not over after three passes: %+v", move)
			}
			_, move.Phase = Steps(move)
		}
		if want := map[bool]wire.MovePhase{false: wire.MoveDone, true: wire.MoveUndone}[back]; move.Phase != want {
			t.Errorf("it ends %s, want %s", move.Phase, want)
		}
	}
	switched := wire.ServiceMove{Number: 1, From: "a", To: "b", Phase: wire.MoveSwitched}
	if Failed(switched, "x") != switched {
		t.Error("what is switched goes back")
	}
}

// TestAdmitRefuses: steps without a move, for another node, of another phase, and where
// the node serves the instance itself.
func TestAdmitRefuses(t *testing.T) {
	move := wire.ServiceMove{Number: 2, From: "a", To: "b", Phase: wire.MoveCopying}
	serving := Record{There: true, Whole: true, Last: 1}
	for _, c := range []struct {
		operation string
		move      wire.ServiceMove
		here      string
		record    Record
	}{
		{wire.ServiceDisable, wire.ServiceMove{}, "a", serving},
		{wire.ServiceDisable, move, "b", serving},
		{wire.ServiceEnable, move, "b", serving},
		{wire.ServiceEnable, move, "a", serving},
		{wire.ServiceImport, move, "b", serving},
		{wire.ServiceUpdate, move, "b", serving},
		{wire.ServiceDisable, move, "a", Record{}},
		{wire.ServiceDisable, move, "a", Record{There: true, Whole: true, Last: 2}},
		{wire.ServiceDisable, move, "a", Record{There: true, Whole: true, Closed: true, Last: 3}},
	} {
		if what, err := Admit(c.operation, c.move, c.here, c.record); err == nil {
			t.Errorf("%s on %s with %+v in %+v: %v, want a refusal", c.operation, c.here, c.record, c.move, what)
		}
	}
}

// TestAdmitReplaces: a copy of an earlier move, or a half one, is not taken for this
// move's; what this move has imported is.
func TestAdmitReplaces(t *testing.T) {
	copying := wire.ServiceMove{Number: 2, From: "a", To: "b", Phase: wire.MoveCopying}
	for record, want := range map[Record]Admission{
		{There: true, Whole: true, Closed: true, Last: 1}: Replace,
		{There: true, Closed: true, Last: 2}:              Replace,
		{There: true, Whole: true, Closed: true, Last: 2}: Done,
		{}: Do,
	} {
		if got, err := Admit(wire.ServiceImport, copying, "b", record); err != nil || got != want {
			t.Errorf("import with %+v: %v, %v, want %v", record, got, err, want)
		}
	}
	back := copying
	back.Phase = wire.MoveBack
	for record, want := range map[Record]Admission{
		{There: true, Whole: true, Closed: true, Last: 2}: Replace,
		{There: true, Whole: true, Closed: true, Last: 1}: Do,
		{There: true, Whole: true, Last: 2}:               Do,
	} {
		if got, err := Admit(wire.ServiceCleanUp, back, "b", record); err != nil || got != want {
			t.Errorf("clean up with %+v: %v, %v, want %v", record, got, err, want)
		}
	}
}
