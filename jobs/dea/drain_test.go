package dea

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
	"github.com/clusterworks/deploy/jobs/router"
	"github.com/clusterworks/deploy/jobs/wire"
)

// restartElsewhere does what health manager and cloud controller do for an app
// that is evacuated.
func (c *cell) restartElsewhere(docs map[wire.ID]wire.DEAStart, to func() string) {
	c.t.Helper()
	_, err := c.conn.Subscribe(wire.SubjectDropletExited, func(m *nats.Msg) {
		e, err := wire.ParseDropletExited(m.Data)
		if err != nil || e.Reason != wire.ReasonEvacuation {
			return
		}
		doc := docs[e.Droplet]
		doc.Index = e.Index
		c.publish(wire.SubjectDEAStartOf(to()), doc)
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.conn.Flush(); err != nil {
		c.t.Fatal(err)
	}
}

// TestEvacuation: a DEA drains under load, and no request fails.
func TestEvacuation(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	// Routers on a busy machine need their time to hear of a change.
	one, two := c.start("", "evacuation_delay: 60", "settle_time: 3"), c.start("", "evacuation_delay: 60")
	config := filepath.Join(t.TempDir(), "router.yml")
	if err := os.WriteFile(config, []byte("mbus: "+natstest.URI(c.bus, "router")+"\nlocal_route: 127.0.0.1\nport: 0\nbackend_keepalive: 500ms\npeer_keepalive: 500ms\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	front, err := router.New(component.Process{ConfigFile: config, Output: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- front.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the router ends with %v", err)
		}
	}()
	sha := c.droplet()
	docs := map[wire.ID]wire.DEAStart{"7": c.document("7", sha), "8": c.document("8", sha)}
	for _, index := range []int{0, 1} {
		doc := docs["7"]
		doc.Index = index
		c.publish(wire.SubjectDEAStartOf(one.dea.base.UUID()), doc)
	}
	c.publish(wire.SubjectDEAStartOf(one.dea.base.UUID()), docs["8"])
	eventually(t, "all three run", func() bool {
		n := 0
		for _, f := range append(c.find("7", true), c.find("8", true)...) {
			if f.State == wire.StateRunning {
				n++
			}
		}
		return n == 3
	})
	c.restartElsewhere(docs, two.dea.base.UUID)
	eventually(t, "the router listens", func() bool { return front.Address() != "" })

	var asked, failed atomic.Int64
	load, endLoad := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: deadline}
	for n := range 8 {
		clients.Go(func() {
			for load.Err() == nil {
				method := []string{http.MethodGet, http.MethodPost}[n%2]
				request, err := http.NewRequest(method, "http://"+front.Address()+"/slow/0.05", nil)
				if err != nil {
					t.Error(err)
					return
				}
				if n%2 == 1 {
					request, _ = http.NewRequest(method, request.URL.String(), strings.NewReader("body"))
				}
				request.Host = fmt.Sprintf("app%d.cf.test", 7+n%2)
				asked.Add(1)
				response, err := client.Do(request)
				if err != nil {
					failed.Add(1)
					t.Errorf("%s %s: %v", method, request.Host, err)
					return
				}
				body, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || response.StatusCode != http.StatusOK {
					failed.Add(1)
					t.Errorf("%s %s: %s %q, %v", method, request.Host, response.Status, body, err)
					return
				}
			}
		})
	}
	eventually(t, "the load is there", func() bool { return asked.Load() > 50 })
	before := asked.Load()
	if err := one.dea.base.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if asked.Load() == before {
		t.Error("nothing was asked during the drain")
	}
	after := asked.Load()
	eventually(t, "the load goes on", func() bool { return asked.Load() > after+50 })
	endLoad()
	clients.Wait()
	t.Logf("%d requests, %d during the drain, %d failed", asked.Load(), after-before, failed.Load())

	for _, id := range []wire.ID{"7", "8"} {
		for _, exits := range c.exits(id) {
			if len(exits) != 1 || exits[0].Reason != wire.ReasonEvacuation {
				t.Errorf("exits %+v", exits)
			}
		}
		for _, f := range c.find(id, false) {
			if f.DEA != two.dea.base.UUID() || f.State != wire.StateRunning {
				t.Errorf("instance %+v", f)
			}
		}
	}
	eventually(t, "the first DEA has said that it goes", func() bool { return len(messages(c, wire.SubjectDEAShutdown, wire.ParseDEAShutdown)) > 0 })
	if s := messages(c, wire.SubjectDEAShutdown, wire.ParseDEAShutdown); len(s) != 1 || s[0].ID != one.dea.base.UUID() || s[0].AppIDToCount["7"] != 2 {
		t.Errorf("shutdown %+v", s)
	}
	eventually(t, "only logs are left on the first DEA", func() bool {
		left, err := filepath.Glob(filepath.Join(one.base, "apps", "*", "*"))
		return err == nil && len(left) == 3 && !slices.ContainsFunc(left, func(name string) bool { return filepath.Base(name) != "logs" })
	})
	if one.dea.base.Ready() == nil {
		t.Error("a drained DEA is ready")
	}
}

// TestEvacuationGivesUp: without another DEA nobody waits, without a replacement
// no longer than the delay.
func TestEvacuationGivesUp(t *testing.T) {
	t.Parallel()
	for _, others := range []int{0, 1} {
		t.Run(fmt.Sprintf("%d others", others), func(t *testing.T) {
			t.Parallel()
			c := newCell(t)
			a := c.start("", "evacuation_delay: 1")
			for range others {
				c.start("max_memory: 1")
			}
			found := a.launch(c.document("7", c.droplet()))
			if err := a.dea.base.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left := instanceProcesses(t, found.Instance); len(left) != 0 {
				t.Errorf("processes %v are left", left)
			}
			if exits := c.told("7", found.Instance); len(exits) != 1 || exits[0].Reason != wire.ReasonEvacuation {
				t.Errorf("exits %+v", exits)
			}
			eventually(t, "there were heartbeats before the drain", func() bool { return len(messages(c, wire.SubjectDEAHeartbeat, wire.ParseDEAHeartbeat)) > 0 })
		})
	}
}

// TestShutdown: a DEA that is told to end without a drain takes its apps along.
func TestShutdown(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	a := c.start("")
	polite := a.launch(c.document("1", c.droplet()))
	deaf := a.launch(c.document("2", c.droplet(), "MODE=deaf"))
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []wire.DEAFound{polite, deaf} {
		if left := instanceProcesses(t, f.Instance); len(left) != 0 {
			t.Errorf("processes %v are left", left)
		}
		if exits := c.told(f.Droplet, f.Instance); len(exits) != 1 || exits[0].Reason != wire.ReasonShutdown {
			t.Errorf("exits %+v", exits)
		}
	}
}

func TestUnplaced(t *testing.T) {
	for _, tc := range []struct {
		name      string
		instances []placement
		free      []int
		want      []placement
	}{
		{"nothing runs", nil, nil, nil},
		{"nobody else", []placement{{"a", 64}}, nil, []placement{{"a", 64}}},
		{"exactly", []placement{{"a", 64}, {"b", 64}}, []int{64, 64}, nil},
		{"in sum, but not one by one", []placement{{"a", 100}}, []int{64, 64}, []placement{{"a", 100}}},
		{"the largest first", []placement{{"small", 32}, {"large", 100}}, []int{100, 40}, nil},
		{"the small ones that fit do", []placement{{"large", 100}, {"small", 32}, {"tiny", 8}}, []int{64}, []placement{{"large", 100}}},
	} {
		if got := unplaced(tc.instances, tc.free); !slices.Equal(got, tc.want) {
			t.Errorf("%s: left %v, want %v", tc.name, got, tc.want)
		}
	}
}

// TestCheckEvacuation: what an update would mean is said before, of the running
// cluster.
func TestCheckEvacuation(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	// Each needs an address of its own, by which its instances are told apart.
	one := c.start("max_memory: 256\nlocal_route: 127.0.0.21")
	two := c.start("max_memory: 100\nlocal_route: 127.0.0.22")
	check := func(a *agent) (string, error) {
		var said bytes.Buffer
		err := CheckEvacuation(t.Context(), component.Process{ConfigFile: a.config}, &said)
		return said.String(), err
	}
	if said, err := check(one); said != "" || err != nil {
		t.Errorf("of an empty DEA: %q, %v", said, err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if all, err := askAll(over, c.conn, wire.SubjectDEAStatus, wire.ParseDEAStatus); err == nil {
		t.Errorf("nobody waits for answers, and it is as if there were %d", len(all))
	}
	sha := c.droplet()
	one.launch(c.document("7", sha))
	// An answer that is late on a busy machine is as if there were none.
	eventually(t, "64 MB fit where 100 are free", func() bool { said, err := check(one); return said == "" && err == nil })
	one.launch(c.document("8", sha))
	var err error
	eventually(t, "128 MB do not fit where 100 are free", func() bool {
		_, err = check(one)
		return err != nil && strings.Contains(err.Error(), "2 instances") && strings.Contains(err.Error(), "(1) have")
	})
	for _, want := range []string{"at 127.0.0.21:", "2 instances that need 128 MB", "the others (1) have 100 MB free", "app8 (1)", "when_others_are_full"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("it says %v, want %q in it", err, want)
		}
	}
	if said, err := check(two); said != "" || err != nil {
		t.Errorf("of the other: %q, %v", said, err)
	}
	text, err := os.ReadFile(one.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(one.config, append(text, "\nwhen_others_are_full: warn\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is a warning only", func() bool {
		said, err := check(one)
		return strings.HasPrefix(said, "warning: the other DEAs have no room") && err == nil
	})
	begin := time.Now()
	c.bus.Shutdown()
	c.bus.WaitForShutdown()
	if said, err := check(one); !strings.HasPrefix(said, "warning: cannot find out") || err != nil {
		t.Errorf("without a bus: %q, %v", said, err)
	}
	t.Logf("without a bus: said after %v", time.Since(begin).Round(100*time.Millisecond))
}
