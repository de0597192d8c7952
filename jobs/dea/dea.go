package dea

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/dea/internal/bits"
	"github.com/clusterworks/deploy/jobs/dea/internal/core"
	"github.com/clusterworks/deploy/jobs/runtimes"
	"github.com/clusterworks/deploy/jobs/wire"
)

// maxArrived is the number of messages that may wait to be looked at.
const maxArrived = 64 << 10

// maxKept is the number of messages that are kept for a bus that is away.
const maxKept = 10_000

// othersBack is the time that others have to find a bus again that was away, before what
// was kept for them is sent.
const othersBack = 2 * time.Second

// DEA is a running DEA.
type DEA struct {
	config        Config
	base          *component.Component
	routes        *component.Registrar
	served        served
	finder        *runtimes.Finder
	cache         *bits.Cache
	machine       warden.Machine
	allotted      allotted
	connections   *connections
	wardenCommand []string
	saved         []core.Instance

	// inbox has what is to be done with the machine, which belongs to the loop.
	inbox   chan func(*core.Machine) []core.Action
	ended   chan struct{}   // closed when the loop has ended
	leaving <-chan struct{} // closed when the process is told to end
	drained chan struct{}   // closed when nothing runs any more and nothing will

	// aside has the goroutines of instances and messages; see begin.
	aside sync.WaitGroup

	mu       sync.Mutex
	closing  bool // nothing is begun any more
	attended map[string]*attendant
	kept     []core.Publish // for when the bus is back
}

// served are the listeners for what owners ask of their instances.
type served struct {
	files    *fileServer
	sessions *sessionServer // nil: components speak no TLS here
}

// allotted describe what instances have that no other has.
type allotted struct {
	users *users
	ports *ports
}

// do has the loop call f. It gives up when the loop has ended.
func (d *DEA) do(f func(*core.Machine) []core.Action) {
	select {
	case d.inbox <- f:
	case <-d.ended:
	}
}

// event has the loop step the machine.
func (d *DEA) event(e core.Event) {
	d.do(func(m *core.Machine) []core.Action { return m.Step(time.Now(), e) })
}

// ask has the loop answer a question about the machine; false if it has ended.
func ask[T any](d *DEA, f func(*core.Machine) T) (T, bool) {
	answer := make(chan T, 1)
	d.do(func(m *core.Machine) []core.Action {
		answer <- f(m)
		return nil
	})
	select {
	case v := <-answer:
		return v, true
	case <-d.ended:
		var none T
		return none, false
	}
}

func (d *DEA) carryOut(ctx context.Context, actions []core.Action) {
	for _, action := range actions {
		switch a := action.(type) {
		case core.Attend:
			d.attend(ctx, &attendant{dea: d, instance: a.Instance, orders: make(chan order, 1)})
		case core.End:
			o := endKindly
			if a.Quick {
				o = endQuickly
			}
			d.order(a.ID, o)
		case core.Kill:
			d.order(a.ID, endNow)
		case core.Log:
			d.note(a.ID, a.Text)
		case core.Discard:
			// Aside: an app may have made very many files. What is not removed before
			// the DEA is killed, the next one sweeps.
			d.begin(func() {
				if err := d.discard(ctx, a.ID, a.Folder); err != nil {
					d.base.Log().Error("cannot remove the remains of an instance", "error", err)
				}
			})
		case core.Trim:
			d.begin(func() {
				// No log of ours gets so large.
				largest := 2 * int64(d.config.Output.FileMB) << 20
				if err := trim(d.records(a.ID), d.instanceFolder(a.Folder), largest); err != nil {
					d.base.Log().Error("cannot remove all but the logs of an instance", "error", err)
				}
			})
		case core.Register:
			if err := d.routes.Register(a.Route); err != nil {
				d.base.Log().Warn("cannot register an instance", "error", err)
			}
		case core.Unregister:
			d.routes.Unregister(a.Route)
		case core.Publish:
			d.send(a)
		case core.Refused:
			d.base.Log().Info("ignoring a start", "app", a.Document.Name, "index", a.Document.Index, "why", a.Why)
		}
	}
}

// attend runs an attendant until its instance ends or ctx does.
func (d *DEA) attend(ctx context.Context, a *attendant) {
	d.mu.Lock()
	d.attended[a.instance.ID] = a
	d.mu.Unlock()
	d.begin(func() {
		defer func() {
			d.mu.Lock()
			delete(d.attended, a.instance.ID)
			d.mu.Unlock()
		}()
		a.run(ctx)
	})
}

// begin runs f beside the loop, which waits for it at its end; f must end with
// the context that it has. Nothing is begun when the loop has ended.
func (d *DEA) begin(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closing {
		d.aside.Go(f)
	}
}

func (d *DEA) order(id string, o order) {
	d.mu.Lock()
	a := d.attended[id]
	d.mu.Unlock()
	if a != nil {
		a.tell(o)
	}
}

// attendedNow are the present attendants.
func (d *DEA) attendedNow() map[string]*attendant {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.attended)
}

// noteTime is the form of the time before a line of the platform's: RFC 3339 with
// milliseconds, since what the app printed just before has them too.
const noteTime = "2006-01-02T15:04:05.000Z07:00"

// note writes a line into the instance's own log, for the app's owner.
func (d *DEA) note(id, text string) {
	spec, err := warden.ReadSpec(d.records(id))
	if err != nil {
		return // it never had a log
	}
	f, err := warden.OpenLog(spec.Dir, spec.Output, spec.UID, spec.GID)
	if err == nil {
		_, err = fmt.Fprintf(f, "%s %s\n", time.Now().UTC().Format(noteTime), text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		d.base.Log().Warn("cannot write into an instance's log", "instance", id, "text", text, "error", err)
	}
}

// discard removes an instance's folder and records. Nothing of it runs.
func (d *DEA) discard(ctx context.Context, id, folder string) error {
	if err := os.RemoveAll(d.records(id)); err != nil {
		return err
	}
	return confine.RemoveAll(d.instanceFolder(folder))
}

// send publishes a message.
func (d *DEA) send(p core.Publish) {
	if p.Kept && !d.base.Connected() {
		d.mu.Lock()
		if len(d.kept) < maxKept {
			d.kept = append(d.kept, p)
		}
		d.mu.Unlock()
		return
	}
	d.publish(p.Subject, p.Message)
}

// publish sends a message that is sent again in time, or that nobody must have.
func (d *DEA) publish(subject string, message any) {
	if !d.base.Connected() {
		return
	}
	data, err := json.Marshal(message)
	if err == nil {
		err = d.base.Bus().Publish(subject, data)
	}
	if err != nil {
		d.base.Log().Warn("cannot publish", "subject", subject, "error", err)
	}
}

// subscribe takes the bus's messages from now on, and says that this DEA is
// here.
func (d *DEA) subscribe(ctx context.Context) error {
	handlers := map[string]nats.MsgHandler{
		wire.SubjectDEAStartOf(d.base.UUID()): handle(d, wire.ParseDEAStart, func(_ *nats.Msg, doc wire.DEAStart) {
			doc.RuntimeInfo = d.runtime(doc.RuntimeInfo)
			d.event(core.Start{Document: doc, ID: component.RandomHex(), PrivateID: component.RandomHex() + component.RandomHex()})
		}),
		wire.SubjectDEADiscover:        handle(d, wire.ParseDEADiscover, func(m *nats.Msg, r wire.DEADiscover) { d.discovered(ctx, m, r) }),
		wire.SubjectDEAStop:            handle(d, wire.ParseDEAStop, func(_ *nats.Msg, s wire.DEAStop) { d.event(core.Stop{Filter: s}) }),
		wire.SubjectDEAUpdate:          handle(d, wire.ParseDEAUpdate, func(_ *nats.Msg, u wire.DEAUpdate) { d.event(core.Update{Update: u}) }),
		wire.SubjectDEAFind:            handle(d, wire.ParseDEAFind, d.found),
		wire.SubjectDEAStatus:          handle(d, anyObject, func(m *nats.Msg, _ struct{}) { d.status(m) }),
		wire.SubjectDropletStatus:      handle(d, anyObject, func(m *nats.Msg, _ struct{}) { d.dropletStatus(m) }),
		wire.SubjectDEALocate:          func(*nats.Msg) { d.do(advertise) },
		wire.SubjectHealthManagerStart: func(*nats.Msg) { d.do(heartbeat) },
	}
	// All in the order in which they come: who is asked next to run an instance of an
	// app knows of the one that was just started.
	arrived := make(chan *nats.Msg, maxArrived)
	for subject := range handlers {
		if _, err := d.base.Bus().ChanSubscribe(subject, arrived); err != nil {
			return fmt.Errorf("cannot subscribe %s: %w", subject, err)
		}
	}
	d.begin(func() {
		for {
			select {
			case m := <-arrived:
				handlers[m.Sub.Subject](m)
			case <-ctx.Done():
				return
			}
		}
	})
	d.base.OnConnect(func() {
		d.begin(func() { d.catchUp(ctx) })
		d.do(func(m *core.Machine) []core.Action {
			hello := core.Publish{Subject: wire.SubjectDEAStart, Message: m.Hello()}
			return append(append([]core.Action{hello}, heartbeat(m)...), advertise(m)...)
		})
	})
	return nil
}

// catchUp sends what was kept while the bus was away.
func (d *DEA) catchUp(ctx context.Context) {
	select {
	case <-time.After(othersBack):
	case <-ctx.Done():
		return
	}
	d.mu.Lock()
	kept := d.kept
	d.kept = nil
	d.mu.Unlock()
	for _, p := range kept {
		d.send(p)
	}
}

// handle parses a message before it is taken. What cannot be read is logged and
// changes nothing.
func handle[T any](d *DEA, parse func([]byte) (T, error), take func(*nats.Msg, T)) nats.MsgHandler {
	return func(m *nats.Msg) {
		message, err := parse(m.Data)
		if err != nil {
			d.base.Log().Warn("ignoring a message", "subject", m.Subject, "error", err)
			return
		}
		take(m, message)
	}
}

// anyObject accepts JSON that says nothing.
func anyObject(data []byte) (struct{}, error) {
	var v any
	return struct{}{}, json.Unmarshal(data, &v)
}

// runtime is a runtime's description: the message's, or the own for the older
// dialect, which gives its name only.
func (d *DEA) runtime(info wire.RuntimeInfo) wire.RuntimeInfo {
	if own, known := d.config.Runtimes[info.Name]; known && info.Executable == "" {
		return own
	}
	return info
}

// discovered answers if the instance could be run here, the later the more runs
// already: whoever asks takes the first answer.
func (d *DEA) discovered(ctx context.Context, m *nats.Msg, r wire.DEADiscover) {
	if m.Reply == "" {
		return
	}
	d.begin(func() {
		if _, err := d.finder.Find(ctx, d.runtime(r.RuntimeInfo)); err != nil {
			return
		}
		type offer struct {
			fits  bool
			delay time.Duration
			hello wire.DEAHello
		}
		o, ok := ask(d, func(m *core.Machine) offer {
			return offer{m.Fits(r.Limits, r.Prod) == nil, m.Taint(r.Droplet), m.Hello()}
		})
		if !ok || !o.fits {
			return
		}
		select {
		case <-time.After(o.delay):
			d.publish(m.Reply, o.hello)
		case <-ctx.Done():
		}
	})
}

func (d *DEA) found(m *nats.Msg, filter wire.DEAFind) {
	if m.Reply == "" {
		return
	}
	d.do(func(machine *core.Machine) []core.Action {
		if machine.Draining() {
			return nil
		}
		for _, f := range machine.Find(time.Now(), filter) {
			d.publish(m.Reply, f)
		}
		return nil
	})
}

func (d *DEA) status(m *nats.Msg) {
	if m.Reply == "" {
		return
	}
	d.do(func(machine *core.Machine) []core.Action {
		d.publish(m.Reply, machine.Status())
		return nil
	})
}

func (d *DEA) dropletStatus(m *nats.Msg) {
	if m.Reply == "" {
		return
	}
	d.do(func(machine *core.Machine) []core.Action {
		if machine.Draining() {
			return nil
		}
		for _, s := range machine.Stats(time.Now()) {
			d.publish(m.Reply, s)
		}
		return nil
	})
}

func heartbeat(m *core.Machine) []core.Action {
	if h, ok := m.Heartbeat(); ok {
		return []core.Action{core.Publish{Subject: wire.SubjectDEAHeartbeat, Message: h}}
	}
	return nil
}

func advertise(m *core.Machine) []core.Action {
	if a, ok := m.Advertisement(); ok {
		return []core.Action{core.Publish{Subject: wire.SubjectDEAAdvertise, Message: a}}
	}
	return nil
}

// ticks does what is done again and again.
func (d *DEA) ticks(ctx context.Context) error {
	beat := time.NewTicker(d.config.Intervals.Heartbeat.Duration())
	advertisement := time.NewTicker(d.config.Intervals.Advertise.Duration())
	reap := time.NewTicker(d.config.Intervals.Reap.Duration())
	defer beat.Stop()
	defer advertisement.Stop()
	defer reap.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
			d.do(heartbeat)
		case <-advertisement.C:
			d.do(advertise)
		case <-reap.C:
			d.event(core.Reap{})
		}
	}
}

// varz are the DEA's fields of /varz.
func (d *DEA) varz() map[string]any {
	doc, _ := ask(d, func(m *core.Machine) map[string]any { return m.Varz(time.Now()) })
	if doc == nil {
		doc = map[string]any{}
	}
	doc["isolation"] = d.machine.Varz()
	return doc
}

// runs finds an instance that runs.
func (d *DEA) runs(id string) (core.Instance, bool) {
	all, _ := ask(d, func(m *core.Machine) []core.Instance { return m.Instances() })
	for _, i := range all {
		if i.ID == id && i.State == wire.StateRunning {
			return i, true
		}
	}
	return core.Instance{}, false
}

func (d *DEA) database() string { return filepath.Join(d.config.BaseDir, "db", "applications.json") }
func (d *DEA) instanceFolder(folder string) string {
	return filepath.Join(d.config.BaseDir, "apps", folder)
}
func (d *DEA) records(id string) string { return recordsFolder(d.config, id) }

// recordsFolder is an instance's warden's.
func recordsFolder(c Config, id string) string { return filepath.Join(c.BaseDir, "run", id) }
