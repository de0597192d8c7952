package placement

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/jobs/wire"
)

func TestTake(t *testing.T) {
	t.Parallel()
	now := time.Unix(1343815200, 0)
	yes := true
	var p pool
	p.heard(wire.DEAAdvertise{ID: "small", AvailableMemory: 100, Runtimes: []string{"node"}}, now)
	p.heard(wire.DEAAdvertise{ID: "large", AvailableMemory: 300, Runtimes: []string{"node", "java"}}, now)
	p.heard(wire.DEAAdvertise{ID: "prod", AvailableMemory: 900, Runtimes: []string{"node"}, Prod: &yes}, now)
	p.heard(wire.DEAAdvertise{ID: "old", AvailableMemory: 900, Runtimes: []string{"node"}}, now.Add(-11*time.Second))
	app := 0
	take := func(memory int, runtime string, prod bool) string {
		app++
		offers := p.advertised(wire.DEAStart{Runtime: runtime, Prod: prod, Limits: wire.Limits{Mem: memory}}, now)
		return p.give(offers, nil, now, wire.ID(fmt.Sprint(app)), memory, now)
	}
	for _, tc := range []struct {
		memory  int
		runtime string
		prod    bool
		want    string
	}{
		{100, "java", false, "large"}, // 200 left
		{150, "node", false, "large"}, // 50 left
		{60, "node", false, "small"},  // 40 left
		{60, "node", false, ""},
		{60, "ruby", true, ""},
		{60, "node", true, "prod"},
	} {
		if got := take(tc.memory, tc.runtime, tc.prod); got != tc.want {
			t.Errorf("%d MB of %s: %q, want %q", tc.memory, tc.runtime, got, tc.want)
		}
	}
	p.left("prod", now)
	if got := take(1, "node", true); got == "prod" {
		t.Error("a DEA that left is chosen")
	}
}

// TestChoose: the rule, whatever DEAs there are.
func TestChoose(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		places := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) place {
			return place{
				zone:      rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone"),
				instances: rapid.IntRange(0, 3).Draw(t, "instances"),
				free:      rapid.IntRange(-1, 4).Draw(t, "free"),
			}
		}), 1, 12).Draw(t, "places")
		chosen := places[choose(places)]
		zones := map[string]int{}
		for _, one := range places {
			zones[one.zone] += one.instances
		}
		for _, one := range places {
			switch {
			case one.instances < chosen.instances:
				t.Fatalf("%+v gets one more although %+v has fewer", chosen, one)
			case one.instances > chosen.instances:
			case zones[one.zone] < zones[chosen.zone]:
				t.Fatalf("zone %q gets one more although %q has fewer: %+v", chosen.zone, one.zone, places)
			case zones[one.zone] == zones[chosen.zone] && one.free > chosen.free:
				t.Fatalf("%+v gets one more although %+v has more memory", chosen, one)
			}
		}
	})
}

// TestSpread: what is chosen from the offers of some of the DEAs is as even as from
// those of all, or the others are waited for.
func TestSpread(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1343815200, 0)
		var p pool
		have := map[string]int{}
		for i := range rapid.IntRange(1, 6).Draw(t, "DEAs") {
			id := fmt.Sprint("dea", i)
			p.heard(wire.DEAAdvertise{ID: id, AvailableMemory: 1 << 20, Runtimes: []string{"node"}}, now)
			have[id] = rapid.IntRange(0, 3).Draw(t, id)
		}
		s, n := wire.DEAStart{Droplet: "7", Runtime: "node", Limits: wire.Limits{Mem: 64}}, rapid.IntRange(1, 8).Draw(t, "instances")
		expected := p.expected(s, now)
		var offers []*offer
		for _, o := range p.advertised(s, now) {
			if rapid.Bool().Draw(t, o.dea+" answers") {
				offers = append(offers, o)
				delete(expected, o.dea)
			}
		}
		if !p.spread(offers, expected, have, now, "7", n) {
			return
		}
		for range n {
			if p.give(offers, have, now, "7", 64, now) == "" {
				t.Fatalf("no room")
			}
		}
		for _, o := range offers {
			got := p.deas[o.dea].instances(have[o.dea], now, "7")
			for id := range expected {
				if got > have[o.dea] && got > have[id]+1 {
					t.Fatalf("%s gets its instance %d while %s, which is not waited for, has %d", o.dea, got, id, have[id])
				}
			}
		}
	})
	// Who is silent is waited for once.
	now := time.Unix(1343815200, 0)
	var p pool
	s := wire.DEAStart{Runtime: "node"}
	p.heard(wire.DEAAdvertise{ID: "d", AvailableMemory: 64, Runtimes: []string{"node"}}, now)
	p.silent(p.expected(s, now), now.Add(time.Second))
	if got := p.expected(s, now.Add(2*time.Second)); len(got) != 0 {
		t.Errorf("a silent DEA is expected to answer: %v", got)
	}
	p.heard(wire.DEAAdvertise{ID: "d", AvailableMemory: 64, Runtimes: []string{"node"}}, now.Add(3*time.Second))
	if got := p.expected(s, now.Add(3*time.Second)); len(got) != 1 {
		t.Errorf("a DEA that advertises again is not expected to answer: %v", got)
	}
}

// layout describes where an app's instances are while DEAs have room for all of them.
type layout struct {
	pool  *pool
	now   time.Time
	zones []string // of the DEAs
	found []wire.DEAFound
}

var anApp = wire.DEAStart{Droplet: "7", Runtime: "node", Limits: wire.Limits{Mem: 64}}

func drawLayout(t *rapid.T, zones ...string) *layout {
	l := &layout{pool: &pool{}, now: time.Unix(1343815200, 0)}
	for i := range rapid.IntRange(2, 5).Draw(t, "DEAs") {
		l.zones = append(l.zones, rapid.SampledFrom(zones).Draw(t, fmt.Sprint("zone of ", i)))
	}
	for index := range rapid.IntRange(1, 9).Draw(t, "instances") {
		on := rapid.IntRange(0, len(l.zones)-1).Draw(t, fmt.Sprint("of instance ", index))
		l.found = append(l.found, wire.DEAFound{DEA: fmt.Sprint("dea", on), Version: "old", Index: index})
	}
	return l
}

// update replaces each index by one of another version, some at a time.
func (l *layout) update(t *rapid.T, atOnce int) {
	instances := len(l.found)
	for first := 0; first < instances; first += atOnce {
		for i, zone := range l.zones {
			free := rapid.IntRange(1000, 9000).Draw(t, "MB")
			l.pool.heard(wire.DEAAdvertise{ID: fmt.Sprint("dea", i), AvailableMemory: free, Runtimes: []string{"node"}, Zone: zone}, l.now)
		}
		offers := l.pool.advertised(anApp, l.now)
		indices := Indices(first, min(first+atOnce, instances))
		l.now = l.now.Add(5 * time.Second)
		have, since := staying(l.found, "new", indices), l.now
		for _, index := range indices {
			dea := l.pool.give(offers, have, since, "7", 64, l.now)
			l.found = append(l.found, wire.DEAFound{DEA: dea, Version: "new", Index: index})
		}
		// What was replaced stops, sooner or later.
		l.found = slices.DeleteFunc(l.found, func(f wire.DEAFound) bool {
			return f.Version == "old" && f.Index < first+atOnce && rapid.Bool().Draw(t, "stops")
		})
	}
	l.found = slices.DeleteFunc(l.found, func(f wire.DEAFound) bool { return f.Version == "old" })
}

// have counts the instances by DEA, and returns the most and the fewest.
func (l *layout) have() (have map[string]int, most, fewest int) {
	have = map[string]int{}
	for _, f := range l.found {
		have[f.DEA]++
	}
	fewest = len(l.found)
	for i := range l.zones {
		n := have[fmt.Sprint("dea", i)]
		most, fewest = max(most, n), min(fewest, n)
	}
	return have, most, fewest
}

// TestUpdateSpreads: wherever an app's instances are, when each index was replaced by
// one of another version, some at a time, no DEA has two more than another one.
func TestUpdateSpreads(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := drawLayout(t, "")
		l.update(t, rapid.IntRange(1, 4).Draw(t, "at once"))
		if have, most, fewest := l.have(); most-fewest > 1 {
			t.Fatalf("the DEAs have %v instances after the update", have)
		}
	})
}

// TestUneven: what is called uneven is spread better by an update, and is not uneven
// then; what is not cannot be.
func TestUneven(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := drawLayout(t, "", "a", "b")
		for i, zone := range l.zones {
			l.pool.heard(wire.DEAAdvertise{ID: fmt.Sprint("dea", i), AvailableMemory: 4096, Runtimes: []string{"node"}, Zone: zone}, l.now)
		}
		have, most, fewest := l.have()
		uneven := l.pool.uneven(anApp, have, l.now)
		if most-fewest > 1 != uneven && !(uneven && most-fewest == 1) {
			t.Fatalf("%v in zones %v is uneven: %v", have, l.zones, uneven)
		}
		l.update(t, rapid.IntRange(1, 4).Draw(t, "at once"))
		if have, _, _ := l.have(); l.pool.uneven(anApp, have, l.now) {
			t.Fatalf("%v in zones %v is uneven after an update", have, l.zones)
		}
	})
	// Where there is no room nothing moves, nor from a DEA that says nothing.
	now := time.Unix(1343815200, 0)
	var p pool
	p.heard(wire.DEAAdvertise{ID: "a", AvailableMemory: 900, Runtimes: []string{"node"}}, now)
	p.heard(wire.DEAAdvertise{ID: "b", AvailableMemory: 63, Runtimes: []string{"node"}}, now)
	p.heard(wire.DEAAdvertise{ID: "c", AvailableMemory: 900, Runtimes: []string{"java"}}, now)
	if p.uneven(anApp, map[string]int{"a": 3}, now) {
		t.Error("an instance would move to where there is no room")
	}
	p.heard(wire.DEAAdvertise{ID: "b", AvailableMemory: 64, Runtimes: []string{"node"}}, now)
	if !p.uneven(anApp, map[string]int{"a": 3}, now) {
		t.Error("an instance does not move to where there is room")
	}
	p.left("a", now)
	if p.uneven(anApp, map[string]int{"a": 3}, now) {
		t.Error("an instance would move from a DEA that leaves")
	}
}

// TestLargePlatform: 1,000 DEAs in three zones take 50,000 instances (with the race
// detector 5,000) of apps of many sizes. Each app is spread within one of the ideal
// over DEAs and zones, and (without the race detector) a decision takes less than a
// millisecond.
func TestLargePlatform(t *testing.T) {
	t.Parallel()
	const deas, instances, memory, longest = 1000, instancesPlaced, 64, 120
	now := time.Unix(1343815200, 0)
	var p pool
	zone := map[string]string{}
	for i := range deas {
		id := fmt.Sprint("dea", i)
		zone[id] = fmt.Sprint("z", i%3)
	}
	var took []time.Duration // a decision of each app, on average: the machine may be busy with others now and then
	total := map[string]int{}
	advertise := func() {
		now = now.Add(20 * time.Second)
		for id, z := range zone {
			p.heard(wire.DEAAdvertise{ID: id, AvailableMemory: memory * (2*instances/deas - total[id]), Runtimes: []string{"node"}, Zone: z}, now)
		}
	}
	placed := 0
	for app := 0; placed < instances; app++ {
		advertise()
		size := min(1+app%longest, instances-placed)
		perDEA, perZone := map[string]int{}, map[string]int{}
		var offers []*offer
		var spent time.Duration
		for n := range size {
			begun := time.Now()
			if n%perOffer == 0 {
				offers = p.advertised(wire.DEAStart{Runtime: "node", Limits: wire.Limits{Mem: memory}}, now)
			}
			dea := p.give(offers, perDEA, now.Add(time.Second), wire.ID(fmt.Sprint(app)), memory, now)
			spent += time.Since(begun)
			if dea == "" {
				t.Fatalf("no room for instance %d of app %d", n, app)
			}
			perDEA[dea]++
			perZone[zone[dea]]++
			total[dea]++
		}
		placed += size
		took = append(took, spent/time.Duration(size))
		for dea, n := range perDEA {
			if n > 1 {
				t.Fatalf("%s has %d instances of an app of %d", dea, n, size)
			}
		}
		for _, z := range []string{"z0", "z1", "z2"} {
			if n := perZone[z]; n < size/3 || n > (size+2)/3 {
				t.Fatalf("zone %s has %d instances of an app of %d", z, n, size)
			}
		}
	}
	if len(total) != deas {
		t.Errorf("%d DEAs are in use", len(total))
	}
	var loads []int
	for _, n := range total {
		loads = append(loads, n)
	}
	slices.Sort(loads)
	slices.Sort(took)
	each := took[len(took)/2]
	t.Logf("%v a decision; a DEA has %d to %d instances", each, loads[0], loads[len(loads)-1])
	if decisionsAreTimed && each > time.Millisecond {
		t.Errorf("a decision takes %v", each)
	}
}
