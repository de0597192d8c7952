package healthmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Times that the original has as constants.
const (
	credentialsTimeout = 5 * time.Second // for bulk API credentials
	readAgain          = time.Second     // after a reading of the bulk API that failed
)

// maxSingle is the number of changed apps that are read one by one; if there are more, all are read.
const maxSingle = 50

// Manager is a running health manager.
type Manager struct {
	file      string
	base      *component.Component
	partition string
	api       atomic.Pointer[bulkAPI]

	wake chan struct{} // judge has something to do before its time
	read chan struct{} // the bulk API is to be asked: see changed and all

	mu       sync.Mutex // guards the rest
	config   Config
	judge    *Judge
	state    *State // judge's
	election *Election
	leading  bool
	leaving  bool // drained: acts no more
	changed  map[wire.ID]bool
	all      bool
	users    int
	received map[string]int // messages, by varz's name
}

// New reads the configuration and opens what the health manager needs. Run must
// follow, which gives all of it back.
func New(p component.Process) (*Manager, error) {
	cfg, raw, err := load(p.ConfigFile)
	if err != nil {
		return nil, err
	}
	m := &Manager{
		file:      p.ConfigFile,
		partition: cfg.Partition,
		wake:      make(chan struct{}, 1),
		read:      make(chan struct{}, 1),
		config:    cfg,
		judge:     NewJudge(cfg, func() float64 { return 2*rand.Float64() - 1 }),
		changed:   map[wire.ID]bool{},
		received:  map[string]int{},
	}
	m.state = m.judge.State
	m.base, err = component.Open(component.Options{
		Type:    "HealthManager",
		Process: p,
		Config:  cfg.Config,
		Raw:     raw,
		Varz:    m.varz,
		Drain:   m.drain,
		Reload:  m.reload,
	})
	if err != nil {
		return nil, err
	}
	m.election = NewElection(m.base.UUID(), cfg.Intervals.Presence.Duration())
	m.api.Store(newBulkAPI(cfg.BulkAPI, m.base.Dialer(), cfg.Config, m.askCredentials))
	return m, nil
}

// subject is the cloud controllers' one, with their partition if they have one.
func (m *Manager) subject(name string) string {
	if m.partition == "" {
		return name
	}
	return wire.PartitionSubject(name, m.partition)
}

// Run keeps apps as they are wanted until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	defer m.base.Close()
	defer func() { m.api.Load().close() }()
	for subject, handle := range map[string]nats.MsgHandler{
		wire.SubjectDEAHeartbeat:          handler(m, "heartbeat_msgs_received", wire.ParseDEAHeartbeat, m.heartbeat),
		wire.SubjectDropletExited:         handler(m, "droplet_exited_msgs_received", wire.ParseDropletExited, m.exited),
		wire.SubjectDropletUpdated:        handler(m, "droplet_updated_msgs_received", wire.ParseDropletUpdated, m.updated),
		wire.SubjectHealthManagerStatus:   handler(m, "healthmanager_status_msgs_received", wire.ParseHealthStatusRequest, m.status),
		wire.SubjectHealthManagerHealth:   handler(m, "healthmanager_health_request_msgs_received", wire.ParseHealthRequest, m.health),
		wire.SubjectHealthManagerDroplet:  handler(m, "healthmanager_droplet_request_msgs_received", wire.ParseHealthRequest, m.droplet),
		wire.SubjectHealthManagerPresence: handler(m, "", wire.ParseHealthManagerPresence, m.presence),
		wire.SubjectDEAAdvertise:          func(*nats.Msg) { m.locked(func(now time.Time) { m.state.Heard(now) }) },
		// What another health manager asked for is known when this one takes over.
		m.subject(wire.SubjectHealthManagerRequests): handler(m, "", wire.ParseHealthManagerRequest, func(r wire.HealthManagerRequest, _ *nats.Msg) {
			m.locked(func(now time.Time) {
				if !m.leading { // else it is the own word
					m.state.Requested(r, now)
				}
			})
		}),
	} {
		if _, err := m.base.Bus().Subscribe(subject, handle); err != nil {
			return fmt.Errorf("cannot subscribe %s: %w", subject, err)
		}
	}
	m.base.OnConnect(m.connected)
	return m.base.Run(ctx, m.keepJudging, m.keepPresent, m.keepDesired)
}

// handler decodes a message, counts it under varz's name and takes it.
func handler[T any](m *Manager, counter string, parse func([]byte) (T, error), take func(T, *nats.Msg)) nats.MsgHandler {
	return func(msg *nats.Msg) {
		message, err := parse(msg.Data)
		if err != nil {
			m.base.Log().Warn("ignoring a message", "subject", msg.Subject, "error", err)
			return
		}
		if counter != "" {
			m.locked(func(time.Time) { m.received[counter]++ })
		}
		take(message, msg)
	}
}

// locked runs f with everything guarded.
func (m *Manager) locked(f func(now time.Time)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(time.Now())
}

// connected begins anew: what was missed is not known, so the others are given
// their time, and everything that can be asked for is.
func (m *Manager) connected() {
	m.locked(func(now time.Time) {
		m.state.Connected(now)
		m.election.Connected(now)
		m.leading = false
		m.judge.Queue.Clear()
		m.all = true
		m.publish(wire.SubjectHealthManagerPresence, m.election.Presence())
	})
	if err := m.base.Bus().Publish(wire.SubjectHealthManagerStart, nil); err != nil {
		m.base.Log().Warn("cannot ask for heartbeats", "error", err)
	}
	poke(m.read)
	poke(m.wake)
}

// poke makes the one who waits on c look, at once or when it is back.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (m *Manager) heartbeat(h wire.DEAHeartbeat, _ *nats.Msg) {
	m.locked(func(now time.Time) {
		for _, id := range m.state.Heartbeat(h, now) {
			m.changed[id] = true
		}
		if len(m.changed) > 0 {
			poke(m.read)
		}
	})
}

func (m *Manager) exited(e wire.DropletExited, _ *nats.Msg) {
	m.locked(func(now time.Time) {
		start, read := m.state.Exited(e, now)
		if read {
			m.changed[e.Droplet] = true
			poke(m.read)
		}
		if start != nil {
			m.push(*start)
		}
		m.act(now)
		poke(m.wake)
	})
}

func (m *Manager) updated(u wire.DropletUpdated, _ *nats.Msg) {
	m.locked(func(now time.Time) {
		if !m.state.concerns(u.CCPartition) {
			return
		}
		m.state.Updated(u.Droplet, now)
		m.changed[u.Droplet] = true
		poke(m.read)
	})
}

// status, health and droplet are answered by the one that acts.
func (m *Manager) status(r wire.HealthStatusRequest, msg *nats.Msg) {
	m.locked(func(now time.Time) {
		var answer any
		var known bool
		if r.State == wire.StatusFlapping {
			answer, known = m.state.Flapping(r.Droplet, r.Version, now)
		} else {
			answer, known = m.state.Crashes(r.Droplet)
		}
		m.answer(msg, answer, known, now)
	})
}

func (m *Manager) health(r wire.HealthRequest, msg *nats.Msg) {
	m.locked(func(now time.Time) {
		for _, d := range r.Droplets {
			answer, known := m.state.Healthy(d.Droplet, d.Version, now)
			m.answer(msg, answer, known, now)
		}
	})
}

func (m *Manager) droplet(r wire.HealthRequest, msg *nats.Msg) {
	m.locked(func(now time.Time) {
		for _, d := range r.Droplets {
			answer, known := m.state.Record(d.Droplet, now)
			m.answer(msg, answer, known, now)
		}
	})
}

func (m *Manager) answer(msg *nats.Msg, answer any, known bool, now time.Time) {
	if known && msg.Reply != "" && m.election.Leads(now) && !m.leaving {
		m.publish(msg.Reply, answer)
	}
}

func (m *Manager) presence(p wire.HealthManagerPresence, _ *nats.Msg) {
	m.locked(func(now time.Time) {
		if m.election.Heard(p, now) && !m.leaving {
			m.publish(wire.SubjectHealthManagerPresence, m.election.Presence())
		}
		if p.Leaving {
			poke(m.wake)
		}
	})
}

// keepPresent tells the other health managers that this one is there.
func (m *Manager) keepPresent(ctx context.Context) error {
	tick := time.NewTicker(m.election.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			m.locked(func(now time.Time) {
				if m.base.Connected() && !m.leaving {
					m.publish(wire.SubjectHealthManagerPresence, m.election.Presence())
				}
			})
			poke(m.wake) // to see who leads
		}
	}
}

// publish sends a message; the caller holds the lock, so that what is sent has
// the order in which it was decided.
func (m *Manager) publish(subject string, message any) bool {
	data, err := json.Marshal(message)
	if err == nil {
		err = m.base.Bus().Publish(subject, data)
	}
	if err != nil {
		m.base.Log().Warn("cannot publish", "subject", subject, "error", err)
	}
	return err == nil
}

// keepJudging acts whenever it is time to.
func (m *Manager) keepJudging(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-timer.C:
		}
		m.locked(func(now time.Time) { timer.Reset(m.act(now).Sub(now)) })
	}
}

// act sends what is due, if this is the one that acts, and returns when to look
// again. The caller holds the lock.
func (m *Manager) act(now time.Time) (next time.Time) {
	if !m.base.Connected() {
		m.state.Disconnected()
		m.election.Disconnected()
	}
	if leads := m.election.Leads(now) && !m.leaving; leads != m.leading {
		m.leading, m.judge.analysis = leads, now
		m.base.Log().Info("the active health manager changed", "this_one", leads)
	}
	if !m.leading {
		return m.judge.Rest(now)
	}
	requests, next := m.judge.Act(now)
	for _, r := range requests {
		if m.publish(m.subject(wire.SubjectHealthManagerRequests), r) {
			m.base.Log().Info("asked the cloud controllers", "op", r.Op, "app", r.Droplet, "indices", r.Indices, "instances", r.Instances, "flapping", r.Flapping)
		}
	}
	return next
}

// push queues a start, for the one that acts.
func (m *Manager) push(start Start) {
	if m.leading {
		m.judge.Queue.Push(start)
	}
}

// keepDesired reads what is wanted: all apps again and again, and at once those
// that changed.
func (m *Manager) keepDesired(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	said := "" // which problem
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.read:
		case <-timer.C:
			m.locked(func(time.Time) { m.all = true })
		}
		if !m.base.Connected() {
			continue // all is read when the bus is back
		}
		var all bool
		var changed map[wire.ID]bool
		var every time.Duration
		m.locked(func(time.Time) {
			all, changed = m.all || len(m.changed) > maxSingle, m.changed
			m.all, m.changed = false, map[wire.ID]bool{}
			every = m.config.Intervals.DesiredStateUpdate.Duration()
		})
		var err error
		if all {
			if err = m.readAll(ctx); err == nil {
				timer.Reset(every)
			}
		} else {
			err = m.readChanged(ctx, changed)
		}
		switch {
		case err == nil:
			said = ""
		case ctx.Err() == nil:
			if err.Error() != said {
				said = err.Error()
				m.base.Log().Warn("cannot find out what should run; trying again", "error", err)
			}
			timer.Reset(min(readAgain, every))
		}
	}
}

func (m *Manager) readAll(ctx context.Context) error {
	api, began, there := m.api.Load(), time.Now(), map[wire.ID]bool{}
	err := api.all(ctx, func(apps map[wire.ID]wire.BulkApp) {
		m.locked(func(now time.Time) {
			for id, app := range apps {
				there[id] = true
				m.desire(id, desired(app), now)
			}
		})
	})
	if err != nil {
		return err
	}
	users, err := api.users(ctx)
	if err != nil {
		return err
	}
	m.locked(func(now time.Time) {
		m.state.Passed(began, there, now)
		m.users = users
	})
	poke(m.wake)
	return nil
}

func (m *Manager) readChanged(ctx context.Context, changed map[wire.ID]bool) error {
	for id := range changed {
		app, err := m.api.Load().one(ctx, id)
		if err != nil {
			return err
		}
		m.locked(func(now time.Time) {
			if app == nil {
				m.desire(id, nil, now)
			} else {
				m.desire(id, desired(*app), now)
			}
		})
	}
	poke(m.wake)
	return nil
}

// desire takes what is wanted of an app. The caller holds the lock.
func (m *Manager) desire(id wire.ID, d *Desired, now time.Time) {
	for _, start := range m.state.Desire(id, d, now) {
		m.push(start)
	}
}

func (m *Manager) askCredentials(ctx context.Context) (wire.BulkCredentials, error) {
	ctx, cancel := context.WithTimeout(ctx, credentialsTimeout)
	defer cancel()
	subject := m.subject(wire.SubjectBulkCredentials)
	answer, err := m.base.Bus().RequestWithContext(ctx, subject, nil)
	if err != nil {
		return wire.BulkCredentials{}, fmt.Errorf("cannot get the bulk API's credentials with %s: %w", subject, err)
	}
	return wire.ParseBulkCredentials(answer.Data)
}

// varz is the document of either version of the original.
func (m *Manager) varz() map[string]any {
	m.mu.Lock()
	defer m.mu.Unlock()
	total, started := m.state.Sum(time.Now())
	doc := map[string]any{
		"total_apps":         total.Apps,
		"total_users":        m.users,
		"total_instances":    started.Instances,
		"running_instances":  started.Running,
		"missing_instances":  started.Missing,
		"down_instances":     started.Missing,
		"crashed_instances":  total.Crashed,
		"flapping_instances": started.Flapping,
		"queue_length":       m.judge.Queue.Len(),
		"total":              map[string]any{"frameworks": total.Frameworks, "runtimes": total.Runtimes},
		"running":            map[string]any{"frameworks": started.Frameworks, "runtimes": started.Runtimes},
		"leader":             m.leading,
	}
	for _, counter := range []string{
		"heartbeat_msgs_received", "droplet_exited_msgs_received", "droplet_updated_msgs_received",
		"healthmanager_status_msgs_received", "healthmanager_health_request_msgs_received",
	} {
		doc[counter] = m.received[counter]
	}
	return doc
}

// drain lets another one act at once.
func (m *Manager) drain(ctx context.Context) error {
	m.mu.Lock()
	m.leaving = true
	goodbye := m.election.Presence()
	goodbye.Leaving = true
	said := m.base.Connected() && m.publish(wire.SubjectHealthManagerPresence, goodbye)
	m.mu.Unlock()
	poke(m.wake)
	if !said {
		return nil // the others notice by themselves
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := m.base.Bus().FlushWithContext(ctx); err != nil {
		return fmt.Errorf("cannot tell the other health managers that this one stops: %w", err)
	}
	return nil
}

// reload takes all that does not concern who this one is.
func (m *Manager) reload() error {
	cfg, _, err := load(m.file)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	cfg.Partition, cfg.Intervals.Presence = m.config.Partition, m.config.Intervals.Presence
	m.config = cfg
	m.judge.use(cfg)
	// The former one may be in use; its idle connections end by themselves.
	m.api.Store(newBulkAPI(cfg.BulkAPI, m.base.Dialer(), cfg.Config, m.askCredentials))
	m.all = true
	poke(m.read)
	poke(m.wake)
	return nil
}
