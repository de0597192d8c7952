package gateway

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/jobs/wire"
)

func announce(id, plan string, capacity int, versions ...string) wire.ServiceAnnounce {
	return wire.ServiceAnnounce{ID: id, Plan: plan, SupportedVersions: versions, AvailableCapacity: capacity, CapacityUnit: 1}
}

func TestBestNode(t *testing.T) {
	service := Service{Name: "redis", Version: "7.0", SupportedVersions: []string{"6.0", "7.0"}, Plans: []string{"free", "gold"}}
	for _, tc := range []struct {
		name          string
		nodes         []wire.ServiceAnnounce
		plan, version string
		over          bool
		want          string
		code          int
	}{
		{"the one with most room", []wire.ServiceAnnounce{announce("a", "free", 3, "7.0"), announce("b", "free", 5, "7.0")}, "free", "7.0", false, "b", 0},
		{"equals by their id", []wire.ServiceAnnounce{announce("b", "free", 3, "7.0"), announce("a", "free", 3, "7.0")}, "free", "7.0", false, "a", 0},
		{"of its plan", []wire.ServiceAnnounce{announce("a", "gold", 9, "7.0"), announce("b", "free", 1, "7.0")}, "free", "7.0", false, "b", 0},
		{"of its version", []wire.ServiceAnnounce{announce("a", "free", 9, "7.0"), announce("b", "free", 1, "6.0", "7.0")}, "free", "6.0", false, "b", 0},
		{"none has room", []wire.ServiceAnnounce{announce("a", "free", 0, "7.0")}, "free", "7.0", false, "", 30500},
		{"none has room, and may", []wire.ServiceAnnounce{announce("a", "free", -2, "7.0"), announce("b", "free", -1, "7.0")}, "free", "7.0", true, "b", 0},
		{"no nodes", nil, "free", "7.0", true, "", 30500},
		{"an unknown plan", []wire.ServiceAnnounce{announce("a", "tin", 9, "7.0")}, "tin", "7.0", false, "", 30003},
		{"an unknown version", []wire.ServiceAnnounce{announce("a", "free", 9, "5.0")}, "free", "5.0", false, "", 30004},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPool(Config{Service: service, PlanManagement: PlanManagement{map[string]PlanPolicy{"free": {AllowOverProvisioning: tc.over}}}})
			for _, n := range tc.nodes {
				p.announce(n, time.Unix(0, 0))
			}
			got, failure := p.best(tc.plan, tc.version)
			if got != tc.want || (failure == nil) != (tc.code == 0) || failure != nil && failure.Msg.Code != tc.code {
				t.Errorf("%q, %v", got, failure)
			}
		})
	}
}

// TestPool: however announces, provisions and silence follow each other, a pool never
// gives a node more than that can have, and who is chosen is never worse than another.
func TestPool(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 5
		p := newPool(Config{Service: Service{Name: "redis", SupportedVersions: []string{"7.0"}, Plans: []string{"free"}}})
		made := map[string]int{} // on each node, as it knows
		var waiting []string     // nodes of provisions that were sent
		now := time.Unix(0, 0)
		id := rapid.SampledFrom([]string{"a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"announce": func(t *rapid.T) {
				n := id.Draw(t, "node")
				p.announce(announce(n, "free", most-made[n], "7.0"), now)
			},
			"provision": func(t *rapid.T) {
				n, failure := p.best("free", "7.0")
				if failure != nil {
					for id, m := range p.nodes {
						if m.AvailableCapacity > 0 {
							t.Fatalf("%s has room for %d and nobody is chosen", id, m.AvailableCapacity)
						}
					}
					return
				}
				for other, m := range p.nodes {
					if m.AvailableCapacity > p.nodes[n].AvailableCapacity {
						t.Fatalf("%s is chosen, %s has more room", n, other)
					}
				}
				p.reserve(n)
				waiting = append(waiting, n)
			},
			"answer": func(t *rapid.T) {
				if len(waiting) == 0 {
					return
				}
				at := rapid.IntRange(0, len(waiting)-1).Draw(t, "which")
				n := waiting[at]
				waiting = append(waiting[:at], waiting[at+1:]...)
				refused := rapid.Bool().Draw(t, "refused")
				if !refused {
					made[n]++
				}
				p.settle(n, refused)
			},
			"remove": func(t *rapid.T) {
				if n := id.Draw(t, "node"); made[n] > 0 {
					made[n]--
				}
			},
			"silence": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "seconds")) * time.Second)
				p.prune(now)
				for id, m := range p.nodes {
					if now.Sub(m.heard) > wire.ServiceNodeLost && m.pending == 0 {
						t.Fatalf("%s was silent for %v and is still there", id, now.Sub(m.heard))
					}
				}
			},
			"": func(t *rapid.T) {
				sent := map[string]int{}
				for _, n := range waiting {
					sent[n]++
				}
				for n := range made {
					if made[n]+sent[n] > most {
						t.Fatalf("%s gets %d, and can have %d", n, made[n]+sent[n], most)
					}
				}
				for id, m := range p.nodes {
					if m.pending < 0 || m.AvailableCapacity > most {
						t.Fatalf("%s: %+v", id, m)
					}
				}
			},
		})
	})
}

func report(node string, names []string, bindings ...string) wire.ServiceReport {
	r := wire.ServiceReport{NodeID: node, Instances: names}
	for _, b := range bindings {
		name, user, _ := strings.Cut(b, "/")
		r.Bindings = append(r.Bindings, wire.Credentials{"name": name, "user": user})
	}
	return r
}

func instance(name, node string) wire.ServiceHandle {
	return wire.ServiceHandle{ServiceID: name, Credentials: wire.Credentials{"name": name, "node_id": node, "user": "owner"}}
}

func bound(id, name, user string) wire.ServiceHandle {
	return wire.ServiceHandle{ServiceID: id, Credentials: wire.Credentials{"name": name, "username": user}}
}

func TestUnknown(t *testing.T) {
	known := handlesOf([]wire.ServiceHandle{instance("d1", "a"), bound("b1", "d1", "u1"), instance("d2", "b"), instance("d3", "")})
	o := newOrphans()
	o.add(report("a", []string{"d1", "d2", "d9"}, "d1/u1", "d1/u2", "d9/u1"))
	o.add(report("b", []string{"d2", "d3"}, "d2/u1"))
	got := fmt.Sprint(o.unknown(known).lists())
	want := fmt.Sprint(orphanLists{
		map[string][]string{"a": {"d2", "d9"}}, // d2 has moved to b
		map[string][]wire.Credentials{"a": {{"name": "d1", "user": "u2"}, {"name": "d9", "user": "u1"}}, "b": {{"name": "d2", "user": "u1"}}},
	})
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestTwoSteps: what both checks find is what was unknown all along: nothing that the
// controller knows at the second, nothing that is made between them, nothing that has
// gone; and everything else.
func TestTwoSteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		node := rapid.SampledFrom([]string{"a", "b"})
		state := rapid.SampledFrom([]string{"known", "orphan", "becomes known", "is made", "goes", "node is silent"})
		first, second := newOrphans(), newOrphans()
		var before, after []wire.ServiceHandle
		want := map[string]bool{}
		for i := range rapid.IntRange(0, 12).Draw(t, "instances") {
			name, n := fmt.Sprintf("d%d", i), node.Draw(t, "node")
			r := report(n, []string{name}, name+"/u")
			handles := []wire.ServiceHandle{instance(name, n), bound("b"+name, name, "u")}
			switch state.Draw(t, "state") {
			case "known":
				first.add(r)
				second.add(r)
				before, after = append(before, handles...), append(after, handles...)
			case "orphan":
				first.add(r)
				second.add(r)
				want[n+" "+name] = true
			case "becomes known":
				first.add(r)
				second.add(r)
				after = append(after, handles...)
			case "is made":
				second.add(r)
			case "goes":
				first.add(r)
			case "node is silent":
				first.add(r)
				before = append(before, handles...)
			}
		}
		found := first.unknown(handlesOf(before)).and(second.unknown(handlesOf(after)))
		got := map[string]bool{}
		lists := found.lists()
		for n, names := range lists.Instances {
			for _, name := range names {
				got[n+" "+name] = true
			}
			if len(lists.Bindings[n]) != len(names) {
				t.Fatalf("%d bindings for %d instances", len(lists.Bindings[n]), len(names))
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("found %v, want %v", got, want)
		}
		if rest := found.without(found); len(rest.lists().nodes()) != 0 {
			t.Fatalf("without all of them there is %v", rest)
		}
		if again := lists.set().and(found); fmt.Sprint(again.lists()) != fmt.Sprint(lists) {
			t.Fatalf("the lists do not stand for them: %v", lists)
		}
	})
}

const goodConfig = `mbus: nats://127.0.0.1:1
cloud_controller_uri: http://api.cf.localhost
token: tok
service: {name: redis, version: "7.0", plans: [free]}
`

func TestConfigProblems(t *testing.T) {
	try := func(text string) (Config, error) {
		file := filepath.Join(t.TempDir(), "gateway.yml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, _, err := load(file)
		return cfg, err
	}
	cfg, err := try(goodConfig)
	if err != nil || cfg.Service.DefaultPlan != "free" || cfg.HeartbeatInterval != 60 || cfg.Service.SupportedVersions[0] != "7.0" || cfg.Service.label() != "redis-7.0" {
		t.Fatalf("%+v, %v", cfg, err)
	}
	for _, tc := range []struct{ from, to, want string }{
		{"http://api", "ftp://api", "cloud_controller_uri"},
		{"tok\n", "''\n", "token"},
		{"redis", "Redis", "service.name"},
		{`"7.0"`, `"7/0"`, "service.version"},
		{"[free]", "[]", "service.plans"},
		{"plans: [free]", "plans: [free], default_plan: gold", "default_plan"},
		{"plans: [free]", "plans: [free], supported_versions: ['6.0']", "supported_versions"},
		{"plans: [free]", "plans: [free], timeout: 8", "node_timeout"},
		{"token", "node_timeout: 0\ntoken", "node_timeout"},
		{"token", "double_check_orphan_interval: 7\ntoken", "double_check_orphan_interval"},
		{"token", "check_orphan_interval: 0\ntoken", "check_orphan_interval"},
		{"token", "plan_management: {plans: {gold: {}}}\ntoken", "plan_management"},
	} {
		if _, err := try(strings.Replace(goodConfig, tc.from, tc.to, 1)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want an error about %s", tc.to, err, tc.want)
		}
	}
}

func FuzzParseHandles(f *testing.F) {
	f.Add([]byte(`{"handles":[{"service_id":"d1","configuration":{"plan":"free"},"credentials":{"name":"d1","node_id":"n"}},{"service_id":"b1","credentials":{"name":"d1","user":"u"}}]}`))
	f.Add([]byte(`{"handles":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := parseHandles(data)
		if err != nil {
			return
		}
		o := newOrphans()
		for _, one := range h {
			o.add(wire.ServiceReport{NodeID: one.Credentials.NodeID(), Instances: []string{one.Credentials.Name()}, Bindings: []wire.Credentials{one.Credentials}})
		}
		_ = o.unknown(h).lists()
	})
}

func FuzzPurge(f *testing.F) {
	f.Add([]byte(`{"orphan_ins_list":{"n":["d1"]},"orphan_binding_list":{"n":[{"name":"d1","user":"u"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := parsePurge(data)
		if err != nil {
			return
		}
		l := o.lists()
		again, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		back, err := parsePurge(again)
		if err != nil || fmt.Sprint(back.lists()) != fmt.Sprint(l) {
			t.Errorf("%s is not what it was: %v", again, err)
		}
	})
}

// FuzzBodies: no body of a request may panic.
func FuzzBodies(f *testing.F) {
	f.Add([]byte(`{"label":"redis-7.0","name":"db","plan":"free","email":"a@b","version":"7.0"}`))
	f.Add([]byte(`{"service_id":"d1","label":"redis-7.0","email":"a@b","binding_options":{}}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		c := &call{body: data}
		var p provisionBody
		var b bindBody
		_, _ = c.read(&p), c.read(&b)
	})
}
