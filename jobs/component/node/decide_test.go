package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/jobs/wire"
)

func TestJudge(t *testing.T) {
	const limit = 6 * time.Second
	refused := wire.Failure(wire.ServiceUnavailable, "later")
	for _, tc := range []struct {
		name string
		err  error
		took time.Duration
		keep bool
		code int
	}{
		{"in time", nil, time.Second, true, 0},
		{"just in time", nil, limit, true, 0},
		{"succeeds late", nil, limit + 1, false, wire.ServiceNodeTimeout},
		{"fails late", errors.New("x"), limit + 1, false, wire.ServiceNodeTimeout},
		{"cut by the deadline", fmt.Errorf("x: %w", context.DeadlineExceeded), limit, false, wire.ServiceNodeTimeout},
		{"fails", errors.New("password p1"), time.Second, false, wire.ServiceInternal},
		{"refused", fmt.Errorf("x: %w", refused), time.Second, false, wire.ServiceUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := judge(tc.err, tc.took, limit)
			if v.keep != tc.keep || v.keep != (v.failure == nil) || v.failure != nil && v.failure.Msg.Code != tc.code {
				t.Errorf("%+v", v)
			}
			if v.failure != nil && v.failure.Msg.Description == "password p1" {
				t.Error("the text of an error goes to users")
			}
		})
	}
}

func TestAnnounces(t *testing.T) {
	for _, tc := range []struct {
		asked    string
		disabled bool
		ready    error
		want     bool
	}{
		{"", false, nil, true}, {"free", false, nil, true}, {"gold", false, nil, false}, {"", true, nil, false}, {"free", false, errors.New("x"), false},
	} {
		if got := announces(wire.ServiceDiscovery{Plan: tc.asked}, "free", tc.disabled, tc.ready); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}

func drawInstance(t *rapid.T, at int) Instance {
	states := rapid.SampledFrom([]State{Making, Whole, Removing})
	i := Instance{Name: fmt.Sprintf("d%d%s", at, rapid.StringMatching(`[a-z]{0,40}`).Draw(t, "name")), State: states.Draw(t, "state"), Password: "p-of-" + fmt.Sprint(at)}
	for b := range rapid.IntRange(0, 4).Draw(t, "bindings") {
		i.Bindings = append(i.Bindings, Binding{User: fmt.Sprintf("u%d", b), Password: "p-secret", State: states.Draw(t, "state")})
	}
	return i
}

// TestReports: whatever a node has, its reports name each whole instance and binding
// once, nothing else and no password, and each fits.
func TestReports(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(600, 4000).Draw(t, "limit")
		var instances []Instance
		want := map[string]int{}
		for at := range rapid.IntRange(0, 60).Draw(t, "instances") {
			i := drawInstance(t, at)
			instances = append(instances, i)
			if i.State != Whole {
				continue
			}
			want[i.Name]++
			for _, b := range i.Users() {
				want[i.Name+"/"+b.User]++
			}
		}
		got := map[string]int{}
		list := reports(instances, "redis_node_free_1", limit)
		for _, r := range list {
			data, err := json.Marshal(r)
			if err != nil || len(data) > limit {
				t.Fatalf("a report of %d bytes, limit %d, %v", len(data), limit, err)
			}
			if back, err := wire.ParseServiceReport(data); err != nil || back.NodeID != "redis_node_free_1" {
				t.Fatalf("%v: %s", err, data)
			}
			for _, name := range r.Instances {
				got[name]++
			}
			for _, c := range r.Bindings {
				got[c.Binding()]++
				if c.Text("password") != "" {
					t.Fatal("a password is reported")
				}
			}
		}
		if len(list) == 0 || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("reported %v, want %v", got, want)
		}
	})
}

// TestLedger: places, ports and records stay right whatever is added, changed and
// removed, and are the same when the folder is opened again.
func TestLedger(t *testing.T) {
	root := t.TempDir()
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		folder := filepath.Join(root, fmt.Sprint(round))
		l, _, err := openLedger(folder)
		if err != nil {
			t.Fatal(err)
		}
		capacity := rapid.IntRange(0, 6).Draw(t, "capacity")
		ports := PortRange{6400, 6400 + rapid.IntRange(0, 6).Draw(t, "ports")}
		known := map[string]bool{}
		name := rapid.SampledFrom([]string{"d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8"})
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				n := name.Draw(t, "name")
				i, err := l.add(Instance{Name: n, State: Making, User: "u", Password: "p"}, capacity, ports)
				full := len(known) >= capacity || len(known) > ports.High-ports.Low
				switch {
				case known[n]:
					if !errors.Is(err, errExists) {
						t.Fatalf("added twice: %v", err)
					}
				case full:
					if !errors.Is(err, error(errFull)) {
						t.Fatalf("added to a full node: %v", err)
					}
				case err != nil || i.Port < ports.Low || i.Port > ports.High:
					t.Fatalf("%+v, %v", i, err)
				default:
					known[n] = true
				}
			},
			"remove": func(t *rapid.T) {
				n := name.Draw(t, "name")
				if err := l.remove(n); err != nil {
					t.Fatal(err)
				}
				delete(known, n)
			},
			"bind": func(t *rapid.T) {
				if i, there := l.get(name.Draw(t, "name")); there {
					i.State = Whole
					i.Bindings = append(i.Bindings, Binding{User: fmt.Sprintf("u%d", len(i.Bindings)), State: Whole})
					if err := l.put(i); err != nil {
						t.Fatal(err)
					}
				}
			},
			"": func(t *rapid.T) {
				list := l.list()
				taken := map[int]bool{}
				for _, i := range list {
					if !known[i.Name] || taken[i.Port] {
						t.Fatalf("unknown, or a port twice: %+v", list)
					}
					taken[i.Port] = true
				}
				if len(list) != len(known) || l.available(capacity) != max(0, capacity-len(known)) {
					t.Fatalf("%d instances, %d free of %d, want %d", len(list), l.available(capacity), capacity, len(known))
				}
				again, notes, err := openLedger(folder)
				if err != nil || len(notes) > 0 || fmt.Sprintf("%+v", again.list()) != fmt.Sprintf("%+v", list) {
					t.Fatalf("on disk %+v (%v, %v), want %+v", again.list(), notes, err, list)
				}
			},
		})
		if err := os.RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
	})
}

// TestDamagedRecord: a record that cannot be read is set aside, keeps its place, and
// the others are served.
func TestDamagedRecord(t *testing.T) {
	folder := t.TempDir()
	l, _, err := openLedger(folder)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.add(Instance{Name: "d1", State: Whole}, 3, PortRange{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "d2.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		l, notes, err := openLedger(folder)
		if err != nil || len(notes) != 1-round {
			t.Fatalf("round %d: %q, %v", round, notes, err)
		}
		if len(l.list()) != 1 || l.available(3) != 1 {
			t.Errorf("%d instances, %d free", len(l.list()), l.available(3))
		}
	}
}

func TestConfigProblems(t *testing.T) {
	good := "mbus: nats://127.0.0.1:1\nnode_id: echo_node_free_0\nbase_dir: /srv/x\n"
	for _, more := range []string{"node_id: a.b\n", "capacity: -1\n", "base_dir: srv\n", "op_time_limit: 0\n", "op_time_limit: 601\n", "announce_interval: 300\n", "ports: 7-6\n", "ports: all\n", "ports: 0-6\n", "plan: ''\n"} {
		file := filepath.Join(t.TempDir(), "node.yml")
		text := good + more
		if more[:7] == "node_id" {
			text = "mbus: nats://127.0.0.1:1\nbase_dir: /srv/x\n" + more
		}
		if more[:4] == "base" {
			text = "mbus: nats://127.0.0.1:1\nnode_id: x\n" + more
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := load(file, nil); err == nil {
			t.Errorf("accepted: %q", more)
		}
	}
	file := filepath.Join(t.TempDir(), "node.yml")
	if err := os.WriteFile(file, []byte(good+"ports: 6400-6599\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := load(file, nil)
	if err != nil || cfg.Ports != (PortRange{6400, 6599}) || cfg.Capacity != 200 || cfg.OpTimeLimit != 6 {
		t.Errorf("%+v, %v", cfg, err)
	}
}

// FuzzRecord: no file may panic, and what is taken for a record stays one.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"name":"d1","state":"whole","bindings":[{"user":"u1","state":"making"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := parseRecord(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseRecord(again); err != nil {
			t.Errorf("%s is no record any more: %v", again, err)
		}
	})
}
