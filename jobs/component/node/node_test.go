package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/wire"
)

// shelf is a service whose instances are folders and whose users are files in them.
type shelf struct {
	folder string

	mu    sync.Mutex
	slow  time.Duration // what it makes takes that long
	fail  error         // of everything
	ready error
}

func (s *shelf) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

func (s *shelf) begin() error {
	s.mu.Lock()
	slow, fail := s.slow, s.fail
	s.mu.Unlock()
	<-time.After(slow) // without regard for its context, as a service may be
	return fail
}

func (s *shelf) set(slow time.Duration, fail error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow, s.fail = slow, fail
}

func (s *shelf) Provision(_ context.Context, i Instance) (wire.Credentials, error) {
	if err := os.MkdirAll(filepath.Join(s.folder, i.Name), 0o700); err != nil {
		return nil, err
	}
	return wire.Credentials{"user": i.User, "password": i.Password}, s.begin()
}

func (s *shelf) Unprovision(_ context.Context, i Instance) error {
	s.mu.Lock()
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		return fail
	}
	return os.RemoveAll(filepath.Join(s.folder, i.Name))
}

func (s *shelf) Bind(_ context.Context, i Instance, b Binding) (wire.Credentials, error) {
	if err := os.WriteFile(filepath.Join(s.folder, i.Name, b.User), []byte(b.Password), 0o600); err != nil {
		return nil, err
	}
	return wire.Credentials{"user": b.User, "username": b.User, "password": b.Password}, s.begin()
}

func (s *shelf) Unbind(_ context.Context, i Instance, b Binding) error {
	err := os.Remove(filepath.Join(s.folder, i.Name, b.User))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(s.begin(), err)
}

// holds returns what is on the shelf: "instance" and "instance/user".
func (s *shelf) holds() []string {
	list := []string{}
	_ = filepath.WalkDir(s.folder, func(path string, _ os.DirEntry, _ error) error {
		if path != s.folder {
			list = append(list, strings.TrimPrefix(path, s.folder+"/"))
		}
		return nil
	})
	return list
}

// fixture is a node on a bus, and a client of the bus that plays the gateway.
type fixture struct {
	*testing.T
	*shelf
	conn *nats.Conn
	file string
	base string
	stop func()
}

const node = "shelf_node_free_0"

func newFixture(t *testing.T, settings string) *fixture {
	t.Helper()
	s := componenttest.Bus(t)
	conn, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	dir := t.TempDir()
	f := &fixture{T: t, conn: conn, file: filepath.Join(dir, "node.yml"), base: filepath.Join(dir, "data"), shelf: &shelf{folder: filepath.Join(dir, "shelf")}}
	text := fmt.Sprintf("mbus: %s\nlocal_route: 127.0.0.1\nnode_id: %s\nbase_dir: %s\nsupported_versions: ['1.0']\ndefault_version: '1.0'\n%s", s.ClientURL(), node, f.base, settings)
	if err := os.WriteFile(f.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f.start()
	t.Cleanup(func() { f.stop() })
	return f
}

func (f *fixture) start() {
	f.Helper()
	heard := make(chan *nats.Msg, 64)
	sub, err := f.conn.ChanSubscribe("ShelfaaS.announce", heard)
	if err != nil {
		f.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := f.conn.Flush(); err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, component.Process{ConfigFile: f.file, Output: f.Output()}, Definition{
			Name: "shelf", Open: func(context.Context, Host) (Service, error) { return f.shelf, nil },
		})
	}()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Error(err)
		}
	})
	select {
	case <-heard:
	case err := <-ended:
		ended <- nil
		f.Fatalf("the node has ended: %v", err)
	case <-time.After(time.Minute):
		f.Fatal("the node does not announce itself")
	}
}

// ask sends an operation and returns the answer.
func (f *fixture) ask(operation, body string) wire.ServiceAnswer {
	f.Helper()
	m, err := f.conn.Request("ShelfaaS."+operation+"."+node, []byte(body), time.Minute)
	if err != nil {
		f.Fatal(err)
	}
	a, err := wire.ParseServiceAnswer(m.Data)
	if err != nil {
		f.Fatal(err)
	}
	return a
}

func (f *fixture) ok(operation, body string) wire.Credentials {
	f.Helper()
	a := f.ask(operation, body)
	if !a.Success {
		f.Fatalf("%s %s: %v", operation, body, a.Error)
	}
	return a.Credentials
}

func (f *fixture) fails(code int, operation, body string) {
	f.Helper()
	if a := f.ask(operation, body); a.Success || a.Error.Msg.Code != code {
		f.Errorf("%s %s: %+v, want code %d", operation, body, a.Error, code)
	}
}

// room asks the node to announce itself and returns its capacity, -1 if it does not.
func (f *fixture) room(plan string) int {
	f.Helper()
	m, err := f.conn.Request("ShelfaaS.discover", []byte(plan), 300*time.Millisecond)
	if err != nil {
		return -1
	}
	a, err := wire.ParseServiceAnnounce(m.Data)
	if err != nil || a.ID != node || a.Plan != "free" || len(a.SupportedVersions) != 1 || a.CapacityUnit != 1 {
		f.Fatalf("announce %s, %v", m.Data, err)
	}
	return a.AvailableCapacity
}

func body(v any) string {
	data, _ := json.Marshal(v)
	return string(data)
}

// TestOperations goes through an instance's life as a gateway sees it.
func TestOperations(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "capacity: 2\n")
	if got := f.room(""); got != 2 {
		t.Errorf("room for %d", got)
	}
	if f.room(`{"plan":"free"}`) != 2 || f.room(`{"plan":"gold"}`) != -1 {
		t.Error("a discovery of one plan")
	}
	one := f.ok("provision", `{"plan":"free","version":"1.0"}`)
	if one.NodeID() != node || !strings.HasPrefix(one.Name(), "d") || len(one.Name()) != 33 || len(one.Text("password")) < 30 {
		t.Errorf("credentials %v", one)
	}
	bound := f.ok("bind", body(map[string]any{"name": one.Name(), "bind_opts": map[string]any{}}))
	if bound.Name() != one.Name() || bound.User() == one.User() || bound.Text("password") == one.Text("password") {
		t.Errorf("a binding is not of its own: %v, %v", one, bound)
	}
	two := f.ok("provision", `{"plan":"free"}`)
	if two.Name() == one.Name() || f.room("") != 0 {
		t.Errorf("the second: %v", two)
	}
	f.fails(30500, "provision", `{"plan":"free"}`)
	f.fails(30003, "provision", `{"plan":"gold"}`)
	f.fails(30001, "provision", `{"plan":7}`)
	f.fails(30001, "provision", `x`)
	f.fails(30001, "bind", `{"name":"../x"}`)
	f.fails(30300, "bind", `{"name":"dnothing"}`)
	f.fails(30501, "restore", body(map[string]any{"instance_id": one.Name(), "backup_path": "/x"}))
	f.fails(30501, "disable_instance", body(wire.Migration{Instance: wire.ServiceHandle{ServiceID: one.Name(), Credentials: one}}))
	f.fails(30001, "disable_instance", `[{"service_id":"a"}]`)

	// What is known is made sure of, and stays what it is.
	if again := f.ok("provision", body(map[string]any{"plan": "free", "credentials": one})); body(again) != body(one) {
		t.Errorf("made again: %v, want %v", again, one)
	}
	f.fails(30500, "provision", body(map[string]any{"plan": "free", "credentials": map[string]any{"name": one.Name(), "user": "other", "password": "p"}}))
	if again := f.ok("bind", body(map[string]any{"name": one.Name(), "credentials": bound})); body(again) != body(bound) {
		t.Errorf("bound again: %v, want %v", again, bound)
	}
	stolen := bound.Without("password")
	stolen["password"] = "guess"
	f.fails(30500, "bind", body(map[string]any{"name": one.Name(), "credentials": stolen}))

	// A node that begins again has what it had.
	f.stop()
	f.start()
	if again := f.ok("bind", body(map[string]any{"name": one.Name(), "credentials": bound})); body(again) != body(bound) {
		t.Errorf("after a restart: %v, want %v", again, bound)
	}
	f.ok("unbind", body(map[string]any{"credentials": bound}))
	f.ok("unbind", body(map[string]any{"credentials": bound})) // is gone
	f.ok("unprovision", body(map[string]any{"name": one.Name(), "bindings": []any{}}))
	f.ok("unprovision", body(map[string]any{"name": "dnothing", "bindings": []any{}}))
	if got := f.holds(); len(got) != 1 || got[0] != two.Name() || f.room("") != 1 {
		t.Errorf("left: %q, room for %d", got, f.room(""))
	}
}

// TestLate: what ends after its time has failed and leaves nothing; what was there
// before stays.
func TestLate(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "op_time_limit: 0.4\n")
	one := f.ok("provision", `{"plan":"free"}`)
	bound := f.ok("bind", body(map[string]any{"name": one.Name()}))
	f.set(500*time.Millisecond, nil)
	f.fails(30502, "provision", `{"plan":"free"}`)
	f.fails(30502, "bind", body(map[string]any{"name": one.Name()}))
	f.fails(30502, "provision", body(map[string]any{"plan": "free", "credentials": one}))
	f.fails(30502, "bind", body(map[string]any{"name": one.Name(), "credentials": bound}))
	f.set(0, nil)
	want := fmt.Sprint([]string{one.Name(), one.Name() + "/" + bound.User()})
	if got := fmt.Sprint(f.holds()); got != want {
		t.Errorf("left %s, want %s", got, want)
	}
	if f.room("") != 199 {
		t.Errorf("room for %d", f.room(""))
	}
}

// TestRollbackThatFails is tried again until nothing is left.
func TestRollbackThatFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "announce_interval: 0.1\n")
	f.set(0, errors.New("the disk is full"))
	f.fails(30500, "provision", `{"plan":"free"}`)
	if len(f.holds()) != 1 || f.room("") != 199 {
		t.Errorf("left %q, room for %d", f.holds(), f.room(""))
	}
	f.set(0, nil)
	componenttest.Eventually(t, "nothing left", func() bool { return len(f.holds()) == 0 && f.room("") == 200 })

	one := f.ok("provision", `{"plan":"free"}`)
	bound := f.ok("bind", body(map[string]any{"name": one.Name()}))
	f.set(0, errors.New("the server is away"))
	f.fails(30500, "unprovision", body(map[string]any{"name": one.Name()}))
	f.fails(30300, "bind", body(map[string]any{"name": one.Name(), "credentials": bound})) // no half instance is used
	f.set(0, nil)
	componenttest.Eventually(t, "nothing left", func() bool { return len(f.holds()) == 0 && f.room("") == 200 })
}

// TestHalfMade: what a node that was killed has left half-made is gone when it
// begins again, and nothing else.
func TestHalfMade(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "")
	one := f.ok("provision", `{"plan":"free"}`)
	f.ok("bind", body(map[string]any{"name": one.Name()}))
	kept := fmt.Sprint(f.holds())
	f.stop()
	l, _, err := openLedger(filepath.Join(f.base, "instances"))
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []State{Making, Removing} {
		if _, err := l.add(Instance{Name: "d" + string(state), State: state}, 10, PortRange{}); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(f.folder, "d"+string(state)), 0o700); err != nil {
			t.Fatal(err)
		}
		i, _ := l.get(one.Name())
		i.Bindings = append(i.Bindings, Binding{User: "u" + string(state), State: state})
		if err := l.put(i); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(f.folder, one.Name(), "u"+string(state)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.start()
	componenttest.Eventually(t, "only what was whole", func() bool { return fmt.Sprint(f.holds()) == kept && f.room("") == 199 })
}

// TestDisabled: a disabled node announces nothing and takes nothing new; what it has
// is served.
func TestDisabled(t *testing.T) {
	t.Parallel()
	mark := filepath.Join(t.TempDir(), "disabled")
	f := newFixture(t, "disabled_file: "+mark+"\n")
	one := f.ok("provision", `{"plan":"free"}`)
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f.room("") != -1 {
		t.Error("a disabled node announces itself")
	}
	f.fails(30600, "provision", `{"plan":"free"}`)
	f.ok("bind", body(map[string]any{"name": one.Name()}))
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	if f.room("") != 199 {
		t.Error("an enabled node does not announce itself")
	}
}

// TestOrphansOfNode: a node reports what it has and purges what it is told to.
func TestOrphansOfNode(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "")
	one, two := f.ok("provision", `{"plan":"free"}`), f.ok("provision", `{"plan":"free"}`)
	kept, lost := f.ok("bind", body(map[string]any{"name": one.Name()})), f.ok("bind", body(map[string]any{"name": one.Name()}))
	heard, err := f.conn.SubscribeSync("ShelfaaS.node_handles")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.conn.Publish("ShelfaaS.check_orphan", []byte(wire.SendHandles)); err != nil {
		t.Fatal(err)
	}
	m, err := heard.NextMsg(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := wire.ParseServiceReport(m.Data); err != nil || len(r.Instances) != 2 || len(r.Bindings) != 2 || strings.Contains(string(m.Data), kept.Text("password")) {
		t.Errorf("%s, %v", m.Data, err)
	}
	purge := body(wire.PurgeOrphans{Instances: []string{two.Name(), "dnothing"}, Bindings: []wire.Credentials{lost.Without("password")}})
	if err := f.conn.Publish("ShelfaaS.purge_orphan."+node, []byte(purge)); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint([]string{one.Name(), one.Name() + "/" + kept.User()})
	componenttest.Eventually(t, "purged", func() bool { return fmt.Sprint(f.holds()) == want })
}

// TestManyAtOnce: operations of several instances go side by side, those of one one
// after the other, and no two instances or users are the same.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "")
	f.set(20*time.Millisecond, nil)
	var group sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for range 20 {
		group.Go(func() {
			one := f.ask("provision", `{"plan":"free"}`)
			var users []string
			for range 3 {
				users = append(users, f.ask("bind", body(map[string]any{"name": one.Credentials.Name()})).Credentials.User())
			}
			mu.Lock()
			defer mu.Unlock()
			for _, id := range append(users, one.Credentials.Name()) {
				if id == "" || seen[id] {
					t.Errorf("%q twice or empty", id)
				}
				seen[id] = true
			}
		})
	}
	group.Wait()
	if got := len(f.holds()); got != 80 {
		t.Errorf("%d things on the shelf", got)
	}
}
