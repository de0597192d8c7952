package core

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/jobs/wire"
)

var epoch = time.Unix(1343815200, 0)

func testConfig() Config {
	return Config{
		DEA: "0-9b1c", IP: "10.0.0.5", FilePort: 12345, Credentials: [2]string{"u", "p"}, Cores: 2,
		MaxMemory: 256, MaxClients: 8, Runtimes: []string{"node"}, Partition: "default", CrashedFor: time.Hour,
	}
}

func document(droplet wire.ID, index, mem int) wire.DEAStart {
	return wire.DEAStart{
		Droplet: droplet, Name: "app", Index: index, Version: "v-1", URIs: []string{"app.cf.test"},
		Runtime: "node", Framework: "node", Limits: wire.Limits{Mem: mem, Disk: 10, FDs: 10},
	}
}

// describe writes actions in short, for comparison.
func describe(actions []Action) []string {
	var all []string
	for _, action := range actions {
		text := ""
		switch a := action.(type) {
		case Attend:
			text = "attend " + a.Instance.ID
		case End:
			text = fmt.Sprintf("end %s quick=%v", a.ID, a.Quick)
		case Kill:
			text = "kill " + a.ID
		case Log:
			text = "log " + a.ID + " " + a.Text
		case Discard:
			text = "discard " + a.ID
		case Trim:
			text = "trim " + a.ID
		case Register:
			text = fmt.Sprintf("register %d %s", a.Route.Port, strings.Join(a.Route.URIs, " "))
		case Unregister:
			text = fmt.Sprintf("unregister %d %s", a.Route.Port, strings.Join(a.Route.URIs, " "))
		case Refused:
			text = "refused " + a.Why.Error()
		case Publish:
			switch m := a.Message.(type) {
			case wire.DropletExited:
				text = fmt.Sprintf("exited %s %s", m.Instance, m.Reason)
				if (m.CrashTimestamp != 0) != (m.Reason == wire.ReasonCrashed) || !a.Kept {
					text += fmt.Sprintf(" WRONG %+v", a)
				}
			case wire.DEAAdvertise:
				text = fmt.Sprintf("advertise %d", m.AvailableMemory)
			case wire.DEAHeartbeat:
				text = fmt.Sprintf("heartbeat %s %s", m.Droplets[0].Instance, m.Droplets[0].State)
			case wire.DEAShutdown:
				text = fmt.Sprintf("shutdown %v", m.AppIDToCount)
			}
		}
		all = append(all, text)
	}
	return all
}

// running is a machine with instance "a" of app 7 running on port 1000.
func running(t *testing.T) *Machine {
	t.Helper()
	m := New(testConfig(), nil)
	for _, e := range []Event{Start{document("7", 0, 64), "a", "private"}, Launched{ID: "a", Port: 1000}, Ready{"a"}} {
		m.Step(epoch, e)
	}
	return m
}

func starting(t *testing.T) *Machine {
	t.Helper()
	m := New(testConfig(), nil)
	m.Step(epoch, Start{document("7", 0, 64), "a", "private"})
	return m
}

func crashed(t *testing.T) *Machine {
	t.Helper()
	m := running(t)
	m.Step(epoch, Ended{ID: "a"})
	return m
}

// TestTransitions is the table of states of the protocol reference, 3.2.
func TestTransitions(t *testing.T) {
	flapping := document("7", 0, 64)
	flapping.Flapping = true
	for _, tc := range []struct {
		name   string
		begin  func(*testing.T) *Machine
		events []Event
		want   []string // actions of the last event
		state  string   // of instance "a"; "": it is gone
	}{
		{"start accepted", func(*testing.T) *Machine { return New(testConfig(), nil) },
			[]Event{Start{document("7", 0, 64), "a", "p"}}, []string{"advertise 192", "attend a"}, wire.StateStarting},
		{"start that needs too much", starting, []Event{Start{document("8", 0, 193), "b", "p"}},
			[]string{"refused 193 MB are needed, 64 MB of 256 MB are reserved"}, wire.StateStarting},
		{"start that fits exactly leaves nothing to advertise", starting, []Event{Start{document("8", 0, 192), "b", "p"}},
			[]string{"attend b"}, wire.StateStarting},
		{"start on a full disk", starting, []Event{DiskFull{true}, Start{document("8", 0, 1), "b", "p"}},
			[]string{"refused the disk is nearly full"}, wire.StateStarting},
		{"start while leaving", starting, []Event{Evacuate{}, Start{document("8", 0, 1), "b", "p"}},
			[]string{"refused this DEA is draining"}, wire.StateStarting},
		{"bits failed", starting, []Event{Failed{ID: "a", Why: "no droplet"}},
			[]string{"log a no droplet", "exited a CRASHED", "discard a", "advertise 256"}, ""},
		{"bits failed, and a log says so", starting, []Event{Failed{ID: "a", Why: "too large", Logged: true}},
			[]string{"log a too large", "exited a CRASHED", "advertise 256"}, wire.StateCrashed},
		{"no port", starting, []Event{Failed{ID: "a", Why: "no port", Fault: true}},
			[]string{"log a no port", "exited a DEA_FAULT", "discard a", "advertise 256"}, ""},
		{"no such runtime here", starting, []Event{Unfit{"a"}}, []string{"discard a", "advertise 256"}, ""},
		{"ready", starting, []Event{Launched{ID: "a", Port: 1000}, Ready{"a"}},
			[]string{"register 1000 app.cf.test", "heartbeat a RUNNING"}, wire.StateRunning},
		{"launched: the port is claimed", starting, []Event{Launched{ID: "a", Port: 1000}}, []string{"register 1000 "}, wire.StateStarting},
		{"launched, and stopped meanwhile", starting, []Event{Stop{wire.DEAStop{Droplet: "7"}}, Launched{ID: "a", Port: 1000}}, []string{"unregister 1000 "}, wire.StateStopped},
		{"stopped before it is ready", starting, []Event{Launched{ID: "a", Port: 1000}, Stop{wire.DEAStop{Droplet: "7"}}},
			[]string{"unregister 1000 ", "exited a STOPPED", "end a quick=false", "advertise 256"}, wire.StateStopped},
		{"stopped without URIs", running, []Event{Update{wire.DEAUpdate{Droplet: "7", URIs: []string{}}}, Stop{wire.DEAStop{Droplet: "7"}}},
			[]string{"unregister 1000 ", "exited a STOPPED", "end a quick=false", "advertise 256"}, wire.StateStopped},
		{"ready without a port", starting, []Event{Launched{ID: "a"}, Ready{"a"}}, []string{"heartbeat a RUNNING"}, wire.StateRunning},
		{"ready twice", running, []Event{Ready{"a"}}, nil, wire.StateRunning},
		{"not ready in time", starting, []Event{Launched{ID: "a", Port: 1000}, Ended{"a", "too late"}},
			[]string{"log a too late", "unregister 1000 ", "exited a CRASHED", "advertise 256"}, wire.StateCrashed},
		{"ends by itself", running, []Event{Ended{"a", "status 0"}},
			[]string{"log a status 0", "unregister 1000 app.cf.test", "exited a CRASHED", "advertise 256"}, wire.StateCrashed},
		{"ends by itself, flapping", func(*testing.T) *Machine { return New(testConfig(), nil) },
			[]Event{Start{flapping, "a", "p"}, Launched{ID: "a", Port: 1}, Ready{"a"}, Ended{ID: "a"}},
			[]string{"unregister 1 app.cf.test", "exited a CRASHED", "discard a", "advertise 256"}, ""},
		{"ends twice", crashed, []Event{Ended{ID: "a"}}, nil, wire.StateCrashed},
		{"stop a starting one", starting, []Event{Stop{wire.DEAStop{Droplet: "7"}}},
			[]string{"exited a STOPPED", "end a quick=false", "advertise 256"}, wire.StateStopped},
		{"stop a running one", running, []Event{Stop{wire.DEAStop{Droplet: "7"}}},
			[]string{"unregister 1000 app.cf.test", "exited a STOPPED", "end a quick=false", "advertise 256"}, wire.StateStopped},
		{"stop a stopped one", running, []Event{Stop{wire.DEAStop{Droplet: "7"}}, Stop{wire.DEAStop{Droplet: "7"}}}, nil, wire.StateStopped},
		{"stopped one is ready after all", starting, []Event{Stop{wire.DEAStop{Droplet: "7"}}, Launched{ID: "a", Port: 1}, Ready{"a"}}, nil, wire.StateStopped},
		{"stopped one ends", running, []Event{Stop{wire.DEAStop{Droplet: "7"}}, Ended{ID: "a"}}, []string{"discard a"}, ""},
		{"stopped one ends, its app is still there", running, []Event{Stop{live()}, Ended{ID: "a"}}, []string{"trim a"}, wire.StateStopped},
		{"stopped one ends twice", running, []Event{Stop{live()}, Ended{ID: "a"}, Ended{ID: "a"}}, nil, wire.StateStopped},
		{"its app is deleted while it stops", running, []Event{Stop{live()}, Stop{wire.DEAStop{Droplet: "7"}}, Ended{ID: "a"}}, []string{"discard a"}, ""},
		{"its app is deleted when it has stopped", running, []Event{Stop{live()}, Ended{ID: "a"}, Stop{wire.DEAStop{Droplet: "7"}}}, []string{"discard a", "advertise 256"}, ""},
		{"a stopped one's logs give way on a full disk", running, []Event{Stop{live()}, Ended{ID: "a"}, DiskFull{true}}, []string{"discard a"}, ""},
		{"a stopped one ends on a full disk", running, []Event{Stop{live()}, DiskFull{true}, Ended{ID: "a"}}, []string{"discard a"}, ""},
		{"a shutdown leaves a stopped one's logs", running, []Event{Stop{live()}, Ended{ID: "a"}, Shutdown{}}, nil, wire.StateStopped},
		{"stopped before it was launched", starting, []Event{Stop{live()}, Ended{ID: "a"}}, []string{"discard a"}, ""},
		{"stopped one fails to launch", starting, []Event{Stop{wire.DEAStop{Droplet: "7"}}, Failed{ID: "a"}}, []string{"discard a"}, ""},
		{"stop a crashed one", crashed, []Event{Stop{wire.DEAStop{Droplet: "7"}}}, []string{"discard a", "advertise 256"}, ""},
		{"stop another app", running, []Event{Stop{wire.DEAStop{Droplet: "8"}}}, nil, wire.StateRunning},
		{"stop another version", running, []Event{Stop{wire.DEAStop{Droplet: "7", InstanceFilter: wire.InstanceFilter{Version: "v-2"}}}}, nil, wire.StateRunning},
		{"stop another index", running, []Event{Stop{wire.DEAStop{Droplet: "7", InstanceFilter: wire.InstanceFilter{Indices: []int{1}}}}}, nil, wire.StateRunning},
		{"over quota", running, []Event{Over{"a", "too much"}}, []string{"log a too much", "kill a"}, wire.StateRunning},
		{"over quota when it is stopped", running, []Event{Stop{wire.DEAStop{Droplet: "7"}}, Over{"a", "too much"}}, nil, wire.StateStopped},
		{"machine was started anew", running, []Event{Lost{"a"}}, []string{"exited a DEA_SHUTDOWN", "discard a"}, ""},
		{"update adds", running, []Event{Update{wire.DEAUpdate{Droplet: "7", URIs: []string{"app.cf.test", "new.cf.test"}}}},
			[]string{"register 1000 app.cf.test new.cf.test"}, wire.StateRunning},
		{"update replaces", running, []Event{Update{wire.DEAUpdate{Droplet: "7", URIs: []string{"new.cf.test"}}}},
			[]string{"unregister 1000 app.cf.test", "register 1000 new.cf.test"}, wire.StateRunning},
		{"update removes all", running, []Event{Update{wire.DEAUpdate{Droplet: "7", URIs: []string{}}}}, []string{"unregister 1000 app.cf.test", "register 1000 "}, wire.StateRunning},
		{"update of nothing", running, []Event{Update{wire.DEAUpdate{Droplet: "7", URIs: []string{"app.cf.test"}}}}, nil, wire.StateRunning},
		{"update before it is ready", starting, []Event{Update{wire.DEAUpdate{Droplet: "7", URIs: []string{"new.cf.test"}}}, Launched{ID: "a", Port: 1}, Ready{"a"}},
			[]string{"register 1 new.cf.test", "heartbeat a RUNNING"}, wire.StateRunning},
		{"evacuate", running, []Event{Evacuate{}}, []string{"shutdown map[7:1]", "exited a DEA_EVACUATION"}, wire.StateRunning},
		{"evacuate twice", running, []Event{Evacuate{}, Evacuate{}}, nil, wire.StateRunning},
		{"evacuate a crashed one", crashed, []Event{Evacuate{}}, []string{"shutdown map[]"}, wire.StateCrashed},
		{"replaced", running, []Event{Evacuate{}, Replaced{"7", "v-1", 0}}, []string{"unregister 1000 app.cf.test", "end a quick=false"}, wire.StateStopped},
		{"replaced another index", running, []Event{Evacuate{}, Replaced{"7", "v-1", 1}}, nil, wire.StateRunning},
		{"replaced another version", running, []Event{Evacuate{}, Replaced{"7", "v-2", 0}}, nil, wire.StateRunning},
		{"runs elsewhere, but nobody leaves", running, []Event{Replaced{"7", "v-1", 0}}, nil, wire.StateRunning},
		{"crashes while it is evacuated", running, []Event{Evacuate{}, Ended{ID: "a"}}, []string{"unregister 1000 app.cf.test"}, wire.StateCrashed},
		{"nobody replaces it", running, []Event{Evacuate{}, GiveUp{}}, []string{"unregister 1000 app.cf.test", "end a quick=false"}, wire.StateStopped},
		{"shutdown", running, []Event{Shutdown{}}, []string{"unregister 1000 app.cf.test", "exited a DEA_SHUTDOWN", "end a quick=true"}, wire.StateStopped},
		{"shutdown in an evacuation", running, []Event{Evacuate{}, GiveUp{}, Shutdown{}}, []string{"end a quick=true"}, wire.StateStopped},
		{"events of an instance that is gone", running,
			[]Event{Launched{ID: "z"}, Ready{"z"}, Failed{ID: "z"}, Ended{ID: "z"}, Over{ID: "z"}, Used{ID: "z"}, Lost{"z"}}, nil, wire.StateRunning},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := tc.begin(t)
			var actions []Action
			for _, e := range tc.events {
				actions = m.Step(epoch.Add(time.Second), e)
			}
			if got := describe(actions); !slices.Equal(got, tc.want) {
				t.Errorf("actions\n%q, want\n%q", got, tc.want)
			}
			state := ""
			for _, i := range m.Instances() {
				if i.ID == "a" {
					state = i.State
				}
			}
			if state != tc.state {
				t.Errorf("instance a is %q, want %q", state, tc.state)
			}
		})
	}
}

// live stops what runs of app 7, as who stops the app does.
func live() wire.DEAStop {
	return wire.DEAStop{Droplet: "7", InstanceFilter: wire.InstanceFilter{States: []string{wire.StateStarting, wire.StateRunning}}}
}

// TestLeft: the logs of stopped instances are kept for a while, of the newest of each
// app, without the app's passwords, and found by who asks for that state only.
func TestLeft(t *testing.T) {
	m := New(testConfig(), nil)
	for n := range LeftOfApp + 2 {
		id := fmt.Sprint("i", n)
		d := document("7", n, 16)
		d.Env = []string{"PASSWORD=x"}
		now := epoch.Add(time.Duration(n) * time.Second)
		m.Step(now, Start{d, id, "p"})
		m.Step(now, Launched{ID: id, Port: 1000 + n})
		m.Step(now, Stop{live()})
		want := []string{"trim " + id}
		if n >= LeftOfApp {
			want = append(want, fmt.Sprint("discard i", n-LeftOfApp))
		}
		if got := describe(m.Step(now, Ended{ID: id})); !slices.Equal(got, want) {
			t.Errorf("instance %d: %q, want %q", n, got, want)
		}
	}
	if all := m.Find(epoch, wire.DEAFind{Droplet: "7"}); len(all) != 0 {
		t.Errorf("who asks for what is there finds %+v", all)
	}
	stopped := wire.InstanceFilter{States: []string{wire.StateCrashed, wire.StateStopped}}
	found := m.Find(epoch, wire.DEAFind{Droplet: "7", InstanceFilter: stopped})
	if len(found) != LeftOfApp || found[0].Instance != "i2" || *found[0].Staged != "app-2-i2" || found[0].State != wire.StateStopped {
		t.Errorf("found %+v", found)
	}
	if text := fmt.Sprintf("%+v", m.Instances()); strings.Contains(text, "PASSWORD") {
		t.Errorf("a password is kept: %s", text)
	}
	if _, any := m.Heartbeat(); any || len(m.Routes()) != 0 || m.Reserved() != 0 {
		t.Error("what has ended is reported")
	}
	if got := describe(m.Step(epoch.Add(time.Hour+3*time.Second), Reap{})); !slices.Equal(got, []string{"discard i2"}) {
		t.Errorf("an hour later: %q", got)
	}
}

func TestReap(t *testing.T) {
	m := crashed(t)
	if got := describe(m.Step(epoch.Add(time.Hour), Reap{})); got != nil {
		t.Errorf("after an hour: %q", got)
	}
	if got := describe(m.Step(epoch.Add(time.Hour+time.Second), Reap{})); !slices.Equal(got, []string{"discard a"}) {
		t.Errorf("after more than that: %q", got)
	}
}

func TestTaint(t *testing.T) {
	m := New(testConfig(), nil)
	for i, want := range []time.Duration{0, 10 + 25, 20 + 50, 30 + 75, 40 + 100} {
		if got := m.Taint("7"); got != want*time.Millisecond {
			t.Errorf("with %d instances: %v, want %v ms", i, got, int(want))
		}
		m.Step(epoch, Start{document("7", i, 64), fmt.Sprint(i), "p"})
	}
	if got := m.Taint("8"); got != 100*time.Millisecond {
		t.Errorf("another app on a full DEA: %v", got)
	}
	c := testConfig()
	c.MaxClients, c.MaxMemory = 100, 1000
	m = New(c, nil)
	for i := range 40 {
		m.Step(epoch, Start{document("7", i, 1), fmt.Sprint(i), "p"})
	}
	if got := m.Taint("7"); got != TaintMax {
		t.Errorf("with 40 instances: %v", got)
	}
}

func TestProductionOnly(t *testing.T) {
	c := testConfig()
	yes := true
	c.Prod = &yes
	m := New(c, nil)
	if err := m.Fits(wire.Limits{Mem: 1}, false); err == nil {
		t.Error("an app that is not for production is taken")
	}
	if err := m.Fits(wire.Limits{Mem: 1}, true); err != nil {
		t.Error(err)
	}
	if a, ok := m.Advertisement(); !ok || a.Prod == nil || !*a.Prod {
		t.Errorf("it advertises %+v, %v", a, ok)
	}
}

// TestFound holds the units: quotas are bytes, limits MB.
func TestFound(t *testing.T) {
	m := running(t)
	m.Step(epoch, Used{"a", wire.Usage{Time: "t", CPU: 1.5, Mem: 20480, Disk: 100}})
	found := m.Find(epoch.Add(12500*time.Millisecond), wire.DEAFind{Droplet: "7", IncludeStats: true})
	if len(found) != 1 {
		t.Fatalf("found %+v", found)
	}
	got, err := json.Marshal(found[0])
	if err != nil {
		t.Fatal(err)
	}
	want := `{"dea":"0-9b1c","version":"v-1","droplet":"7","instance":"a","index":0,"state":"RUNNING","state_timestamp":1343815200,` +
		`"file_uri":"http://10.0.0.5:12345/droplets/","credentials":["u","p"],"staged":"app-0-a","debug_ip":null,"debug_port":null,"console_ip":null,"console_port":null,` +
		`"stats":{"name":"app","host":"10.0.0.5","port":1000,"uris":["app.cf.test"],"uptime":12.5,"mem_quota":67108864,"disk_quota":10485760,"fds_quota":10,"cores":2,` +
		`"usage":{"time":"t","cpu":1.5,"mem":20480,"disk":100}}}`
	if string(got) != want {
		t.Errorf("found\n%s, want\n%s", got, want)
	}
	if found := m.Find(epoch, wire.DEAFind{Droplet: "7"}); found[0].Stats != nil {
		t.Error("statistics that nobody asked for")
	}
	if found := starting(t).Find(epoch, wire.DEAFind{Droplet: "7", IncludeStats: true}); found[0].Staged != nil || found[0].Stats != nil {
		t.Errorf("an instance that is not unpacked: %+v", found[0])
	}
}

func TestFolder(t *testing.T) {
	for name, want := range map[string]string{
		"hello": "hello-2-id", "../../etc": "______etc-2-id", "a b/ü": "a_b__-2-id", "": "-2-id",
	} {
		if got := folder(name, 2, "id"); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// world carries out what a machine wants, in no order that it could rely on.
type world struct {
	routes    map[int]string // uris by port
	attended  map[string]bool
	ordered   map[string]bool
	exits     map[string]int
	discarded map[string]bool
}

func (w *world) take(t *rapid.T, m *Machine, actions []Action) {
	for _, action := range actions {
		switch a := action.(type) {
		case Attend:
			if m.Draining() {
				t.Fatal("a start while draining")
			}
			w.attended[a.Instance.ID] = true
		case End:
			w.ordered[a.ID] = true
		case Kill:
			w.ordered[a.ID] = true
		case Register:
			w.routes[a.Route.Port] = strings.Join(a.Route.URIs, " ")
		case Unregister:
			delete(w.routes, a.Route.Port)
		case Trim:
			if w.discarded[a.ID] || w.attended[a.ID] {
				t.Fatalf("instance %s is trimmed when it is gone, or while it runs", a.ID)
			}
		case Discard:
			if w.discarded[a.ID] || w.attended[a.ID] {
				t.Fatalf("instance %s is discarded twice, or while it runs", a.ID)
			}
			w.discarded[a.ID] = true
		case Publish:
			if e, ok := a.Message.(wire.DropletExited); ok {
				w.exits[e.Instance]++
			}
		}
	}
}

// TestMachine runs random events and holds what must always be so.
func TestMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := testConfig()
		m := New(c, nil)
		w := &world{map[int]string{}, map[string]bool{}, map[string]bool{}, map[string]int{}, map[string]bool{}}
		now, next := epoch, 0
		step := func(e Event) { w.take(t, m, m.Step(now, e)) }
		attended := func() (string, bool) {
			var ids []string
			for id := range w.attended {
				ids = append(ids, id)
			}
			if len(ids) == 0 {
				return "", false
			}
			slices.Sort(ids)
			return rapid.SampledFrom(ids).Draw(t, "instance"), true
		}
		end := func(id string) {
			delete(w.attended, id)
			step(Ended{ID: id})
		}
		launched := map[string]int{}
		t.Repeat(map[string]func(*rapid.T){
			"start": func(t *rapid.T) {
				next++
				d := document(wire.ID(rapid.SampledFrom([]string{"7", "8"}).Draw(t, "app")), rapid.IntRange(0, 3).Draw(t, "index"), rapid.SampledFrom([]int{1, 64, 100, 300}).Draw(t, "memory"))
				d.Flapping = rapid.Bool().Draw(t, "flapping")
				if rapid.Bool().Draw(t, "worker") {
					d.URIs = nil
				}
				step(Start{d, fmt.Sprint(next), "p"})
			},
			"launched": func(t *rapid.T) {
				if id, ok := attended(); ok && launched[id] == 0 {
					launched[id] = 1000 + len(launched)
					step(Launched{ID: id, Port: launched[id]})
				}
			},
			"ready": func(t *rapid.T) {
				if id, ok := attended(); ok && launched[id] != 0 {
					step(Ready{id})
				}
			},
			"failed": func(t *rapid.T) {
				if id, ok := attended(); ok && launched[id] == 0 {
					delete(w.attended, id)
					step(Failed{ID: id})
				}
			},
			"ended": func(t *rapid.T) {
				if id, ok := attended(); ok {
					end(id)
				}
			},
			"over": func(t *rapid.T) {
				if id, ok := attended(); ok {
					step(Over{ID: id})
				}
			},
			"stop": func(t *rapid.T) {
				stop := wire.DEAStop{Droplet: wire.ID(rapid.SampledFrom([]string{"7", "8"}).Draw(t, "app"))}
				if rapid.Bool().Draw(t, "index") {
					stop.Indices = []int{rapid.IntRange(0, 3).Draw(t, "which")}
				}
				step(Stop{stop})
			},
			"update": func(t *rapid.T) {
				step(Update{wire.DEAUpdate{Droplet: "7", URIs: rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 2).Draw(t, "uris")}})
			},
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 7200).Draw(t, "seconds")) * time.Second)
				step(Reap{})
			},
			"disk": func(t *rapid.T) { step(DiskFull{rapid.Bool().Draw(t, "full")}) },
			"evacuate": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "rarely") == 0 {
					step(Evacuate{})
				}
			},
			"replaced": func(t *rapid.T) { step(Replaced{"7", "v-1", rapid.IntRange(0, 3).Draw(t, "index")}) },
			"restart": func(t *rapid.T) {
				// The DEA itself is killed: what was saved is all there is. It does not
				// drain any more, and its attendants are attached again.
				data, err := json.Marshal(m.Instances())
				if err != nil {
					t.Fatal(err)
				}
				var saved []Instance
				if err := json.Unmarshal(data, &saved); err != nil {
					t.Fatal(err)
				}
				before := m.Routes()
				m = New(c, saved)
				for _, i := range saved {
					if i.live() {
						delete(w.exits, i.ID) // it may have been evacuated
					}
				}
				if !reflect.DeepEqual(before, m.Routes()) {
					t.Fatalf("routes %+v, after a restart %+v", before, m.Routes())
				}
			},
			"": func(t *rapid.T) {
				if m.Reserved() > c.MaxMemory {
					t.Fatalf("%d MB are reserved", m.Reserved())
				}
				if n := m.Status().NumClients; n > c.MaxClients {
					t.Fatalf("%d clients", n)
				}
				wanted := map[int]string{}
				for _, r := range m.Routes() {
					wanted[r.Port] = strings.Join(r.URIs, " ")
				}
				if !reflect.DeepEqual(wanted, w.routes) {
					t.Fatalf("routers know %v, what runs is %v", w.routes, wanted)
				}
				for _, i := range m.Instances() {
					if w.attended[i.ID] != (i.State != wire.StateCrashed && !i.Left) {
						t.Fatalf("instance %s is %s, attended: %v", i.ID, i.State, w.attended[i.ID])
					}
					if i.State == wire.StateStopped && !i.Left && !w.ordered[i.ID] {
						t.Fatalf("instance %s is to stop and nobody was told", i.ID)
					}
					if ended := i.State == wire.StateCrashed || i.State == wire.StateStopped; ended && w.exits[i.ID] != 1 {
						t.Fatalf("instance %s is %s and %d exits were sent", i.ID, i.State, w.exits[i.ID])
					}
				}
				for id, n := range w.exits {
					if n > 1 {
						t.Fatalf("%d exits of instance %s", n, id)
					}
				}
				for id := range w.discarded {
					if w.exits[id] != 1 {
						t.Fatalf("instance %s is gone without a word", id)
					}
				}
			},
		})
		// A drain always ends.
		step(Evacuate{})
		step(GiveUp{})
		for id := range w.attended {
			if !w.ordered[id] {
				t.Fatalf("instance %s runs on after the drain", id)
			}
			end(id)
		}
		if !m.Drained() {
			t.Fatalf("not drained: %+v", m.Instances())
		}
	})
}
