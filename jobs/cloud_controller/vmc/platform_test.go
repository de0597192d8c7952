package vmc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	cloudcontroller "github.com/clusterworks/deploy/jobs/cloud_controller"
	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/dea"
	healthmanager "github.com/clusterworks/deploy/jobs/health_manager"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
	"github.com/clusterworks/deploy/jobs/router"
	"github.com/clusterworks/deploy/jobs/stager"
)

const deadline = 2 * time.Minute

// TestMain is the stager's plugins as well: a stager starts its own program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == stager.RunPlugin {
		os.Exit(stager.PluginMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var eventually = componenttest.Eventually

// platform is a whole one in this process: bus, router, cloud controller, health
// manager, stager and DEA.
type platform struct {
	t      *testing.T
	target string // of the API, by way of the router
	// common returns what is in every configuration of a job's component.
	common func(job string) string
}

// runnable describes what all of them are.
type runnable interface{ Run(context.Context) error }

func (p *platform) run(name, config string, open func(component.Process) (runnable, error)) {
	t := p.t
	t.Helper()
	file := filepath.Join(t.TempDir(), name+".yml")
	must(t, os.WriteFile(file, []byte(config), 0o600))
	c, err := open(component.Process{ConfigFile: file, Output: t.Output()})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s ends with %v", name, err)
		}
	})
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	p := &platform{t: t}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, name := range []string{"VMC_TARGET", "VMC_TOKEN", "VMC_PASSWORD"} {
		t.Setenv(name, "")
	}
	programs := t.TempDir()
	warden := filepath.Join(programs, "warden")
	build := exec.Command("go", "build", "-o", programs+"/", "github.com/clusterworks/deploy/jobs/confine/cmd/warden", "github.com/clusterworks/deploy/jobs/stager/cmd/static_server")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the programs: %v\n%s", err, out)
	}
	// As a deployment has it: each with a user and a certificate of its own, and nothing
	// in plain text between them.
	ca := componenttest.NewAuthority(t)
	bus := componenttest.Bus(t, natstest.Users(t, "router", "cloud_controller", "health_manager", "stager", "dea", "redis_gateway", "redis_node"), ca.Bus(t))
	common := func(job string) string {
		certificate, key := ca.Issue(t, "127.0.0.1")
		return fmt.Sprintf("mbus: %s\nlocal_route: 127.0.0.1\nindex: 0\nca: %s\ninternal_tls: {certificate: %s, key: %s}\n", natstest.URI(bus, job), ca.File, certificate, key)
	}
	p.common = common
	internal := componenttest.FreePort(t)

	var front *router.Router
	p.run("router", common("router")+"inet: 127.0.0.1\nport: 0\npeer_keepalive: 100ms\n", func(process component.Process) (_ runnable, err error) {
		front, err = router.New(process)
		return front, err
	})
	eventually(t, "the router listens", func() bool { return front.Address() != "" })
	_, port, _ := strings.Cut(front.Address(), ":")
	p.target = "api.cf.localhost:" + port

	dir := t.TempDir()
	p.run("cloud_controller", common("cloud_controller")+fmt.Sprintf(`
external_uri: api.cf.localhost
external_port: 0
internal_port: 0
internal_plaintext: false
internal_tls_port: %[2]d
keys: {token: a-long-secret}
admins: [root@example.com]
admin_password: long enough
builtin_services: {redis: {token: a-gateway-token}}
allow_registration: true
default_account_capacity: {memory: 4096, app_uris: 16, services: 16, apps: 40}
peer_keepalive: 100ms
update: {min_healthy_time: 300ms}
timeouts: {discover: 2s, find: 500ms, status: 500ms, health: 500ms, tunnel_idle: 5s, standing: 200ms}
database_environment: {production: {adapter: sqlite3, database: %[1]s/cc.db}}
directories: {droplets: %[1]s/droplets, resources: %[1]s/resources, tmpdir: %[1]s/tmp}
`, dir, internal), func(process component.Process) (runnable, error) { return cloudcontroller.New(process) })
	p.run("health_manager", common("health_manager")+`
bulk_api: {host: "https://api.cf.localhost", addresses: ["127.0.0.1:`+strconv.Itoa(internal)+`"]}
intervals: {desired_state_update: 1, droplet_lost: 2, droplets_analysis: 0.5, min_restart_delay: 1, max_restart_delay: 2, delay_time_noise: 0, giveup_crash_number: 2, request_queue: 0.1}
`, func(process component.Process) (runnable, error) { return healthmanager.New(process) })
	p.run("stager", common("stager")+"dirs: {tmp: "+t.TempDir()+"}\nwarden: "+warden+"\nstatic_server: "+programs+"/static_server\n", func(process component.Process) (runnable, error) { return stager.New(process) })
	p.run("dea", common("dea")+fmt.Sprintf(`
base_dir: %s
filer_port: 0
sessions: {port: 0}
max_memory: 4096
warden: %s
runtimes: [node, python, ruby, java, binary, static]
intervals: {heartbeat: 0.5, advertise: 0.5, monitor: 0.5, probe: 0.05, settle_time: 0.1, stop_timeout: 1}
`, t.TempDir(), warden), func(process component.Process) (runnable, error) { return dea.New(process) })
	eventually(t, "the API answers by way of the router", func() bool {
		status, _, _ := p.vmc("target", p.target)
		return status == 0
	})
	return p
}

// vmc runs a command line with a password on its standard input.
func (p *platform) vmc(args ...string) (status int, out, errOut string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), deadline)
	defer cancel()
	var stdout, stderr bytes.Buffer
	status = Run(ctx, "1.2.3", args, strings.NewReader("a password\n"), &stdout, &stderr)
	return status, stdout.String(), stderr.String()
}

// ok runs a command that has to succeed.
func (p *platform) ok(args ...string) string {
	p.t.Helper()
	status, out, errOut := p.vmc(args...)
	if status != 0 {
		p.t.Fatalf("vmc %s: status %d\n%s%s", strings.Join(args, " "), status, out, errOut)
	}
	return out + errOut
}

// fails runs a command that has to fail and say why.
func (p *platform) fails(want string, args ...string) {
	p.t.Helper()
	p.ends(exitFailed, want, args...)
}

// ends runs a command that has to end with a status and say why.
func (p *platform) ends(with int, want string, args ...string) {
	p.t.Helper()
	status, out, errOut := p.vmc(args...)
	if status != with || !strings.Contains(errOut, want) {
		p.t.Errorf("vmc %s: status %d, want %d and %q\n%s%s", strings.Join(args, " "), status, with, want, out, errOut)
	}
}

// page gets a page of an app.
func (p *platform) page(url string) (string, error) {
	c := &http.Client{Timeout: deadline, Transport: &http.Transport{DialContext: (&client.Dialer{}).DialContext, DisableKeepAlives: true}}
	res, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, text)
	}
	return string(text), err
}

func (p *platform) write(folder string, files map[string]string) string {
	p.t.Helper()
	for name, text := range files {
		file := filepath.Join(folder, name)
		must(p.t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(p.t, os.WriteFile(file, []byte(text), 0o644))
	}
	return folder
}

const serverJS = `
const http = require('http');
console.log('started', process.env.GREETING);
http.createServer((req, res) => {
  if (req.url == '/crash') process.exit(3);
  res.end((process.env.GREETING || 'Hello') + ' from ' + JSON.parse(process.env.VCAP_APPLICATION).instance_index);
}).listen(process.env.VCAP_APP_PORT);
`

// TestCommands is a user's day: an account, an app, and everything that can be
// done with it, over the real components.
func TestCommands(t *testing.T) {
	p := newPlatform(t)
	p.ends(exitLogin, "not logged in", "push", "hello", "--path", t.TempDir())
	p.ends(exitLogin, "Operation not permitted", "apps")
	// A token of an earlier cloud at this target is no hindrance.
	must(t, changeSettings(func(s *settings) { s.Tokens["http://"+p.target] = "no good" }))
	p.ok("register", "me@example.com")
	if out := p.ok("register", "other@example.com"); !strings.Contains(out, "still logged in as me@example.com") {
		t.Errorf("register: %s", out)
	}
	if out := p.ok("info"); !strings.Contains(out, "User:      me@example.com") || !strings.Contains(out, "0M of 4G") {
		t.Errorf("info: %s", out)
	}
	p.ok("logout")
	p.ends(exitLogin, "log in", "login", "nobody@example.com")
	p.ok("login", "me@example.com")
	if out := p.ok("runtimes"); !regexp.MustCompile(`(?m)^node +\d+ +Node\.js$`).MatchString(out) {
		t.Errorf("runtimes: %s", out)
	}
	if out := p.ok("frameworks"); !regexp.MustCompile(`(?m)^wsgi +python$`).MatchString(out) {
		t.Errorf("frameworks: %s", out)
	}

	app := p.write(t.TempDir(), map[string]string{
		"server.js":    serverJS,
		"large.txt":    strings.Repeat("all work and no play\n", 5000),
		"secret.pem":   "not to be pushed",
		".vmcignore":   "*.pem\n",
		"manifest.yml": "applications:\n- name: hello\n  url: ${name}.${target-base}\n  memory: 64M\n  env: {GREETING: Good day}\n",
	})
	out := p.ok("push", "--path", app)
	for _, want := range []string{"Detected the framework of hello by its files: node.", "Created hello.", "Uploading hello, 2 files", "Staging hello: done", "Starting hello: done"} {
		if !strings.Contains(out, want) {
			t.Errorf("push does not say %q:\n%s", want, out)
		}
	}
	url := "http://hello." + strings.TrimPrefix(p.target, "api.") + "/"
	if !strings.Contains(out, "hello runs, 1 of 1: "+url) {
		t.Errorf("push does not end with the URL %s:\n%s", url, out)
	}
	page, err := p.page(url)
	if err != nil || page != "Good day from 0" {
		t.Errorf("page %q, %v", page, err)
	}

	// What the controller has of this user, and is large, is not uploaded again.
	if out := p.ok("push", "--path", app); !strings.Contains(out, "hello exists; pushing new files") || !strings.Contains(out, "2 files, 1 known already: ") {
		t.Errorf("the second push: %s", out)
	}
	eventually(t, "the DEA answers for its new instance", func() bool { status, _, _ := p.vmc("files", "hello", "app/"); return status == 0 })
	if out := p.ok("files", "hello", "app/"); !strings.Contains(out, "server.js") || !strings.Contains(out, "large.txt") || strings.Contains(out, "secret.pem") {
		t.Errorf("files: %s", out)
	}
	if out := p.ok("files", "hello", "app/server.js"); out != serverJS {
		t.Errorf("files of a file: %s", out)
	}
	if out := p.ok("logs", "hello"); !strings.Contains(out, "==> logs/stdout.log <==\nstarted Good day\n") {
		t.Errorf("logs: %s", out)
	}
	for _, tc := range []struct{ args, want string }{
		{"files hello app/server.js --json", `"path": "app/server.js",`},
		{"files hello app/ --json", `"text": "large.txt `},
		{"logs hello --staging --json", `"path": "logs/staging.log",`},
	} {
		status, out, _ := p.vmc(strings.Fields(tc.args)...)
		if !json.Valid([]byte(out)) || status != 0 || !strings.Contains(out, tc.want) {
			t.Errorf("vmc %s: status %d, %s", tc.args, status, out)
		}
	}
	// What is wrong, of what, and what to do next.
	p.fails(`cannot read "app/none" of instance 0 of hello: `, "files", "hello", "app/none")
	p.fails("vmc files hello lists what there is", "files", "hello", "app/none", "--json")
	p.fails(`service "none": Service not found`, "bind-service", "none", "hello")
	p.fails("vmc services lists yours", "snapshots", "none")
	p.fails("vmc apps lists yours", "stats", "none")
	p.ends(exitLogin, "only administrators", "users")
	for _, args := range [][]string{{"env", "set", "hello", "NAME"}, {"mem", "hello", "much"}, {"scale", "hello", "x"}, {"rollback", "hello", "x"}} {
		p.ends(exitUsage, "is not a", args...)
	}
	p.ends(exitUsage, "usage: vmc rename APP NAME", "rename", "hello")
	p.ends(exitFailed, "is no cloud controller", "target", strings.TrimPrefix(p.target, "api."))
	if out := p.ok("logs", "hello", "--staging"); !strings.Contains(out, "Staging with framework node") {
		t.Errorf("logs of the staging: %s", out)
	}

	p.ok("scale", "hello", "3")
	if out := p.ok("scale", "hello", "-1"); !strings.Contains(out, "hello has 2 instances, 3 before") {
		t.Errorf("scale: %s", out)
	}
	eventually(t, "two instances", func() bool {
		return len(regexp.MustCompile(`(?m)^\d +running`).FindAllString(p.ok("instances", "hello"), -1)) == 2
	})
	eventually(t, "stats", func() bool {
		return regexp.MustCompile(`(?m)^1 +running +[\d.]+% +[\d.]+ [KM]B of 64\.0 MB +[\d.]+ [KM]B of 2\.0 GB +\ds? `).MatchString(p.ok("stats", "hello"))
	})
	var apps []client.App
	eventually(t, "both are counted", func() bool {
		_, out, _ := p.vmc("apps", "--json")
		must(t, json.Unmarshal([]byte(out), &apps))
		return len(apps) == 1 && apps[0].RunningInstances != nil && *apps[0].RunningInstances == 2
	})
	if out := p.ok("apps"); !regexp.MustCompile(`(?m)^hello +started +2/2 +64M +node/node +` + regexp.QuoteMeta(url) + `$`).MatchString(out) {
		t.Errorf("apps: %s", out)
	}

	p.ok("map", "hello", "http://Other.cf.localhost")
	other := strings.Replace(url, "hello", "other", 1)
	eventually(t, "the other URL answers", func() bool { _, err := p.page(other); return err == nil })
	p.ok("unmap", "hello", "other.cf.localhost")
	eventually(t, "the other URL is gone", func() bool { _, err := p.page(other); return err != nil })
	p.fails("has no URL other.cf.localhost", "unmap", "hello", "other.cf.localhost")

	if out := p.ok("env", "set", "hello", "GREETING=Hi", "MORE=a=b"); !strings.Contains(out, "Restarting hello") {
		t.Errorf("env set: %s", out)
	}
	if out := p.ok("env", "hello"); out != "GREETING=Hi\nMORE=a=b\n" {
		t.Errorf("env: %q", out)
	}
	p.ok("env", "unset", "hello", "MORE")
	p.fails("has no variable MORE", "env", "unset", "hello", "MORE")
	p.ok("mem", "hello", "96M")
	if out := p.ok("mem", "hello"); out != "96M\n" {
		t.Errorf("mem: %q", out)
	}
	eventually(t, "a page with the new variable", func() bool { page, err := p.page(url); return err == nil && strings.HasPrefix(page, "Hi from ") })

	// New files of a running app.
	p.write(app, map[string]string{"server.js": strings.Replace(serverJS, "' from '", "' anew from '", 1)})
	p.ok("update", "hello", "--path", app)
	eventually(t, "the new files serve", func() bool { page, err := p.page(url); return err == nil && strings.HasPrefix(page, "Hi anew") })

	p.ok("stop", "hello")
	if out := p.ok("instances", "hello"); !strings.Contains(out, "it is stopped") {
		t.Errorf("instances: %s", out)
	}
	// What it printed can still be read, by index and with all that have ended; its
	// other files are gone with it.
	for _, args := range [][]string{{"logs", "hello"}, {"logs", "hello", "--instance", "1"}, {"logs", "hello", "--all"}} {
		if out := p.ok(args...); !strings.Contains(out, "started Hi") {
			t.Errorf("vmc %v of a stopped app: %s", args, out)
		}
	}
	eventually(t, "only logs are left", func() bool {
		status, _, said := p.vmc("files", "hello", "app/server.js")
		return status == exitFailed && strings.Contains(said, "app/server.js")
	})
	if out := p.ok("env", "set", "hello", "GREETING=Later"); !strings.Contains(out, "hello, which is stopped") {
		t.Errorf("env of a stopped app: %s", out)
	}
	p.ok("start", "hello")
	p.ok("restart", "hello")

	p.fails("use --force", "delete", "hello")
	p.ok("delete", "hello", "--force")
	p.fails(`app "hello": Application not found`, "stats", "hello")
	if out := p.ok("apps"); !strings.Contains(out, "no apps yet") {
		t.Errorf("apps: %s", out)
	}
	if out := p.ok("services"); !strings.Contains(out, "no services") {
		t.Errorf("services: %s", out)
	}
	p.fails("offers no services", "create-service", "redis")
	p.ends(exitLogin, "Operation not permitted", "users")
}

// TestFailedPushes: what is wrong with an app is said, with the log that tells
// why, and the exit status says so, too.
func TestFailedPushes(t *testing.T) {
	p := newPlatform(t)
	p.ok("register", "me@example.com")

	p.fails("cannot tell what starts this Node.js app", "push", "nostart", "--framework", "node",
		"--path", p.write(t.TempDir(), map[string]string{"a.js": "", "b.js": ""}))
	p.fails("cannot detect the framework of", "push", "unknown", "--path", p.write(t.TempDir(), map[string]string{"x.txt": "x"}))
	p.fails("Invalid framework", "push", "cobol", "--framework", "cobol", "--path", p.write(t.TempDir(), map[string]string{"x.cob": "x"}))
	p.fails("must it be built first?", "push", "absent", "--framework", "node", "--path", filepath.Join(t.TempDir(), "target"))
	if out := p.ok("apps"); strings.Contains(out, "absent") {
		t.Errorf("an app without files was made:\n%s", out)
	}
	p.fails("there are no files in it", "push", "empty", "--framework", "node", "--path", t.TempDir())

	// It crashes at its start, however long that takes: without a URL it would count
	// as started soon.
	status, _, errOut := p.vmc("push", "crasher", "--framework", "node",
		"--path", p.write(t.TempDir(), map[string]string{"server.js": "console.error('no such luck'); process.exit(3)"}))
	if status != 1 || !strings.Contains(errOut, "crasher does not stay up") || !strings.Contains(errOut, "no such luck") {
		t.Errorf("a push of an app that crashes: status %d\n%s", status, errOut)
	}
	eventually(t, "crashes", func() bool {
		return regexp.MustCompile(`(?m)^[0-9a-f]{32} +\d{4}-`).MatchString(p.ok("crashes", "crasher"))
	})
	eventually(t, "a crash's log", func() bool {
		status, out, _ := p.vmc("crashlogs", "crasher")
		if status == 0 {
			_, document, _ := p.vmc("crashlogs", "crasher", "--json")
			var files []fileText
			if err := json.Unmarshal([]byte(document), &files); err != nil || len(files) == 0 {
				t.Errorf("crashlogs as JSON: %s", document)
			}
		}
		return status == 0 && strings.Contains(out, "no such luck")
	})
	// Who stops it to see why can.
	p.ok("stop", "crasher")
	if out := p.ok("crashlogs", "crasher"); !strings.Contains(out, "no such luck") {
		t.Errorf("the crash's log of a stopped app: %s", out)
	}
	if out := p.ok("logs", "crasher", "--all"); !regexp.MustCompile(`(?m)^20\S+ \[[0-9a-f]{8}/ERR\] no such luck$`).MatchString(out) || !strings.Contains(out, "/DEA] The app ended with status 3.") {
		t.Errorf("all logs of a stopped app: %s", out)
	}
	p.ok("delete", "crasher", "--force")

	// It never opens its port.
	status, _, errOut = p.vmc("push", "deaf", "--timeout", "2s", "--framework", "node",
		"--path", p.write(t.TempDir(), map[string]string{"server.js": "console.error('hard of hearing'); setInterval(() => {}, 1000)"}))
	if status != 1 || !strings.Contains(errOut, "deaf does not run after 2s") || !strings.Contains(errOut, "1 STARTING") {
		t.Errorf("a push of an app that does not listen: status %d\n%s", status, errOut)
	}

	// There is no room: that is said before the wait for some, and the app gets it.
	p.ok("register", "other@example.com")
	p.ok("login", "other@example.com")
	status, _, errOut = p.vmc("push", "large", "--timeout", "2s", "--memory", "4050M", "--framework", "node",
		"--path", p.write(t.TempDir(), map[string]string{"server.js": strings.ReplaceAll(versionJS, "VERSION", "large")}))
	said, starting := strings.Index(errOut, "1 of 1 instances wait for room: no DEA has room for one more instance of 4050 MB: the most that one has left is 4032 MB."), strings.Index(errOut, "Starting large")
	if status != 1 || said < 0 || starting < said || !strings.Contains(errOut, "It stays started, and starts when there is room") {
		t.Errorf("a push without room: status %d\n%s", status, errOut)
	}
	if out := p.ok("events", "large"); !strings.Contains(out, "wait for room") {
		t.Errorf("events of an app without room:\n%s", out)
	}
	p.ok("login", "me@example.com")
	p.ok("delete", "deaf", "--force")
	p.ok("login", "other@example.com")
	eventually(t, "it has room", func() bool { return strings.Contains(p.ok("instances", "large"), "running") })
}

// TestSettings: they are the user's alone, and leave no trace when nothing is
// left in them.
func TestSettings(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", folder)
	t.Setenv("VMC_TARGET", "")
	p := &platform{t: t}
	must(t, changeSettings(func(s *settings) { s.Target, s.Tokens["http://a.x"], s.Tokens["http://b.x"] = "http://a.x", "1", "2" }))
	if info, err := os.Stat(filepath.Join(folder, "vmc", "settings.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("settings: %v, %v", info, err)
	}
	p.ok("logout")
	if s, err := loadSettings(); err != nil || s.Target != "http://a.x" || len(s.Tokens) != 1 {
		t.Errorf("after a logout: %+v, %v", s, err)
	}
	p.ok("logout", "--forget")
	p.ok("logout", "--target", "b.x")
	if entries, err := os.ReadDir(folder); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	// A container has no home.
	for _, name := range []string{"XDG_CONFIG_HOME", "HOME", "AppData"} {
		t.Setenv(name, "")
	}
	p.fails("set HOME, or say all by VMC_TARGET and VMC_TOKEN", "apps")
	t.Setenv("VMC_TARGET", "127.0.0.1:9")
	t.Setenv("VMC_TOKEN", "x")
	p.ends(exitUnreachable, "cannot reach 127.0.0.1:9", "apps")
}

// TestNoCloud: a target that is none is told apart from one that is away.
func TestNoCloud(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("VMC_TARGET", "")
	p := &platform{t: t}
	p.fails("there is no target yet", "apps")
	p.fails("is not a target", "target", "ftp://x")
	other := &http.Server{Handler: http.NotFoundHandler()}
	t.Cleanup(func() { other.Close() })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = other.Serve(listener) }() // until it is closed
	p.fails("the answer was 404 Not Found", "target", listener.Addr().String())
}
