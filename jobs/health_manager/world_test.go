package healthmanager

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/jobs/wire"
)

// world describes what a health manager sees the messages of: DEAs with instances, and
// a cloud controller that does what it is asked for. Its time goes in seconds.
type world struct {
	*rapid.T
	judge *Judge
	now   time.Time

	apps   map[wire.ID]*Desired
	deas   []*dea
	number int // of instances that ever were

	bus   bool // is there
	lossy bool // requests and messages may get lost
	asked int  // requests that were sent
}

type dea struct {
	up        bool
	instances map[string]*worldInstance
}

type worldInstance struct {
	app     wire.ID
	version string
	index   int
	since   time.Time
	running bool
}

const bootSeconds = 3

func (w *world) seconds(since time.Time) float64 { return w.now.Sub(since).Seconds() }

// send says whether a message arrives.
func (w *world) send() bool {
	return w.bus && (!w.lossy || rapid.IntRange(0, 2).Draw(w.T, "lost") > 0)
}

func (w *world) heartbeat(d *dea, only string) {
	h := wire.DEAHeartbeat{}
	for _, name := range slices.Sorted(maps.Keys(d.instances)) {
		i := d.instances[name]
		state := wire.StateStarting
		if i.running {
			state = wire.StateRunning
		}
		if only == "" || only == name {
			h.Droplets = append(h.Droplets, wire.InstanceHeartbeat{Droplet: i.app, Version: i.version, Instance: name, Index: i.index, State: state, StateTimestamp: i.since.Unix()})
		}
	}
	if len(h.Droplets) == 0 || !w.send() {
		return
	}
	for _, id := range w.judge.State.Heartbeat(h, w.now) {
		w.read(id)
	}
}

func (w *world) read(id wire.ID) {
	for _, start := range w.judge.State.Desire(id, copied(w.apps[id]), w.now) {
		w.judge.Queue.Push(start)
	}
}

func copied(d *Desired) *Desired {
	if d == nil {
		return nil
	}
	c := *d
	return &c
}

func (w *world) readAll() {
	there := map[wire.ID]bool{}
	for id := range w.apps {
		there[id] = true
		w.read(id)
	}
	w.judge.State.Passed(w.now, there, w.now)
}

func (w *world) exit(d *dea, name, reason string) {
	i := d.instances[name]
	delete(d.instances, name)
	if !w.send() {
		return
	}
	start, read := w.judge.State.Exited(wire.DropletExited{Droplet: i.app, Version: i.version, Instance: name, Index: i.index, Reason: reason}, w.now)
	if read {
		w.read(i.app)
	}
	if start != nil {
		w.judge.Queue.Push(*start)
	}
}

// run is the cloud controller's: an index that a DEA has, any that is up.
func (w *world) run(id wire.ID, index int) {
	var up []*dea
	for _, d := range w.deas {
		if d.up {
			up = append(up, d)
		}
	}
	if len(up) == 0 {
		return
	}
	w.number++
	up[w.number%len(up)].instances[fmt.Sprintf("instance-%d", w.number)] = &worldInstance{app: id, version: w.apps[id].Version, index: index, since: w.now}
}

// request returns what a cloud controller does, with its own precautions.
func (w *world) request(r wire.HealthManagerRequest) {
	w.asked++
	if !w.bus {
		w.Fatalf("%v: %+v while the bus is away", w.now, r)
	}
	if r.Op == wire.OpStart && (len(r.Indices) == 0 || !slices.IsSorted(r.Indices)) || r.Op == wire.OpStop && len(r.Instances) == 0 {
		w.Fatalf("%v: %+v asks for nothing", w.now, r)
	}
	if !w.send() {
		return
	}
	app := w.apps[r.Droplet]
	switch {
	case r.Op == wire.OpStart && app != nil && app.Started && app.Staged && app.Version == r.Version:
		for _, i := range r.Indices {
			if i < app.Instances {
				w.run(r.Droplet, i)
			}
		}
	case r.Op == wire.OpStop && (app == nil || app.Updated.Unix() == r.LastUpdated):
		for _, d := range w.deas {
			for name, i := range d.instances {
				if i.app == r.Droplet && (app == nil || slices.Contains(r.Instances, name)) {
					w.exit(d, name, wire.ReasonStopped)
				}
			}
		}
	}
}

// change is a user's.
func (w *world) change(id wire.ID, d *Desired) {
	before := w.apps[id]
	if d == nil {
		delete(w.apps, id)
	} else {
		d.Updated = w.now
		w.apps[id] = d
	}
	if before != nil && (d == nil || !d.Started || d.Version != before.Version) {
		for _, dea := range w.deas {
			for name, i := range dea.instances {
				if i.app == id && (d == nil || i.version != d.Version || !d.Started) && w.send() {
					w.exit(dea, name, wire.ReasonStopped)
				}
			}
		}
	}
	if d != nil && d.Started && d.Staged && (before == nil || !before.Started || before.Version != d.Version) {
		for i := range d.Instances {
			if w.send() {
				w.run(id, i)
			}
		}
	}
	if w.send() {
		w.judge.State.Updated(id, w.now)
		w.read(id)
	}
}

// second lets one pass.
func (w *world) second() {
	w.now = w.now.Add(time.Second)
	tick := int(w.seconds(start))
	for n, d := range w.deas {
		if !d.up {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(d.instances)) {
			if i := d.instances[name]; !i.running && w.seconds(i.since) >= bootSeconds {
				i.running, i.since = true, w.now
				w.heartbeat(d, name)
			}
		}
		if (tick+n)%10 == 0 {
			w.heartbeat(d, "")
		}
		if (tick+n)%5 == 0 && w.send() {
			w.judge.State.Heard(w.now) // dea.advertise
		}
	}
	if tick%60 == 0 && w.bus {
		w.readAll()
	}
	if !w.bus {
		return
	}
	before := fmt.Sprint(w.judge.State.Analyse(w.now))
	if after := fmt.Sprint(w.judge.State.Analyse(w.now)); after != before {
		w.Fatalf("analysed twice: %s, then %s", before, after)
	}
	requests, next := w.judge.Act(w.now)
	if !next.After(w.now) {
		w.Fatalf("%v: to look again at %v", w.now, next)
	}
	for _, r := range requests {
		w.request(r)
	}
}

// fault is one of what can happen.
func (w *world) fault() {
	id := wire.ID(fmt.Sprint(rapid.IntRange(1, 3).Draw(w.T, "app")))
	d := w.deas[rapid.IntRange(0, len(w.deas)-1).Draw(w.T, "dea")]
	names := slices.Sorted(maps.Keys(d.instances))
	some := func() string { return names[rapid.IntRange(0, len(names)-1).Draw(w.T, "instance")] }
	switch what := rapid.SampledFrom([]string{"crash", "crash", "vanish", "lost", "shut down", "evacuate", "up", "bus", "push", "push", "push", "scale", "stop", "start", "delete", "twin"}).Draw(w.T, "fault"); {
	case what == "crash" && len(names) > 0:
		w.exit(d, some(), wire.ReasonCrashed)
	case what == "vanish" && len(names) > 0:
		delete(d.instances, some())
	case what == "lost":
		d.up, d.instances = false, map[string]*worldInstance{}
	case what == "shut down", what == "evacuate":
		d.up = false
		for _, name := range names {
			w.exit(d, name, map[string]string{"shut down": wire.ReasonShutdown, "evacuate": wire.ReasonEvacuation}[what])
		}
	case what == "up":
		d.up = true
	case what == "bus":
		w.setBus(!w.bus)
	case what == "push":
		w.number++
		w.change(id, &Desired{Started: true, Staged: true, Version: fmt.Sprintf("v-%d", w.number), Instances: rapid.IntRange(0, 4).Draw(w.T, "instances")})
	case what == "delete":
		w.change(id, nil)
	case what == "twin":
		if app := w.apps[id]; app != nil && app.Instances > 0 {
			w.run(id, rapid.IntRange(0, app.Instances).Draw(w.T, "index"))
		}
	case w.apps[id] != nil:
		next := copied(w.apps[id])
		switch what {
		case "scale":
			next.Instances = rapid.IntRange(0, 4).Draw(w.T, "instances")
		case "stop", "start":
			next.Started = what == "start"
		}
		w.change(id, next)
	}
}

func (w *world) setBus(there bool) {
	if w.bus = there; !there {
		w.judge.State.Disconnected()
		return
	}
	w.judge.State.Connected(w.now)
	w.judge.Queue.Clear()
	w.readAll()
}

// problems are the differences between what is wanted and what runs.
func (w *world) problems() (problems []string) {
	running := map[string]int{}
	for _, d := range w.deas {
		for _, i := range d.instances {
			running[fmt.Sprintf("%s %s %d", i.app, i.version, i.index)]++
		}
	}
	for id, app := range w.apps {
		for i := range app.Instances {
			key := fmt.Sprintf("%s %s %d", id, app.Version, i)
			if n := running[key]; app.Started && n != 1 {
				problems = append(problems, fmt.Sprintf("%d instances of %s", n, key))
			} else if app.Started {
				delete(running, key)
			}
		}
	}
	for key, n := range running {
		problems = append(problems, fmt.Sprintf("%d instances too much of %s", n, key))
	}
	return problems
}

// TestConverges: whatever happened, some time after it has ended each wanted
// instance runs once, nothing else does, and nothing more is asked for.
func TestConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := defaults()
		cfg.Intervals.GiveupCrashNumber = -1
		cfg.Intervals.MinRestartDelay, cfg.Intervals.MaxRestartDelay = 10, 60
		cfg.Intervals.QueueBatchSize = rapid.IntRange(0, 3).Draw(t, "batch")
		w := &world{T: t, judge: NewJudge(cfg, func() float64 { return 0.5 }), now: start, apps: map[wire.ID]*Desired{}}
		for range 3 {
			w.deas = append(w.deas, &dea{up: true, instances: map[string]*worldInstance{}})
		}
		w.setBus(true)
		w.lossy = rapid.Bool().Draw(t, "lossy")
		for range rapid.IntRange(1, 40).Draw(t, "faults") {
			w.fault()
			for range rapid.IntRange(0, 40).Draw(t, "seconds") {
				w.second()
			}
		}

		w.lossy = false
		if !w.bus {
			w.setBus(true)
		}
		w.deas[0].up = true
		for range 500 {
			w.second()
		}
		if problems := w.problems(); len(problems) > 0 {
			t.Fatalf("%v", problems)
		}
		w.asked = 0
		for range 200 {
			w.second()
		}
		if w.asked > 0 {
			t.Fatalf("%d requests though all is well", w.asked)
		}
		total, _ := w.judge.State.Sum(w.now)
		wanted := 0
		for _, app := range w.apps {
			if app.Started {
				wanted += app.Instances
			}
		}
		if total.Running != wanted || total.Missing != 0 {
			t.Fatalf("%+v, wanted %d", total.Figures, wanted)
		}
	})
}
