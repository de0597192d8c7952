package dea

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/dea/internal/core"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
	"github.com/clusterworks/deploy/jobs/wire"
)

const deadline = 60 * time.Second

// configVariable has this program run as a DEA.
const configVariable = "DEA_TEST_CONFIG"

// TestMain lets this program be the warden and the DEA as well.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{"-dir", "stage", "session", "begin"}, os.Args[1]) {
		os.Exit(warden.Main(os.Args[1:]))
	}
	if file := os.Getenv(configVariable); file != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		d, err := New(component.Process{ConfigFile: file, Output: os.Stderr})
		if err == nil {
			err = d.Run(ctx)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	// They wait more than they work.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

var eventually = componenttest.Eventually

// cell is a bus with whoever is on it, and a folder of droplets that all share.
type cell struct {
	t        *testing.T
	bus      *server.Server
	conn     *nats.Conn
	droplets string

	mu   sync.Mutex
	seen []message
}

// message is one that went over the bus.
type message struct {
	subject string
	data    []byte
}

func newCell(t *testing.T) *cell {
	t.Helper()
	c := &cell{t: t, droplets: t.TempDir()}
	c.restartBus(server.RANDOM_PORT)
	var err error
	if c.conn, err = nats.Connect(c.bus.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.conn.Close)
	for _, subject := range []string{"dea.*", "droplet.*", "router.*"} {
		if _, err := c.conn.Subscribe(subject, func(m *nats.Msg) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.seen = append(c.seen, message{m.Subject, m.Data})
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return c
}

// restartBus starts a bus, the first or after the end of another.
func (c *cell) restartBus(port int) {
	c.t.Helper()
	c.bus = componenttest.Bus(c.t, componenttest.On(port), natstest.Users(c.t, "dea", "router"))
}

// messages are those of a subject that have come so far, parsed.
func messages[T any](c *cell, subject string, parse func([]byte) (T, error)) []T {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []T
	for _, m := range c.seen {
		if m.subject != subject {
			continue
		}
		v, err := parse(m.data)
		if err != nil {
			c.t.Errorf("sent what cannot be read: %v\n%s", err, m.data)
		}
		all = append(all, v)
	}
	return all
}

func (c *cell) publish(subject string, message any) {
	c.t.Helper()
	data, err := json.Marshal(message)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := errors.Join(c.conn.Publish(subject, data), c.conn.Flush()); err != nil {
		c.t.Fatal(err)
	}
}

// told waits for the exit message of an instance, and returns all that there are.
func (c *cell) told(droplet wire.ID, instance string) []wire.DropletExited {
	c.t.Helper()
	eventually(c.t, "the exit of an instance of app "+string(droplet)+" is told", func() bool { return len(c.exits(droplet)[instance]) > 0 })
	return c.exits(droplet)[instance]
}

// exits are the exit messages of an app that have come so far, by instance.
func (c *cell) exits(droplet wire.ID) map[string][]wire.DropletExited {
	by := map[string][]wire.DropletExited{}
	for _, e := range messages(c, wire.SubjectDropletExited, wire.ParseDropletExited) {
		if e.Droplet == droplet {
			by[e.Instance] = append(by[e.Instance], e)
		}
	}
	return by
}

// agent is a DEA on the bus.
type agent struct {
	*cell
	dea    *DEA
	base   string
	config string // file
	// change, if set, has it run apps as on a machine that offers less.
	change func(warden.Machine) warden.Machine
	// stop ends it, by a signal as it were.
	stop func() error
}

// configure writes the configuration of a DEA; settings are further lines,
// intervals further ones of these.
func (c *cell) configure(base, settings string, intervals ...string) string {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	if !strings.Contains(strings.Join(intervals, ""), "settle_time") {
		intervals = append(intervals, "settle_time: 0.2")
	}
	if !strings.Contains(strings.Join(intervals, ""), "stop_timeout") {
		intervals = append(intervals, "stop_timeout: 2")
	}
	if !strings.Contains(settings, "local_route") {
		settings += "\nlocal_route: 127.0.0.1"
	}
	text := fmt.Sprintf(`
mbus: %s
index: 0
base_dir: %s
filer_port: 0
warden: %s
runtimes: {perl: {executable: perl, version_output: 'This is perl'}, binary: {}}
intervals: {heartbeat: 0.2, advertise: 0.2, monitor: 0.2, crashes_reaper: 0.2, probe: 0.05%s}
%s
`, natstest.URI(c.bus, "dea"), base, self, strings.Join(append([]string{""}, intervals...), ", "), settings)
	file := filepath.Join(c.t.TempDir(), "dea.yml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return file
}

// start runs a DEA until the test ends; whatever runs on it ends, too.
func (c *cell) start(settings string, intervals ...string) *agent {
	c.t.Helper()
	a := &agent{cell: c, base: c.t.TempDir()}
	a.config = c.configure(a.base, settings, intervals...)
	a.run()
	return a
}

func (a *agent) run() {
	a.t.Helper()
	var err error
	if a.dea, err = New(component.Process{ConfigFile: a.config, Output: a.t.Output()}); err != nil {
		a.t.Fatal(err)
	}
	if a.change != nil {
		found := a.dea.machine
		if a.dea.machine = a.change(found); a.dea.machine.Cgroups == nil {
			found.Close()
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	d := a.dea
	go func() { result <- d.Run(ctx) }()
	a.stop = sync.OnceValue(func() error { cancel(); return <-result })
	a.t.Cleanup(func() {
		if err := a.stop(); err != nil {
			a.t.Errorf("the DEA ends with %v", err)
		}
	})
	eventually(a.t, "the DEA says hello", func() bool {
		for _, h := range messages(a.cell, wire.SubjectDEAStart, wire.ParseDEAHello) {
			if h.ID == d.base.UUID() {
				return true
			}
		}
		return false
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// count returns the number of instances that it has.
func (a *agent) count() int {
	n, _ := ask(a.dea, func(m *core.Machine) int { return len(m.Instances()) })
	return n
}

// request collects the answers of all who answer soon.
func request[T any](c *cell, subject string, question any, parse func([]byte) (T, error)) []T {
	c.t.Helper()
	inbox := nats.NewInbox()
	sub, err := c.conn.SubscribeSync(inbox)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	data, err := json.Marshal(question)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.conn.PublishRequest(subject, inbox, data); err != nil {
		c.t.Fatal(err)
	}
	var all []T
	for {
		m, err := sub.NextMsg(300 * time.Millisecond)
		if err != nil || len(m.Data) == 0 {
			return all
		}
		answer, err := parse(m.Data)
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, answer)
	}
}

func (c *cell) status() []wire.DEAStatus {
	c.t.Helper()
	return request(c, wire.SubjectDEAStatus, map[string]any{}, wire.ParseDEAStatus)
}

// find asks for the instances of an app.
func (c *cell) find(droplet wire.ID, stats bool) []wire.DEAFound {
	c.t.Helper()
	return request(c, wire.SubjectDEAFind, wire.DEAFind{Droplet: droplet, IncludeStats: stats}, wire.ParseDEAFound)
}

// state waits until the app has exactly one instance, in this state.
func (c *cell) state(droplet wire.ID, state string) wire.DEAFound {
	c.t.Helper()
	var found []wire.DEAFound
	eventually(c.t, "app "+string(droplet)+" is "+state, func() bool {
		found = c.find(droplet, true)
		return len(found) == 1 && found[0].State == state && (state != wire.StateRunning || found[0].Stats != nil)
	})
	return found[0]
}

// entry is one of a droplet's.
type entry struct {
	name, text string
	mode       int64
	kind       byte // tar.TypeReg if 0
	link       string
}

// droplet makes a droplet and returns its sha1. Without entries it is the test
// app.
func (c *cell) droplet(entries ...entry) string {
	c.t.Helper()
	if len(entries) == 0 {
		for name, file := range map[string]string{"./startup": "startup", "./app/app.pl": "app.pl"} {
			text, err := os.ReadFile(filepath.Join("testdata", file))
			if err != nil {
				c.t.Fatal(err)
			}
			entries = append(entries, entry{name: name, text: string(text), mode: 0o700})
		}
	}
	data := archive(c.t, entries...)
	sum := sha1.Sum(data)
	sha := hex.EncodeToString(sum[:])
	if err := os.WriteFile(filepath.Join(c.droplets, sha), data, 0o644); err != nil {
		c.t.Fatal(err)
	}
	return sha
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var data bytes.Buffer
	zipped := gzip.NewWriter(&data)
	out := tar.NewWriter(zipped)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.text)), Typeflag: e.kind, Linkname: e.link}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		err := out.WriteHeader(h)
		if err == nil {
			_, err = io.WriteString(out, e.text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(out.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return data.Bytes()
}

// document is the start document of an app.
func (c *cell) document(droplet wire.ID, sha string, env ...string) wire.DEAStart {
	return wire.DEAStart{
		Droplet: droplet, Name: "app" + string(droplet), Version: sha + "-1", SHA1: sha,
		URIs: []string{"app" + string(droplet) + ".cf.test"}, Runtime: "perl", RuntimeInfo: wire.RuntimeInfo{Name: "perl"}, Framework: "test",
		Executable: wire.Executable{ExecutableFile: filepath.Join(c.droplets, sha), ExecutableURI: "http://127.0.0.1:1/staged_droplets/" + sha},
		Limits:     wire.Limits{Mem: 64, Disk: 64, FDs: 256}, Env: env, Users: []string{"dev@cf.test"},
	}
}

// launch starts an app on this DEA and waits until it runs.
func (a *agent) launch(doc wire.DEAStart) wire.DEAFound {
	a.t.Helper()
	a.publish(wire.SubjectDEAStartOf(a.dea.base.UUID()), doc)
	return a.state(doc.Droplet, wire.StateRunning)
}

// get asks an app.
func get(t *testing.T, f wire.DEAFound, path string) string {
	t.Helper()
	if f.Stats == nil || f.Stats.Port == nil {
		t.Fatalf("instance %s has no port: %+v", f.Instance, f)
	}
	body, status := fetch(t, "http://"+net.JoinHostPort(f.Stats.Host, strconv.Itoa(*f.Stats.Port))+path, [2]string{})
	if status != http.StatusOK {
		t.Fatalf("GET %s: %d", path, status)
	}
	return body
}

func fetch(t *testing.T, url string, credentials [2]string) (body string, status int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if credentials[0] != "" {
		request.SetBasicAuth(credentials[0], credentials[1])
	}
	response, err := (&http.Client{Timeout: deadline}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data), response.StatusCode
}

// file is one of an instance's, over the file server.
func file(t *testing.T, f wire.DEAFound, name string) string {
	t.Helper()
	if f.Staged == nil {
		t.Fatalf("instance %s has no folder", f.Instance)
	}
	body, status := fetch(t, f.FileURI+*f.Staged+name, f.Credentials)
	if status != http.StatusOK {
		t.Fatalf("file %s: %d %s", name, status, body)
	}
	return body
}

// instanceProcesses are the processes on this machine that have the instance's
// id in their environment.
func instanceProcesses(t *testing.T, id string) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(data, []byte("VMC_APP_ID="+id)) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(file, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}
