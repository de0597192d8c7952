package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Gateway is a running service gateway.
type Gateway struct {
	config     Config
	base       *component.Component
	prefix     string
	server     *component.Server
	controller *controller
	check      chan struct{} // orphans are to be looked for
	moving     chan struct{} // a move has begun
	beginning  sync.Mutex    // one move begins at a time

	mu       sync.Mutex // guards the rest
	pool     *pool
	handles  handles // nil: not fetched yet
	reports  orphans // what nodes say they have, while a check collects it
	orphans  orphans // found by both steps of a check
	checks   int     // that have ended
	checking bool
	answers  map[int]int // HTTP answers by their hundreds
}

// ready says why the gateway cannot serve yet.
func (g *Gateway) ready() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.handles == nil {
		return errors.New("waiting for the handles of the cloud controller")
	}
	return nil
}

// refresh replaces the handles by those that the controller has now.
func (g *Gateway) refresh(ctx context.Context) (handles, error) {
	h, err := g.controller.handles(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch the handles: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handles = h
	return maps.Clone(h), nil
}

// update gives the controller a handle and keeps it.
func (g *Gateway) update(ctx context.Context, h wire.ServiceHandle) error {
	return g.tell(ctx, change{ServiceHandle: h})
}

// tell tells the controller of a handle and keeps that.
func (g *Gateway) tell(ctx context.Context, c change) error {
	h := c.ServiceHandle
	if err := g.controller.update(ctx, c); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.handles != nil {
		g.handles[h.ServiceID] = h
	}
	return nil
}

func (g *Gateway) publish(subject string, message any) {
	data, err := json.Marshal(message)
	if err == nil {
		err = g.base.Bus().Publish(subject, data)
	}
	if err != nil {
		g.base.Log().Warn("cannot publish", "subject", subject, "error", err)
	}
}

// errNotFound returns what is told of an instance or a binding that nobody knows.
func errNotFound(what string) error {
	return wire.Failure(wire.ServiceNotFound, "there is no such %s", what)
}

// ask sends an operation to a node and returns its answer. A failure that the node
// tells is the error.
func (g *Gateway) ask(ctx context.Context, node, operation string, request any) (wire.ServiceAnswer, error) {
	data, err := g.askRaw(ctx, node, operation, request)
	if err != nil {
		return wire.ServiceAnswer{}, err
	}
	answer, err := wire.ParseServiceAnswer(data)
	if err != nil {
		return wire.ServiceAnswer{}, err
	}
	if !answer.Success {
		return wire.ServiceAnswer{}, answer.Error
	}
	return answer, nil
}

func (g *Gateway) askRaw(ctx context.Context, node, operation string, request any) ([]byte, error) {
	doc, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("cannot write the request: %w", err)
	}
	if !wire.ValidServiceNode(node) {
		return nil, fmt.Errorf("%q is no node", node)
	}
	ctx, cancel := context.WithTimeout(ctx, g.config.NodeTimeout.Duration())
	defer cancel()
	m, err := g.base.Bus().RequestWithContext(ctx, wire.ServiceNodeSubject(g.prefix, operation, node), doc)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) {
		g.base.Log().Warn("a node does not answer", "node", node, "operation", operation, "error", err)
		return nil, wire.Failure(wire.ServiceGatewayTimeout, "Gateway timeout")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot ask node %s: %w", node, err)
	}
	return m.Data, nil
}

func (g *Gateway) keep(h wire.ServiceHandle) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handles[h.ServiceID] = h
}

// find returns a handle that the gateway has, or that the controller has meanwhile.
func (g *Gateway) find(ctx context.Context, get func(handles) (wire.ServiceHandle, bool)) (wire.ServiceHandle, bool, error) {
	g.mu.Lock()
	h, known := get(g.handles)
	g.mu.Unlock()
	if known {
		return h, true, nil
	}
	all, err := g.refresh(ctx)
	if err != nil {
		return wire.ServiceHandle{}, false, err
	}
	h, known = get(all)
	return h, known, nil
}
