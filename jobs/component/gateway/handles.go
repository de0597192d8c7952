package gateway

import (
	"maps"
	"slices"

	"github.com/clusterworks/deploy/jobs/wire"
)

// handles are the instances and bindings that the controller has, by their ids.
type handles map[string]wire.ServiceHandle

func handlesOf(list []wire.ServiceHandle) handles {
	h := handles{}
	for _, one := range list {
		h[one.ServiceID] = one
	}
	return h
}

// instance returns the handle of an instance.
func (h handles) instance(name string) (wire.ServiceHandle, bool) {
	one, there := h[name]
	return one, there && one.IsInstance()
}

// binding returns the handle of a binding of an instance.
func (h handles) binding(instance, id string) (wire.ServiceHandle, bool) {
	one, there := h[id]
	return one, there && !one.IsInstance() && one.Credentials.Name() == instance
}

// bindingsOf returns an instance's bindings, by id.
func (h handles) bindingsOf(name string) []wire.ServiceHandle {
	list := []wire.ServiceHandle{}
	for _, id := range slices.Sorted(maps.Keys(h)) {
		if one, is := h.binding(name, id); is {
			list = append(list, one)
		}
	}
	return list
}

// on returns the instances of a node.
func (h handles) on(node string) []wire.ServiceHandle {
	list := []wire.ServiceHandle{}
	for _, id := range slices.Sorted(maps.Keys(h)) {
		if one, is := h.instance(id); is && one.Credentials.NodeID() == node {
			list = append(list, one)
		}
	}
	return list
}

// knowsInstance reports whether an instance may be on a node. While it moves it may be on
// both: what is purged there could be the only copy by the time that the node hears it.
func (h handles) knowsInstance(node, name string) bool {
	one, there := h.instance(name)
	if !there {
		return false
	}
	if m, err := one.Move(); err != nil || !m.Over() && (m.From == node || m.To == node) {
		return true
	}
	return one.Credentials.NodeID() == "" || one.Credentials.NodeID() == node
}

func (h handles) knowsBinding(node string, c wire.Credentials) bool {
	if !h.knowsInstance(node, c.Name()) {
		return false
	}
	return slices.ContainsFunc(h.bindingsOf(c.Name()), func(b wire.ServiceHandle) bool { return b.Credentials.Binding() == c.Binding() })
}
