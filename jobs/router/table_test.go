package router

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/jobs/wire"
)

var epoch = time.Date(2012, 8, 1, 10, 0, 0, 0, time.UTC)

func at(host string, port int, uris ...string) wire.Registration {
	return wire.Registration{Host: host, Port: port, URIs: uris}
}

func addrs(found *routes) []string {
	list := []string{}
	if found == nil {
		return list
	}
	for _, b := range found.backends {
		list = append(list, b.Addr)
	}
	return list
}

// countHosts counts the host names of a table.
func countHosts(t *table) (n int) {
	t.hosts.each(func(*routes) { n++ })
	return n
}

// TestHosts: names that come and go are found by who asks at the same time, as long as
// they are there, and names that went take no room for ever.
func TestHosts(t *testing.T) {
	var h hosts
	name := func(i int) string { return fmt.Sprintf("%d.test", i) }
	there := []*backend{{}}
	h.set("stays.test", there)
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if found := h.of("stays.test"); found == nil || found.host != "stays.test" {
					t.Error("a name was lost for a moment")
					return
				}
			}
		})
	}
	const most = 500
	for i := range 20 * most {
		h.set(name(i), there)
		if i >= most {
			h.set(name(i-most), nil)
			h.set(name(i-most), nil) // is no more
		}
	}
	close(done)
	readers.Wait()
	for i := range 20 * most {
		if found := h.of(name(i)); (found != nil) != (i >= 19*most) || found != nil && found.host != name(i) {
			t.Fatalf("%s: %v", name(i), found)
		}
	}
	seen := 0
	h.each(func(*routes) { seen++ })
	if slots := len(*h.slots.Load()); seen != most+1 || h.size != seen || slots > 4*most {
		t.Errorf("%d names seen, %d counted, in %d slots; want %d", seen, h.size, slots, most+1)
	}
}

func pick(t *table, session string, tried []string, now time.Time) *backend {
	b, _ := t.choose("a.test", session, tried, false, now)
	return b
}

func TestLookup(t *testing.T) {
	table := newTable()
	table.register(at("10.0.0.1", 1, "Hello.CF.test", "*.cf.test", "no/host", "", "trailing.test."), epoch)
	table.register(at("10.0.0.2", 2, "hello.cf.test:8080"), epoch)
	table.register(at("10.0.0.3", 3, "*.deep.cf.test"), epoch)
	for host, want := range map[string]string{
		"hello.cf.test":        "10.0.0.1:1 10.0.0.2:2",
		"HELLO.cf.test:80":     "10.0.0.1:1 10.0.0.2:2",
		"hello.cf.test.":       "10.0.0.1:1 10.0.0.2:2",
		"other.cf.test":        "10.0.0.1:1",
		"a.b.cf.test":          "10.0.0.1:1",
		"x.deep.cf.test":       "10.0.0.3:3",
		"cf.test":              "",
		"trailing.test":        "10.0.0.1:1",
		"no/host":              "",
		"":                     "",
		"elsewhere.test":       "",
		"[::1]:80":             "",
		"127.0.0.1:80":         "",
		"hello.cf.test evil":   "",
		"*.cf.test":            "10.0.0.1:1",
		"user@hello.cf.test":   "",
		"hello.cf.test/../etc": "",
	} {
		if got := strings.Join(addrs(table.lookup(host)), " "); got != want {
			t.Errorf("%q leads to %q, want %q", host, got, want)
		}
	}
}

// TestRegisteredAgain: what the first registration said stays (a trap of the
// original that components count on), and the route is fresh.
func TestRegisteredAgain(t *testing.T) {
	table := newTable()
	first := at("10.0.0.1", 1, "a.test")
	first.App, first.PrivateInstanceID, first.Tags = "1", "one", wire.Tags{"k": "v"}
	second := at("10.0.0.1", 1, "a.test")
	second.App, second.PrivateInstanceID = "2", "two"
	table.register(first, epoch)
	if added, _, _ := table.register(second, epoch.Add(100*time.Second)); added != 0 {
		t.Errorf("%d routes are new", added)
	}
	b := table.lookup("a.test").backends[0]
	if b.App != "1" || b.Session != "one" || b.Tags["k"] != "v" {
		t.Errorf("changed to %+v", b)
	}
	if gone := table.prune(epoch.Add(130 * time.Second)); len(gone) != 0 {
		t.Errorf("pruned %v", gone)
	}
}

func TestPrune(t *testing.T) {
	table := newTable()
	impatient, patient := at("10.0.0.2", 2, "a.test"), at("10.0.0.3", 3, "a.test")
	impatient.StaleThresholdInSeconds, patient.StaleThresholdInSeconds = 60, 600
	table.register(at("10.0.0.1", 1, "a.test", "b.test"), epoch)
	table.register(impatient, epoch)
	table.register(patient, epoch)
	for _, step := range []struct {
		after time.Duration
		gone  string
	}{
		{60 * time.Second, ""},
		{61 * time.Second, "a.test 10.0.0.2:2"},
		{120 * time.Second, ""},
		{120*time.Second + 1, "a.test 10.0.0.1:1,a.test 10.0.0.3:3,b.test 10.0.0.1:1"},
		{500 * time.Second, ""},
	} {
		if gone := strings.Join(table.prune(epoch.Add(step.after)), ","); gone != step.gone {
			t.Errorf("after %v gone %q, want %q", step.after, gone, step.gone)
		}
	}
	table.register(at("10.0.0.1", 1, "a.test"), epoch)
	table.touch(epoch.Add(time.Hour))
	if gone := table.prune(epoch.Add(time.Hour + time.Minute)); len(gone) > 0 {
		t.Errorf("pruned %v although touched", gone)
	}
}

func TestChoose(t *testing.T) {
	table := newTable()
	for port := 1; port <= 3; port++ {
		r := at("10.0.0.1", port, "a.test")
		r.PrivateInstanceID = fmt.Sprintf("s%d", port)
		table.register(r, epoch)
	}
	seen := map[string]int{}
	for range 300 {
		seen[pick(table, "stale", nil, epoch).Addr]++
		if got := pick(table, "s2", nil, epoch).Addr; got != "10.0.0.1:2" {
			t.Fatalf("the session's backend is 2, chose %s", got)
		}
		if got := pick(table, "s2", []string{"10.0.0.1:2", "10.0.0.1:1"}, epoch).Addr; got != "10.0.0.1:3" {
			t.Fatalf("two are tried, chose %s", got)
		}
	}
	if len(seen) != 3 {
		t.Errorf("chose only %v", seen)
	}
	table.setAside("10.0.0.1:2", epoch.Add(time.Second))
	for range 100 {
		if got := pick(table, "s2", nil, epoch).Addr; got == "10.0.0.1:2" {
			t.Fatal("chose one that is set aside")
		}
	}
	if got := pick(table, "", []string{"10.0.0.1:1", "10.0.0.1:3"}, epoch); got == nil || got.Addr != "10.0.0.1:2" {
		t.Error("none is left but the one set aside, and it is not chosen")
	}
	if got := pick(table, "s2", nil, epoch.Add(time.Second)).Addr; got != "10.0.0.1:2" {
		t.Error("set aside for longer than asked")
	}
	if pick(table, "", []string{"10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"}, epoch) != nil {
		t.Error("chose one that was tried")
	}
}

// TestFull: an instance that has as many requests as it may gets no more, under
// any of its URIs, and neither does one with too many uploads get another.
func TestFull(t *testing.T) {
	table := newTable()
	table.maxRequests, table.maxUploads = 3, 1
	table.register(at("10.0.0.1", 1, "a.test", "b.test"), epoch)
	enter := func(upload bool) bool {
		b, full := table.choose("b.test", "", nil, upload, epoch)
		if b == nil && !full {
			t.Error("neither a backend nor full")
		}
		return b != nil && b.instance.enter(upload, table.maxRequests, table.maxUploads)
	}
	if !enter(true) || enter(true) || !enter(false) || !enter(false) || enter(false) {
		t.Error("want three requests, one of them an upload")
	}
	if b, full := table.choose("a.test", "", nil, false, epoch); b != nil || !full {
		t.Errorf("the other URI: %v, full %v", b, full)
	}
	table.register(at("10.0.0.1", 2, "a.test"), epoch)
	if b := pick(table, "", nil, epoch); b == nil || b.Addr != "10.0.0.1:2" {
		t.Errorf("another instance has room; chose %v", b)
	}
}

// TestAnotherApp: when another app registers an address, routes of the one before
// go, so that its users do not get the other's pages.
func TestAnotherApp(t *testing.T) {
	table := newTable()
	first, second := at("10.0.0.1", 1, "a.test", "both.test"), at("10.0.0.1", 1, "b.test", "both.test")
	first.App, second.App = "1", "2"
	table.register(first, epoch)
	added, stale, full := table.register(second, epoch)
	if added != 1 || full || strings.Join(stale, " ") != "a.test" {
		t.Errorf("%d new, stale %v, full %v", added, stale, full)
	}
	if table.lookup("a.test") != nil || len(addrs(table.lookup("both.test"))) != 1 {
		t.Error("a.test leads to the other app, or both.test nowhere")
	}
}

// TestMaxRoutes: what is there is kept fresh when there is no room for more.
func TestMaxRoutes(t *testing.T) {
	table := newTable()
	table.maxRoutes = 2
	if added, _, full := table.register(at("10.0.0.1", 1, "a.test", "b.test", "c.test"), epoch); added != 2 || !full {
		t.Errorf("%d new, full %v", added, full)
	}
	if added, _, full := table.register(at("10.0.0.1", 1, "a.test", "b.test"), epoch); added != 0 || full {
		t.Errorf("%d new, full %v", added, full)
	}
	table.unregister(at("10.0.0.1", 1, "a.test"))
	if added, _, full := table.register(at("10.0.0.2", 1, "c.test"), epoch); added != 1 || full {
		t.Errorf("after one has gone: %d new, full %v", added, full)
	}
}

// TestTableModel compares the table with a naive model under any sequence of
// messages and times.
func TestTableModel(t *testing.T) {
	type route struct{ host, addr string }
	rapid.Check(t, func(t *rapid.T) {
		table := newTable()
		model := map[route]time.Time{}
		now := epoch
		hosts := []string{"a.test", "b.test", "*.c.test", "A.test"}
		draw := func(t *rapid.T) wire.Registration {
			return at("10.0.0.1", rapid.IntRange(1, 4).Draw(t, "port"), rapid.SliceOfN(rapid.SampledFrom(hosts), 0, 4).Draw(t, "uris")...)
		}
		t.Repeat(map[string]func(*rapid.T){
			"register": func(t *rapid.T) {
				r := draw(t)
				want := 0
				added, _, _ := table.register(r, now)
				for _, uri := range r.URIs {
					key := route{strings.ToLower(uri), fmt.Sprintf("10.0.0.1:%d", r.Port)}
					if _, ok := model[key]; !ok {
						want++
					}
					model[key] = now
				}
				if added != want {
					t.Errorf("%d routes are new, want %d", added, want)
				}
			},
			"unregister": func(t *rapid.T) {
				r := draw(t)
				table.unregister(r)
				for _, uri := range r.URIs {
					delete(model, route{strings.ToLower(uri), fmt.Sprintf("10.0.0.1:%d", r.Port)})
				}
			},
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "s")) * time.Second)
			},
			"prune": func(t *rapid.T) {
				table.prune(now)
				for key, seen := range model {
					if now.Sub(seen) > wire.RouterStaleAfter {
						delete(model, key)
					}
				}
			},
			"aside": func(t *rapid.T) {
				table.setAside(fmt.Sprintf("10.0.0.1:%d", rapid.IntRange(1, 4).Draw(t, "port")), now.Add(time.Minute))
			},
			"": func(t *rapid.T) {
				for _, host := range []string{"a.test", "b.test", "*.c.test"} {
					var want []string
					for key := range model {
						if key.host == host {
							want = append(want, key.addr)
						}
					}
					got := addrs(table.hosts.of(host))
					slices.Sort(want)
					slices.Sort(got)
					if !slices.Equal(got, want) {
						t.Errorf("%s leads to %v, want %v", host, got, want)
					}
					if len(want) == 0 {
						if table.hosts.of(host) != nil {
							t.Errorf("%s stays without a backend", host)
						}
					} else if b, _ := table.choose(host, "", want[1:], false, now); b == nil {
						t.Errorf("%s has a backend that was not tried, and none is chosen", host)
					}
				}
				distinct := map[string]bool{}
				for key := range model {
					distinct[key.addr] = true
				}
				if urls, backends := table.size(); urls != countHosts(table) || backends != len(distinct) {
					t.Errorf("%d urls, %d backends of %v", urls, backends, distinct)
				}
			},
		})
	})
}

// FuzzHost: no Host header may panic, and the key of a key is itself.
func FuzzHost(f *testing.F) {
	for _, s := range []string{"hello.cf.test:80", "[::1]:80", "[::1", "a..", ":", "*.", "..", "A.b."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		table := newTable()
		table.register(at("10.0.0.1", 1, host), epoch)
		table.lookup(host)
		table.unregister(at("10.0.0.1", 1, host))
		if urls, _ := table.size(); urls != 0 || countHosts(table) != 0 {
			t.Errorf("%q registers as something that %q does not unregister", host, host)
		}
	})
}

func TestMetrics(t *testing.T) {
	var m metrics
	m.done(200, wire.Tags{"framework": "node"}, 10*time.Millisecond, epoch)
	m.done(302, nil, 20*time.Millisecond, epoch.Add(30*time.Second))
	m.done(101, nil, 0, epoch.Add(30*time.Second))
	m.done(503, nil, 30*time.Millisecond, epoch.Add(59*time.Second))
	m.bad()
	doc := m.varz(epoch.Add(59 * time.Second))
	want := "map[bad_requests:1 latency:map[samples:4 value:15] requests:5 requests_per_sec:0.06666666666666667 " +
		"responses_2xx:1 responses_3xx:1 responses_4xx:0 responses_5xx:1 responses_xxx:1 " +
		"tags:map[framework:map[node:map[latency:map[samples:1 value:10] requests:1 responses_2xx:1 responses_3xx:0 responses_4xx:0 responses_5xx:0 responses_xxx:0]]]]"
	if got := fmt.Sprint(doc); got != want {
		t.Errorf("varz\n%s, want\n%s", got, want)
	}
	for _, later := range []struct {
		after   time.Duration
		samples int
	}{{60 * time.Second, 3}, {90 * time.Second, 1}, {time.Hour, 0}} {
		if got := m.varz(epoch.Add(later.after))["latency"].(map[string]any)["samples"]; got != later.samples {
			t.Errorf("after %v %v samples, want %d", later.after, got, later.samples)
		}
	}
}

// TestLookupsMeanwhile: requests look at the table while it changes, and find a
// route that stays at every moment. The race detector watches.
func TestLookupsMeanwhile(t *testing.T) {
	table := newTable()
	stays := at("10.0.0.1", 1, "stays.test", "a.test")
	table.register(stays, epoch)
	done := make(chan struct{})
	var looking sync.WaitGroup
	for range 4 {
		looking.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if b, _ := table.choose("stays.test", "", nil, false, epoch); b == nil || b.Addr != "10.0.0.1:1" || b.Tags["k"] != "" {
					t.Errorf("stays.test leads to %v", b)
					return
				}
				if b, _ := table.choose("a.test", "", nil, false, epoch); b == nil {
					t.Error("a.test leads nowhere, and one of its backends was there all the time")
					return
				}
			}
		})
	}
	for round := range 500 {
		comes := at("10.0.0.2", 1+round%7, "a.test", fmt.Sprintf("%d.test", round))
		comes.Tags, comes.FrontKey = wire.Tags{"k": "v"}, fmt.Sprint(round%2)
		table.register(comes, epoch)
		table.register(stays, epoch)
		table.setAside("10.0.0.2:1", epoch.Add(time.Hour))
		if round%3 == 0 {
			table.unregister(comes)
		}
	}
	close(done)
	looking.Wait()
}

// TestTagsAreShared: backends with the same tags have them in common, and the last
// one takes them along.
func TestTagsAreShared(t *testing.T) {
	table := newTable()
	one, two, other := at("10.0.0.1", 1, "a.test", "b.test"), at("10.0.0.1", 2, "a.test"), at("10.0.0.1", 3, "a.test")
	one.Tags, two.Tags, other.Tags = wire.Tags{"k": "v", "x": "y"}, wire.Tags{"x": "y", "k": "v"}, wire.Tags{"k": "v\",x=\"y"}
	for _, r := range []wire.Registration{one, two, other} {
		table.register(r, epoch)
	}
	backends := table.lookup("a.test").backends
	if backends[0].tagSet != backends[1].tagSet || backends[0].tagSet == backends[2].tagSet || len(table.tags) != 2 {
		t.Errorf("%d sets", len(table.tags))
	}
	table.unregister(two)
	table.unregister(other)
	if got := table.lookup("a.test").backends[0].Tags["x"]; got != "y" || len(table.tags) != 1 {
		t.Errorf("tag %q of %d sets", got, len(table.tags))
	}
	table.unregister(one)
	if len(table.tags) != 0 {
		t.Errorf("%d sets are left of no backend", len(table.tags))
	}
}
