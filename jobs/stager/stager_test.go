package stager

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
	"github.com/clusterworks/deploy/jobs/wire"
)

const deadline = time.Minute

// TestMain is the plugin's process as well, since a stager starts its own program,
// and the warden's.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == RunPlugin {
		os.Exit(PluginMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && (os.Args[1] == "-dir" || os.Args[1] == "stage") {
		os.Exit(warden.Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

var eventually = componenttest.Eventually

// platform is a bus and a controller's staging endpoints.
type platform struct {
	t    *testing.T
	bus  *server.Server
	conn *nats.Conn
	http *httptest.Server

	mu       sync.Mutex
	apps     map[string][]byte // zips by app id
	droplets map[string][]byte // by app id
	hold     chan struct{}     // downloads wait for it, if set
	refuse   int               // status of uploads, if set
	asked    int               // downloads
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	bus := componenttest.Bus(t, natstest.Users(t, "stager"))
	p := &platform{t: t, bus: bus, apps: map[string][]byte{}, droplets: map[string][]byte{}}
	var err error
	if p.conn, err = nats.Connect(bus.ClientURL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.conn.Close)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /staging/app/{id}", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		data, ok := p.apps[r.PathValue("id")]
		hold := p.hold
		p.asked++
		p.mu.Unlock()
		if hold != nil {
			select {
			case <-hold:
			case <-r.Context().Done():
			}
		}
		if !ok {
			http.Error(w, `{"code":301,"description":"Application not found"}`, http.StatusNotFound)
			return
		}
		_, _ = w.Write(data)
	})
	mux.HandleFunc("POST /staging/droplet/{id}/{upload}", func(w http.ResponseWriter, r *http.Request) {
		file, _, err := r.FormFile("upload[droplet]")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		defer file.Close()
		data, err := io.ReadAll(file)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.refuse != 0 {
			http.Error(w, "no room", p.refuse)
			return
		}
		p.droplets[r.PathValue("id")] = data
	})
	p.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "stg" || password != "s3cret" {
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(p.http.Close)
	return p
}

// start runs a stager with more lines of configuration. stop ends it as SIGTERM
// does.
func (p *platform) start(settings string) (s *Stager, stop func() error) {
	p.t.Helper()
	file := filepath.Join(p.t.TempDir(), "stager.yml")
	if !strings.Contains(settings, "dirs:") {
		settings += "\ndirs: {tmp: " + p.t.TempDir() + "}"
	}
	self, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	text := fmt.Sprintf("nats_uri: %s\nlocal_route: 127.0.0.1\nwarden: %s\n%s\n", natstest.URI(p.bus, "stager"), self, settings)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	s, err = New(component.Process{ConfigFile: file, Output: p.t.Output()})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		result <- s.Run(ctx)
		close(result)
	}()
	stop = func() error { cancel(); return <-result }
	p.t.Cleanup(func() {
		if err := stop(); err != nil {
			p.t.Error(err)
		}
	})
	eventually(p.t, "the stager takes requests", func() bool {
		s.mu.Lock()
		subscribed := len(s.subscriptions) > 0
		s.mu.Unlock()
		return subscribed && s.base.Bus().Flush() == nil
	})
	return s, stop
}

// properties are an app's.
func properties(framework, runtime string) wire.StagingProperties {
	return wire.StagingProperties{Framework: framework, Runtime: runtime, Resources: wire.StagingResources{Memory: 128, Disk: 512, FDs: 256}}
}

// request asks for an app's droplet and returns the answer.
func (p *platform) request(app string, properties wire.StagingProperties) wire.StagingAnswer {
	p.t.Helper()
	answer, err := p.ask(app, properties)
	if err != nil {
		p.t.Fatal(err)
	}
	return answer
}

func (p *platform) ask(app string, properties wire.StagingProperties) (wire.StagingAnswer, error) {
	return p.askFor("", app, properties)
}

// askFor has an owner's app staged.
func (p *platform) askFor(owner, app string, properties wire.StagingProperties) (wire.StagingAnswer, error) {
	at := strings.Replace(p.http.URL, "http://", "http://stg:s3cret@", 1)
	data, err := json.Marshal(wire.StagingRequest{AppID: wire.ID(app), Owner: owner, Properties: properties,
		DownloadURI: at + "/staging/app/" + app, UploadURI: at + "/staging/droplet/" + app + "/0123"})
	if err != nil {
		return wire.StagingAnswer{}, err
	}
	m, err := p.conn.Request(wire.SubjectStaging, data, 2*deadline)
	if err != nil {
		return wire.StagingAnswer{}, err
	}
	if strings.Contains(string(m.Data), "s3cret") {
		p.t.Errorf("the answer shows a password: %s", m.Data)
	}
	return wire.ParseStagingAnswer(m.Data)
}

// put makes files an app's. A name that ends in ! is a program's.
func (p *platform) put(app string, files map[string]string) {
	p.t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, text := range files {
		name, program := strings.CutSuffix(name, "!")
		header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: time.Now()}
		header.SetMode(0o644)
		if program {
			header.SetMode(0o755)
		}
		out, err := w.CreateHeader(header)
		if err == nil {
			_, err = io.WriteString(out, text)
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		p.t.Fatal(err)
	}
	p.putZip(app, b.Bytes())
}

func (p *platform) putZip(app string, data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.apps[app] = data
}

// putFolder makes a folder's files an app's.
func (p *platform) putFolder(app, folder string) {
	p.t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(folder), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode()&0o100 != 0 {
			name += "!"
		}
		files[name] = string(data)
		return nil
	})
	if err != nil || len(files) == 0 {
		p.t.Fatalf("no app in %s: %v", folder, err)
	}
	p.put(app, files)
}

func (p *platform) droplet(app string) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.droplets[app]
}

// leftovers fails the test if a stager left files of a task or one of its
// processes.
func leftovers(t *testing.T, s *Stager) {
	t.Helper()
	entries, err := os.ReadDir(s.folder.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !slices.Contains([]string{"lock", "stager", "static_server", "trials"}, entry.Name()) {
			t.Errorf("%s is left in the workspace", entry.Name())
		}
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range commands {
		// Those of other tests in parallel have another folder.
		if command, err := os.ReadFile(file); err == nil && strings.Contains(string(command), s.folder.path) {
			t.Errorf("%s is left of a plugin", file)
		}
	}
}

// TestFailures: each step's failure has the original's text and its reason,
// leaves nothing behind, and the next staging works.
func TestFailures(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	s, _ := p.start("max_app_mb: 1\nmax_droplet_mb: 2")
	p.put("1", map[string]string{"a.js": "", "b.js": ""})
	p.put("up", map[string]string{"../a.js": ""})
	p.put("bomb", map[string]string{"a": strings.Repeat("0", 3<<20)})
	p.putZip("text", []byte("hello"))
	p.putZip("large", make([]byte, 1<<20+1))
	withRuntime := func(info wire.RuntimeInfo) wire.StagingProperties {
		properties := properties("node", info.Name)
		properties.RuntimeInfo = info
		return properties
	}
	for _, tc := range []struct {
		name, app  string
		properties wire.StagingProperties
		want       string
	}{
		{"no app", "none", properties("node", "node"), "Failed downloading app: the controller answered 404 Not Found: {\"code\":301"},
		{"large", "large", properties("node", "node"), "Failed downloading app: it is larger than the 1 MB"},
		{"no zip", "text", properties("node", "node"), "Failed unpacking app: it is no zip archive"},
		{"outside", "up", properties("node", "node"), `Failed unpacking app: its entry "../a.js" is outside`},
		{"bomb", "bomb", properties("node", "node"), "Failed unpacking app: unpacked it is larger than the 2 MB"},
		{"no start", "1", properties("node", "node"), "Staging plugin failed: cannot tell what starts this Node.js app"},
		{"no plugin", "1", properties("cobol", "node"), "Staging plugin failed: there is no plugin for framework cobol; there are binary, java_web, node"},
		{"unknown runtime", "1", properties("node", "node2"), "Staging plugin failed: the request names the runtime node2"},
		{"missing runtime", "1", withRuntime(wire.RuntimeInfo{Name: "node99", Executable: "node99"}), "Staging plugin failed: runtime node99 is not on this machine"},
		{"another version", "1", withRuntime(wire.RuntimeInfo{Name: "node", Executable: "node", VersionFlag: "--version", VersionOutput: "v0.4.12"}), "Staging plugin failed: runtime node is another one here"},
		{"no command", "1", properties("standalone", "node"), "needs a command"},
		{"no web app", "1", properties("java_web", "binary"), "WEB-INF/web.xml"},
		{"no rack app", "1", properties("rack", "ruby"), "config.ru"},
		{"no sinatra app", "1", properties("sinatra", "ruby"), "requires sinatra"},
		{"no WSGI app", "1", properties("wsgi", "python"), "wsgi.py"},
		{"no program", "1", properties("binary", "binary"), "its root has 0 programs"},
		{"no static server", "1", properties("static", "static"), "no program that serves static files"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			answer := p.request(tc.app, tc.properties)
			if !strings.Contains(answer.Error, tc.want) || len(answer.TaskID) != 32 {
				t.Errorf("answer %+v, want an error with %q", answer, tc.want)
			}
			if !strings.Contains(answer.TaskLog, tc.want) {
				t.Errorf("log %q, want %q in it", answer.TaskLog, tc.want)
			}
		})
	}
	p.mu.Lock()
	p.refuse = http.StatusInsufficientStorage
	p.mu.Unlock()
	p.put("1", map[string]string{"a.js": "1"})
	if answer := p.request("1", properties("node", "node")); !strings.Contains(answer.Error, "Failed uploading droplet: the controller answered 507 Insufficient Storage: no room") {
		t.Errorf("answer %+v", answer)
	}
	p.mu.Lock()
	p.refuse = 0
	p.mu.Unlock()
	if answer := p.request("1", properties("node", "node")); answer.Error != "" || p.droplet("1") == nil {
		t.Errorf("after all that: %+v", answer)
	}
	leftovers(t, s)
	varz := s.varz()
	if varz["staged"] != 1 || varz["failed"] != 18 || varz["running_tasks"] != 0 || varz["waiting_tasks"] != 0 {
		t.Errorf("varz %v", varz)
	}
}

// TestBadMessages: whatever bytes come, they are answered, and the stager stages
// on.
func TestBadMessages(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.start("")
	for _, data := range []string{"", "{", "null", "[]", `{"app_id":{}}`, `{"app_id":7,"properties":{"framework":"node"},"download_uri":"file:///etc/passwd","upload_uri":"x"}`, strings.Repeat("[", 10000)} {
		m, err := p.conn.Request(wire.SubjectStaging, []byte(data), deadline)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := wire.ParseStagingAnswer(m.Data); err != nil || !strings.Contains(answer.Error, "a staging request") {
			t.Errorf("%.60q: answer %s, %v", data, m.Data, err)
		}
	}
	p.put("7", map[string]string{"a.js": ""})
	if answer := p.request("7", properties("node", "node")); answer.Error != "" {
		t.Error(answer)
	}
}

// external writes a plugin of bash.
func external(t *testing.T, script string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "plugin")
	if err := os.WriteFile(file, []byte("#!/bin/bash\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestExternalPlugin: a program of its own is called as README.md describes, gets
// nothing of the stager's environment, cannot read what is the stager's, and all
// that it starts ends with it.
func TestExternalPlugin(t *testing.T) {
	t.Setenv("STAGER_TEST_SECRET", "hidden")
	p := newPlatform(t)
	plugin := external(t, `
framework=$1 config=$2
work=$(dirname "$config")
echo "staging $framework" > "$work/staged/log.txt"
mkdir -p "$work/staged/logs"
{ env; cat "$(dirname "$0")/secret/file" 2>&1; } > "$work/staged/logs/staging.log"
cp -r "$work/unstaged" "$work/staged/app"
printf '#!/bin/bash\n' > "$work/staged/startup"
setsid sleep 1000 &
sleep 1000 &
`)
	s, _ := p.start("plugins: {cobol: " + plugin + "}")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("bus password"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(filepath.Dir(plugin), "secret"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(filepath.Dir(plugin), "secret", "file")); err != nil {
		t.Fatal(err)
	}
	p.put("7", map[string]string{"a.cob": "x"})
	answer := p.request("7", properties("cobol", "binary"))
	if answer.Error != "" {
		t.Fatal(answer)
	}
	if !strings.Contains(answer.TaskLog, "HOME=") || strings.Contains(answer.TaskLog, "hidden") {
		t.Errorf("the plugin's environment:\n%s", answer.TaskLog)
	}
	if strings.Contains(answer.TaskLog, "bus password") || !strings.Contains(answer.TaskLog, "No such file") {
		t.Errorf("the plugin reads what is not its own:\n%s", answer.TaskLog)
	}
	leftovers(t, s)
	folder := unpackDroplet(t, p.droplet("7"))
	if text, err := os.ReadFile(filepath.Join(folder, "log.txt")); string(text) != "staging cobol\n" {
		t.Errorf("droplet has %q, %v", text, err)
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "stager.yml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestTimeout: a plugin that never ends is ended, with its children, and the
// answer says so.
func TestTimeout(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	s, _ := p.start("max_staging_duration: 1.5\nplugins: {cobol: " + external(t, "setsid sleep 1000 &\nsleep 1000") + "}")
	p.put("7", map[string]string{"a": "x"})
	if answer := p.request("7", properties("cobol", "binary")); answer.Error != "Staging timed out after 1.5 seconds." {
		t.Errorf("answer %+v", answer)
	}
	p.mu.Lock()
	p.hold = make(chan struct{})
	p.mu.Unlock()
	if answer := p.request("7", properties("cobol", "binary")); answer.Error != "Staging timed out after 1.5 seconds." {
		t.Errorf("a download that never ends: %+v", answer)
	}
	leftovers(t, s)
}

// TestPlacesOfOwners: an owner whose stagings do not end leaves places for others.
func TestPlacesOfOwners(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	s, _ := p.start("max_active_tasks: 2\nmax_staging_duration: 60\nplugins: {cobol: " + external(t, "sleep 1000") + "}")
	p.put("7", map[string]string{"a.js": ""})
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if answer, err := p.askFor("1", "7", properties("cobol", "binary")); err != nil || answer.Error == "" {
				t.Errorf("%+v, %v", answer, err)
			}
		})
	}
	eventually(t, "one of the first owner's runs, two wait", func() bool {
		return s.varz()["running_tasks"] == 1 && s.varz()["waiting_tasks"] == 2
	})
	if answer, err := p.askFor("2", "7", properties("node", "node")); err != nil || answer.Error != "" {
		t.Errorf("another owner's: %+v, %v", answer, err)
	}
	if s.varz()["running_tasks"] != 1 {
		t.Errorf("the first owner's stagings are over: %v", s.varz())
	}
	s.cut(errLeaving)
	group.Wait()
}

// TestOneOfSeveral: each request is one stager's, a stager runs no more tasks
// than it may, and those that wait get their turn.
func TestOneOfSeveral(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	first, _ := p.start("max_active_tasks: 2")
	second, _ := p.start("max_active_tasks: 2")
	p.put("7", map[string]string{"a.js": ""})
	hold := make(chan struct{})
	p.mu.Lock()
	p.hold = hold
	p.mu.Unlock()
	const requests = 12
	var group sync.WaitGroup
	for range requests {
		group.Go(func() {
			if answer, err := p.ask("7", properties("node", "node")); err != nil || answer.Error != "" {
				t.Errorf("%+v, %v", answer, err)
			}
		})
	}
	count := func(name string) int { return first.varz()[name].(int) + second.varz()[name].(int) }
	eventually(t, "all requests are taken", func() bool { return count("running_tasks")+count("waiting_tasks") == requests })
	eventually(t, "tasks run", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.asked >= 2 })
	for _, s := range []*Stager{first, second} {
		if n := s.varz()["running_tasks"].(int); n > 2 {
			t.Errorf("%d tasks run at once", n)
		}
	}
	p.mu.Lock()
	p.hold = nil
	p.mu.Unlock()
	close(hold)
	group.Wait()
	// The answer comes before the last figure is counted.
	eventually(t, "all are counted", func() bool { return count("staged") == requests })
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked != requests {
		t.Errorf("%d downloads for %d requests", p.asked, requests)
	}
}

// TestDrain: what is in progress is finished, what comes later is another
// stager's; with its time over, a drain cuts.
func TestDrain(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	leaver, _ := p.start("")
	p.put("7", map[string]string{"a.js": ""})
	hold := make(chan struct{})
	p.mu.Lock()
	p.hold = hold
	p.mu.Unlock()
	answers := make(chan wire.StagingAnswer, 1)
	go func() {
		answer, err := p.ask("7", properties("node", "node"))
		if err != nil {
			answer.Error = err.Error()
		}
		answers <- answer
	}()
	eventually(t, "the task runs", func() bool { return leaver.varz()["running_tasks"] == 1 })
	drained := make(chan error, 1)
	go func() { drained <- leaver.base.Drain(t.Context()) }()
	eventually(t, "nobody takes requests", func() bool {
		_, err := p.conn.Request(wire.SubjectStaging, []byte("x"), time.Second)
		return errors.Is(err, nats.ErrNoResponders)
	})
	stayer, _ := p.start("")
	select {
	case err := <-drained:
		t.Fatalf("drained with a task in progress: %v", err)
	default:
	}
	p.mu.Lock()
	p.hold = nil
	p.mu.Unlock()
	close(hold)
	if answer := <-answers; answer.Error != "" {
		t.Errorf("the task in progress: %+v", answer)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if answer := p.request("7", properties("node", "node")); answer.Error != "" || leaver.varz()["staged"] != 1 {
		t.Errorf("the other stager: %+v", answer)
	}
	eventually(t, "the other stager counts it", func() bool { return stayer.varz()["staged"] == 1 })
}

// TestCut: a stager that has to leave at once tells who waits.
func TestCut(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	s, stop := p.start("")
	p.put("7", map[string]string{"a.js": ""})
	p.mu.Lock()
	p.hold = make(chan struct{})
	p.mu.Unlock()
	answers := make(chan wire.StagingAnswer, 1)
	go func() {
		answer, err := p.ask("7", properties("node", "node"))
		if err != nil {
			answer.Error = err.Error()
		}
		answers <- answer
	}()
	eventually(t, "the task runs", func() bool { return s.varz()["running_tasks"] == 1 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if answer := <-answers; answer.Error != errLeaving.Error() {
		t.Errorf("answer %+v", answer)
	}
	if _, err := os.Stat(s.folder.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the work folder is left: %v", err)
	}
}

// TestControllerRestarts: a controller that is away for a moment loses nothing.
func TestControllerRestarts(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.start("")
	p.put("7", map[string]string{"a.js": ""})
	address := p.http.Listener.Addr().String()
	handler := p.http.Config.Handler
	p.http.Close()
	answers := make(chan wire.StagingAnswer, 1)
	go func() {
		answer, err := p.ask("7", properties("node", "node"))
		if err != nil {
			answer.Error = err.Error()
		}
		answers <- answer
	}()
	again := &http.Server{Addr: address, Handler: handler}
	ended := make(chan error, 1)
	go func() { ended <- again.ListenAndServe() }()
	if answer := <-answers; answer.Error != "" {
		t.Errorf("answer %+v", answer)
	}
	if err := errors.Join(again.Close(), <-ended); !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// TestWorkFolders: what a killed stager left is removed, what a living one has is
// not.
func TestWorkFolders(t *testing.T) {
	tmp := t.TempDir()
	config := Config{Dirs: Dirs{Tmp: tmp}}
	living, err := openWorkFolder(config, "living")
	if err != nil {
		t.Fatal(err)
	}
	killed, err := openWorkFolder(config, "killed")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := killed.newTask("1"); err != nil {
		t.Fatal(err)
	}
	killed.lock.Close()
	other := filepath.Join(tmp, "stager-notes")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openWorkFolder(config, "next"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{living.path: true, killed.path: false, other: true} {
		if _, err := os.Stat(name); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
	}
}

func TestConfig(t *testing.T) {
	for text, want := range map[string]string{
		"queues: []":               "queues",
		"max_staging_duration: 0":  "max_staging_duration",
		"max_staging_duration: .5": "",
		"max_active_tasks: 0":      "max_active_tasks",
		"plugins: {php: php}":      "absolute path",
		"max_app_mb: 0":            "max_app_mb",
		"max_memory_mb: 0":         "max_memory_mb",
		"isolation: none":          "isolation",
	} {
		cfg, _, err := load(writeFile(t, "nats_uri: nats://127.0.0.1:4222\n"+text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %+v, %v", text, cfg, err)
		}
	}
}
