package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/wire"
)

// removals are a gateway and two nodes that are killed while an instance moves.
type removals struct {
	*cuts
	drawers map[string]drawer // by the nodes' programs
}

const secondNode = "nothing_node_free_1"

func newRemovals(t *testing.T) *removals {
	c := newCuts(t)
	r := &removals{cuts: c, drawers: map[string]drawer{"node": c.drawer, "second": drawer(t.TempDir())}}
	shared := "migration_nfs: " + t.TempDir() + "\n"
	data, err := os.ReadFile(c.nodeFile)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data) + shared
	c.secondFile = filepath.Join(t.TempDir(), "second.yml")
	other := strings.NewReplacer(cutNode, secondNode, c.base, t.TempDir(), c.snapshots, t.TempDir()).Replace(text)
	for file, text := range map[string]string{c.nodeFile: text, c.secondFile: other} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.secondDrawer = r.drawers["second"]
	c.kill("node")
	c.begin("node")
	c.begin("second")
	c.serving(2)
	return r
}

// open returns the nodes' programs on which users of an instance get in, with what they
// find there.
func (r *removals) open(name string) map[string]string {
	found := map[string]string{}
	for who, d := range r.drawers {
		data, err := os.ReadFile(d.at(name, "data"))
		if _, closed := os.Stat(d.at(name, "closed")); err == nil && errors.Is(closed, os.ErrNotExist) {
			found[who] = string(data)
		}
	}
	return found
}

// move returns the last move of an instance as the controller has it.
func (r *removals) move(name string) (wire.ServiceHandle, wire.ServiceMove) {
	r.mu.Lock()
	defer r.mu.Unlock()
	data, err := json.Marshal(r.clerk.handles[name])
	if err != nil {
		r.Fatal(err)
	}
	h, err := wire.ParseServiceHandle(data)
	if err != nil {
		r.Fatal(err)
	}
	m, err := h.Move()
	if err != nil {
		r.Fatal(err)
	}
	return h, m
}

// A process is killed at each step of a move. In the end the instance is wholly on one
// node, with all its data and the same passwords, and two nodes never let its users in
// at the same time.
func TestCutMove(t *testing.T) {
	t.Parallel()
	for _, point := range []struct{ on, where string }{
		{"node", "disable, before"}, {"node", "disable, after"}, {"node", "dump, half"}, {"node", "dump, after"},
		{"second", "provision, before"}, {"second", "provision, after"}, {"second", "load, before"}, {"second", "load, half"}, {"second", "load, after"},
		{"second", "bind, before"}, {"second", "disable, before"}, {"second", "disable, after"}, {"second", "enable, before"}, {"second", "enable, after"},
	} {
		t.Run(point.on+" "+point.where, func(t *testing.T) {
			t.Parallel()
			r := newRemovals(t)
			for _, who := range []string{"node", "second", "gateway", "bus"} {
				r.cutMove(point.on, point.where, who)
			}
		})
	}
}

func (r *removals) cutMove(on, where, who string) {
	r.Helper()
	what := fmt.Sprintf("%s killed at %s on %s", who, where, on)
	for _, id := range []string{cutNode, secondNode} { // one that was killed before may have only begun
		componenttest.Eventually(r, id+" answers", func() bool {
			_, err := r.conn.Request("NothingaaS.import_instance."+id, []byte("{"), time.Second)
			return err == nil
		})
	}
	one := r.made(configurations, wantedInstance)
	for one.Credentials.NodeID() != cutNode { // the other one has no less room
		one = r.made(configurations, wantedInstance)
	}
	b := r.made(configurations+"/"+one.ServiceID+"/handles", wantedBinding)
	want := "what " + what + " must keep"
	if err := os.WriteFile(r.drawers["node"].at(one.ServiceID, "data"), []byte(want), 0o600); err != nil {
		r.Fatal(err)
	}
	folder := string(r.drawers[on])
	pause, reached := filepath.Join(folder, "pause"), filepath.Join(folder, "reached")
	if err := os.WriteFile(pause, []byte(where), 0o600); err != nil {
		r.Fatal(err)
	}
	r.call("POST", "/service/internal/v1/instances/"+one.ServiceID+"/move", `{"to":"`+secondNode+`"}`, nil)
	look := func() {
		if open := r.open(one.ServiceID); len(open) > 1 {
			r.Fatalf("%s: users are let in on two nodes: %v", what, open)
		}
	}
	componenttest.Eventually(r, what+": the move gets there", func() bool {
		look()
		_, err := os.Stat(reached)
		return err == nil
	})
	r.kill(who)
	r.remove(pause)
	r.remove(reached)
	r.begin(who)
	var h wire.ServiceHandle
	var m wire.ServiceMove
	componenttest.Eventually(r, what+": the move is over", func() bool {
		look()
		h, m = r.move(one.ServiceID)
		return m.Over()
	})
	home, program := cutNode, "node"
	if m.Phase == wire.MoveDone {
		home, program = secondNode, "second"
	}
	if open := r.open(one.ServiceID); len(open) != 1 || open[program] != want {
		r.Errorf("%s: after %+v users find %v, want %q on %s", what, m, open, want, home)
	}
	if h.Credentials.NodeID() != home || h.Credentials.Text("password") != one.Credentials.Text("password") {
		r.Errorf("%s: after %+v the handle names %s, or has another password", what, m, h.Credentials.NodeID())
	}
	bound, _ := r.move(b.ServiceID)
	password, err := os.ReadFile(r.drawers[program].at(one.ServiceID, b.Credentials.User()))
	if bound.Credentials.NodeID() != home || bound.Credentials.Text("password") != string(password) || err != nil || string(password) != b.Credentials.Text("password") {
		r.Errorf("%s: after %+v the binding names %s, or has another password: %v", what, m, bound.Credentials.NodeID(), err)
	}
	// It can be used, and moved again to where it is not.
	r.made(configurations+"/"+one.ServiceID+"/handles", wantedBinding)
	r.forget(one.ServiceID)
	r.forget(b.ServiceID)
	r.serving(2)
}

// TestLeave: a node that shall be removed has its instances moved away one by one; where
// there is no room it is refused, and serves as before. Whose stop has another reason
// keeps them.
func TestLeave(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.gateway()
	leave := func(file, next string) (string, error) {
		var out strings.Builder
		err := node.Leave(t.Context(), file, "nothing", next, &out)
		return out.String(), err
	}
	first := w.node("nothing_node_free_0", "capacity: 5\n")
	w.serving(1)
	list := []wire.ServiceHandle{w.provision(), w.provision(), w.provision()}
	b := w.bind(list[0].ServiceID)
	w.node("nothing_node_free_1", "capacity: 2\n")
	w.serving(2)
	if out, err := leave(first.file, "update"); err != nil || out != "" {
		t.Errorf("before an update: %q, %v", out, err)
	}
	out, err := leave(first.file, "scale_in")
	if err == nil || !strings.Contains(err.Error(), "1 instances are still on nothing_node_free_0: no node of nothing has room") {
		t.Fatalf("without room: %v\n%s", err, out)
	}
	w.serving(2) // it announces itself again
	left, things := w.on("nothing_node_free_0"), censusOf(t, first.file)
	if len(left) != 1 || len(things) != 1 || !strings.Contains(things[0].Name, left[0].ServiceID) {
		t.Fatalf("on the node are %v, and the census says %v", left, things)
	}
	w.bind(left[0].ServiceID)
	w.node("nothing_node_free_2", "capacity: 1\n")
	w.serving(3)
	if out, err = leave(first.file, "delete"); err != nil || !strings.Contains(out, "moving "+left[0].ServiceID+" to nothing_node_free_2; 1 left") || !strings.Contains(out, "nothing is left on nothing_node_free_0") {
		t.Fatalf("with room: %v\n%s", err, out)
	}
	if left, things := w.on("nothing_node_free_0"), censusOf(t, first.file); len(left) != 0 || len(things) != 0 {
		t.Errorf("on the node are %v, and the census says %v", left, things)
	}
	if bound := w.handle(b.ServiceID); bound.Credentials.NodeID() == "nothing_node_free_0" || bound.Credentials.Text("password") != b.Credentials.Text("password") {
		t.Errorf("the binding: %v", bound)
	}
	// It takes nothing new, although it has not been stopped yet.
	w.fails(500, 30500, "tok", "POST", configurations, wantedInstance)
}

func censusOf(t *testing.T, file string) []wire.Thing {
	t.Helper()
	things, err := node.Census(file, "nothing")
	if err != nil {
		t.Fatal(err)
	}
	return things
}

// handle returns a handle as the controller has it.
func (w *world) handle(id string) wire.ServiceHandle {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.handles[id]
}

// on returns the instances whose handles name a node.
func (w *world) on(node string) (list []wire.ServiceHandle) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.handles {
		if h.IsInstance() && h.Credentials.NodeID() == node {
			list = append(list, h)
		}
	}
	return list
}

// TestNoOrphanWhileMoving: as long as an instance moves it is an orphan on neither node,
// and after that on the one that it has left.
func TestNoOrphanWhileMoving(t *testing.T) {
	t.Parallel()
	for phase, want := range map[wire.MovePhase][]string{
		wire.MoveCopying: nil, wire.MoveSwitched: nil, wire.MoveBack: nil, wire.MoveDone: {"a"}, wire.MoveUndone: {"b"},
	} {
		owner := map[bool]string{false: "a", true: "b"}[phase == wire.MoveSwitched || phase == wire.MoveDone]
		h := wire.ServiceHandle{ServiceID: "d1", Credentials: wire.Credentials{"name": "d1", "node_id": owner}}
		found := newOrphans()
		for _, on := range []string{"a", "b"} {
			found.add(wire.ServiceReport{Instances: []string{"d1"}, NodeID: on})
		}
		lists := found.unknown(handlesOf([]wire.ServiceHandle{h.WithMove(wire.ServiceMove{Number: 1, From: "a", To: "b", Phase: phase})})).lists()
		if got := lists.nodes(); !slices.Equal(got, want) {
			t.Errorf("%s: it is an orphan on %v, want %v", phase, got, want)
		}
	}
}
