package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// available returns how many instances a node can still take. What is being made or
// removed has its place, and so has what cannot be read.
func available(capacity, held int) int { return max(0, capacity-held) }

// verdict describes what becomes of an operation that has ended.
type verdict struct {
	keep    bool                 // what it made stays
	failure *wire.ServiceFailure // what the gateway is told; nil: success
}

// judge decides on an operation by its error and the time that it took. What ends
// late is undone even if it succeeded: by then the gateway has told its user that
// it failed.
func judge(err error, took, limit time.Duration) verdict {
	switch {
	case took > limit || errors.Is(err, context.DeadlineExceeded):
		return verdict{false, wire.Failure(wire.ServiceNodeTimeout, "Node operation timeout")}
	case err != nil:
		return verdict{false, failureOf(err)}
	}
	return verdict{keep: true}
}

// failureOf returns what a gateway may know of an error.
func failureOf(err error) *wire.ServiceFailure {
	var failure *wire.ServiceFailure
	if errors.As(err, &failure) {
		return failure
	}
	return wire.Failure(wire.ServiceInternal, "Internal Error")
}

// announces reports whether a node answers a discovery.
func announces(d wire.ServiceDiscovery, plan string, disabled bool, ready error) bool {
	return !disabled && ready == nil && (d.Plan == "" || d.Plan == plan)
}

// reports says what a node has, divided so that no message is larger than limit.
// Passwords are not in it: name and user identify a binding. What is being made is
// left out, since nobody can know it yet, and what is being removed is on its way.
func reports(instances []Instance, node string, limit int) []wire.ServiceReport {
	const envelope, each = 256, 16 // bytes beside names: of a report, of an element
	empty := func() wire.ServiceReport {
		return wire.ServiceReport{Instances: []string{}, Bindings: []wire.Credentials{}, NodeID: node}
	}
	current, size, list := empty(), envelope+len(node), []wire.ServiceReport{}
	room := func(need int) {
		if size+need > limit && len(current.Instances)+len(current.Bindings) > 0 {
			list, current, size = append(list, current), empty(), envelope+len(node)
		}
		size += need
	}
	for _, i := range instances {
		if i.State != Whole {
			continue
		}
		room(len(i.Name) + each)
		current.Instances = append(current.Instances, i.Name)
		for _, b := range i.Users() {
			room(len(i.Name) + 2*len(b.User) + 4*each)
			current.Bindings = append(current.Bindings, wire.Credentials{"name": i.Name, "user": b.User, "username": b.User})
		}
	}
	return append(list, current)
}

// freePort returns the lowest port of a range that no instance has, 0 if there is
// none.
func freePort(low, high int, instances []Instance) int {
	taken := map[int]bool{}
	for _, i := range instances {
		taken[i.Port] = true
	}
	for port := low; port <= high && low > 0; port++ {
		if !taken[port] {
			return port
		}
	}
	return 0
}

// leftovers returns the instances that are not whole, and those that have a binding
// which is not. busy says which an operation is at.
func leftovers(instances []Instance, busy func(name string) bool) []Instance {
	return slices.DeleteFunc(slices.Clone(instances), func(i Instance) bool {
		whole := i.State == Whole && !slices.ContainsFunc(i.Bindings, func(b Binding) bool { return b.State != Whole })
		return whole || busy(i.Name)
	})
}
