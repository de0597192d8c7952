package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/clusterworks/deploy/jobs/wire"
)

// told reports whether a node has said itself that it made nothing.
func told(err error) bool {
	var failure *wire.ServiceFailure
	return errors.As(err, &failure) && failure.Msg.Code != wire.ServiceGatewayTimeout
}

// provision makes an instance on the node with most room. left reports whether who
// asked has gone: nobody would know of the instance then, so it is removed.
func (g *Gateway) provision(ctx context.Context, request wire.ProvisionRequest, left func() bool) (wire.ServiceHandle, error) {
	plan, version := request.Plan, request.Version
	g.mu.Lock()
	node, failure := g.pool.best(plan, version)
	if failure == nil {
		g.pool.reserve(node)
	}
	g.mu.Unlock()
	if failure != nil {
		return wire.ServiceHandle{}, failure
	}
	answer, err := g.ask(ctx, node, wire.ServiceProvision, request)
	g.mu.Lock()
	g.pool.settle(node, told(err))
	g.mu.Unlock()
	if err != nil {
		return wire.ServiceHandle{}, err
	}
	h := wire.ServiceHandle{
		ServiceID: answer.Credentials.Name(), Configuration: map[string]any{"plan": plan, "version": version}, Credentials: answer.Credentials,
	}
	switch {
	case !wire.ValidServiceInstance(h.ServiceID) || h.Credentials.NodeID() != node:
		return wire.ServiceHandle{}, fmt.Errorf("node %s has answered without name or with another node_id", node)
	case left():
		_, err := g.ask(ctx, node, wire.ServiceUnprovision, wire.UnprovisionRequest{Name: h.ServiceID, Bindings: []wire.Credentials{}})
		return wire.ServiceHandle{}, errors.Join(errors.New("the client of the instance disconnected; deleting the instance"), err)
	}
	g.keep(h)
	return h, nil
}

// unprovision removes an instance with its bindings. The controller has forgotten it
// already; a gateway that was not there when it was made asks every node, and the one
// that has it removes it.
func (g *Gateway) unprovision(ctx context.Context, name string) error {
	if !wire.ValidServiceInstance(name) {
		return errNotFound("instance")
	}
	g.mu.Lock()
	h, known := g.handles.instance(name)
	nodes := []string{h.Credentials.NodeID()}
	if !known || nodes[0] == "" {
		nodes = g.pool.ids()
	}
	request := wire.UnprovisionRequest{Name: name, Bindings: []wire.Credentials{}}
	ids := []string{name}
	for _, b := range g.handles.bindingsOf(name) {
		request.Bindings = append(request.Bindings, b.Credentials)
		ids = append(ids, b.ServiceID)
	}
	g.mu.Unlock()
	if len(nodes) == 0 {
		return wire.Failure(wire.ServiceUnavailable, "no node of %s is there", g.config.Service.Name)
	}
	var problems []error
	for _, node := range nodes {
		if _, err := g.ask(ctx, node, wire.ServiceUnprovision, request); err != nil {
			problems = append(problems, err)
		}
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range ids {
		delete(g.handles, id)
	}
	return nil
}

// bind makes a user of an instance, for an app of that name.
func (g *Gateway) bind(ctx context.Context, name, app string, options json.RawMessage, left func() bool) (wire.ServiceHandle, error) {
	instance, known, err := g.find(ctx, func(h handles) (wire.ServiceHandle, bool) { return h.instance(name) })
	if err != nil {
		return wire.ServiceHandle{}, err
	}
	if !known {
		return wire.ServiceHandle{}, errNotFound("instance")
	}
	node := instance.Credentials.NodeID()
	answer, err := g.ask(ctx, node, wire.ServiceBind, wire.BindRequest{Name: name, Options: options, App: app})
	if err != nil {
		return wire.ServiceHandle{}, err
	}
	configuration := map[string]any{"data": map[string]any{"binding_options": options}}
	if app != "" {
		configuration[wire.BoundApp] = app
	}
	for _, key := range []string{"plan", "version"} {
		if value, there := instance.Configuration[key]; there {
			configuration[key] = value
		}
	}
	h := wire.ServiceHandle{ServiceID: newUUID(), Configuration: configuration, Credentials: answer.Credentials}
	switch {
	case h.Credentials.Name() != name:
		return wire.ServiceHandle{}, fmt.Errorf("node %s has answered with another instance", node)
	case left():
		_, err := g.ask(ctx, node, wire.ServiceUnbind, wire.UnbindRequest{Credentials: h.Credentials})
		return wire.ServiceHandle{}, errors.Join(errors.New("the client of the binding disconnected; deleting the binding"), err)
	}
	g.keep(h)
	return h, nil
}

// newUUID returns a random UUID, version 4.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// unbind removes a user of an instance.
func (g *Gateway) unbind(ctx context.Context, name, id string) error {
	h, known, err := g.find(ctx, func(h handles) (wire.ServiceHandle, bool) { return h.binding(name, id) })
	if err != nil {
		return err
	}
	if !known {
		return errNotFound("binding")
	}
	instance, known, err := g.find(ctx, func(h handles) (wire.ServiceHandle, bool) { return h.instance(name) })
	if err != nil {
		return err
	}
	if !known {
		return errNotFound("instance")
	}
	if _, err := g.ask(ctx, instance.Credentials.NodeID(), wire.ServiceUnbind, wire.UnbindRequest{Credentials: h.Credentials}); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.handles, id)
	return nil
}

// recoverInstance makes an instance again, on the node that it is on, with the names
// and passwords that it and its bindings have: the node's record was lost.
func (g *Gateway) recoverInstance(ctx context.Context, name string) error {
	all, err := g.refresh(ctx)
	if err != nil {
		return err
	}
	h, known := all.instance(name)
	if !known {
		return errNotFound("instance")
	}
	if move, err := h.Move(); err != nil || !move.Over() {
		return errors.Join(err, wire.Failure(wire.ServiceUnavailable, "the instance is on its way to another node; try again later"))
	}
	plan, version := planOf(h)
	node := h.Credentials.NodeID()
	answer, err := g.ask(ctx, node, wire.ServiceProvision, wire.ProvisionRequest{Plan: plan, Version: version, Credentials: h.Credentials})
	if err != nil {
		return err
	}
	h.Credentials = answer.Credentials
	updated := []wire.ServiceHandle{h}
	for _, b := range all.bindingsOf(name) {
		answer, err := g.ask(ctx, node, wire.ServiceBind, wire.BindRequest{Name: name, Credentials: b.Credentials})
		if err != nil {
			return err
		}
		b.Credentials = answer.Credentials
		updated = append(updated, b)
	}
	for _, one := range updated {
		if err := g.update(ctx, one); err != nil {
			return err
		}
	}
	return nil
}
