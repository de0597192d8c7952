package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/wire"
)

// clerk is the controller's part: it keeps offerings and handles.
type clerk struct {
	*httptest.Server
	mu      sync.Mutex
	away    bool
	offers  []map[string]any
	handles map[string]wire.ServiceHandle
	restart []string // handles whose apps it was asked to restart
}

func newClerk(t *testing.T) *clerk {
	c := &clerk{handles: map[string]wire.ServiceHandle{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if r.Header.Get("X-VCAP-Service-Token") != "tok" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s with %v", r.Method, r.URL, r.Header)
		}
		switch {
		case c.away:
			w.WriteHeader(http.StatusBadGateway)
		case r.URL.Path == "/services/v1/offerings":
			var doc map[string]any
			_ = json.NewDecoder(r.Body).Decode(&doc)
			c.offers = append(c.offers, doc)
			_, _ = io.WriteString(w, "{}")
		case r.Method == http.MethodGet:
			list := []wire.ServiceHandle{}
			for _, h := range c.handles {
				list = append(list, h)
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"handles": list})
		default:
			var h change
			_ = json.NewDecoder(r.Body).Decode(&h)
			if _, known := c.handles[path.Base(r.URL.Path)]; !known {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			if h.Was != nil && !sameJSON(t, h.Was, c.handles[h.ServiceID].Configuration) {
				w.WriteHeader(http.StatusConflict)
				return
			}
			c.handles[h.ServiceID] = h.ServiceHandle
			if h.Restart {
				c.restart = append(c.restart, h.ServiceID)
			}
			_, _ = io.WriteString(w, "{}")
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// sameJSON reports whether two values are the same as JSON.
func sameJSON(t *testing.T, one, other any) bool {
	a, err := json.Marshal(one)
	b, wrong := json.Marshal(other)
	if err != nil || wrong != nil {
		t.Error(err, wrong)
	}
	return bytes.Equal(a, b)
}

func (c *clerk) set(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
}

func (c *clerk) offered() []map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]map[string]any{}, c.offers...)
}

func (c *clerk) keep(h wire.ServiceHandle) wire.ServiceHandle {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handles[h.ServiceID] = h
	return h
}

func (c *clerk) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.handles, id)
}

// nothing is a service whose instances need nothing.
type nothing struct{}

func (nothing) Ready() error { return nil }
func (nothing) Provision(_ context.Context, i node.Instance) (wire.Credentials, error) {
	return wire.Credentials{"host": "127.0.0.1", "user": i.User, "password": i.Password}, nil
}
func (nothing) Unprovision(context.Context, node.Instance) error { return nil }
func (nothing) Bind(_ context.Context, _ node.Instance, b node.Binding) (wire.Credentials, error) {
	return wire.Credentials{"host": "127.0.0.1", "user": b.User, "password": b.Password}, nil
}
func (nothing) Unbind(context.Context, node.Instance, node.Binding) error { return nil }
func (nothing) Disable(context.Context, node.Instance) error              { return nil }
func (nothing) Enable(context.Context, node.Instance) error               { return nil }
func (nothing) Export(_ context.Context, i node.Instance, folder string) error {
	return os.WriteFile(filepath.Join(folder, "name"), []byte(i.Name), 0o600)
}
func (nothing) Import(_ context.Context, i node.Instance, folder string) error {
	data, err := os.ReadFile(filepath.Join(folder, "name"))
	if err == nil && string(data) != i.Name {
		err = fmt.Errorf("the export of %s", data)
	}
	return err
}

// world is a bus with a gateway, nodes and a controller's part on it.
type world struct {
	*testing.T
	*clerk
	bus    string
	server *server.Server
	conn   *nats.Conn
	file   string
	port   int
	shared string
}

func newWorld(t *testing.T, settings string) *world {
	t.Helper()
	s := componenttest.Bus(t)
	conn, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	w := &world{T: t, clerk: newClerk(t), bus: s.ClientURL(), server: s, conn: conn, file: filepath.Join(t.TempDir(), "gateway.yml"), port: componenttest.FreePort(t), shared: t.TempDir()}
	text := fmt.Sprintf(`mbus: %s
local_route: 127.0.0.1
port: %d
cloud_controller_uri: http://api.nowhere.invalid
cloud_controllers: [%q]
token: tok
node_timeout: 1
double_check_orphan_interval: 1
service: {name: nothing, version: "1.0", description: None, plans: [free, gold], version_aliases: {current: "1.0"}, tags: [empty]}
%s`, w.bus, w.port, strings.TrimPrefix(w.URL, "http://"), settings)
	if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// run runs a component until the test, or stop, ends it.
func (w *world) run(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.Error(err)
		}
	})
	w.Cleanup(stop)
	return stop
}

func (w *world) gateway() (stop func()) {
	w.Helper()
	stop = w.run(func(ctx context.Context) error {
		return Run(ctx, component.Process{ConfigFile: w.file, Output: w.Output()})
	})
	return stop
}

// serving waits until the gateway serves, with that many nodes.
func (w *world) serving(nodes int) {
	w.Helper()
	componenttest.Eventually(w, "the gateway serves", func() bool {
		r, err := w.try("tok", "GET", "/service/internal/v1/orphans", "{}")
		if err != nil || r.status != 200 {
			return false
		}
		reply, err := w.conn.Request("vcap.component.discover", nil, time.Second)
		if err != nil {
			return false
		}
		_ = reply
		return nodes == 0 || w.known() >= nodes
	})
}

// known counts the nodes that have announced themselves, by how the gateway's varz
// tells it.
func (w *world) known() int {
	inbox := nats.NewInbox()
	sub, err := w.conn.SubscribeSync(inbox)
	if err != nil {
		return 0
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := w.conn.PublishRequest("vcap.component.discover", inbox, nil); err != nil {
		return 0
	}
	for {
		m, err := sub.NextMsg(300 * time.Millisecond)
		if err != nil {
			return 0
		}
		about, err := wire.ParseComponent(m.Data)
		if err != nil || about.Type != "NothingaaS-Provisioner" {
			continue
		}
		request, err := http.NewRequest("GET", "http://"+about.Host+"/varz", nil)
		if err != nil {
			return 0
		}
		request.SetBasicAuth(about.Credentials[0], about.Credentials[1])
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0
		}
		var doc struct{ Nodes map[string]any }
		data, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if bytes.Contains(data, []byte("\"tok\"")) {
			w.Error("varz has the token")
		}
		if json.Unmarshal(data, &doc) != nil {
			return 0
		}
		return len(doc.Nodes)
	}
}

// runningNode is a node with its configuration file.
type runningNode struct {
	file string
	stop func()
}

func (w *world) node(id, settings string) runningNode {
	file := filepath.Join(w.TempDir(), "node.yml")
	text := fmt.Sprintf("mbus: %s\nlocal_route: 127.0.0.1\nnode_id: %s\nbase_dir: %s\nmigration_nfs: %s\nsupported_versions: ['1.0']\ndefault_version: '1.0'\n%s", w.bus, id, w.TempDir(), w.shared, settings)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
	return runningNode{file, w.run(func(ctx context.Context) error {
		return node.Run(ctx, component.Process{ConfigFile: file, Output: w.Output()}, node.Definition{
			Name: "nothing", Open: func(context.Context, node.Host) (node.Service, error) { return nothing{}, nil },
		})
	})}
}

type reply struct {
	status int
	body   string
}

func (w *world) try(token, method, path, body string) (reply, error) {
	request, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", w.port, path), strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	request.Header.Set("X-VCAP-Service-Token", token)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, string(data)}, err
}

func (w *world) call(method, path, body string, into any) {
	w.Helper()
	r, err := w.try("tok", method, path, body)
	if err != nil || r.status != 200 {
		w.Fatalf("%s %s: %+v, %v", method, path, r, err)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(r.body), into); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *world) fails(status, code int, token, method, path, body string) {
	w.Helper()
	r, err := w.try(token, method, path, body)
	var m wire.ServiceMessage
	if err != nil || json.Unmarshal([]byte(r.body), &m) != nil || r.status != status || m.Code != code || m.Description == "" {
		w.Errorf("%s %s %s: %+v, %v, want %d and code %d", method, path, body, r, err, status, code)
	}
}

const configurations = "/gateway/v1/configurations"

func (w *world) provision() (h wire.ServiceHandle) {
	w.Helper()
	w.call("POST", configurations, `{"label":"nothing-1.0","name":"db","plan":"free","email":"dev@example.com","version":"1.0"}`, &h)
	if !h.IsInstance() || h.Configuration["plan"] != "free" || h.Configuration["version"] != "1.0" {
		w.Errorf("handle %+v", h)
	}
	return w.keep(h)
}

func (w *world) bind(name string) (h wire.ServiceHandle) {
	w.Helper()
	w.call("POST", configurations+"/"+name+"/handles", fmt.Sprintf(`{"service_id":%q,"label":"nothing-1.0","email":"dev@example.com","binding_options":{"ro":true}}`, name), &h)
	if h.IsInstance() || h.Credentials.Name() != name || fmt.Sprint(h.Configuration["data"]) != "map[binding_options:map[ro:true]]" {
		w.Errorf("handle %+v", h)
	}
	return w.keep(h)
}

// TestGateway goes through an instance's life as the controller sees it.
func TestGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.set(true)
	stop := w.gateway()
	// Nothing is answered before the handles are there.
	componenttest.Eventually(t, "the gateway answers", func() bool {
		r, err := w.try("tok", "POST", configurations, `{}`)
		return err == nil && r.status == 503 && strings.Contains(r.body, "30600")
	})
	w.set(false)
	w.serving(0)
	w.fails(500, 30500, "tok", "POST", configurations, `{"label":"nothing-1.0","plan":"free","version":"1.0"}`) // there is no node
	w.node("nothing_node_free_0", "capacity: 1\n")
	w.node("nothing_node_free_1", "capacity: 2\n")
	w.serving(2)

	componenttest.Eventually(t, "offered", func() bool { return len(w.offered()) > 0 })
	offer := w.offered()[0]
	if offer["label"] != "nothing-1.0" || offer["active"] != true || offer["url"] != fmt.Sprintf("http://127.0.0.1:%d", w.port) || fmt.Sprintf("%v %v %v %v", offer["plans"], offer["tags"], offer["default_plan"], offer["timeout"]) != "[free gold] [empty] free 15" {
		t.Errorf("offering %v", offer)
	}
	for _, tc := range []struct {
		status, code        int
		token, method, path string
		body                string
	}{
		{401, 30100, "no", "POST", configurations, `{}`},
		{401, 30100, "", "DELETE", "/service/internal/v1/purge_orphan", `{}`},
		{400, 30001, "tok", "POST", configurations, `{`},
		{400, 30001, "tok", "POST", configurations, `{"label":7}`},
		{400, 30001, "tok", "POST", configurations, `{"label":"other-1.0","plan":"free","version":"1.0"}`},
		{400, 30003, "tok", "POST", configurations, `{"label":"nothing-1.0","plan":"tin","version":"1.0"}`},
		{400, 30004, "tok", "POST", configurations, `{"label":"nothing-1.0","plan":"free","version":"9"}`},
		{500, 30500, "tok", "POST", configurations, `{"label":"nothing-1.0","plan":"gold","version":"1.0"}`},
		{400, 30001, "tok", "POST", configurations, `{"label":"` + strings.Repeat("x", maxBody) + `"}`},
		{404, 30300, "tok", "POST", configurations + "/dnothing/handles", `{}`},
		{404, 30300, "tok", "DELETE", configurations + "/dnothing/handles/b", `{}`},
		{404, 30300, "tok", "DELETE", configurations + "/%2e%2e%2fx", `{}`},
		{404, 30300, "tok", "GET", "/elsewhere", ``},
		{404, 30300, "tok", "POST", configurations + "/dnothing/snapshots", `{}`},
		{404, 30300, "tok", "GET", configurations + "/dnothing/jobs/1", `{}`},
		{400, 30001, "tok", "PUT", configurations + "/dnothing/snapshots/a%2fb", `{}`},
		{400, 30001, "tok", "POST", configurations + "/dnothing/snapshots", `{"name":"\n"}`},
		{400, 30001, "tok", "POST", configurations + "/dnothing/snapshots", `[`},
		{404, 30300, "tok", "POST", configurations + "/dnothing/serialized/url/snapshots/1", `{}`},
		{400, 30001, "tok", "POST", configurations + "/dnothing/serialized/url/snapshots/a%2fb", `{}`},
		{404, 30300, "tok", "GET", configurations + "/dnothing/serialized/snapshots/1/data", `{}`},
		{401, 30100, "bad", "GET", configurations + "/dnothing/serialized/snapshots/1/data", `{}`},
		{400, 30001, "tok", "GET", configurations + "/dnothing/serialized/snapshots/%2e%2e/data", `{}`},
		{400, 30001, "tok", "PUT", configurations + "/dnothing/serialized/data", `{}`},
		{400, 30001, "tok", "PUT", configurations + "/dnothing/serialized/data", strings.Repeat("x", 1<<20)},
		{401, 30100, "bad", "PUT", configurations + "/dnothing/serialized/data", `{}`},
		{404, 30300, "tok", "PUT", configurations + "/dnothing/serialized/data", `{"service":"nothing","size":0,"sha256":"` + strings.Repeat("00", 32) + "\"}\n"},
		{400, 30001, "tok", "DELETE", "/service/internal/v1/purge_orphan", `[]`},
		{400, 30001, "tok", "POST", "/service/internal/v1/migration/a%2eb/d1/disable", `{}`},
	} {
		w.fails(tc.status, tc.code, tc.token, tc.method, tc.path, tc.body)
	}
	request, err := http.NewRequest("DELETE", fmt.Sprintf("http://127.0.0.1:%d%s/d1", w.port, configurations), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-VCAP-Service-Token", "tok")
	if response, err := http.DefaultClient.Do(request); err != nil || response.StatusCode != 400 {
		t.Errorf("without a content type: %v, %v", response, err)
	} else {
		response.Body.Close()
	}

	one, two, three := w.provision(), w.provision(), w.provision()
	on := map[string]int{}
	for _, h := range []wire.ServiceHandle{one, two, three} {
		on[h.Credentials.NodeID()]++
	}
	if on["nothing_node_free_0"] != 1 || on["nothing_node_free_1"] != 2 {
		t.Errorf("spread: %v", on)
	}
	w.fails(500, 30500, "tok", "POST", configurations, `{"label":"nothing-1.0","plan":"free","version":"current"}`)
	b := w.bind(one.ServiceID)
	if m, err := w.conn.Request("NothingaaS.handles", []byte(one.ServiceID), time.Minute); err != nil || !strings.Contains(string(m.Data), b.ServiceID) || strings.Contains(string(m.Data), two.ServiceID) {
		t.Errorf("handles: %s, %v", m.Data, err)
	}
	if m, err := w.conn.Request("NothingaaS.handles", nil, time.Minute); err != nil || !strings.Contains(string(m.Data), b.ServiceID) || !strings.Contains(string(m.Data), two.ServiceID) {
		t.Errorf("handles: %s, %v", m.Data, err)
	}
	told, _ := json.Marshal(one)
	for handle, want := range map[string]string{string(told): "true", `{"service_id":"dnothing","credentials":{"name":"dnothing"}}`: "false", "x": "false"} {
		if m, err := w.conn.Request("NothingaaS.update_service_handle", []byte(handle), time.Minute); err != nil || string(m.Data) != want {
			t.Errorf("handle %s: %s, %v", handle, m.Data, err)
		}
	}

	// A gateway that begins again knows what the controller has; it says when it goes.
	stop()
	if offers := w.offered(); offers[len(offers)-1]["active"] != false {
		t.Errorf("a gateway that goes says %v", offers[len(offers)-1])
	}
	stop = w.gateway()
	w.serving(2)
	w.bind(one.ServiceID)
	w.call("DELETE", configurations+"/"+one.ServiceID+"/handles/"+b.ServiceID, `{"service_id":"x"}`, nil)
	w.forget(b.ServiceID)
	// The controller forgets first: a gateway that has not seen the instance asks all
	// its nodes.
	stop()
	w.forget(two.ServiceID)
	w.gateway()
	w.serving(2)
	w.call("DELETE", configurations+"/"+two.ServiceID, `{}`, nil)
	w.call("DELETE", configurations+"/"+one.ServiceID, `{}`, nil)
	w.forget(one.ServiceID)
	componenttest.Eventually(t, "room again", func() bool {
		r, err := w.try("tok", "POST", configurations, `{"label":"nothing-1.0","plan":"free","version":"1.0"}`)
		return err == nil && r.status == 200
	})
}

// TestNodeThatDoesNotAnswer: the gateway waits for node_timeout and says so.
func TestNodeThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.gateway()
	w.serving(0)
	silent, err := w.conn.SubscribeSync("NothingaaS.provision.silent")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"silent", "gone"} {
		doc, _ := json.Marshal(announce(id, map[string]string{"silent": "free", "gone": "gold"}[id], 5, "1.0"))
		if err := w.conn.Publish("NothingaaS.announce", doc); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.conn.Publish("NothingaaS.announce", []byte(`{"id":"a b"}`)); err != nil {
		t.Fatal(err)
	}
	w.serving(2)
	w.fails(504, 30700, "tok", "POST", configurations, `{"label":"nothing-1.0","plan":"free","version":"1.0"}`)
	w.fails(504, 30700, "tok", "POST", configurations, `{"label":"nothing-1.0","plan":"gold","version":"1.0"}`)
	if m, err := silent.NextMsg(time.Second); err != nil || string(m.Data) != `{"plan":"free","version":"1.0"}` {
		t.Errorf("the node was asked %v, %v", m, err)
	}
}

// operate does a command as an operator.
func (w *world) operate(command string, args ...string) (string, error) {
	var out bytes.Buffer
	err := Operate(w.Context(), component.Process{ConfigFile: w.file, Address: "127.0.0.1"}, command, args, &out)
	return out.String(), err
}

// TestOrphans: what the controller forgets is found by two checks and purged on
// request, and nothing else is.
func TestOrphans(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.gateway()
	w.node("nothing_node_free_0", "")
	w.serving(1)
	kept, lost := w.provision(), w.provision()
	keptBinding, lostBinding := w.bind(kept.ServiceID), w.bind(kept.ServiceID)
	if out, err := w.operate("check-orphans"); err != nil || out != "no orphans\n" {
		t.Errorf("%q, %v", out, err)
	}
	w.forget(lost.ServiceID)
	w.forget(lostBinding.ServiceID)
	if _, err := w.operate("purge-orphans", lost.ServiceID); err == nil {
		t.Error("purged without a check")
	}
	want := fmt.Sprintf("orphan instance %s on nothing_node_free_0\norphan binding %s on nothing_node_free_0\n", lost.ServiceID, lostBinding.Credentials.Binding())
	if out, err := w.operate("check-orphans"); err != nil || out != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
	var answer struct{ Purged, Refused orphanLists }
	w.call("DELETE", "/service/internal/v1/purge_orphan", `{}`, &answer) // none named is none
	if len(answer.Purged.nodes())+len(answer.Refused.nodes()) != 0 {
		t.Errorf("purged %+v", answer)
	}
	w.call("DELETE", "/service/internal/v1/purge_orphan", `{"orphan_ins_list":{"nothing_node_free_0":["`+kept.ServiceID+`"]}}`, &answer)
	if len(answer.Purged.nodes()) != 0 || len(answer.Refused.nodes()) != 1 {
		t.Errorf("no orphan, and purged: %+v", answer)
	}
	if _, err := w.operate("purge-orphans"); err == nil {
		t.Error("purged without a name")
	}
	// What the controller knows again, perhaps by a restored backup, is kept.
	w.keep(lost)
	if out, err := w.operate("purge-orphans", lost.ServiceID); err != nil || !strings.Contains(out, "known again, kept instance "+lost.ServiceID) {
		t.Errorf("%q, %v", out, err)
	}
	w.forget(lost.ServiceID)
	if out, err := w.operate("purge-orphans", "all"); err != nil || strings.Count(out, "purged") != 2 {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := w.operate("check-orphans"); err != nil || out != "no orphans\n" {
		t.Errorf("%q, %v", out, err)
	}
	w.call("DELETE", configurations+"/"+kept.ServiceID+"/handles/"+keptBinding.ServiceID, `{}`, nil)
}

// TestMigrate: an instance moves with its users and passwords, the controller has the
// new handles, and what is left behind is an orphan.
func TestMigrate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.gateway()
	w.node("nothing_node_free_0", "capacity: 3\n")
	w.node("nothing_node_free_1", "capacity: 2\n")
	w.serving(2)
	one := w.provision()
	b := w.bind(one.ServiceID)
	if _, err := w.operate("migrate", one.ServiceID, "nothing_node_free_9"); err == nil || !strings.Contains(err.Error(), "no node nothing_node_free_9 of nothing has announced itself") {
		t.Errorf("moved to nowhere: %v", err)
	}
	out, err := w.operate("migrate", one.ServiceID, "nothing_node_free_1")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.mu.Lock()
	moved, movedBinding, restarted := w.handles[one.ServiceID], w.handles[b.ServiceID], w.restart
	w.mu.Unlock()
	if len(restarted) != 1 || restarted[0] != b.ServiceID {
		t.Errorf("restarted are the apps of %v, want that of %s once", restarted, b.ServiceID)
	}
	if moved.Credentials.NodeID() != "nothing_node_free_1" || moved.Credentials.Text("password") != one.Credentials.Text("password") ||
		movedBinding.Credentials.Text("password") != b.Credentials.Text("password") || movedBinding.Credentials.User() != b.Credentials.User() {
		t.Errorf("moved: %+v, %+v", moved, movedBinding)
	}
	var names []string
	w.call("GET", "/service/internal/v1/migration/nothing_node_free_1/instances", `{}`, &names)
	if len(names) != 1 || names[0] != one.ServiceID {
		t.Errorf("on the node: %q", names)
	}
	if entries, err := os.ReadDir(filepath.Join(w.shared, "migration", "NothingaaS")); err != nil || len(entries) != 0 {
		t.Errorf("the export is left: %v, %v", entries, err)
	}
	if out, err := w.operate("check-orphans"); err != nil || !strings.Contains(out, "orphan instance "+one.ServiceID+" on nothing_node_free_0") || strings.Contains(out, "on nothing_node_free_1") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := w.operate("purge-orphans", "all"); err != nil {
		t.Errorf("%q, %v", out, err)
	}
	w.bind(one.ServiceID)
	// A record that was lost is made again with the same credentials.
	w.call("POST", "/service/internal/v1/recover", `{"instance_id":"`+one.ServiceID+`"}`, nil)
}
