package cloudcontroller

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/wire"
)

// boundedDEA plays a DEA with so much memory, which takes messages in their order,
// says what is left of it, offers the later the more it has, and ignores a start
// that it has no room for.
type boundedDEA struct {
	id     string
	memory int // MB

	mu      sync.Mutex
	started []int // indices
	used    int   // MB
	refused int
}

func (w *world) boundedDEA(id string, memory int, asked func()) *boundedDEA {
	w.t.Helper()
	d := &boundedDEA{id: id, memory: memory}
	messages := make(chan *nats.Msg, 4096)
	for _, subject := range []string{wire.SubjectDEADiscover, wire.SubjectDEAStartOf(id)} {
		_, err := w.conn.ChanSubscribe(subject, messages)
		must(w.t, err)
	}
	ended := make(chan struct{})
	w.t.Cleanup(func() { close(ended) })
	go func() {
		for {
			select {
			case <-ended:
				return
			case m := <-messages:
				if m.Reply == "" {
					d.start(w, m.Data)
				} else {
					asked()
					d.offer(w, m)
				}
			}
		}
	}()
	d.advertise(w)
	return d
}

func (d *boundedDEA) advertise(w *world) {
	data, err := json.Marshal(wire.DEAAdvertise{ID: d.id, AvailableMemory: d.memory - d.used, Runtimes: []string{"node"}})
	if err == nil {
		err = w.conn.Publish(wire.SubjectDEAAdvertise, data)
	}
	if err != nil {
		w.t.Errorf("an advertisement: %v", err)
	}
}

func (d *boundedDEA) start(w *world, data []byte) {
	s, err := wire.ParseDEAStart(data)
	if err != nil {
		w.t.Errorf("a start: %v", err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.used+s.Limits.Mem > d.memory {
		d.refused++
		return
	}
	d.used += s.Limits.Mem
	d.started = append(d.started, s.Index)
	d.advertise(w)
}

func (d *boundedDEA) offer(w *world, m *nats.Msg) {
	r, err := wire.ParseDEADiscover(m.Data)
	if err != nil {
		w.t.Errorf("a discover: %v", err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.used+r.Limits.Mem > d.memory {
		return
	}
	hello, err := json.Marshal(wire.DEAHello{ID: d.id, IP: "127.0.0.1", Port: 12345, Version: wire.DEAVersion})
	if err != nil {
		w.t.Error(err)
		return
	}
	delay := 10*time.Millisecond*time.Duration(len(d.started)) + 100*time.Millisecond*time.Duration(d.used)/time.Duration(d.memory)
	time.AfterFunc(min(delay, 250*time.Millisecond), func() { _ = m.Respond(hello) }) // fails when the test is over
}

// placed waits until so many starts have come, and checks that each index was
// started once, by a DEA that had room for it.
func placed(t *testing.T, deas []*boundedDEA, count int) {
	t.Helper()
	var indices []int
	refused := 0
	eventually(t, fmt.Sprintf("%d starts come", count), func() bool {
		indices, refused = nil, 0
		for _, d := range deas {
			d.mu.Lock()
			indices = append(indices, d.started...)
			refused += d.refused
			d.mu.Unlock()
		}
		return len(indices)+refused == count
	})
	if refused > 0 {
		t.Errorf("%d starts went to DEAs without room for them", refused)
	}
	slices.Sort(indices)
	if distinct := slices.Compact(slices.Clone(indices)); len(distinct) != len(indices) {
		t.Errorf("started more than once: %v", indices)
	}
}

const roomy = "default_account_capacity: {memory: 100000, app_uris: 4, services: 16, apps: 20}\ntimeouts: {discover: 60s, find: 300ms, status: 300ms, health: 300ms}\n"

// TestPlacementOfMany: many instances find their places with few questions, and take
// all the room that there is.
func TestPlacementOfMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(roomy)
	w.anyStager()
	var asked atomic.Int64
	const size = 64
	var deas []*boundedDEA
	for i, room := range []int{20, 30, 50} {
		deas = append(deas, w.boundedDEA(fmt.Sprint("d", i), room*size, func() { asked.Add(1) }))
	}
	u := c.register("dev@example.com")
	u.create("hello")
	u.upload("hello", zipOf(t, map[string]string{"app.js": "x"}), "[]").want(200)
	u.put("hello", map[string]any{"instances": 1, "state": "STARTED"}).want(200)
	placed(t, deas, 1)
	u.put("hello", map[string]any{"instances": 100}).want(200)
	placed(t, deas, 100)
	if questions := asked.Load() / int64(len(deas)); questions > 100/2 {
		t.Errorf("the DEAs were asked %d times to place 100 instances", questions)
	}
}

// TestPlacementSideBySide: starts that are asked for at once, as the health manager
// does when a DEA is lost, do not go to the same DEA.
func TestPlacementSideBySide(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(roomy)
	w.anyStager()
	first := w.dea("first")
	u := c.register("dev@example.com")
	const n = 24
	app := u.running(first, "hello", n)
	// As many as there is room for, and not one can be placed wrongly.
	var deas []*boundedDEA
	for i := range 3 {
		deas = append(deas, w.boundedDEA(fmt.Sprint("d", i), n/3*app.Memory, func() {}))
	}
	first.leave()
	for index := range n {
		data, err := json.Marshal(wire.HealthManagerRequest{Droplet: model.ID(app), Op: wire.OpStart, Version: model.Version(app), Indices: []int{index}})
		must(t, err)
		must(t, w.conn.Publish(wire.SubjectHealthManagerRequests, data))
	}
	placed(t, deas, n)
}

// TestPlacementOvertaken: an app that is given fewer instances while they are
// placed gets no more.
func TestPlacementOvertaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(roomy)
	w.anyStager()
	d := w.dea("d")
	u := c.register("dev@example.com")
	u.running(d, "hello", 1)
	d.leave()
	// From here on the test answers. What a DEA offers that has never advertised is
	// one instance.
	questions, starts := w.subscribe(wire.SubjectDEADiscover), w.subscribe(wire.SubjectDEAStartOf("d"))
	hello, err := json.Marshal(wire.DEAHello{ID: "d", IP: "127.0.0.1", Port: 12345, Version: wire.DEAVersion})
	must(t, err)
	scaled := make(chan answer, 1)
	go func() { scaled <- u.put("hello", map[string]any{"instances": 5}) }()
	must(t, received(t, questions).Respond(hello))
	question := received(t, questions)
	u.put("hello", map[string]any{"instances": 3}).want(200)
	must(t, question.Respond(hello))
	received(t, scaled).want(200)
	for _, index := range []int{1, 2} {
		if s := next(t, starts, wire.ParseDEAStart); s.Index != index {
			t.Errorf("started %d, want %d", s.Index, index)
		}
	}
	w.none(starts)
	w.none(questions)
}

// TestPlacementSpreads: the DEA that answers first does not get two instances of an
// app while others have none, however late these answer, nor does one that has an
// instance already.
func TestPlacementSpreads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(roomy)
	w.anyStager()
	starts := make(chan string, 64)
	var mu sync.Mutex
	running := map[string][]int{} // indices of the app, by DEA
	// The last one is slower than any window, as on a busy machine.
	for i, delay := range []time.Duration{0, 60 * time.Millisecond, 1500 * time.Millisecond} {
		id := fmt.Sprint("d", i)
		hello, err := json.Marshal(wire.DEAHello{ID: id, IP: "127.0.0.1", Port: 12345, Version: wire.DEAVersion})
		must(t, err)
		for subject, handle := range map[string]nats.MsgHandler{
			wire.SubjectDEADiscover: func(m *nats.Msg) { time.AfterFunc(delay, func() { _ = m.Respond(hello) }) }, // fails when the test is over
			wire.SubjectDEAStartOf(id): func(m *nats.Msg) {
				s, err := wire.ParseDEAStart(m.Data)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				running[id] = append(running[id], s.Index)
				mu.Unlock()
				starts <- id
			},
			wire.SubjectDEAFind: func(m *nats.Msg) {
				mu.Lock()
				defer mu.Unlock()
				for _, index := range running[id] {
					data, _ := json.Marshal(wire.DEAFound{DEA: id, Droplet: "1", Index: index, Instance: fmt.Sprintf("%032d", index), State: wire.StateRunning})
					_ = m.Respond(data)
				}
			},
		} {
			_, err := w.conn.Subscribe(subject, handle)
			must(t, err)
		}
		data, err := json.Marshal(wire.DEAAdvertise{ID: id, AvailableMemory: 4096, Runtimes: []string{"node"}})
		must(t, err)
		must(t, w.conn.Publish(wire.SubjectDEAAdvertise, data))
	}
	eventually(t, "the DEAs are known", func() bool { return c.working().placer.Known() == 3 })
	u := c.register("dev@example.com")
	u.create("hello")
	u.upload("hello", zipOf(t, map[string]string{"app.js": "x"}), "[]").want(200)
	for n, change := range []map[string]any{{"instances": 2, "state": "STARTED"}, {"instances": 3}, {"instances": 6}} {
		u.put("hello", change).want(200)
		for range []int{2, 1, 3}[n] {
			received(t, starts)
		}
		mu.Lock()
		for _, id := range []string{"d0", "d1", "d2"} {
			if most := []int{1, 1, 2}[n]; len(running[id]) > most {
				t.Errorf("with %v %s has %d instances", change, id, len(running[id]))
			}
		}
		mu.Unlock()
	}
}
