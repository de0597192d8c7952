package gateway

import (
	"maps"
	"slices"

	"github.com/clusterworks/deploy/jobs/wire"
)

// An orphan is an instance or a binding that a node has and the controller does not
// know. It is one if two checks, with time between them, find it: what is being
// made just now is known to the node first.

// orphans has names of instances, and credentials of bindings by their key, of each
// node.
type orphans struct {
	instances map[string]map[string]bool
	bindings  map[string]map[string]wire.Credentials
}

func newOrphans() orphans {
	return orphans{map[string]map[string]bool{}, map[string]map[string]wire.Credentials{}}
}

// add takes a node's report.
func (o orphans) add(r wire.ServiceReport) {
	for _, name := range r.Instances {
		inner(o.instances, r.NodeID)[name] = true
	}
	for _, c := range r.Bindings {
		inner(o.bindings, r.NodeID)[c.Binding()] = c
	}
}

func inner[V any](m map[string]map[string]V, key string) map[string]V {
	if m[key] == nil {
		m[key] = map[string]V{}
	}
	return m[key]
}

// unknown returns what of this the controller's handles do not have. An instance
// whose handle names another node is not known on this one: it has moved.
func (o orphans) unknown(h handles) orphans {
	found := newOrphans()
	for node, names := range o.instances {
		for name := range names {
			if !h.knowsInstance(node, name) {
				inner(found.instances, node)[name] = true
			}
		}
	}
	for node, bindings := range o.bindings {
		for key, c := range bindings {
			if !h.knowsBinding(node, c) {
				inner(found.bindings, node)[key] = c
			}
		}
	}
	return found
}

// and returns what both have.
func (o orphans) and(other orphans) orphans {
	both := newOrphans()
	for node, names := range o.instances {
		for name := range names {
			if other.instances[node][name] {
				inner(both.instances, node)[name] = true
			}
		}
	}
	for node, bindings := range o.bindings {
		for key, c := range bindings {
			if _, there := other.bindings[node][key]; there {
				inner(both.bindings, node)[key] = c
			}
		}
	}
	return both
}

// without returns what other does not have.
func (o orphans) without(other orphans) orphans {
	rest := newOrphans()
	for node, names := range o.instances {
		for name := range names {
			if !other.instances[node][name] {
				inner(rest.instances, node)[name] = true
			}
		}
	}
	for node, bindings := range o.bindings {
		for key, c := range bindings {
			if _, there := other.bindings[node][key]; !there {
				inner(rest.bindings, node)[key] = c
			}
		}
	}
	return rest
}

// count returns how many instances and bindings there are.
func (o orphans) count() (instances, bindings int) {
	for _, names := range o.instances {
		instances += len(names)
	}
	for _, keys := range o.bindings {
		bindings += len(keys)
	}
	return instances, bindings
}

// orphanLists describes how orphans are written: lists of each node.
type orphanLists struct {
	Instances map[string][]string           `json:"orphan_ins_list"`
	Bindings  map[string][]wire.Credentials `json:"orphan_binding_list"`
}

func (o orphans) lists() orphanLists {
	l := orphanLists{map[string][]string{}, map[string][]wire.Credentials{}}
	for node, names := range o.instances {
		if len(names) > 0 {
			l.Instances[node] = slices.Sorted(maps.Keys(names))
		}
	}
	for node, bindings := range o.bindings {
		for _, key := range slices.Sorted(maps.Keys(bindings)) {
			l.Bindings[node] = append(l.Bindings[node], bindings[key].Without("password"))
		}
	}
	return l
}

func (l orphanLists) set() orphans {
	o := newOrphans()
	for node, names := range l.Instances {
		o.add(wire.ServiceReport{NodeID: node, Instances: names})
	}
	for node, bindings := range l.Bindings {
		o.add(wire.ServiceReport{NodeID: node, Bindings: bindings})
	}
	return o
}

// nodes returns those that have any.
func (l orphanLists) nodes() []string {
	all := map[string]bool{}
	for node := range l.Instances {
		all[node] = true
	}
	for node := range l.Bindings {
		all[node] = true
	}
	return slices.Sorted(maps.Keys(all))
}
