package cloudcontroller

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	// advertisedFor is how long what a DEA has advertised is believed.
	advertisedFor = 10 * time.Second
	// pace is between two instances that a DEA gets: by so much a DEA puts off its
	// next offer for each instance of an app that it has, so that others are faster.
	pace = 10 * time.Millisecond
	// perOffer is for how many instances one offer is good. Then the DEAs are asked
	// again, since they also count what else they do.
	perOffer = 8
)

// startInstances finds a DEA for each index and tells it to start. A DEA that
// cannot after all says nothing; the health manager sees what is missing and
// asks again, as it does when there is no DEA now.
func (c *Controller) startInstances(ctx context.Context, app store.App, indices []int, flapping bool) error {
	if app.DropletHash == "" {
		return fmt.Errorf("cannot start app %d: it was never staged", app.ID)
	}
	document, err := c.startDocument(ctx, app)
	if err != nil {
		return err
	}
	document.Flapping = flapping
	place := c.placeByOffers
	if c.config.NewInitialPlacement {
		place = c.placeByMemory
	}
	for len(indices) > 0 {
		placed, err := place(ctx, document, len(indices), func(n int, dea string) {
			document.Index = indices[n]
			c.base.Log().Info("starting an instance", "app", app.ID, "index", document.Index, "version", document.Version, "dea", dea)
			c.publish(wire.SubjectDEAStartOf(dea), document)
		})
		indices = indices[placed:]
		if err != nil {
			c.base.Log().Warn("no DEA for instances", "app", app.ID, "instances", len(indices), "memory_mb", app.Memory, "runtime", app.Runtime, "error", err)
			return nil
		}
		// Whoever changes the app meanwhile does not wait until all are placed.
		now, err := c.store.AppByID(ctx, app.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err != nil || now.State != store.Started || version(now) != version(app) {
			return nil
		}
		indices = slices.DeleteFunc(indices, func(index int) bool { return index >= now.Instances })
	}
	return nil
}

// placeByMemory gives each of n instances to the DEA that has advertised the most
// memory, as new_initial_placement wants it.
func (c *Controller) placeByMemory(_ context.Context, s wire.DEAStart, n int, start func(n int, dea string)) (placed int, err error) {
	for ; placed < n; placed++ {
		dea := c.pool.take(s.Limits.Mem, s.Runtime, s.Prod, time.Now())
		if dea == "" {
			return placed, errors.New("none advertises enough memory and the runtime")
		}
		start(placed, dea)
	}
	return placed, nil
}

// placeByOffers asks the DEAs once and gives up to n instances to those that offer
// to run them, as long as their offers last. A DEA offers the later the more it
// runs, and whoever starts one instance after the other takes the first offer for
// each. Here a DEA that was given an instance counts as offering again a pace
// later, which is when it would: instances go where they would go one by one, but
// nobody waits for the same DEAs again and again.
func (c *Controller) placeByOffers(ctx context.Context, s wire.DEAStart, n int, start func(n int, dea string)) (placed int, err error) {
	request, err := json.Marshal(wire.DEADiscover{
		Droplet: s.Droplet, Limits: s.Limits, Name: s.Name, Runtime: s.Runtime, RuntimeInfo: s.RuntimeInfo, Prod: s.Prod, SHA: s.SHA1,
	})
	if err != nil {
		return 0, fmt.Errorf("cannot ask for a DEA: %w", err)
	}
	asked := time.Now()
	end := asked.Add(c.config.Timeouts.Discover)
	sub, err := c.ask(wire.SubjectDEADiscover, request)
	if err != nil {
		return 0, err
	}
	defer done(sub)
	var offers []*offer
	for placed < n {
		until := end
		var first *offer
		if len(offers) > 0 {
			first = slices.MinFunc(offers, func(a, b *offer) int { return a.due.Compare(b.due) })
			until = first.due
		}
		m, err := nextAnswer(ctx, sub, until)
		switch {
		case errors.Is(err, nats.ErrNoResponders), err == nil && m == nil && first == nil:
			return placed, errors.New("none offers to run it")
		case err != nil:
			return placed, fmt.Errorf("cannot wait for answers on %s: %w", wire.SubjectDEADiscover, err)
		case m != nil:
			hello, err := wire.ParseDEAHello(m.Data)
			if err != nil {
				c.base.Log().Warn("ignoring a message", "subject", wire.SubjectDEADiscover, "error", err)
				continue
			}
			offers = append(offers, c.pool.offered(hello.ID, asked, time.Now()))
			continue
		case first.left == 0:
			return placed, nil
		}
		switch wait, ok := c.pool.give(first, s.Limits.Mem, time.Now()); {
		case !ok: // to other requests, since
			offers = slices.DeleteFunc(offers, func(o *offer) bool { return o == first })
			if len(offers) == 0 {
				return placed, nil
			}
		case wait > 0:
			first.due = time.Now().Add(wait)
		default:
			start(placed, first.dea)
			placed++
			first.left--
			first.due = time.Now().Add(pace)
		}
	}
	return placed, nil
}

// offer is a DEA's answer to dea.discover.
type offer struct {
	dea    string
	asked  time.Time
	memory int       // MB that were free; unknown: -1
	left   int       // how many instances it is still good for
	due    time.Time // when it is made, or would be made again
}

// pool is what is known of the DEAs' memory: what they have advertised, and what
// was given away of it.
type pool struct {
	mu   sync.Mutex
	deas map[string]*candidate
}

// candidate is a DEA.
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

// of is what is known of a DEA.
func (p *pool) of(id string) *candidate {
	if p.deas == nil {
		p.deas = map[string]*candidate{}
	}
	if p.deas[id] == nil {
		p.deas[id] = &candidate{}
	}
	return p.deas[id]
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

// give takes an offer for one instance, unless it says how long to wait for that:
// several requests at once must not give all to the same DEA. The offer is void
// when what was free has been given away since.
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
