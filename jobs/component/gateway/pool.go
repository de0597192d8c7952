package gateway

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// pool describes what a gateway knows of its nodes. It has no clock and no lock.
type pool struct {
	service Service
	over    map[string]bool // plans that are given out beyond their nodes' capacity
	nodes   map[string]*member
}

// member is a node as it announced itself last, with what was given out since.
type member struct {
	wire.ServiceAnnounce
	heard   time.Time
	pending int // provisions that are being waited for
}

func newPool(c Config) *pool {
	p := &pool{service: c.Service, over: map[string]bool{}, nodes: map[string]*member{}}
	for plan, policy := range c.PlanManagement.Plans {
		p.over[plan] = policy.AllowOverProvisioning
	}
	return p
}

// announce takes a node's word. While a provision is pending the node may not have
// counted it yet, so its figure stays as it is here.
func (p *pool) announce(a wire.ServiceAnnounce, now time.Time) {
	if a.CapacityUnit == 0 {
		a.CapacityUnit = 1
	}
	m, known := p.nodes[a.ID]
	if !known {
		p.nodes[a.ID] = &member{ServiceAnnounce: a, heard: now}
		return
	}
	if m.pending > 0 {
		a.AvailableCapacity = m.AvailableCapacity
	}
	m.ServiceAnnounce, m.heard = a, now
}

// prune forgets the nodes that have been silent for too long.
func (p *pool) prune(now time.Time) {
	maps.DeleteFunc(p.nodes, func(_ string, m *member) bool { return now.Sub(m.heard) > wire.ServiceNodeLost && m.pending == 0 })
}

// best chooses the node with most room of those that have the plan and the version,
// and of equals the first by its id.
func (p *pool) best(plan, version string) (string, *wire.ServiceFailure) {
	if !slices.Contains(p.service.Plans, plan) {
		return "", wire.Failure(wire.ServiceUnknownPlan, "%s has no plan %q; it has %s", p.service.Name, plan, strings.Join(p.service.Plans, ", "))
	}
	if !slices.Contains(p.service.SupportedVersions, version) {
		return "", wire.Failure(wire.ServiceNoVersion, "%s has no version %q; it has %s", p.service.Name, version, strings.Join(p.service.SupportedVersions, ", "))
	}
	best := ""
	for _, id := range slices.Sorted(maps.Keys(p.nodes)) {
		m := p.nodes[id]
		fits := m.Plan == plan && slices.Contains(m.SupportedVersions, version) && (m.AvailableCapacity > 0 || p.over[plan])
		if fits && (best == "" || m.AvailableCapacity > p.nodes[best].AvailableCapacity) {
			best = id
		}
	}
	if best == "" {
		return "", wire.Failure(wire.ServiceInternal, "no node of %s has room for plan %s, version %s; try again later", p.service.Name, plan, version)
	}
	return best, nil
}

// takes says why a node cannot take an instance of another node, or nil.
func (p *pool) takes(id, plan, version string) *wire.ServiceFailure {
	m, known := p.nodes[id]
	switch {
	case !known:
		return wire.Failure(wire.ServiceUnavailable, "no node %s of %s has announced itself", id, p.service.Name)
	case m.Plan != plan:
		return wire.Failure(wire.ServiceUnavailable, "%s has the plan %s, and the instance %s", id, m.Plan, plan)
	case version != "" && !slices.Contains(m.SupportedVersions, version):
		return wire.Failure(wire.ServiceUnavailable, "%s does not have version %s", id, version)
	case m.AvailableCapacity <= 0:
		return wire.Failure(wire.ServiceUnavailable, "%s has no room", id)
	}
	return nil
}

// take counts an instance that moves to a node, until that announces itself again.
func (p *pool) take(id string) {
	if m, known := p.nodes[id]; known {
		m.AvailableCapacity -= m.CapacityUnit
	}
}

// reserve takes a place on a node until settle says what became of it.
func (p *pool) reserve(id string) {
	if m, known := p.nodes[id]; known {
		m.AvailableCapacity -= m.CapacityUnit
		m.pending++
	}
}

// settle ends a reservation. refused gives the place back: the node said that it has
// made nothing. Who does not answer has perhaps; the next announce tells.
func (p *pool) settle(id string, refused bool) {
	if m, known := p.nodes[id]; known && m.pending > 0 {
		m.pending--
		if refused {
			m.AvailableCapacity += m.CapacityUnit
		}
	}
}

// score is the room of all nodes of a plan together.
func (p *pool) score(plan string) int {
	sum := 0
	for _, m := range p.nodes {
		if m.Plan == plan {
			sum += m.AvailableCapacity
		}
	}
	return sum
}

// ids returns the nodes that are known.
func (p *pool) ids() []string { return slices.Sorted(maps.Keys(p.nodes)) }
