package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component/moves"
	"github.com/clusterworks/deploy/jobs/wire"
)

// mover is the part of a gateway that moves instances.
type mover struct{ *Gateway }

// retryMove is the time until a move is tried again that cannot be ended now.
const retryMove = 2 * time.Second

// migrationActions are the steps in which an instance moves, by their names in HTTP.
var migrationActions = map[string]string{
	"disable": wire.ServiceDisable, "enable": wire.ServiceEnable, "import": wire.ServiceImport, "update": wire.ServiceUpdate, "cleanupnfs": wire.ServiceCleanUp,
}

// step asks a node for one step of an instance's move, as an operator can: the node
// refuses what is none of the move in progress.
func (g mover) step(ctx context.Context, node, name, action string) error {
	operation, known := migrationActions[action]
	if !known {
		return wire.Failure(wire.ServiceMalformed, "there is no action %q: disable, import, update, enable and cleanupnfs are the steps", action)
	}
	all, err := g.refresh(ctx)
	if err != nil {
		return err
	}
	h, known := all.instance(name)
	if !known {
		return errNotFound("instance")
	}
	_, err = g.take(ctx, moves.Step{Operation: operation, Node: node}, h, all.bindingsOf(name))
	return err
}

// take has a node take a step. The handles are those of update_instance.
func (g mover) take(ctx context.Context, s moves.Step, h wire.ServiceHandle, bindings []wire.ServiceHandle) ([]wire.ServiceHandle, error) {
	doc, err := json.Marshal(wire.Migration{Instance: h, Bindings: bindings})
	if err != nil {
		return nil, fmt.Errorf("cannot write the request: %w", err)
	}
	if !wire.ValidServiceNode(s.Node) {
		return nil, fmt.Errorf("%q is no node", s.Node)
	}
	ctx, cancel := context.WithTimeout(ctx, g.config.NodeTimeout.Duration()+wire.ServiceMoveLimit)
	defer cancel()
	inbox := g.base.Bus().NewInbox()
	answers, err := g.base.Bus().SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("cannot hear node %s: %w", s.Node, err)
	}
	defer func() { _ = answers.Unsubscribe() }() // fails with the connection only
	for wait := askStep; ; wait = min(2*wait, askStepMost) {
		if err := g.base.Bus().PublishRequest(wire.ServiceNodeSubject(g.prefix, s.Operation, s.Node), inbox, doc); err != nil {
			return nil, fmt.Errorf("cannot ask node %s: %w", s.Node, err)
		}
		updated, err := awaitStep(ctx, wait, answers, s, h)
		if !errors.Is(err, errAskAgain) {
			return updated, err
		}
	}
}

// errAskAgain says that a node has not answered yet. It may have been killed, or the bus:
// a step may be asked for again, and a node that is at it says so.
var errAskAgain = errors.New("the node has not answered yet")

// askStep is the time after which a node is asked for a step again, for the first time;
// it doubles up to askStepMost.
const (
	askStep     = time.Second
	askStepMost = 16 * time.Second
)

// awaitStep waits for a node's answer to a step, for that time at most.
func awaitStep(ctx context.Context, wait time.Duration, answers *nats.Subscription, s moves.Step, h wire.ServiceHandle) ([]wire.ServiceHandle, error) {
	short, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		m, err := answers.NextMsgWithContext(short)
		switch {
		case ctx.Err() != nil:
			return nil, wire.Failure(wire.ServiceGatewayTimeout, "Gateway timeout")
		case short.Err() != nil:
			return nil, errAskAgain
		case err != nil:
			return nil, wire.Failure(wire.ServiceGatewayTimeout, "node %s is not there: %v", s.Node, err)
		case m.Header.Get("Status") == noResponders:
			return nil, wire.Failure(wire.ServiceGatewayTimeout, "node %s is not there", s.Node)
		}
		updated, err := stepAnswer(m.Data, s, h)
		if err == nil || err.Error() != wire.ServiceStepBusy {
			return updated, err
		}
	}
}

// noResponders is the status with which the bus itself answers when nobody hears a subject.
const noResponders = "503"

func stepAnswer(data []byte, s moves.Step, h wire.ServiceHandle) ([]wire.ServiceHandle, error) {
	var updated []wire.ServiceHandle
	if s.Operation == wire.ServiceUpdate && json.Unmarshal(data, &updated) == nil {
		if len(updated) > 0 && updated[0].ServiceID == h.ServiceID && updated[0].Credentials.NodeID() == s.Node {
			return updated, nil
		}
		return nil, errors.New("the node has answered update_instance without the instance's handle")
	}
	answer, err := wire.ParseServiceAnswer(data)
	switch {
	case err != nil:
		return nil, err
	case !answer.Success:
		return nil, answer.Error
	}
	return nil, nil
}

// begin begins a move of an instance, or joins the one that is in progress to the same
// node. keepMoving takes its steps.
func (g mover) begin(ctx context.Context, name, to string) (wire.ServiceMove, error) {
	g.beginning.Lock()
	defer g.beginning.Unlock()
	all, err := g.refresh(ctx)
	if err != nil {
		return wire.ServiceMove{}, err
	}
	h, known := all.instance(name)
	if !known {
		return wire.ServiceMove{}, errNotFound("instance")
	}
	last, err := h.Move()
	from := h.Credentials.NodeID()
	switch {
	case err != nil:
		return last, err
	case !last.Over() && last.To == to:
		return last, nil
	case !last.Over():
		return last, wire.Failure(wire.ServiceUnavailable, "%s is on its way from %s to %s", name, last.From, last.To)
	case from == to:
		return last, wire.Failure(wire.ServiceMalformed, "%s is on %s already", name, to)
	case !wire.ValidServiceNode(from):
		return last, wire.Failure(wire.ServiceInternal, "the handle of %s names no node", name)
	}
	plan, version := planOf(h)
	g.mu.Lock()
	failure := g.pool.takes(to, plan, version)
	g.mu.Unlock()
	if failure != nil {
		return last, failure
	}
	move := wire.ServiceMove{Number: last.Number + 1, From: from, To: to, Phase: wire.MoveCopying}
	if err := g.tell(ctx, change{ServiceHandle: h.WithMove(move), Was: h.Configuration}); err != nil {
		return last, fmt.Errorf("the move of %s is not begun: %w", name, err)
	}
	g.mu.Lock()
	g.pool.take(to)
	g.mu.Unlock()
	g.base.Log().Info("an instance moves", "instance", name, "from", from, "to", to, "move", move.Number)
	g.wakeMover()
	return move, nil
}

func planOf(h wire.ServiceHandle) (plan, version string) {
	plan, _ = h.Configuration["plan"].(string)
	version, _ = h.Configuration["version"].(string)
	return plan, version
}

func (g mover) wakeMover() {
	select {
	case g.moving <- struct{}{}:
	default:
	}
}

// keepMoving ends the moves that are in progress, one after the other: also those that a
// former life of the gateway began.
func (g mover) keepMoving(ctx context.Context) error {
	for {
		var again <-chan time.Time
		if g.ready() != nil {
			again = time.After(fetchHandlesInterval)
		} else if left := g.moveAll(ctx); left {
			again = time.After(retryMove)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-g.moving:
		}
	}
}

// moveAll takes the steps of all moves that are in progress, and reports whether one is
// left to be tried again.
func (g mover) moveAll(ctx context.Context) (left bool) {
	all, err := g.refresh(ctx)
	if err != nil {
		g.base.Log().Warn("cannot look for moves in progress; trying again", "error", err)
		return true
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		h, is := all.instance(name)
		if !is {
			continue
		}
		move, err := h.Move()
		if err != nil {
			g.base.Log().Error("cannot read an instance's move", "instance", name, "error", err)
			continue
		}
		if move.Over() {
			continue
		}
		if err := g.advance(ctx, name); err != nil && ctx.Err() == nil {
			g.base.Log().Warn("a move is not over; trying again", "instance", name, "error", err)
			left = true
		}
	}
	return left && ctx.Err() == nil
}

// advance takes the steps of an instance's move, phase by phase, until it is over.
func (g mover) advance(ctx context.Context, name string) error {
	for {
		all, err := g.refresh(ctx)
		if err != nil {
			return err
		}
		h, known := all.instance(name)
		if !known {
			return nil // deleted meanwhile: what nodes have of it are orphans
		}
		move, err := h.Move()
		if err != nil || move.Over() {
			return err
		}
		next, err := g.phase(ctx, h, all.bindingsOf(name), move)
		if err != nil {
			failed := moves.Failed(move, err.Error())
			if failed == move || ctx.Err() != nil {
				return err
			}
			g.base.Log().Warn("a move goes back", "instance", name, "from", move.From, "to", move.To, "error", err)
			next = h.WithMove(failed)
		}
		if err := g.tell(ctx, change{ServiceHandle: next, Was: h.Configuration}); err != nil {
			return err
		}
		if now, _ := next.Move(); now.Over() {
			g.base.Log().Info("a move is over", "instance", name, "from", move.From, "to", move.To, "move", move.Number, "phase", now.Phase)
		}
	}
}

// phase takes the steps of the present phase and returns the instance's handle for the
// next one.
func (g mover) phase(ctx context.Context, h wire.ServiceHandle, bindings []wire.ServiceHandle, move wire.ServiceMove) (wire.ServiceHandle, error) {
	steps, next := moves.Steps(move)
	var updated []wire.ServiceHandle
	for _, s := range steps {
		var err error
		switch {
		case s.Give:
			if err := g.give(ctx, updated[1:], move.Number); err != nil {
				return h, err
			}
			continue
		case s.Operation == wire.ServiceUpdate:
			updated, err = g.take(ctx, s, h, bindings)
		default:
			_, err = g.take(ctx, s, h, bindings)
		}
		if err != nil && s.Optional {
			g.base.Log().Warn("a step of a move is left out", "step", s.Operation, "node", s.Node, "instance", h.ServiceID, "error", err)
		} else if err != nil {
			return h, fmt.Errorf("%s on %s: %w", s.Operation, s.Node, err)
		}
	}
	if next == wire.MoveSwitched {
		h.Credentials = updated[0].Credentials
	}
	move.Phase = next
	return h.WithMove(move), nil
}

// movedKey is the key under which a binding's configuration has the number of the last move of its
// instance that its app was restarted for.
const movedKey = "moved"

// give tells the controller the handles of bindings whose instance has moved, and has
// their apps restarted: each once for a move, unless the gateway dies between the two.
func (g mover) give(ctx context.Context, bindings []wire.ServiceHandle, move int) error {
	for _, b := range bindings {
		if fmt.Sprint(b.Configuration[movedKey]) == fmt.Sprint(move) {
			continue
		}
		err := g.controller.update(ctx, change{ServiceHandle: b, Restart: true})
		if err == nil {
			b.Configuration = maps.Clone(b.Configuration)
			if b.Configuration == nil {
				b.Configuration = map[string]any{}
			}
			b.Configuration[movedKey] = move
			err = g.update(ctx, b)
		}
		if err != nil && !errors.Is(err, errUnknownHandle) { // unbound meanwhile
			return fmt.Errorf("the handle %s is not updated: %w", b.ServiceID, err)
		}
	}
	return nil
}

// leaving answers a node that shall be removed: it begins the move of the node's next
// instance if none is in progress.
func (g mover) leaving(m *nats.Msg) {
	request, err := wire.ParseServiceLeave(m.Data)
	node := m.Subject[len(wire.ServiceNodeSubject(g.prefix, wire.ServiceLeaveNode, "")):]
	if err != nil || !wire.ValidServiceNode(node) {
		g.base.Log().Warn("ignoring a message", "subject", m.Subject, "error", err)
		return
	}
	if request.Stays || m.Reply == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	answer, err := g.leave(ctx, node, request)
	if err != nil {
		g.base.Log().Warn("cannot say how far a node's leaving is", "node", node, "error", err)
		return // it asks again
	}
	g.publish(m.Reply, answer)
}

func (g mover) leave(ctx context.Context, node string, request wire.ServiceLeave) (wire.ServiceLeaving, error) {
	g.mu.Lock()
	delete(g.pool.nodes, node) // no new instance comes there
	g.mu.Unlock()
	all, err := g.refresh(ctx)
	if err != nil {
		return wire.ServiceLeaving{}, err
	}
	answer := wire.ServiceLeaving{}
	var next wire.ServiceHandle
	for _, name := range slices.Sorted(maps.Keys(all)) {
		h, is := all.instance(name)
		if !is {
			continue
		}
		move, err := h.Move()
		if err != nil {
			return wire.ServiceLeaving{}, err
		}
		here := h.Credentials.NodeID() == node
		if here || !move.Over() && move.From == node { // its node is needed until the end
			answer.Left++
		}
		switch {
		case !move.Over() && (move.From == node || move.To == node):
			answer.Moving, answer.To, answer.Move = name, move.To, move.Number
		case here && name == request.Asked && move.Number >= request.Move && move.Phase == wire.MoveUndone:
			answer.Refused = fmt.Sprintf("%s could not move to %s: %s", name, move.To, move.Why)
		case here && next.ServiceID == "":
			next = h
		}
	}
	if answer.Refused != "" || answer.Moving != "" || next.ServiceID == "" {
		return answer, nil
	}
	plan, version := planOf(next)
	g.mu.Lock()
	to, failure := g.pool.best(plan, version)
	g.mu.Unlock()
	var move wire.ServiceMove
	if failure == nil {
		move, err = g.begin(ctx, next.ServiceID, to)
		errors.As(err, &failure)
	}
	switch {
	case failure != nil:
		answer.Refused = failure.Error()
	case err != nil:
		return answer, err
	default:
		answer.Moving, answer.To, answer.Move = next.ServiceID, to, move.Number
	}
	return answer, nil
}
