package placement

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/wire"
)

// offer is a DEA's answer to dea.discover.
type offer struct {
	dea    string
	from   *candidate
	asked  time.Time
	memory int // MB that were free; unknown: -1
	left   int // how many instances it is still good for
}

// pool tracks the DEAs' memory: what they advertise, less what was given away
// since.
type pool struct {
	mu   sync.Mutex
	deas map[string]*candidate
	// joined counts the DEAs that began to advertise, and changed is when one did or
	// has left.
	joined  int
	changed time.Time
}

// candidate is a DEA that may run instances.
type candidate struct {
	wire.DEAAdvertise
	at     time.Time // of DEAAdvertise; zero: it has not advertised
	silent time.Time // when it was asked what it did not answer in time; zero: never
	given  []gift    // the last ones, in order
}

// gift is memory that an instance of an app takes.
type gift struct {
	at     time.Time
	app    wire.ID
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
	if !c.known(now) {
		p.joined++
		p.changed = now
	}
	c.DEAAdvertise, c.at = a, now
}

func (p *pool) left(id string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.deas, id)
	p.changed = now
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

// NoRoom says why no DEA takes an instance of an app, by what the DEAs advertise.
func (p *Placer) NoRoom(app store.App) string {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	now, most, runs := time.Now(), -1, false
	p.pool.forget(now)
	for _, c := range p.pool.deas {
		if c.known(now) && slices.Contains(c.Runtimes, app.Runtime) {
			most, runs = max(most, c.free(now)), true
		}
	}
	text := fmt.Sprintf("no DEA has room for one more instance of %d MB", app.Memory)
	switch {
	case len(p.pool.deas) == 0:
		return text + ": none is there"
	case !runs:
		return text + " that needs the runtime " + app.Runtime + ": none has that"
	}
	return fmt.Sprintf("%s: the most that one has left is %d MB", text, max(0, most))
}

// offered makes an offer of a DEA's answer. Without knowing its memory it is good
// for what was asked: one instance.
func (p *pool) offered(dea string, asked, now time.Time) *offer {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(now)
	c := p.of(dea)
	if !c.known(now) {
		return &offer{dea: dea, from: c, asked: asked, memory: -1, left: 1}
	}
	return &offer{dea: dea, from: c, asked: asked, memory: c.free(asked), left: perOffer}
}

// free returns the memory that a DEA had when it was asked, MB. Of what it was
// given before, it may not have advertised everything yet.
func (c *candidate) free(asked time.Time) int {
	free := c.AvailableMemory
	for _, g := range c.given {
		if g.at.After(c.at) && g.at.Before(asked) {
			free -= g.memory
		}
	}
	return free
}

// advertised returns offers of the DEAs that advertise room for an instance.
func (p *pool) advertised(s wire.DEAStart, now time.Time) (offers []*offer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(now)
	for id, c := range p.deas {
		if free := c.free(now); c.known(now) && free >= s.Limits.Mem && slices.Contains(c.Runtimes, s.Runtime) && (s.Prod || c.Prod == nil || !*c.Prod) {
			offers = append(offers, &offer{dea: id, from: c, asked: now, memory: free, left: perOffer})
		}
	}
	return offers
}

// expected returns the DEAs that will offer room for an instance: that advertise it,
// and have not been silent since.
func (p *pool) expected(s wire.DEAStart, now time.Time) map[string]*candidate {
	deas := map[string]*candidate{}
	offers := p.advertised(s, now)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range offers {
		if o.from.at.After(o.from.silent) {
			deas[o.dea] = o.from
		}
	}
	return deas
}

// silent remembers that DEAs have not answered what they were asked at a time.
func (p *pool) silent(deas map[string]*candidate, asked time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range deas {
		c.silent = asked
	}
}

// spread reports whether the DEAs that have made offers can take n instances of an
// app without one of them getting an instance while a DEA that is still expected to
// answer has fewer of them. Without any offer they cannot.
func (p *pool) spread(offers []*offer, expected map[string]*candidate, have map[string]int, since time.Time, app wire.ID, n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(offers) == 0 || len(expected) == 0 {
		return len(offers) > 0
	}
	fewest := math.MaxInt
	for id, c := range expected {
		fewest = min(fewest, c.instances(have[id], since, app))
	}
	for _, o := range offers {
		n -= min(o.left, max(0, fewest+1-o.from.instances(have[o.dea], since, app)))
	}
	return n <= 0
}

// instances returns how many instances of an app a DEA has: as many as at a time,
// and those that were given to it since.
func (c *candidate) instances(have int, since time.Time, app wire.ID) int {
	for _, g := range c.given {
		if g.app == app && !g.at.Before(since) {
			have++
		}
	}
	return have
}

// give gives an instance of an app to the DEA of one of the offers and returns
// it; "": none has room any more. have counts the app's instances by DEA as they
// were at a time; what was given away since, to other requests too, is added.
func (p *pool) give(offers []*offer, have map[string]int, since time.Time, app wire.ID, memory int, now time.Time) (dea string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	places, of := make([]place, 0, len(offers)), make([]*offer, 0, len(offers))
	// By chance among equals: from anywhere on.
	first := rand.IntN(max(1, len(offers)))
	for i := range offers {
		o := offers[(first+i)%len(offers)]
		one := place{zone: o.from.Zone, instances: o.from.instances(have[o.dea], since, app), free: o.memory}
		for _, g := range o.from.given {
			if !g.at.Before(o.asked) {
				one.free -= g.memory
			}
		}
		if o.left > 0 && (o.memory < 0 || one.free >= memory) {
			places, of = append(places, one), append(of, o)
		}
	}
	if len(places) == 0 {
		return ""
	}
	o := of[choose(places)]
	o.left--
	o.from.given = append(o.from.given, gift{now, app, memory})
	return o.dea
}

// place is a DEA that has room for an instance of an app.
type place struct {
	zone      string
	instances int // of the app
	free      int // MB
}

// choose returns the index of the best place: the fewest instances of the app, so
// that no DEA gets a second one while another with room has fewer; then the zone
// with the fewest; then the most free memory; then the first.
func choose(places []place) int {
	zones := map[string]int{}
	for _, one := range places {
		if one.instances > 0 {
			zones[one.zone] += one.instances
		}
	}
	best, inZone := 0, zones[places[0].zone]
	for i, one := range places {
		if one.instances > places[best].instances {
			continue
		}
		n := zones[one.zone]
		if cmp.Or(cmp.Compare(one.instances, places[best].instances), cmp.Compare(n, inZone), cmp.Compare(places[best].free, one.free)) < 0 {
			best, inZone = i, n
		}
	}
	return best
}
