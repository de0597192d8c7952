package healthmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
	"github.com/clusterworks/deploy/jobs/wire"
)

const deadline = 60 * time.Second

var eventually = componenttest.Eventually

// database describes what the cloud controllers of a test have in common.
type database struct {
	mu       sync.Mutex
	apps     map[int64]wire.BulkApp
	password string
	told     []string // addresses that are told with the password, in turn
	read     []string // bulk tokens that were asked for
}

func (d *database) put(apps ...wire.BulkApp) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, app := range apps {
		d.apps[app.ID] = app
	}
}

// ServeHTTP is the bulk API as the original has it.
func (d *database) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if user, password, _ := r.BasicAuth(); user != "bulk_api" || password != d.password {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.Host != "api.cf.test" {
		http.Error(w, "no such host: "+r.Host, http.StatusNotFound)
		return
	}
	switch r.URL.Path {
	case "/bulk/counts":
		_, _ = io.WriteString(w, `{"counts":{"user":12}}`)
	case "/bulk/apps":
		var token struct{ ID int64 }
		size, err := strconv.Atoi(r.URL.Query().Get("batch_size"))
		if err := errors.Join(err, json.Unmarshal([]byte(r.URL.Query().Get("bulk_token")), &token)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		d.read = append(d.read, r.URL.Query().Get("bulk_token"))
		batch := wire.BulkApps{Results: map[wire.ID]wire.BulkApp{}}
		for _, id := range slices.Sorted(maps.Keys(d.apps)) {
			if id > token.ID && len(batch.Results) < size {
				batch.Results[wire.ID(strconv.FormatInt(id, 10))] = d.apps[id]
				token.ID = id
			}
		}
		batch.BulkToken = json.RawMessage(fmt.Sprintf(`{"id":%d}`, token.ID))
		_ = json.NewEncoder(w).Encode(batch)
	}
}

// cluster is a bus, two cloud controllers and a client of the bus that plays
// the DEAs.
type cluster struct {
	t           *testing.T
	bus         *server.Server
	conn        *nats.Conn
	db          *database
	controllers []*httptest.Server
	requests    chan wire.HealthManagerRequest
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, bus: componenttest.Bus(t, natstest.Users(t, "health_manager")), db: &database{apps: map[int64]wire.BulkApp{}, password: "secret"}}
	c.controllers = []*httptest.Server{httptest.NewServer(c.db), httptest.NewServer(c.db)}
	for _, s := range c.controllers {
		t.Cleanup(s.Close)
	}
	var err error
	if c.conn, err = nats.Connect(c.bus.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.conn.Close)
	c.requests = make(chan wire.HealthManagerRequest, 1000)
	for subject, handle := range map[string]nats.MsgHandler{
		"cloudcontrollers.hm.requests.default": func(m *nats.Msg) {
			r, err := wire.ParseHealthManagerRequest(m.Data)
			if err != nil {
				t.Error(err)
			}
			c.requests <- r
		},
		"cloudcontroller.bulk.credentials.default": func(m *nats.Msg) {
			c.db.mu.Lock()
			defer c.db.mu.Unlock()
			answer := wire.BulkCredentials{User: "bulk_api", Password: c.db.password}
			if len(c.db.told) > 0 {
				answer.Address = c.db.told[0]
				c.db.told = append(c.db.told[1:], answer.Address)
			}
			data, err := json.Marshal(answer)
			if err == nil {
				err = m.Respond(data)
			}
			if err != nil {
				t.Error(err)
			}
		},
	} {
		if _, err := c.conn.Subscribe(subject, handle); err != nil {
			t.Fatal(err)
		}
	}
	c.flush()
	return c
}

func (c *cluster) flush() {
	c.t.Helper()
	if err := c.conn.FlushTimeout(deadline); err != nil {
		c.t.Fatal(err)
	}
}

// manage starts a health manager; stop ends it and waits.
func (c *cluster) manage(intervals string) (m *Manager, stop func()) {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "health_manager.yml")
	c.configure(file, intervals)
	m, err := New(component.Process{ConfigFile: file, Output: c.t.Output()})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	c.t.Cleanup(stop)
	return m, stop
}

func (c *cluster) configure(file, intervals string) {
	c.t.Helper()
	var addresses []string
	for _, s := range c.controllers {
		if len(c.db.told) == 0 {
			addresses = append(addresses, strconv.Quote(s.Listener.Addr().String()))
		}
	}
	text := fmt.Sprintf("mbus: %s\nlocal_route: 127.0.0.1\nbulk_api: {host: 'http://api.cf.test', addresses: [%s], batch_size: 2}\nintervals: {%s}\n",
		natstest.URI(c.bus, "health_manager"), strings.Join(addresses, ","), intervals)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// quick are intervals for tests. Instances are heard every quarter of
// droplet_lost.
const quick = "desired_state_update: 0.5, droplet_lost: 2, droplets_analysis: 0.1, restart_timeout: 0.5, min_restart_delay: 0.3, delay_time_noise: 0, presence: 0.1"

// patient judges silence never: what it asks for, messages made it ask for.
const patient = "desired_state_update: 100, droplet_lost: 1000, presence: 0.05"

func (c *cluster) leads(m *Manager) {
	c.t.Helper()
	eventually(c.t, "it leads and has read what is wanted", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.leading && !m.state.passed.IsZero()
	})
}

func (c *cluster) publish(subject string, message any) {
	c.t.Helper()
	data, err := json.Marshal(message)
	if err == nil {
		err = c.conn.Publish(subject, data)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) next() wire.HealthManagerRequest {
	c.t.Helper()
	select {
	case r := <-c.requests:
		return r
	case <-time.After(deadline):
		c.t.Fatal("nothing is asked for")
		panic("unreachable")
	}
}

// ask sends a request and returns the answers that come until one that ends is
// there.
func (c *cluster) ask(subject, request string) string {
	c.t.Helper()
	answer, err := c.conn.Request(subject, []byte(request), deadline)
	if err != nil {
		c.t.Fatalf("%s %s: %v", subject, request, err)
	}
	return string(answer.Data)
}

func bulkApp(id int64, version string, instances int) wire.BulkApp {
	return wire.BulkApp{ID: id, Name: fmt.Sprintf("app%d", id), Instances: instances, State: wire.AppStarted, PackageState: wire.PackageStaged,
		Framework: "node", Runtime: "node", Memory: 64, Version: version, UpdatedAt: wire.BulkTime{Time: time.Unix(1343815200, 0)}}
}

func (c *cluster) runs(app wire.ID, version, name string, index int) {
	c.t.Helper()
	c.publish(wire.SubjectDEAHeartbeat, wire.DEAHeartbeat{DEA: "d", Droplets: []wire.InstanceHeartbeat{{
		Droplet: app, Version: version, Instance: name, Index: index, State: wire.StateRunning, StateTimestamp: time.Now().Unix(), CCPartition: "default"}}})
}

func TestRestartsWhatCrashes(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.db.put(bulkApp(3, "c-1", 1), bulkApp(7, "v-1", 2), bulkApp(8, "w-1", 1)) // two batches
	m, _ := c.manage(patient)
	c.leads(m)
	c.runs("7", "v-1", "a", 0)
	c.runs("7", "v-1", "b", 1)
	eventually(t, "both are heard", func() bool { return m.varz()["running_instances"] == 2 })
	if got := c.ask("healthmanager.health", `{"droplets":[{"droplet":99,"version":"x"},{"droplet":7,"version":"v-1"}]}`); got != `{"droplet":"7","version":"v-1","healthy":2}` {
		t.Errorf("health: %s", got)
	}
	// The older dialect: a number for the app, no partition.
	if err := c.conn.Publish("droplet.exited", []byte(`{"droplet":7,"version":"v-1","instance":"b","index":1,"reason":"CRASHED","crash_timestamp":1343815260}`)); err != nil {
		t.Fatal(err)
	}
	r := c.next()
	if want := (wire.HealthManagerRequest{Droplet: "7", Op: "START", LastUpdated: 1343815200, Version: "v-1", Indices: []int{1}}); !slices.Equal(r.Indices, want.Indices) || r.Version != want.Version || r.Droplet != want.Droplet || r.LastUpdated != want.LastUpdated || r.Op != want.Op || r.Flapping {
		t.Errorf("asked for %+v, want %+v", r, want)
	}
	if got := c.ask("healthmanager.health", `{"droplets":[{"droplet":"7","version":"v-1"}]}`); got != `{"droplet":"7","version":"v-1","healthy":1}` {
		t.Errorf("health: %s", got)
	}
	if got := c.ask("healthmanager.status", `{"droplet":7,"state":"CRASHED"}`); got != `{"instances":[{"instance":"b","since":1343815260,"version":"v-1"}]}` {
		t.Errorf("crashed: %s", got)
	}
	if got := c.ask("healthmanager.status", `{"droplet":7,"version":"v-1","state":"FLAPPING"}`); got != `{"indices":[]}` {
		t.Errorf("flapping: %s", got)
	}
	var record wire.HealthRecord
	if err := json.Unmarshal([]byte(c.ask("healthmanager.droplet", `{"droplets":[{"droplet":"7"}]}`)), &record); err != nil || record.Indices[1].Crashes != 1 || record.State != "STARTED" {
		t.Errorf("record: %+v, %v", record, err)
	}

	// It crashes again: the second time it waits, and is marked.
	c.publish("droplet.exited", wire.DropletExited{Droplet: "7", Version: "v-1", Instance: "b2", Index: 1, Reason: wire.ReasonCrashed, CCPartition: "default"})
	eventually(t, "it flaps", func() bool {
		var flapping wire.FlappingIndices
		err := json.Unmarshal([]byte(c.ask("healthmanager.status", `{"droplet":7,"version":"v-1","state":"FLAPPING"}`)), &flapping)
		return err == nil && len(flapping.Indices) == 1 && flapping.Indices[0].Index == 1
	})
	doc := m.varz()
	for key, want := range map[string]any{
		"total_apps": 3, "total_users": 12, "total_instances": 4, "running_instances": 1, "missing_instances": 3, "down_instances": 3,
		"crashed_instances": 2, "flapping_instances": 1, "queue_length": 0, "heartbeat_msgs_received": 2, "droplet_exited_msgs_received": 2,
		"droplet_updated_msgs_received": 0, "healthmanager_health_request_msgs_received": 2, "leader": true,
	} {
		if doc[key] != want {
			t.Errorf("varz %s: %v, want %v", key, doc[key], want)
		}
	}
	if total := doc["total"].(map[string]any)["frameworks"].(map[string]*Figures)["node"]; total.Instances != 4 || total.Running != 1 {
		t.Errorf("varz total: %+v", total)
	}
}

func TestFlappingRestartsWait(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.db.put(bulkApp(7, "v-1", 1))
	m, _ := c.manage(patient + ", flapping_death: 0, min_restart_delay: 0.2, delay_time_noise: 0")
	c.leads(m)
	begin := time.Now()
	c.publish("droplet.exited", wire.DropletExited{Droplet: "7", Version: "v-1", Instance: "a", Reason: wire.ReasonCrashed})
	if r := c.next(); !r.Flapping || !slices.Equal(r.Indices, []int{0}) || time.Since(begin) < 200*time.Millisecond {
		t.Errorf("asked for %+v after %v", r, time.Since(begin))
	}
}

func TestMissingAndExtra(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.db.put(bulkApp(7, "v-1", 2))
	c.controllers[0].Close() // the other one answers
	c.manage(quick)
	var started, stopped bool
	for end := time.Now().Add(deadline); !started || !stopped; {
		if time.Now().After(end) {
			t.Fatalf("started %v, stopped %v", started, stopped)
		}
		c.runs("7", "v-1", "a", 0)
		c.runs("7", "v-0", "old", 0)
		select {
		case r := <-c.requests:
			switch {
			case r.Op == "START" && slices.Equal(r.Indices, []int{1}) && r.Version == "v-1":
				started = true
			case r.Op == "STOP" && slices.Equal(r.Instances, []string{"old"}) && r.LastUpdated == 1343815200:
				stopped = true
			default:
				t.Fatalf("asked for %+v", r)
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func TestChangedAppIsReadAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.db.put(bulkApp(3, "c-1", 1), bulkApp(7, "v-1", 1))
	m, _ := c.manage(patient)
	c.leads(m)
	c.db.put(bulkApp(7, "v-2", 1))
	// Its exit comes before anything else tells of the version.
	c.publish("droplet.exited", wire.DropletExited{Droplet: "7", Version: "v-2", Instance: "a", Reason: wire.ReasonEvacuation, CCPartition: "default"})
	if r := c.next(); r.Version != "v-2" {
		t.Errorf("asked for %+v", r)
	}
	c.db.put(bulkApp(9, "n-1", 5))
	c.publish("droplet.updated", wire.DropletUpdated{Droplet: "9", CCPartition: "default"})
	eventually(t, "the new app is known", func() bool { return m.varz()["total_instances"] == 7 })
	c.db.mu.Lock()
	delete(c.db.apps, 9)
	c.db.mu.Unlock()
	c.publish("droplet.updated", wire.DropletUpdated{Droplet: "9", CCPartition: "default"})
	eventually(t, "the app is gone", func() bool { return m.varz()["total_instances"] == 2 })
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	if singles := c.db.read[len(c.db.read)-3:]; !slices.Equal(singles, []string{`{"id":6}`, `{"id":8}`, `{"id":8}`}) {
		t.Errorf("read %v", c.db.read)
	}
}

func TestNewCredentialsAreAskedFor(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.db.put(bulkApp(7, "v-1", 1))
	m, _ := c.manage("desired_state_update: 0.1")
	c.leads(m)
	c.db.mu.Lock()
	c.db.password = "another"
	c.db.mu.Unlock()
	c.db.put(bulkApp(8, "v-1", 1))
	eventually(t, "apps are read again", func() bool { return m.varz()["total_apps"] == 2 })
}

// TestControllersSayWhereTheyAre: without addresses and DNS the ones that answer
// on the bus are asked.
func TestControllersSayWhereTheyAre(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.db.put(bulkApp(7, "v-1", 1))
	c.db.told = []string{c.controllers[0].Listener.Addr().String(), c.controllers[1].Listener.Addr().String()}
	c.controllers[0].Close()
	m, _ := c.manage("desired_state_update: 0.1")
	c.leads(m)
	replaced := httptest.NewServer(c.db)
	t.Cleanup(replaced.Close)
	c.db.mu.Lock()
	c.db.told = []string{replaced.Listener.Addr().String()}
	c.db.mu.Unlock()
	c.controllers[1].Close()
	c.db.put(bulkApp(8, "v-1", 1))
	eventually(t, "apps are read from the one that is there now", func() bool { return m.varz()["total_apps"] == 2 })
}

func TestOneActs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.db.put(bulkApp(7, "v-1", 1))
	first, stopFirst := c.manage(patient)
	c.leads(first)
	second, _ := c.manage(patient)
	eventually(t, "the second one knows the first and what is wanted", func() bool {
		second.mu.Lock()
		defer second.mu.Unlock()
		return len(second.election.heard) == 1 && !second.state.passed.IsZero()
	})
	crash := func() {
		t.Helper()
		c.publish("droplet.exited", wire.DropletExited{Droplet: "7", Version: "v-1", Instance: "a", Reason: wire.ReasonEvacuation})
		c.flush()
	}
	crash()
	c.next()
	eventually(t, "the second one heard of it, and of the first one's request", func() bool {
		second.mu.Lock()
		defer second.mu.Unlock()
		x := second.state.apps["7"].indices[0]
		return second.received["droplet_exited_msgs_received"] == 1 && x != nil && !x.requested.IsZero()
	})
	select {
	case r := <-c.requests:
		t.Errorf("asked for twice: %+v", r)
	default:
	}
	stopFirst() // it says goodbye
	c.leads(second)
	crash()
	c.next()
	if got := c.ask("healthmanager.health", `{"droplets":[{"droplet":7,"version":"v-1"}]}`); got != `{"droplet":"7","version":"v-1","healthy":0}` {
		t.Errorf("health: %s", got)
	}
}

// TestBusAway: after the bus was away nobody is judged before everybody had the
// time to be heard.
func TestBusAway(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.db.put(bulkApp(7, "v-1", 1))
	m, _ := c.manage(quick)
	c.leads(m)
	c.runs("7", "v-1", "a", 0)
	eventually(t, "it is heard", func() bool { return m.varz()["running_instances"] == 1 })
	_, port, _ := strings.Cut(strings.TrimPrefix(c.bus.ClientURL(), "nats://"), ":")
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	c.bus.Shutdown()
	c.bus.WaitForShutdown()
	eventually(t, "the bus is missed", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.state.hearing.IsZero()
	})
	// As long as an instance may be silent, and longer.
	away := time.Now()
	eventually(t, "time passes", func() bool { return time.Since(away) > 2500*time.Millisecond })
	if running := m.varz()["running_instances"]; running != 1 {
		t.Errorf("%v instances run, as far as is known", running)
	}
	c.bus = componenttest.Bus(t, componenttest.On(number), natstest.Users(t, "health_manager"))
	c.leads(m)
	back := time.Now()
	for {
		c.publish(wire.SubjectDEAAdvertise, wire.DEAAdvertise{ID: "d"})
		select {
		case r := <-c.requests:
			m.mu.Lock()
			since := m.state.hearing
			m.mu.Unlock()
			if quiet := time.Since(since); quiet < 2*time.Second || r.Op != "START" {
				t.Errorf("asked for %+v %v after the bus came back", r, quiet)
			}
			return
		case <-time.After(100 * time.Millisecond):
		}
		if time.Since(back) > deadline {
			t.Fatal("what is really gone is never missed")
		}
	}
}

// TestBrokenMessages: nothing that comes over the bus harms.
func TestBrokenMessages(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.db.put(bulkApp(7, "v-1", 1))
	m, _ := c.manage(patient)
	c.leads(m)
	for _, subject := range []string{"dea.heartbeat", "dea.advertise", "droplet.exited", "droplet.updated", "healthmanager.status", "healthmanager.health",
		"healthmanager.droplet", "healthmanager.presence", "cloudcontrollers.hm.requests.default", "vcap.component.discover"} {
		for _, payload := range []string{"", "null", "[]", "{", "{}", `"text"`, "\xff\x00", `{"droplet":{}}`, `{"droplets":[null,{}]}`, `{"droplet":7,"index":-1}`, `{"droplets":[{"index":1e99}]}`} {
			if subject == "cloudcontrollers.hm.requests.default" {
				continue // the cluster's own reader would complain
			}
			if err := c.conn.PublishRequest(subject, c.conn.NewRespInbox(), []byte(payload)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := c.ask("healthmanager.health", `{"droplets":[{"droplet":7,"version":"v-1"}]}`); got != `{"droplet":"7","version":"v-1","healthy":0}` {
		t.Errorf("health: %s", got)
	}
	c.publish("droplet.exited", wire.DropletExited{Droplet: "7", Version: "v-1", Instance: "a", Reason: wire.ReasonShutdown})
	if r := c.next(); !slices.Equal(r.Indices, []int{0}) {
		t.Errorf("asked for %+v", r)
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.db.put(bulkApp(7, "v-1", 1))
	m, _ := c.manage(patient)
	c.leads(m)
	c.controllers[0].Close()
	c.controllers[0] = httptest.NewServer(c.db)
	t.Cleanup(c.controllers[0].Close)
	c.controllers[1].Close()
	c.configure(m.file, patient+", flapping_death: 0, min_restart_delay: 0.1")
	if err := m.base.Reload(); err != nil {
		t.Fatal(err)
	}
	c.db.put(bulkApp(8, "v-1", 1))
	c.publish("droplet.updated", wire.DropletUpdated{Droplet: "8"})
	eventually(t, "the new controller is asked", func() bool { return m.varz()["total_apps"] == 2 })
	c.publish("droplet.exited", wire.DropletExited{Droplet: "7", Version: "v-1", Instance: "a", Reason: wire.ReasonCrashed})
	if r := c.next(); !r.Flapping {
		t.Errorf("asked for %+v", r)
	}
	c.configure(m.file, "droplet_lost: -1")
	if err := m.base.Reload(); err == nil || !strings.Contains(err.Error(), "droplet_lost") {
		t.Errorf("error %v", err)
	}
}

func TestConfigProblems(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"bulk_api: {host: api.example.com}", `bulk_api.host "api.example.com"`},
		{"intervals: {}", `bulk_api.host ""`},
		{"bulk_api: {host: 'http://a', batch_size: 0}", "batch_size"},
		{"bulk_api: {host: 'http://a'}\nintervals: {droplet_lost: 0}", "droplet_lost is 0 seconds"},
		{"bulk_api: {host: 'http://a'}\nintervals: {droplet_lost: .nan}", "droplet_lost"},
		{"bulk_api: {host: 'http://a'}\nintervals: {max_restart_delay: 1e10}", "max_restart_delay"},
		{"bulk_api: {host: 'http://a'}\nintervals: {flapping_death: -1}", "flapping_death"},
		{"bulk_api: {host: 'http://a'}\nintervals: {giveup_crash_number: -2}", "giveup_crash_number"},
		{"bulk_api: {host: 'http://a'}\ndequeueing_rate: -1", "dequeueing_rate"},
	} {
		file := filepath.Join(t.TempDir(), "health_manager.yml")
		if err := os.WriteFile(file, []byte("mbus: nats://h\n"+tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := load(file); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", tc.text, err, tc.want)
		}
	}
	file := filepath.Join(t.TempDir(), "health_manager.yml")
	text := "mbus: nats://h\nbulk_api: {host: 'http://a'}\ndequeueing_rate: 0\nintervals: {expected_state_update: 2.5, droplet_lost: 0.25}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	if s := cfg.settings(); s.DesiredStateUpdate != 2500*time.Millisecond || s.DropletLost != 250*time.Millisecond || s.MinRestartDelay != time.Minute || cfg.Intervals.QueueBatchSize != 0 {
		t.Errorf("%+v", s)
	}
}
