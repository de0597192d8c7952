package dea

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/host/proc"
	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/wire"
)

// TestLife is an app's life as the bus sees it, in the original's order.
func TestLife(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	a := c.start("")
	doc := a.document("7", a.droplet(), "GREETING=hi", "SECOND=$GREETING there", "THIRD='$GREETING'", `QUOTE="it's"`,
		"HASH=$2b$10$N9qo8uLOickgx2ZMRZoMye", "PEM=a\nb",
		" VCAP_APP_HOST=10.0.0.1", "vmc_app_id=another", "DEPLOY_VM=elsewhere", "\tVMC_APP_ID=another")
	doc.Users = []string{"o'neill@cf.test"}
	found := a.launch(doc)
	if got := get(t, found, "/"); got != "hello from "+found.Instance+"\n" {
		t.Errorf("it says %q", got)
	}
	env := "\n" + get(t, found, "/env")
	port := strconv.Itoa(*found.Stats.Port)
	for _, want := range []string{
		"GREETING=hi", "SECOND=$GREETING there", "THIRD='$GREETING'", `QUOTE="it's"`, "HASH=$2b$10$N9qo8uLOickgx2ZMRZoMye", "PEM=a\nb",
		"PORT=" + port, "CF_INSTANCE_PORT=" + port, "CF_INSTANCE_ADDR=127.0.0.1:" + port, "CF_INSTANCE_INDEX=0", "CF_INSTANCE_GUID=" + found.Instance, "MEMORY_LIMIT=64m", "VCAP_APP_PORT=" + port, "VCAP_APP_HOST=127.0.0.1",
		"VMC_APP_ID=" + found.Instance, "VMC_APP_NAME=app7", "VCAP_SERVICES={}", "VMC_SERVICES=[]",
	} {
		if !strings.Contains(env, "\n"+want+"\n") {
			t.Errorf("the environment lacks %s:%s", want, env)
		}
	}
	if strings.Contains(env, "another") || strings.Contains(env, "elsewhere") {
		t.Errorf("the user has set what is the platform's: %s", env)
	}
	if strings.Contains(env, "nats://") || strings.Contains(env, configVariable) {
		t.Errorf("the environment has something of the DEA's: %s", env)
	}
	_, text, _ := strings.Cut(env, "VCAP_APPLICATION=")
	text, _, _ = strings.Cut(text, "\n")
	var about struct {
		Limits map[string]int64 `json:"limits"`
		Users  []string         `json:"users"`
		Port   int              `json:"port"`
	}
	if err := json.Unmarshal([]byte(text), &about); err != nil || about.Limits["mem"] != 64<<20 || about.Limits["disk"] != 64<<20 || about.Limits["fds"] != 256 ||
		!slices.Equal(about.Users, doc.Users) || strconv.Itoa(about.Port) != port {
		t.Errorf("VCAP_APPLICATION is %s, %v", text, err)
	}

	// The port is claimed before anything listens there.
	if all := messages(c, wire.SubjectRouterRegister, wire.ParseRegistration); len(all) < 2 || len(all[0].URIs) != 0 || all[0].App != "7" || all[0].Port != *found.Stats.Port {
		t.Errorf("claimed: %+v", all)
	}
	registered := registrations(c)
	if len(registered) == 0 || registered[0].Port != *found.Stats.Port || !slices.Equal(registered[0].URIs, doc.URIs) ||
		registered[0].App != "7" || len(registered[0].PrivateInstanceID) != 64 || registered[0].Tags["framework"] != "test" {
		t.Errorf("registered: %+v", registered)
	}
	eventually(t, "usage is measured", func() bool {
		all := a.find("7", true)
		if len(all) != 1 {
			return false
		}
		found = all[0]
		return found.Stats.Usage != nil && found.Stats.Usage.Mem > 0 && found.Stats.Usage.Disk > 0
	})
	if len(found.Instance) != 32 || found.Stats.Cores == 0 || found.Stats.MemQuota != 64<<20 {
		t.Errorf("found %+v %+v", found, found.Stats)
	}

	eventually(t, "its memory is reserved", func() bool {
		s := a.status()
		return len(s) == 1 && s[0].ReservedMemory == 64 && s[0].NumClients == 1
	})
	a.publish(wire.SubjectDEAUpdate, map[string]any{"droplet": 7, "uris": []string{"app7.cf.test", "other.cf.test"}})
	eventually(t, "the new name is registered", func() bool {
		all := registrations(c)
		return slices.Equal(all[len(all)-1].URIs, []string{"app7.cf.test", "other.cf.test"})
	})
	a.publish(wire.SubjectDEAStop, map[string]any{"droplet": 7})
	eventually(t, "it is gone", func() bool { return len(a.find("7", false)) == 0 && len(instanceProcesses(t, found.Instance)) == 0 })
	exits := c.told("7", found.Instance)
	if len(exits) != 1 || exits[0].Reason != wire.ReasonStopped || exits[0].CCPartition != "default" || exits[0].CrashTimestamp != 0 {
		t.Errorf("exits %+v", exits)
	}
	var gone []wire.Registration
	eventually(t, "its route is withdrawn", func() bool {
		gone = messages(c, wire.SubjectRouterUnregister, wire.ParseRegistration)
		return len(gone) > 0
	})
	if len(gone) != 1 || gone[0].Port != *found.Stats.Port || len(gone[0].URIs) != 2 {
		t.Errorf("unregistered: %+v", gone)
	}
	eventually(t, "nothing of it is left on the disk", func() bool {
		apps, errApps := os.ReadDir(filepath.Join(a.base, "apps"))
		run, errRun := os.ReadDir(filepath.Join(a.base, "run"))
		return errApps == nil && errRun == nil && len(apps) == 0 && len(run) == 0
	})
	var order []string
	c.mu.Lock()
	for _, m := range c.seen {
		if m.subject == wire.SubjectDEAHeartbeat {
			h, err := wire.ParseDEAHeartbeat(m.data)
			if err != nil {
				t.Fatal(err)
			}
			order = append(order, h.Droplets[0].State)
		}
	}
	c.mu.Unlock()
	if order = slices.Compact(order); !slices.Equal(order, []string{"RUNNING"}) && !slices.Equal(order, []string{"STARTING", "RUNNING"}) {
		t.Errorf("heartbeats say %v", order)
	}
}

// TestCrash: whatever the status, a process that ends by itself is a crash, and
// what it left can be read.
func TestCrash(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	a := c.start("")
	sha := a.droplet()
	for i, tc := range []struct {
		env  []string
		want string
	}{
		{[]string{"MODE=exit", "STATUS=0"}, "ended with status 0"},
		{[]string{"MODE=exit", "STATUS=3"}, "ended with status 3"},
	} {
		id := wire.ID(strconv.Itoa(i))
		a.publish(wire.SubjectDEAStartOf(a.dea.base.UUID()), a.document(id, sha, tc.env...))
		found := a.state(id, wire.StateCrashed)
		if got := file(t, found, "/logs/err.log"); !strings.Contains(got, tc.want) {
			t.Errorf("err.log: %q, want %q", got, tc.want)
		}
		if got := file(t, found, "/logs/stdout.log"); got != "begins\n" {
			t.Errorf("stdout.log: %q", got)
		}
		exits := c.told(id, found.Instance)
		if len(exits) != 1 || exits[0].Reason != wire.ReasonCrashed || exits[0].CrashTimestamp == 0 {
			t.Errorf("exits %+v", exits)
		}
		eventually(t, "its memory is free", func() bool { s := a.status(); return len(s) == 1 && s[0].ReservedMemory == 0 })
		a.publish(wire.SubjectDEAStop, wire.DEAStop{Droplet: id})
		eventually(t, "its record is gone", func() bool { return len(a.find(id, false)) == 0 })
	}
}

// TestStoppedLogs: of an instance that was stopped the logs can be read, nothing else is
// kept, also by the next DEA; when the app is deleted, they go.
func TestStoppedLogs(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	a := c.start("")
	running := a.launch(a.document("7", a.droplet(), "SECRET=hush"))
	folder := filepath.Join(a.base, "apps", *running.Staged)
	// The app has put a file of its own among its logs, and taken the place of one.
	must(t, os.WriteFile(filepath.Join(folder, "logs", "mine.log"), []byte("mine"), 0o644))
	must(t, os.Symlink("/etc/passwd", filepath.Join(folder, "logs", "staging.log")))
	a.publish(wire.SubjectDEAStop, wire.DEAStop{Droplet: "7", InstanceFilter: wire.InstanceFilter{States: []string{wire.StateStarting, wire.StateRunning}}})
	ended := wire.DEAFind{Droplet: "7", InstanceFilter: wire.InstanceFilter{States: []string{wire.StateCrashed, wire.StateStopped}}}
	trimmed := func() bool {
		here, err := os.ReadDir(folder)
		logs, errLogs := os.ReadDir(filepath.Join(folder, "logs"))
		return err == nil && errLogs == nil && len(here) == 1 && !slices.ContainsFunc(logs, func(e os.DirEntry) bool { return e.Name() == "mine.log" || e.Name() == "staging.log" })
	}
	eventually(t, "only its logs are left", trimmed)
	look := func() {
		t.Helper()
		var all []wire.DEAFound
		eventually(t, "the stopped instance is found", func() bool {
			all = request(c, wire.SubjectDEAFind, ended, wire.ParseDEAFound)
			return len(all) == 1 && all[0].Instance == running.Instance && all[0].State == wire.StateStopped
		})
		if got := file(t, all[0], "/logs/stdout.log"); got != "begins\n" {
			t.Errorf("stdout.log: %q", got)
		}
	}
	look()
	records, err := os.ReadFile(filepath.Join(a.base, "db", "applications.json"))
	must(t, err)
	if strings.Contains(string(records), "hush") {
		t.Error("its environment is kept with its logs")
	}
	must(t, a.stop())
	must(t, os.WriteFile(filepath.Join(folder, "startup"), []byte("as if it had been killed before"), 0o500))
	a.run()
	eventually(t, "the next DEA finishes", trimmed)
	look()
	a.publish(wire.SubjectDEAStop, wire.DEAStop{Droplet: "7"})
	eventually(t, "the app is deleted, and the logs with it", func() bool {
		_, err := os.Stat(folder)
		return os.IsNotExist(err) && len(request(c, wire.SubjectDEAFind, ended, wire.ParseDEAFound)) == 0
	})
}

// TestKilled: the app's process is killed from outside.
func TestKilled(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	a := c.start("")
	found := a.launch(a.document("7", a.droplet()))
	pids := instanceProcesses(t, found.Instance)
	if len(pids) == 0 {
		t.Fatal("it has no processes")
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // one ends with the other
	}
	begin := time.Now()
	exits := c.told("7", found.Instance)
	t.Logf("told %v after the kill", time.Since(begin).Round(time.Millisecond))
	if len(exits) != 1 || exits[0].Reason != wire.ReasonCrashed {
		t.Errorf("exits %+v", exits)
	}
	eventually(t, "its route is withdrawn", func() bool {
		return len(messages(c, wire.SubjectRouterUnregister, wire.ParseRegistration)) == 1
	})
}

// TestReadiness: an app is RUNNING when its state file says so, not before; and
// one that never is ready is CRASHED.
func TestReadiness(t *testing.T) {
	t.Parallel()
	a := newCell(t).start("", "port_timeout: 1", "state_file_timeout: 20")
	text, err := os.ReadFile("testdata/app.pl")
	if err != nil {
		t.Fatal(err)
	}
	startup, err := os.ReadFile("testdata/startup")
	if err != nil {
		t.Fatal(err)
	}
	sha := a.droplet(entry{name: "startup", text: string(startup), mode: 0o500}, entry{name: "app/app.pl", text: string(text), mode: 0o600},
		entry{name: "droplet.yaml", text: "---\nstate_file: app.state\n", mode: 0o600})
	found := a.launch(a.document("1", sha, "MODE=state"))
	if got := file(t, found, "/app.state"); !strings.Contains(got, "RUNNING") {
		t.Errorf("running with the state %q", got)
	}
	a.publish(wire.SubjectDEAStartOf(a.dea.base.UUID()), a.document("2", a.droplet(), "MODE=silent"))
	found = a.state("2", wire.StateCrashed)
	if got := file(t, found, "/logs/err.log"); !strings.Contains(got, "did not listen on port") {
		t.Errorf("err.log: %q", got)
	}
	worker := a.document("3", a.droplet(), "MODE=worker")
	worker.URIs = nil
	if found := a.launch(worker); found.Stats.Port != nil {
		t.Errorf("a worker has port %d", *found.Stats.Port)
	}
}

// registrations are those that were made so far, without claims of ports.
func registrations(c *cell) []wire.Registration {
	return slices.DeleteFunc(messages(c, wire.SubjectRouterRegister, wire.ParseRegistration), func(r wire.Registration) bool { return len(r.URIs) == 0 })
}

// TestMinHealthy: an instance that must stay healthy for a while is registered
// after that while, and never if it ends within.
func TestMinHealthy(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	a := c.start("")
	doc := a.document("1", a.droplet())
	doc.MinHealthy = 1.5
	begin := time.Now()
	found := a.launch(doc)
	if took := time.Since(begin); took < 1500*time.Millisecond {
		t.Errorf("it counts as running after %v", took)
	}
	if found.MinHealthy != 1.5 {
		t.Errorf("the DEA does not say that it keeps to min_healthy: %+v", found)
	}
	eventually(t, "it is registered", func() bool {
		return len(registrations(c)) == 1
	})

	doc = a.document("2", a.droplet(), "MODE=serve-then-exit")
	doc.MinHealthy = 60
	a.publish(wire.SubjectDEAStartOf(a.dea.base.UUID()), doc)
	found = a.state("2", wire.StateCrashed)
	if exits := c.told("2", found.Instance); len(exits) != 1 || !strings.Contains(exits[0].ExitDescription, "ended with status 4") {
		t.Errorf("exits %+v", exits)
	}
	for _, r := range registrations(c) {
		if r.App == "2" {
			t.Errorf("an app that was not healthy for long enough is registered: %+v", r)
		}
	}
}

// TestContained: whatever an app does, it is ended, the reason is told, and
// neither the DEA nor another app is harmed.
func TestContained(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	a := c.start("processes: 64", "connection_timeout: 1")
	sha := a.droplet()
	neighbour := a.launch(a.document("1", sha))
	for _, tc := range []struct {
		id, mode, want string
		disk           int
	}{
		{"2", "hungry", "more memory than its quota of 64 MB", 64},
		{"3", "filler", "more than its quota of 4 MB", 4},
	} {
		t.Run(tc.mode, func(t *testing.T) {
			doc := a.document(wire.ID(tc.id), sha, "MODE="+tc.mode)
			doc.Limits.Disk = tc.disk
			a.publish(wire.SubjectDEAStartOf(a.dea.base.UUID()), doc)
			found := a.state(wire.ID(tc.id), wire.StateCrashed)
			if tc.mode == "filler" {
				// The size of a file is limited as well; either ends it.
				got := file(t, found, "/logs/err.log")
				if !strings.Contains(got, tc.want) && !strings.Contains(got, "ended") {
					t.Errorf("err.log: %q", got)
				}
			} else if got := file(t, found, "/logs/err.log"); !strings.Contains(got, "memory") || !strings.Contains(got, "64 MB") {
				t.Errorf("err.log: %q, want %q", got, tc.want)
			}
			if left := instanceProcesses(t, found.Instance); len(left) != 0 {
				t.Errorf("processes %v are left", left)
			}
		})
	}
	// Files that have names, none any more, or none that a path leads to.
	for i, script := range []string{
		"for i in $(seq 20); do head -c 1000000 /dev/zero > app/f$i; done; sleep 60",
		"for i in $(seq 10 29); do eval \"exec $i>app/f\"; rm app/f; head -c 1000000 /dev/zero >&$i; done; sleep 60",
		"cd app; d=$(printf 'x%.0s' $(seq 250)); for i in $(seq 20); do mkdir $d; cd -P $d; done; sleep 60",
	} {
		t.Run(fmt.Sprintf("files %d", i), func(t *testing.T) {
			id := wire.ID(strconv.Itoa(40 + i))
			doc := a.document(id, a.droplet(entry{name: "startup", text: "#!/bin/bash\n" + script + "\n", mode: 0o500}, entry{name: "app/x", text: "x"}))
			doc.Limits.Disk, doc.URIs = 4, nil
			a.publish(wire.SubjectDEAStartOf(a.dea.base.UUID()), doc)
			found := a.state(id, wire.StateCrashed)
			if got := file(t, found, "/logs/err.log"); !strings.Contains(got, "more than its quota of 4 MB") {
				t.Errorf("err.log: %q", got)
			}
		})
	}
	t.Run("fork bomb", func(t *testing.T) {
		doc := a.document("5", sha, "MODE=bomb")
		a.publish(wire.SubjectDEAStartOf(a.dea.base.UUID()), doc)
		var found []wire.DEAFound
		eventually(t, "it begins", func() bool { found = a.find("5", false); return len(found) == 1 && found[0].Staged != nil })
		if got := get(t, neighbour, "/"); !strings.Contains(got, neighbour.Instance) {
			t.Errorf("the neighbour says %q", got)
		}
		a.publish(wire.SubjectDEAStop, wire.DEAStop{Droplet: "5"})
		eventually(t, "nothing of it is left", func() bool {
			return len(a.find("5", false)) == 0 && len(instanceProcesses(t, found[0].Instance)) == 0
		})
	})
	t.Run("ignores TERM", func(t *testing.T) {
		found := a.launch(a.document("6", sha, "MODE=deaf"))
		a.publish(wire.SubjectDEAStop, wire.DEAStop{Droplet: "6"})
		eventually(t, "nothing of it is left", func() bool {
			return len(a.find("6", false)) == 0 && len(instanceProcesses(t, found.Instance)) == 0
		})
	})
	if got := get(t, neighbour, "/"); !strings.Contains(got, neighbour.Instance) {
		t.Errorf("the neighbour says %q", got)
	}
	if exits := c.exits("1"); len(exits) != 0 {
		t.Errorf("the neighbour has exits: %+v", exits)
	}
}

// TestKind: an app that handles TERM has its time, although the shell that
// started it ends at once; requests in progress are finished before.
func TestKind(t *testing.T) {
	t.Parallel()
	a := newCell(t).start("", "stop_timeout: 20") // on a busy machine a moment is short
	found := a.launch(a.document("7", a.droplet(), "MODE=polite"))
	answer := make(chan string, 1)
	go func() { answer <- get(t, found, "/slow/5") }() // reading the kernel's list of connections can take a second
	eventually(t, "the request is in progress", func() bool { n, err := proc.Connections(); return err == nil && n[*found.Stats.Port] > 0 })
	folder := filepath.Join(a.base, "apps", *found.Staged)
	// The folder goes with the instance: a link to the file that it writes last.
	logs := filepath.Join(t.TempDir(), "logs")
	_ = os.MkdirAll(logs, 0o755)
	said := filepath.Join(logs, "polite")
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for end := time.Now().Add(deadline); time.Now().Before(end); <-time.After(time.Millisecond) {
			if os.Link(filepath.Join(folder, "logs", "polite"), said) == nil {
				return
			}
		}
	}()
	a.publish(wire.SubjectDEAStop, wire.DEAStop{Droplet: "7"})
	if got := <-answer; !strings.Contains(got, found.Instance) {
		t.Errorf("a request in progress gets %q", got)
	}
	<-stop
	if _, err := os.Stat(said); err != nil {
		t.Errorf("it had no time to end: %v", err)
	}
	eventually(t, "it is gone", func() bool { return len(a.find("7", false)) == 0 })
}

// TestBadDroplets: they are told of, and nothing is left of them but the log that says
// why; of one that is not to blame, nothing at all.
func TestBadDroplets(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	a := c.start("")
	good := a.droplet()
	logged := 0
	for i, tc := range []struct {
		name   string
		reason string
		doc    func(wire.ID) wire.DEAStart
	}{
		{"no startup", wire.ReasonCrashed, func(id wire.ID) wire.DEAStart { return a.document(id, a.droplet(entry{name: "app/x", text: "x"})) }},
		{"leaves its folder", wire.ReasonCrashed, func(id wire.ID) wire.DEAStart {
			return a.document(id, a.droplet(entry{name: "../../../x", text: "x"}))
		}},
		// Whoever has the droplet may be back in a moment.
		{"wrong sha1", wire.ReasonFault, func(id wire.ID) wire.DEAStart {
			d := a.document(id, strings.Repeat("0", 40))
			d.ExecutableFile = filepath.Join(a.droplets, good)
			return d
		}},
		{"too large", wire.ReasonCrashed, func(id wire.ID) wire.DEAStart {
			d := a.document(id, a.droplet(entry{name: "startup", text: strings.Repeat("x", 2<<20)}))
			d.Limits.Disk = 1
			return d
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			id := wire.ID(strconv.Itoa(i))
			a.publish(wire.SubjectDEAStartOf(a.dea.base.UUID()), tc.doc(id))
			eventually(t, "its exit is told", func() bool { return len(c.exits(id)) == 1 })
			for _, exits := range c.exits(id) {
				if exits[0].Reason != tc.reason {
					t.Errorf("exit %+v, want %s", exits[0], tc.reason)
				}
			}
			if tc.reason == wire.ReasonCrashed {
				logged++
				if text := file(t, a.state(id, wire.StateCrashed), "/logs/err.log"); !strings.Contains(text, "The app's files cannot be used") {
					t.Errorf("its log is %q", text)
				}
			} else if found := a.find(id, false); len(found) > 0 {
				t.Errorf("%+v is left", found)
			}
			eventually(t, "only logs are left", func() bool {
				logs, err1 := filepath.Glob(filepath.Join(a.base, "apps", "*", "logs", "err.log"))
				var files int
				err2 := filepath.WalkDir(filepath.Join(a.base, "apps"), func(_ string, e fs.DirEntry, err error) error {
					if err == nil && !e.IsDir() {
						files++
					}
					return err
				})
				return err1 == nil && err2 == nil && files == logged && len(logs) == logged
			})
		})
	}
}

// TestPorts: no app takes ports from others, and that there is none left is no
// fault of an app's, which comes when there is one.
func TestPorts(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	held := twoPorts(t)
	defer held.Close()
	port := held.Addr().(*net.TCPAddr).Port
	a := c.start(fmt.Sprintf("ports: %d-%d", port, port+1))
	sha := a.droplet()
	// What used to be the locks of ports, and is any program's to take.
	greedy := a.launch(a.document("1", a.droplet(entry{name: "startup", mode: 0o500, text: "#!/bin/sh\nexec perl app.pl \"$@\"\n"}, entry{name: "app.pl", mode: 0o600, text: fmt.Sprintf(`
use Socket;
socket(my $s, AF_INET, SOCK_STREAM, 0);
setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1);
bind($s, sockaddr_in($ARGV[1], INADDR_ANY)) and listen($s, 5) or die "its own port: $!";
open(my $log, ">", "tried");
for my $port (%d, %d) {
    socket(my $u, AF_UNIX, SOCK_STREAM, 0);
    bind($u, pack_sockaddr_un("\0vcap-dea-port-$port"));
    push(@all, $u);
}
for my $port (%d - 40 .. %d + 40, 8080, 12345) {
    next if $port == $ARGV[1];
    socket(my $t, AF_INET, SOCK_STREAM, 0);
    push(@all, $t);
    print $log "took $port\n" if bind($t, sockaddr_in($port, INADDR_ANY));
}
print $log "done\n"; close $log;
sleep 1 while 1;
`, port, port+1, port, port)})))
	if *greedy.Stats.Port != port+1 {
		t.Fatalf("it has port %d", *greedy.Stats.Port)
	}
	eventually(t, "it has tried", func() bool { return strings.Contains(file(t, greedy, "/tried"), "done\n") })
	if got := file(t, greedy, "/tried"); a.dea.machine.Landlock >= 4 && got != "done\n" {
		t.Errorf("it took ports of others: %s", got)
	}
	a.publish(wire.SubjectDEAStartOf(a.dea.base.UUID()), a.document("2", sha))
	eventually(t, "its exit is told", func() bool { return len(c.exits("2")) == 1 })
	for _, exits := range c.exits("2") {
		if exits[0].Reason != wire.ReasonFault {
			t.Errorf("without a port: %+v", exits[0])
		}
	}
	held.Close()
	a.launch(a.document("2", sha))
}

// twoPorts returns a listener whose port is followed by a free one, both below
// those that the kernel gives to anyone who connects.
func twoPorts(t *testing.T) net.Listener {
	t.Helper()
	for range 100 {
		port := 20_000 + rand.IntN(12_000)
		one, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			continue
		}
		other, err := net.Listen("tcp", fmt.Sprintf(":%d", port+1))
		if err == nil {
			other.Close()
			return one
		}
		one.Close()
	}
	t.Fatal("no two ports in a row are free")
	return nil
}

// TestPlacement: who has fewer instances of an app, and more memory, answers
// first; who cannot run it does not answer.
func TestPlacement(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	one, two := c.start("max_memory: 128"), c.start("max_memory: 128")
	sha := c.droplet()
	discover := func(d wire.DEADiscover) []wire.DEAHello {
		return request(c, wire.SubjectDEADiscover, d, wire.ParseDEAHello)
	}
	ask := wire.DEADiscover{Droplet: "7", Limits: wire.Limits{Mem: 64}, Runtime: "perl", RuntimeInfo: wire.RuntimeInfo{Name: "perl"}}
	eventually(t, "both answer", func() bool { return len(discover(ask)) == 2 })
	one.launch(one.document("7", sha))
	if n := one.count(); n != 1 {
		t.Errorf("%d instances", n)
	}
	// On a machine that is busy with other things it may be late once.
	eventually(t, "the empty one answers first", func() bool {
		all := discover(ask)
		return len(all) == 2 && all[0].ID == two.dea.base.UUID() && all[1].Port != 0
	})
	ask.Limits.Mem = 65
	eventually(t, "one answers for 65 MB", func() bool { return len(discover(ask)) == 1 })
	if all := discover(ask); len(all) > 1 || len(all) == 1 && all[0].ID != two.dea.base.UUID() {
		t.Errorf("answers for 65 MB: %+v", all)
	}
	ask.Limits.Mem, ask.Runtime, ask.RuntimeInfo = 64, "cobol", wire.RuntimeInfo{Name: "cobol", Executable: "cobol-85"}
	if all := discover(ask); len(all) != 0 {
		t.Errorf("answers for a runtime that is not there: %+v", all)
	}
	// The same tests hold for a start: it is ignored.
	cobol := c.document("9", sha)
	cobol.Limits.Mem, cobol.RuntimeInfo = 1, ask.RuntimeInfo
	c.publish(wire.SubjectDEAStartOf(one.dea.base.UUID()), cobol)
	eventually(t, "the start is dropped", func() bool { return len(c.find("9", false)) == 0 && one.count() == 1 })
	if exits := c.exits("9"); len(exits) != 0 {
		t.Errorf("exits %+v", exits)
	}
	doc := c.document("8", sha)
	doc.Limits.Mem = 65
	c.publish(wire.SubjectDEAStartOf(one.dea.base.UUID()), doc)
	if n := one.count(); n != 1 {
		t.Errorf("%d instances", n)
	}
}

// TestBrokenMessages: every subject gets what cannot be read, and the DEA lives.
func TestBrokenMessages(t *testing.T) {
	t.Parallel()
	a := newCell(t).start("")
	found := a.launch(a.document("7", a.droplet()))
	for _, subject := range []string{
		wire.SubjectDEAStartOf(a.dea.base.UUID()), wire.SubjectDEADiscover, wire.SubjectDEAStop, wire.SubjectDEAUpdate, wire.SubjectDEAFind,
		wire.SubjectDEAStatus, wire.SubjectDropletStatus, wire.SubjectDEALocate, wire.SubjectHealthManagerStart, wire.SubjectRouterStart, wire.SubjectDEAHeartbeat,
	} {
		for _, text := range []string{"", "{", "null", "[]", "7", `{"droplet":{}}`, `{"droplet":99,"limits":{"mem":-1}}`, "\xff\x00", `{"droplet":"99","index":"x"}`, strings.Repeat("[", 10000)} {
			if err := a.conn.PublishRequest(subject, "nowhere", []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := get(t, found, "/"); !strings.Contains(got, found.Instance) {
		t.Errorf("the app says %q", got)
	}
	if now := a.state("7", wire.StateRunning); now.Instance != found.Instance {
		t.Errorf("another instance runs: %+v", now)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	a := newCell(t).start("")
	startup := "#!/bin/bash\nln -s /etc/passwd logs/out; ln -s ../app/x logs/in; mkfifo logs/fifo; mkdir app/many; (cd app/many; seq -w 12000 | xargs touch); echo 0123456789 > logs/stdout.log; sleep 1000\n"
	doc := a.document("7", a.droplet(entry{name: "startup", text: startup, mode: 0o500}, entry{name: "app/x", text: "an x", mode: 0o600}, entry{name: "secret", text: "s", mode: 0o600}))
	doc.URIs = nil
	found := a.launch(doc)
	eventually(t, "it has written", func() bool {
		body, status := fetch(t, found.FileURI+*found.Staged+"/logs/stdout.log", found.Credentials)
		return status == http.StatusOK && body == "0123456789\n"
	})
	url := found.FileURI + *found.Staged
	for _, tc := range []struct {
		path   string
		status int
		body   string
	}{
		{"/", 200, fmt.Sprintf("%-35s %10s\n%-35s %10s\n", "app/", "-", "logs/", "-")},
		{"", 200, fmt.Sprintf("%-35s %10s\n%-35s %10s\n", "app/", "-", "logs/", "-")},
		{"/app", 200, fmt.Sprintf("%-35s %10s\n%-35s %10s\n", "many/", "-", "x", "4B")},
		{"/app/x", 200, "an x"},
		{"/logs/in", 200, "an x"},
		{"/logs/out", 403, "forbidden\n"},
		{"/logs/fifo", 403, "forbidden\n"},
		{"/startup", 403, "forbidden\n"},
		{"/stop", 403, "forbidden\n"},
		{"/app/%2e%2e/startup", 403, "forbidden\n"},
		{"/nothing", 404, "Entity not found.\n"},
		{"/app/x/y", 404, "Entity not found.\n"},
	} {
		body, status := fetch(t, url+tc.path, found.Credentials)
		if status != tc.status || body != tc.body {
			t.Errorf("%q: %d %q, want %d %q", tc.path, status, body, tc.status, tc.body)
		}
	}
	if body, status := fetch(t, url+"/app/many", found.Credentials); status != 200 || strings.Count(body, "\n") != maxListed+1 || !strings.HasSuffix(body, "and more: only 10000 are listed\n") {
		t.Errorf("a folder of 12,000 files: %d, %d lines", status, strings.Count(body, "\n"))
	}
	if _, status := fetch(t, found.FileURI+"../db/applications.json", found.Credentials); status == 200 {
		t.Error("the DEA's own files are served")
	}
	if _, status := fetch(t, url+"/app/x", [2]string{"u", "p"}); status != http.StatusUnauthorized {
		t.Errorf("with wrong credentials: %d", status)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/logs/stdout.log", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(found.Credentials[0], found.Credentials[1])
	request.Header.Set("Range", "bytes=-4")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusPartialContent || response.ContentLength != 4 {
		t.Errorf("the end of a file: %s, %d bytes", response.Status, response.ContentLength)
	}
}

// TestIsolation: an app sees neither another's files nor its environment nor the
// DEA's, where the machine offers that.
func TestIsolation(t *testing.T) {
	t.Parallel()
	a := newCell(t).start("")
	level := a.dea.machine
	t.Logf("isolation %+v", level.Varz())
	if !level.Namespaces {
		t.Fatalf("this test needs a kernel that gives root, or users, namespaces: %v", level.Lacks)
	}
	sha := a.droplet()
	victim := a.launch(a.document("1", sha, "SECRET=sesame"))
	spy := a.launch(a.document("2", sha))
	for _, path := range []string{a.config, filepath.Join(a.base, "db", "applications.json"), filepath.Join(a.base, "apps", *victim.Staged, "startup"), filepath.Join(a.base, "run", victim.Instance, "spec.json")} {
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
		if got := get(t, spy, "/read"+path); !strings.HasPrefix(got, "no: ") {
			t.Errorf("%s can be read: %.40q", path, got)
		}
	}
	pids := strings.Fields(get(t, spy, "/pids"))
	if len(pids) > 6 {
		t.Errorf("it sees processes %v", pids)
	}
	for _, pid := range pids {
		if got := get(t, spy, "/read/proc/"+pid+"/environ"); strings.Contains(got, "sesame") || strings.Contains(got, configVariable) {
			t.Errorf("it reads the environment of %s: %q", pid, got)
		}
	}
	// The warden sees all of the machine; an app must not see through it.
	for _, path := range []string{"/proc/1/root" + a.config, "/proc/1/cwd/spec.json", "/proc/1/environ"} {
		if got := get(t, spy, "/read"+path); !strings.HasPrefix(got, "no: ") && got != "" {
			t.Errorf("%s can be read: %.40q", path, got)
		}
	}
	// A warden that an app could end would be an app's end, and nothing else's.
	if got := get(t, spy, "/list/home/vcap"); !strings.Contains(got, "startup") {
		t.Errorf("its own folder has %q", got)
	}
	if level.Users {
		if one, two := get(t, spy, "/who"), get(t, victim, "/who"); one == two || strings.HasPrefix(one, "0 ") {
			t.Errorf("users are %q and %q", one, two)
		}
	}
	if limits := get(t, spy, "/limits"); !strings.Contains(strings.Join(strings.Fields(limits), " "), "Max open files 256 256") {
		t.Errorf("limits are %s", limits)
	}
}

// TestRequiredIsolation: a machine that offers less than the configuration requires
// takes no apps, and says what to do.
func TestRequiredIsolation(t *testing.T) {
	t.Parallel()
	config := defaults()
	config.BaseDir, config.Warden = t.TempDir(), "/bin/false"
	// A warden that cannot do anything offers nothing.
	if _, err := survey(t.Context(), config, "dea-test-"+component.RandomHex()); err == nil || !strings.Contains(err.Error(), "cannot run programs of users") {
		t.Errorf("with a broken warden: %v", err)
	}
	found := newCell(t).start("").dea.machine
	if os.Geteuid() == 0 && found.Level() != confine.LevelFull {
		t.Errorf("root has %+v", found)
	}
	found.Cgroups, found.Lacks = nil, []string{"no groups"}
	if err := found.Require(config.Isolation); err != nil || found.Level() != confine.LevelNamespaces {
		t.Errorf("namespaces without control groups are %q: %v", found.Level(), err)
	}
	if err := found.Require(confine.LevelFull); err == nil || !strings.Contains(err.Error(), `set the job's property isolation to "namespaces". What it lacks: no groups`) {
		t.Errorf("full is required: %v", err)
	}
	found.Namespaces = false
	if err := found.Require(config.Isolation); err == nil || !strings.Contains(err.Error(), "whom you trust with the deployment's own secrets") {
		t.Errorf("the default takes apps at level %s: %v", found.Level(), err)
	}
	if err := found.Require(confine.LevelProcesses); err != nil {
		t.Errorf("what is asked for: %v", err)
	}
}

// TestRecovery: the DEA is killed (-9) and started again; no app is touched, and
// how one ended meanwhile is known.
func TestRecovery(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	base := t.TempDir()
	config := c.configure(base, "")
	start := func() *exec.Cmd {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		before := len(messages(c, wire.SubjectDEAStart, wire.ParseDEAHello))
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), configVariable+"="+config)
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM) // or it ended before
			_ = cmd.Wait()
		})
		eventually(t, "the DEA says hello", func() bool { return len(messages(c, wire.SubjectDEAStart, wire.ParseDEAHello)) > before })
		return cmd
	}
	dea := start()
	uuid := func() string { all := messages(c, wire.SubjectDEAStart, wire.ParseDEAHello); return all[len(all)-1].ID }
	sha := c.droplet()
	for _, id := range []wire.ID{"1", "2", "3"} {
		c.publish(wire.SubjectDEAStartOf(uuid()), c.document(id, sha))
	}
	worker := c.document("4", sha, "MODE=patient")
	worker.URIs = nil
	before := map[wire.ID]wire.DEAFound{}
	pids := map[wire.ID][]int{}
	for _, id := range []wire.ID{"1", "2", "3"} {
		before[id] = c.state(id, wire.StateRunning)
		pids[id] = instanceProcesses(t, before[id].Instance)
	}
	c.publish(wire.SubjectDEAStartOf(uuid()), worker)
	before["4"] = c.state("4", wire.StateRunning)
	eventually(t, "the one that ends is there to be told", func() bool {
		said, err := os.ReadFile(filepath.Join(base, "apps", *before["4"].Staged, "logs", "stdout.log"))
		return err == nil && string(said) == "begins\n"
	})

	if err := dea.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = dea.Wait()
	if got := get(t, before["1"], "/"); !strings.Contains(got, before["1"].Instance) {
		t.Errorf("without a DEA an app says %q", got)
	}
	for _, pid := range instanceProcesses(t, before["4"].Instance) {
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(line), "app.pl") {
			_ = syscall.Kill(pid, syscall.SIGUSR1)
		}
	}
	eventually(t, "the one that ends has ended", func() bool { return len(instanceProcesses(t, before["4"].Instance)) == 0 })
	registered := len(registrations(c))
	start()

	for _, id := range []wire.ID{"1", "2", "3"} {
		now := c.state(id, wire.StateRunning)
		if now.Instance != before[id].Instance || *now.Stats.Port != *before[id].Stats.Port || now.StateTimestamp != before[id].StateTimestamp {
			t.Errorf("app %s was %+v, is %+v", id, before[id], now)
		}
		// A connection, such as the DEA's when it looks whether an app listens, has a
		// process of its own for a moment.
		eventually(t, "app "+string(id)+" has no processes but those that it had", func() bool {
			got := instanceProcesses(t, now.Instance)
			return len(got) > 0 && !slices.ContainsFunc(got, func(pid int) bool { return !slices.Contains(pids[id], pid) })
		})
		if got := get(t, now, "/"); !strings.Contains(got, now.Instance) {
			t.Errorf("app %s says %q", id, got)
		}
		if exits := c.exits(id); len(exits) != 0 {
			t.Errorf("app %s has exits %+v", id, exits)
		}
	}
	eventually(t, "its routes are registered again", func() bool {
		return len(registrations(c)) >= registered+3
	})
	crashed := c.state("4", wire.StateCrashed)
	if got := file(t, crashed, "/logs/err.log"); !strings.Contains(got, "ended with status 9") {
		t.Errorf("err.log: %q", got)
	}
	if exits := c.told("4", crashed.Instance); len(exits) != 1 || exits[0].Reason != wire.ReasonCrashed {
		t.Errorf("exits %+v", exits)
	}
	// They obey the new DEA.
	c.publish(wire.SubjectDEAStop, wire.DEAStop{Droplet: "1"})
	eventually(t, "app 1 is stopped", func() bool {
		return len(c.find("1", false)) == 0 && len(instanceProcesses(t, before["1"].Instance)) == 0
	})
}

// TestStrays: what nobody has a record of is ended and removed.
func TestStrays(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	a := c.start("")
	found := a.launch(a.document("7", a.droplet()))
	records, err := os.ReadFile(filepath.Join(a.base, "db", "applications.json"))
	if err != nil || !strings.Contains(string(records), found.Instance) {
		t.Fatalf("records %s, %v", records, err)
	}
	b := &agent{cell: c, base: a.base, config: a.config}
	// The first is not stopped: it is as if it had been killed, without its records.
	if err := os.Remove(filepath.Join(a.base, "db", "applications.json")); err != nil {
		t.Fatal(err)
	}
	b.run()
	eventually(t, "the instance is ended", func() bool { return len(instanceProcesses(t, found.Instance)) == 0 })
	eventually(t, "its folder is removed", func() bool {
		_, err := os.Stat(filepath.Join(a.base, "apps", *found.Staged))
		return os.IsNotExist(err)
	})
}

// TestBusAway: exits of the time when the bus was away are told when it is back.
func TestBusAway(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	a := c.start("")
	found := a.launch(a.document("7", a.droplet()))
	address := c.bus.Addr().String()
	_, text, _ := strings.Cut(address, ":")
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	c.bus.Shutdown()
	c.bus.WaitForShutdown()
	eventually(t, "the DEA sees that the bus is away", func() bool { return !a.dea.base.Connected() })
	for _, pid := range instanceProcesses(t, found.Instance) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // one ends with the other
	}
	eventually(t, "the DEA has seen the end", func() bool {
		a.dea.mu.Lock()
		defer a.dea.mu.Unlock()
		return len(a.dea.kept) > 0
	})
	c.restartBus(port)
	eventually(t, "the exit is told", func() bool { return len(c.exits("7")[found.Instance]) == 1 })
}

// TestWeakMachine: where there are no namespaces and no control groups, apps are
// contained all the same, as far as that goes.
func TestWeakMachine(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	// Root's processes can only be counted if each instance has a user.
	a := &agent{cell: c, base: t.TempDir(), change: func(warden.Machine) warden.Machine { return warden.Machine{Users: os.Geteuid() == 0} }}
	if err := os.Chmod(filepath.Dir(a.base), 0o711); err != nil { // for the users of instances
		t.Fatal(err)
	}
	a.config = c.configure(a.base, "processes: 64", "connection_timeout: 1")
	a.run()
	if got := a.dea.machine.Level(); got != confine.LevelProcesses {
		t.Fatalf("the level is %s", got)
	}
	sha := a.droplet()
	neighbour := a.launch(a.document("1", sha))
	if home := get(t, neighbour, "/env"); !strings.Contains(home, "HOME="+filepath.Join(a.base, "apps", *neighbour.Staged)+"\n") {
		t.Errorf("the environment is %s", home)
	}
	hungry := a.document("2", sha, "MODE=hungry")
	a.publish(wire.SubjectDEAStartOf(a.dea.base.UUID()), hungry)
	found := a.state("2", wire.StateCrashed)
	if got := file(t, found, "/logs/err.log"); !strings.Contains(got, "more than its quota of 64 MB") {
		t.Errorf("err.log: %q", got)
	}
	bomb := a.document("3", sha, "MODE=bomb")
	bomb.Limits.Mem = 1024 // what they share counts for each
	a.publish(wire.SubjectDEAStartOf(a.dea.base.UUID()), bomb)
	eventually(t, "it forks", func() bool {
		all := a.find("3", false)
		if len(all) != 1 || all[0].Staged == nil {
			return false
		}
		found = all[0]
		tries, err := os.Stat(filepath.Join(a.base, "apps", *found.Staged, "app", "bombs"))
		return found.State == wire.StateCrashed || err == nil && tries.Size() >= 300
	})
	// The limit counts others of the user's, too, which come and go, such as those of
	// another DEA: if it lets more through, they are counted.
	switch n := len(instanceProcesses(t, found.Instance)); {
	case n > 128:
		t.Errorf("of 300 tries to fork %d processes are there, want about 64", n)
	case n < 10:
		found = a.state("3", wire.StateCrashed)
		if got := file(t, found, "/logs/err.log"); !strings.Contains(got, "processes, more than 64") {
			t.Errorf("err.log: %q", got)
		}
	}
	if got := get(t, neighbour, "/"); !strings.Contains(got, neighbour.Instance) {
		t.Errorf("the neighbour says %q", got)
	}
	a.publish(wire.SubjectDEAStop, wire.DEAStop{Droplet: "3"})
	eventually(t, "nothing of it is left", func() bool {
		return len(a.find("3", false)) == 0 && len(instanceProcesses(t, found.Instance)) == 0
	})
	// What hides in a session of its own, behind a shell that has ended.
	startup := "#!/bin/bash\n(setsid setsid sleep 60 &)\nsleep 60 &\necho ready > logs/stdout.log\nwait\n"
	hiding := a.document("4", a.droplet(entry{name: "startup", text: startup, mode: 0o500}))
	hiding.URIs = nil
	found = a.launch(hiding)
	eventually(t, "it hides", func() bool { return len(instanceProcesses(t, found.Instance)) >= 3 })
	a.publish(wire.SubjectDEAStop, wire.DEAStop{Droplet: "4"})
	eventually(t, "it is ended", func() bool { return len(a.find("4", false)) == 0 && len(instanceProcesses(t, found.Instance)) == 0 })
	// The warden itself is killed: nothing of the app outlives it.
	found = a.launch(a.document("5", sha))
	a.dea.mu.Lock()
	pid := a.dea.attended[found.Instance].pid()
	a.dea.mu.Unlock()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	crashed := a.state("5", wire.StateCrashed)
	if got := file(t, crashed, "/logs/err.log"); !strings.Contains(got, "warden was killed") {
		t.Errorf("err.log: %q", got)
	}
	if left := instanceProcesses(t, found.Instance); len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
	if got := get(t, neighbour, "/"); !strings.Contains(got, neighbour.Instance) {
		t.Errorf("the neighbour says %q", got)
	}
}

// TestOutput: an app that prints without end goes on, and the last of what it
// printed is kept, in files that together leave it its disk.
func TestOutput(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	a := c.start("")
	found := a.launch(a.document("1", a.droplet(), "MODE=flood"))
	if got := get(t, found, "/"); !strings.HasPrefix(got, "hello") {
		t.Errorf("after its flood it says %q", got)
	}
	eventually(t, "all is printed", func() bool { return strings.HasSuffix(file(t, found, "/logs/stdout.log"), "\nthe last line\n") })
	if got := file(t, found, "/logs/stderr.log"); got != "to stderr\n" {
		t.Errorf("stderr.log: %q", got)
	}
	sum := 0
	for _, name := range []string{"/logs/stdout.log", "/logs/stdout.log.1", "/logs/stdout.log.2"} {
		sum += len(file(t, found, name))
	}
	if most := 3 * 64 << 20 / outputShare; sum > most || sum < most/2 {
		t.Errorf("%d bytes of 20 MB are kept, want %d at most", sum, most)
	}
	if times := file(t, found, "/logs/stdout.log.times"); !strings.HasPrefix(times, "0 1") {
		t.Errorf("times: %q", times)
	}
}
