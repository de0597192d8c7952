package cloudcontroller

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/passwords"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
	"github.com/clusterworks/deploy/jobs/wire"
)

const deadline = 60 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var eventually = componenttest.Eventually

// world is a bus with controllers on it, and a client of the bus that plays the
// other components.
type world struct {
	t    *testing.T
	bus  *server.Server
	conn *nats.Conn
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s := componenttest.Bus(t, natstest.Users(t, "cloud_controller"))
	conn, err := nats.Connect(s.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	must(t, err)
	t.Cleanup(conn.Close)
	return &world{t: t, bus: s, conn: conn}
}

// cc is a running controller.
type cc struct {
	*Controller
	w          *world
	dir        string
	configFile string
	stop       func() error
}

// settings are lines of a controller's file; database and directories are added
// unless they are there.
func (w *world) start(settings string) *cc {
	w.t.Helper()
	c := w.prepare(settings)
	c.run()
	return c
}

func (w *world) prepare(settings string) *cc {
	w.t.Helper()
	dir := w.t.TempDir()
	c := &cc{w: w, dir: dir, configFile: filepath.Join(dir, "cloud_controller.yml")}
	c.configure(settings)
	return c
}

func (c *cc) configure(settings string) {
	c.w.t.Helper()
	text := fmt.Sprintf("mbus: %s\nlocal_route: 127.0.0.1\nexternal_uri: api.cf.localhost\nkeys: {token: a-long-secret}\npeer_keepalive: 200ms\nadmins: [root@example.com]\n", natstest.URI(c.w.bus, "cloud_controller"))
	for key, value := range map[string]string{
		"external_port:":        "external_port: 0",
		"allow_registration:":   "allow_registration: true",
		"update:":               "update: {min_healthy_time: 100ms}",
		"admin_password:":       "admin_password: secret of root@example.com",
		"internal_port:":        "internal_port: 0",
		"timeouts:":             "timeouts: {discover: 60s, find: 300ms, status: 300ms, health: 300ms}",
		"database_environment:": "database_environment: {production: {adapter: sqlite3, database: " + c.dir + "/cc.db}}",
		"directories:":          fmt.Sprintf("directories: {droplets: %s/droplets, resources: %s/resources, tmpdir: %s/tmp}", c.dir, c.dir, c.dir),
	} {
		if !strings.Contains(settings, key) {
			text += value + "\n"
		}
	}
	must(c.w.t, os.WriteFile(c.configFile, []byte(text+settings), 0o600))
}

func (c *cc) run() {
	c.w.t.Helper()
	c.begin()
	eventually(c.w.t, "the controller is ready", func() bool { return c.Address() != "" && c.base.Ready() == nil })
}

// begin is run without waiting until it is ready.
func (c *cc) begin() {
	t := c.w.t
	t.Helper()
	var err error
	c.Controller, err = New(component.Process{ConfigFile: c.configFile, Output: t.Output()})
	must(t, err)
	// Hundreds of logins on a slow machine take their time.
	c.guard = passwords.Guard{Hasher: passwords.NewHasher(passwords.ConcurrentHashes, passwords.Cost{Passes: 1, Memory: 64}), Logins: passwords.NewLimiter(time.Hour)}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		result <- c.Run(ctx)
		close(result)
	}()
	c.stop = func() error { cancel(); return <-result }
	t.Cleanup(func() {
		if err := c.stop(); err != nil {
			t.Errorf("the controller ends with %v", err)
		}
	})
}

// client is a user of one controller.
type client struct {
	c       *cc
	token   string
	as      string // Proxy-User
	outside bool   // asks the public port whatever the path is
}

// answer describes what a request got.
type answer struct {
	t      testing.TB
	what   string
	Status int
	Header http.Header
	Body   string
}

func (u *client) do(method, path string, header http.Header, body io.Reader) answer {
	t := u.c.w.t
	t.Helper()
	address := u.c.Address()
	for _, prefix := range []string{"/bulk", "/staging", "/staged_droplets", "/internal"} {
		if strings.HasPrefix(path, prefix) && !u.outside {
			address = u.c.address()
		}
	}
	request, err := http.NewRequest(method, "http://"+address+path, body)
	must(t, err)
	request.Host = "api.cf.localhost"
	for key, values := range header {
		request.Header[key] = values
	}
	if u.token != "" && request.Header.Get("Authorization") == "" {
		request.Header.Set("Authorization", u.token)
	}
	if u.as != "" {
		request.Header.Set("Proxy-User", u.as)
	}
	// As vmc, which follows no redirect.
	httpClient := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := httpClient.Do(request)
	must(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	return answer{t: t, what: method + " " + path, Status: response.StatusCode, Header: response.Header, Body: string(text)}
}

// call makes a request as vmc does, with a JSON content type in any case.
func (u *client) call(method, path string, body any) answer {
	t := u.c.w.t
	t.Helper()
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(body)
	default:
		data, err := json.Marshal(body)
		must(t, err)
		reader = bytes.NewReader(data)
	}
	return u.do(method, path, http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}}, reader)
}

// want checks the status and returns the answer.
func (a answer) want(status int) answer {
	a.t.Helper()
	if a.Status != status {
		a.t.Fatalf("%s answers %d, want %d: %s", a.what, a.Status, status, a.Body)
	}
	return a
}

// fails checks status and code of an error.
func (a answer) fails(status, code int) {
	a.t.Helper()
	a.want(status)
	var doc map[string]any
	a.json(&doc)
	if doc["code"] != float64(code) || doc["description"] == "" || len(doc) != 2 {
		a.t.Fatalf("%s answers %s, want code %d", a.what, a.Body, code)
	}
	if got := a.Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
		a.t.Errorf("%s answers a %s", a.what, got)
	}
}

func (a answer) json(into any) {
	a.t.Helper()
	if err := json.Unmarshal([]byte(a.Body), into); err != nil {
		a.t.Fatalf("%s answers %q: %v", a.what, a.Body, err)
	}
}

// register makes an account and logs in.
func (c *cc) register(email string) *client {
	c.w.t.Helper()
	u := &client{c: c}
	if email != "root@example.com" { // which is there from the start
		u.call("POST", "/users", map[string]string{"email": email, "password": "secret of " + email}).want(204)
	}
	u.login(email)
	return u
}

func (u *client) login(email string) {
	u.c.w.t.Helper()
	var doc struct{ Token string }
	u.call("POST", "/users/"+url.PathEscape(email)+"/tokens", map[string]string{"password": "secret of " + email}).want(200).json(&doc)
	u.token = doc.Token
}

// signed is the URL of a path at the controller, as it is given to DEAs and stagers.
func (c *cc) signed(path string) string {
	return rest.SignedURL(c.Controller.config, c.address(), path)
}

// signedPath is signed without the address.
func (c *cc) signedPath(format string, args ...any) string {
	return strings.TrimPrefix(c.signed(fmt.Sprintf(format, args...)), "http://"+c.address())
}

// create makes an app with one host name below cf.localhost.
func (u *client) create(name string) {
	u.c.w.t.Helper()
	u.call("POST", "/apps", map[string]any{
		"name": name, "staging": map[string]any{"framework": "node", "runtime": nil},
		"uris": []string{name + ".cf.localhost"}, "instances": 1, "resources": map[string]int{"memory": 64},
	}).want(302)
}

// upload sends files as vmc does.
func (u *client) upload(name string, file []byte, resources string) answer {
	u.c.w.t.Helper()
	form, contentType := uploadForm(u.c.w.t, file, resources)
	return u.do("POST", "/apps/"+name+"/application", http.Header{"Content-Type": {contentType}}, form)
}

func uploadForm(t testing.TB, file []byte, resources string) (io.Reader, string) {
	t.Helper()
	var buffer bytes.Buffer
	form := multipart.NewWriter(&buffer)
	must(t, form.WriteField("_method", "put"))
	if file != nil {
		part, err := form.CreateFormFile("application", "app.zip")
		must(t, err)
		_, err = part.Write(file)
		must(t, err)
	}
	must(t, form.WriteField("resources", resources))
	must(t, form.Close())
	return &buffer, form.FormDataContentType()
}

// zipOf packs files, by name.
func zipOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := zip.NewWriter(&buffer)
	for name, text := range files {
		part, err := w.Create(name)
		must(t, err)
		_, err = io.WriteString(part, text)
		must(t, err)
	}
	must(t, w.Close())
	return buffer.Bytes()
}

func sum(data []byte) string {
	hash := sha1.Sum(data)
	return hex.EncodeToString(hash[:])
}

// shownInstance is an instance as the API shows it.
type shownInstance struct {
	Index       int     `json:"index"`
	State       string  `json:"state"`
	Since       int64   `json:"since"`
	DebugIP     *string `json:"debug_ip"`
	DebugPort   *int    `json:"debug_port"`
	ConsoleIP   *string `json:"console_ip"`
	ConsolePort *int    `json:"console_port"`
}

// document reads an app.
func (u *client) document(name string) map[string]any {
	u.c.w.t.Helper()
	var doc map[string]any
	u.call("GET", "/apps/"+name, nil).want(200).json(&doc)
	return doc
}

// put edits an app as vmc does: it reads, changes, and writes all of it.
func (u *client) put(name string, change map[string]any) answer {
	u.c.w.t.Helper()
	doc := u.document(name)
	for key, value := range change {
		doc[key] = value
	}
	return u.call("PUT", "/apps/"+name, doc)
}

// subscribe hands the messages of a subject over.
func (w *world) subscribe(subject string) <-chan *nats.Msg {
	w.t.Helper()
	messages := make(chan *nats.Msg, 4096)
	_, err := w.conn.ChanSubscribe(subject, messages)
	must(w.t, err)
	must(w.t, w.conn.Flush())
	return messages
}

func next[T any](t testing.TB, messages <-chan *nats.Msg, parse func([]byte) (T, error)) T {
	t.Helper()
	select {
	case m := <-messages:
		v, err := parse(m.Data)
		if err != nil {
			t.Fatalf("%s: %v: %s", m.Subject, err, m.Data)
		}
		return v
	case <-time.After(deadline):
		t.Fatal("no message came")
		panic("unreachable")
	}
}

// none checks that nothing was published that should not be: everything that was
// is here once the bus was asked.
func (w *world) none(messages <-chan *nats.Msg) {
	w.t.Helper()
	must(w.t, w.conn.Flush())
	select {
	case m := <-messages:
		w.t.Errorf("%s: %s", m.Subject, m.Data)
	default:
	}
}

// stager plays a stager: it fetches the app and uploads the droplet that make
// makes of it.
func (w *world) stager(make func(request wire.StagingRequest, files []byte) (droplet []byte, log, problem string)) {
	w.t.Helper()
	_, err := w.conn.QueueSubscribe(wire.SubjectStaging, wire.SubjectStaging, func(m *nats.Msg) {
		go func() {
			answer := wire.StagingAnswer{TaskID: "task"}
			request, err := wire.ParseStagingRequest(m.Data)
			if err == nil {
				answer.TaskLog, err = stage(request, make, &answer)
			}
			if err != nil {
				answer.Error = err.Error()
			}
			data, _ := json.Marshal(answer)
			_ = m.Respond(data)
		}()
	})
	must(w.t, err)
	must(w.t, w.conn.Flush())
}

func stage(request wire.StagingRequest, make func(wire.StagingRequest, []byte) ([]byte, string, string), into *wire.StagingAnswer) (log string, err error) {
	response, err := http.Get(request.DownloadURI)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	files, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 200 {
		return "", fmt.Errorf("Failed downloading app: %d %w", response.StatusCode, err)
	}
	droplet, log, problem := make(request, files)
	if problem != "" {
		into.Error = problem
		return log, nil
	}
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("upload[droplet]", "droplet.tgz")
	if err == nil {
		_, err = part.Write(droplet)
	}
	if err == nil {
		err = form.Close()
	}
	if err != nil {
		return log, err
	}
	response, err = http.Post(request.UploadURI, form.FormDataContentType(), &body)
	if err != nil {
		return log, err
	}
	defer response.Body.Close()
	if response.StatusCode != 200 {
		return log, fmt.Errorf("Failed uploading droplet: %d", response.StatusCode)
	}
	return log, nil
}

// anyStager stages whatever comes; the droplet is made of the package's hash.
func (w *world) anyStager() {
	w.stager(func(_ wire.StagingRequest, files []byte) ([]byte, string, string) {
		return []byte("droplet of " + sum(files)), "staged", ""
	})
}

// dea plays a DEA: it offers to run whatever it is asked for, and answers for
// what it was told to start.
type dea struct {
	id        string
	mu        sync.Mutex
	instances []wire.DEAFound
	starts    chan wire.DEAStart
	stops     chan wire.DEAStop
	fileURI   string
	offers    *nats.Subscription
	// keeps says that what is stopped by its state is still found by that.
	keeps bool
}

// leave makes no more offers.
func (d *dea) leave() { _ = d.offers.Unsubscribe() } // fails when the test is over

func (w *world) dea(id string) *dea {
	w.t.Helper()
	d := &dea{id: id, starts: make(chan wire.DEAStart, 4096), stops: make(chan wire.DEAStop, 4096)}
	hello, err := json.Marshal(wire.DEAHello{ID: id, IP: "127.0.0.1", Port: 12345, Version: wire.DEAVersion})
	must(w.t, err)
	for subject, handle := range map[string]nats.MsgHandler{
		wire.SubjectDEADiscover: func(m *nats.Msg) { _ = m.Respond(hello) },
		wire.SubjectDEAStartOf(id): func(m *nats.Msg) {
			s, err := wire.ParseDEAStart(m.Data)
			if err != nil {
				w.t.Errorf("a start: %v", err)
				return
			}
			d.mu.Lock()
			staged := fmt.Sprintf("%s-%d-x", s.Name, s.Index)
			d.instances = append(d.instances, wire.DEAFound{
				DEA: id, Version: s.Version, Droplet: s.Droplet, Instance: fmt.Sprintf("%032x", len(d.instances)+1), Index: s.Index,
				State: wire.StateRunning, StateTimestamp: 1343815200, FileURI: d.fileURI, Credentials: [2]string{"u", "p"}, Staged: &staged,
			})
			d.mu.Unlock()
			d.starts <- s
		},
		wire.SubjectDEAStop: func(m *nats.Msg) {
			s, err := wire.ParseDEAStop(m.Data)
			if err != nil {
				w.t.Errorf("a stop: %v", err)
				return
			}
			d.mu.Lock()
			var left []wire.DEAFound
			for _, f := range d.instances {
				switch {
				case f.Droplet != s.Droplet || !s.Matches(f.Version, f.Instance, f.Index, f.State):
					left = append(left, f)
				case d.keeps && s.States != nil:
					f.State, f.StateTimestamp = wire.StateStopped, f.StateTimestamp+int64(f.Index)
					left = append(left, f)
				}
			}
			d.instances = left
			d.mu.Unlock()
			d.stops <- s
		},
		wire.SubjectDEAFind: func(m *nats.Msg) {
			q, err := wire.ParseDEAFind(m.Data)
			if err != nil {
				w.t.Errorf("a find: %v", err)
				return
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			for _, f := range d.instances {
				if f.State == wire.StateStopped && !slices.Contains(q.States, wire.StateStopped) {
					continue
				}
				if f.Droplet == q.Droplet && q.Matches(f.Version, f.Instance, f.Index, f.State) {
					if q.IncludeStats {
						f.Stats = &wire.InstanceStats{Name: "x", URIs: []string{}, MemQuota: 64 << 20, Usage: &wire.Usage{Mem: 20480}}
					}
					data, _ := json.Marshal(f)
					_ = m.Respond(data)
				}
			}
		},
	} {
		sub, err := w.conn.Subscribe(subject, handle)
		must(w.t, err)
		if subject == wire.SubjectDEADiscover {
			d.offers = sub
		}
	}
	must(w.t, w.conn.Flush())
	return d
}

func received[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(deadline):
		t.Fatal("no message came")
		panic("unreachable")
	}
}
