package placement

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/wire"
)

// offer is a DEA's answer to dea.discover.
type offer struct {
	dea    string
	asked  time.Time
	memory int       // MB that were free; unknown: -1
	left   int       // how many instances it is still good for
	due    time.Time // when it is made, or would be made again
}

// pool tracks the DEAs' memory: what they advertise, less what was given away
// since.
type pool struct {
	mu   sync.Mutex
	deas map[string]*candidate
}

// candidate is a DEA that may run instances.
type candidate struct {
	wire.DEAAdvertise
	at    time.Time // of DEAAdvertise; zero: it has not advertised
	given []gift    // the last ones, in order
}

// gift is memory that an instance takes.
type gift struct {
	at     time.Time
	memory int
}

// of returns the entry of a DEA, a new one if there is none.
func (p *pool) of(id string) *candidate {
	if p.deas == nil {
		p.deas = map[string]*candidate{}
	}
	if p.deas[id] == nil {
		p.deas[id] = &candidate{}
	}
	return p.deas[id]
}

// Known returns how many DEAs advertise.
func (p *Placer) Known() int {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	p.pool.forget(time.Now())
	return len(p.pool.deas)
}

// Isolation returns the lowest level at which DEAs that advertise keep apps apart;
// "": none has said.
func (p *Placer) Isolation() string {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	p.pool.forget(time.Now())
	for _, level := range confine.Levels() {
		for _, c := range p.pool.deas {
			if c.Isolation == level {
				return level
			}
		}
	}
	return ""
}

func (c *candidate) known(now time.Time) bool { return now.Sub(c.at) <= advertisedFor }

func (p *pool) heard(a wire.DEAAdvertise, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.of(a.ID)
	c.DEAAdvertise, c.at = a, now
}

func (p *pool) left(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.deas, id)
}

// forget drops what is too old to matter.
func (p *pool) forget(now time.Time) {
	for id, c := range p.deas {
		c.given = slices.DeleteFunc(c.given, func(g gift) bool { return now.Sub(g.at) > advertisedFor })
		if !c.known(now) && len(c.given) == 0 {
			delete(p.deas, id)
		}
	}
}

// offered makes an offer of a DEA's answer. Without knowing its memory it is good
// for what was asked: one instance.
func (p *pool) offered(dea string, asked, now time.Time) *offer {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(now)
	c := p.of(dea)
	if !c.known(now) {
		return &offer{dea: dea, asked: asked, memory: -1, left: 1, due: now}
	}
	o := &offer{dea: dea, asked: asked, memory: c.AvailableMemory, left: perOffer, due: now}
	for _, g := range c.given {
		// It has advertised what it was told before it was asked, but that may not have
		// come yet.
		if g.at.After(c.at) && g.at.Before(asked) {
			o.memory -= g.memory
		}
	}
	return o
}

// give takes an offer for one instance, or returns how long to wait first: several
// requests at once must not all go to the same DEA. ok is false when the DEA's
// memory has been given away since it was asked.
func (p *pool) give(o *offer, memory int, now time.Time) (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.of(o.dea)
	since := 0
	for _, g := range c.given {
		if !g.at.Before(o.asked) {
			since += g.memory
		}
	}
	if since > 0 && o.memory >= 0 && since+memory > o.memory {
		return 0, false
	}
	if n := len(c.given); n > 0 {
		if wait := c.given[n-1].at.Add(pace).Sub(now); wait > 0 {
			return wait, true
		}
	}
	c.given = append(c.given, gift{now, memory})
	return 0, true
}

// take chooses the DEA with the most memory, by chance among equals, and takes
// the memory off what it has advertised, so that the next instance goes
// elsewhere; what it advertises next says what is true. "": there is none.
func (p *pool) take(memory int, runtime string, prod bool, now time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(now)
	var fit []*candidate
	for _, c := range p.deas {
		if c.known(now) && c.AvailableMemory >= memory && slices.Contains(c.Runtimes, runtime) && (prod || c.Prod == nil || !*c.Prod) {
			fit = append(fit, c)
		}
	}
	if len(fit) == 0 {
		return ""
	}
	rand.Shuffle(len(fit), func(i, j int) { fit[i], fit[j] = fit[j], fit[i] })
	best := slices.MaxFunc(fit, func(a, b *candidate) int { return cmp.Compare(a.AvailableMemory, b.AvailableMemory) })
	best.AvailableMemory -= memory
	return best.ID
}
