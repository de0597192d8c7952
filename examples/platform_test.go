//go:build e2e

package examples

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// platform is a cluster that apps are pushed to, and a user of it.
type platform struct {
	*cluster
	domain string
	env    []string
	limit  time.Duration // of one vmc command; 0: two minutes
}

// startPlatform prepares a cluster that publishes on 127.0.0.1, which is where
// users find *.localhost.
func startPlatform(t *testing.T, manifest, domain string) *platform {
	t.Helper()
	c := start(t, manifest)
	// Below the ports that connections take by themselves; the number is the
	// cluster's.
	number, err := strconv.Atoi(strings.Split(c.cidr, ".")[2])
	if err != nil {
		t.Fatal(err)
	}
	c.listen = fmt.Sprintf("127.0.0.1:%d", 20000+number)
	t.Cleanup(func() {
		if out, code := c.run("destroy", "--auto-approve", "--accept-data-loss", "--delete-disks"); code != 0 {
			t.Errorf("destroy exited with %d:\n%s", code, out)
		}
	})
	return &platform{cluster: c, domain: domain, env: append(os.Environ(), "XDG_CONFIG_HOME="+t.TempDir(), "VMC_PASSWORD=of-a-user-of-the-test")}
}

// vmc runs the client as a user types it.
func (p *platform) vmc(args ...string) (string, int) {
	p.t.Helper()
	limit := 2 * time.Minute
	if p.limit > 0 {
		limit = p.limit
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	program, err := filepath.Abs("../bin/vmc")
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = p.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		p.t.Fatalf("vmc %s did not run: %v\n%s", strings.Join(args, " "), err, &out)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func (p *platform) mustVmc(args ...string) string {
	p.t.Helper()
	out, code := p.vmc(args...)
	if code != 0 {
		p.t.Fatalf("vmc %s exited with %d:\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// register makes the user's account.
func (p *platform) register() {
	p.t.Helper()
	_, port, _ := net.SplitHostPort(p.listen)
	p.mustVmc("target", "api."+p.domain+":"+port)
	p.mustVmc("register", "somebody@example.com")
}

// instance is one of an app that runs.
type instance struct {
	Index int
	Host  string
	Port  int
}

// running are an app's instances that run, by index.
func (p *platform) running(app string) []instance {
	p.t.Helper()
	out, code := p.vmc("stats", app, "--json")
	if code != 0 {
		return nil // the controller may be away for a moment
	}
	var stats []struct {
		Index int
		State string
		Stats *struct {
			Host string
			Port int
		}
	}
	if err := json.Unmarshal([]byte(out), &stats); err != nil {
		p.t.Fatalf("vmc stats --json: %v\n%s", err, out)
	}
	var list []instance
	for _, s := range stats {
		if s.State == "RUNNING" && s.Stats != nil {
			list = append(list, instance{s.Index, s.Stats.Host, s.Stats.Port})
		}
	}
	return list
}

// mustRun waits until so many instances of an app run, on the DEAs that are
// allowed, and returns them.
func (p *platform) mustRun(app string, count int, fits func(instance) bool) []instance {
	p.t.Helper()
	var list []instance
	within(p.t, time.Minute, fmt.Sprintf("%d instances of %s run", count, app), func() bool {
		list = p.running(app)
		return len(list) == count && !slices.ContainsFunc(list, func(i instance) bool { return fits != nil && !fits(i) })
	})
	return list
}

// findProcess is the pid of a process whose command line has this word and
// whose environment has these texts. 0: there is none.
func findProcess(word string, environment ...string) int {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		command, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if !bytes.Contains(command, []byte(word)) {
			continue
		}
		environ, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if !slices.ContainsFunc(environment, func(text string) bool { return !bytes.Contains(environ, []byte(text)) }) {
			return pid
		}
	}
	return 0
}

// process is the pid of the app's own program in an instance: the one whose
// command line has this word. 0: there is none.
func (p *platform) process(i instance, word string) int {
	return findProcess(word, "\x00VCAP_APP_HOST="+i.Host+"\x00", fmt.Sprintf("\x00VCAP_APP_PORT=%d\x00", i.Port))
}

func (p *platform) processes(list []instance, word string) map[int]int {
	p.t.Helper()
	pids := map[int]int{}
	for _, i := range list {
		if pids[i.Index] = p.process(i, word); pids[i.Index] == 0 {
			p.t.Errorf("no process of instance %d at %s:%d has %q in its command line", i.Index, i.Host, i.Port, word)
		}
	}
	return pids
}

// mustServe fetches an app's page through the load balancer.
func (p *platform) mustServe(app, want string) {
	p.t.Helper()
	var body string
	within(p.t, 30*time.Second, app+" is served", func() bool {
		var err error
		body, err = page(p.listen, app+"."+p.domain)
		return err == nil && strings.Contains(body, want)
	})
}

// loseVM ends everything that runs on a local VM, as a power cut does.
func (p *platform) loseVM(deployment, vm string) {
	p.t.Helper()
	folder := filepath.Join(p.state, deployment, "vms", vm)
	within(p.t, 30*time.Second, "nothing runs on "+vm, func() bool {
		left := processesUnder(folder)
		for _, process := range left {
			if pid, err := strconv.Atoi(strings.Fields(process)[0]); err == nil {
				if other, err := os.FindProcess(pid); err == nil {
					_ = other.Kill() // it may have gone with another
				}
			}
		}
		return len(left) == 0
	})
}

// TestPlatform pushes an app to the whole platform and then takes away what runs
// it, piece by piece.
func TestPlatform(t *testing.T) {
	t.Parallel()
	p := startPlatform(t, "cluster.hcl", "cf.localhost")
	begin := time.Now()
	p.mustApply()
	t.Logf("cold apply: %.1f s", time.Since(begin).Seconds())
	before := p.mustAllRun(15)
	address := map[string]string{}
	for _, in := range before.Instances {
		address[in.ID] = in.Address
	}
	p.register()
	t.Run("instances of an app spread on a busy machine", p.spread)
	begin = time.Now()
	t.Logf("%s\n(%.1f s)", p.mustVmc("push", "--path", "apps/node"), time.Since(begin).Seconds())
	p.mustServe("node", "Hello from node/")
	for _, router := range []string{"router/0", "router/1", "router/2"} {
		if _, err := page(net.JoinHostPort(address[router], "8081"), "node.cf.localhost"); err != nil {
			t.Errorf("through %s: %v", router, err)
		}
	}

	p.mustVmc("scale", "node", "6")
	list := p.mustRun("node", 6, nil)
	hosts := map[string]int{}
	for _, i := range list {
		hosts[i.Host]++
	}
	t.Logf("six instances by DEA: %v", hosts)
	if len(hosts) != 3 {
		t.Errorf("six instances run on %d DEAs: %v", len(hosts), hosts)
	}

	t.Run("a process of the app is killed", func(t *testing.T) {
		pids := p.processes(list, "server.js")
		kill(t, pids[3])
		again := within(t, 30*time.Second, "another one is there in its place", func() bool {
			list = p.mustRun("node", 6, nil)
			i := slices.IndexFunc(list, func(i instance) bool { return i.Index == 3 })
			pid := p.process(list[i], "server.js")
			return pid != 0 && pid != pids[3]
		})
		t.Logf("another one is there after %v", again.Round(time.Millisecond))
		if again > 10*time.Second { // it takes less than 1 s on a machine that is not busy
			t.Errorf("that took %v", again)
		}
		for index, pid := range p.processes(list, "server.js") {
			if index != 3 && pid != pids[index] {
				t.Errorf("instance %d was started again", index)
			}
		}
	})

	t.Run("a DEA is killed", func(t *testing.T) {
		pids := p.processes(list, "server.js")
		dea := p.status().pids()["dea/1 dea"]
		kill(t, dea)
		within(t, 30*time.Second, "the DEA runs again", func() bool {
			for _, in := range p.status().Instances {
				if in.ID == "dea/1" && in.State == "running" && in.Processes[0].PID != dea {
					return true
				}
			}
			return false
		})
		list = p.mustRun("node", 6, nil)
		if after := p.processes(list, "server.js"); !reflect.DeepEqual(pids, after) {
			t.Errorf("the app's processes were %v and are %v", pids, after)
		}
	})

	t.Run("a DEA's VM is lost", func(t *testing.T) {
		pids := p.processes(list, "server.js")
		there := 0 // by now: one was started again, wherever there was room
		for _, i := range list {
			if i.Host == address["dea/2"] {
				there++
			}
		}
		pair := filepath.Join(t.TempDir(), "server.js")
		if err := os.WriteFile(pair, []byte(echo), 0o600); err != nil {
			t.Fatal(err)
		}
		p.mustVmc("push", "pair", "--path", filepath.Dir(pair), "--memory", "32M", "--instances", "2")
		// One of its two is to be there: the index with the fewest goes where fewest run.
		on := p.hostsOf("pair")
		for n := 0; !slices.Contains(on, address["dea/2"]); n++ {
			if n == 10 {
				t.Fatalf("the two instances never run on dea/2, but on %v", on)
			}
			p.mustVmc("restart", "pair", "--now")
			on = p.hostsOf("pair")
		}
		if on[0] == on[1] {
			t.Errorf("both instances run on %s", on[0])
		}
		l := startLoad(t, p.listen, "pair."+p.domain, loadClients, *rate)
		within(t, 30*time.Second, "the load has begun", func() bool { return l.answered() > 500 })
		begin := time.Now()
		p.loseVM("cf", "dea-2")
		lost, before := time.Now(), l.answered()
		list = p.mustRun("node", 6, func(i instance) bool { return i.Host != address["dea/2"] })
		t.Logf("its instances run elsewhere after %v", time.Since(begin).Round(time.Millisecond))
		after := p.processes(list, "server.js")
		moved := 0
		for index, pid := range pids {
			if after[index] != pid {
				moved++
			}
		}
		if moved != there {
			t.Errorf("%d instances were started, want those %d of dea/2", moved, there)
		}
		p.mustServe("node", "Hello from node/")
		p.mustRun("pair", 2, func(i instance) bool { return i.Host != address["dea/2"] })
		within(t, time.Minute, "the load goes on", func() bool { return l.answered() > before+500 })
		l.stop()
		l.mustFailInFlight(t, lost, loadClients)
		p.mustVmc("delete", "pair", "--force")
		off := "allow_registration = true"
		rebalancing := off + "\n      update             = { rebalance_every = \"5s\" }"
		p.edit(off, rebalancing)
		p.mustApply()
		p.mustAllRun(15)
		within(t, 3*time.Minute, "the DEA that came back has its share of the instances", func() bool {
			hosts := map[string]int{}
			for _, i := range p.running("node") {
				hosts[i.Host]++
			}
			return len(hosts) == 3 && hosts[address["dea/0"]] == 2 && hosts[address["dea/1"]] == 2
		})
		within(t, time.Minute, "the update that moved them is over", func() bool { return !p.updating("node") })
		p.mustRun("node", 6, nil)
		p.mustServe("node", "Hello from node/")
		p.edit(rebalancing, off)
		p.mustApply()
	})

	t.Run("outages", p.outages)
	t.Run("an app is updated under load", p.updateUnderLoad)
	t.Run("controllers are killed during pushes", func(t *testing.T) { p.killControllers(t, address) })
}

// hostsOf waits until two instances of an app run, and returns where.
func (p *platform) hostsOf(app string) []string {
	p.t.Helper()
	var hosts []string
	for _, i := range p.mustRun(app, 2, nil) {
		hosts = append(hosts, i.Host)
	}
	return hosts
}

// spread pushes an app of two instances again and again to three empty DEAs, while two
// loops keep the machine busy: never are both on one DEA. The long form pushes 200
// times.
func (p *platform) spread(t *testing.T) {
	pushes := 3
	if *long {
		pushes = 200
	}
	for range 2 {
		busy := exec.Command("/bin/sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := busy.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = busy.Wait() // killed
		})
	}
	app := t.TempDir()
	if err := os.WriteFile(filepath.Join(app, "index.html"), []byte("spread\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	begin, together := time.Now(), 0
	for n := range pushes {
		p.mustVmc("push", "spread", "--path", app, "--memory", "64M", "--instances", "2")
		if on := p.hostsOf("spread"); on[0] == on[1] {
			together++
			t.Errorf("push %d: both instances run on %s", n+1, on[0])
		}
		p.mustVmc("delete", "spread", "--force")
	}
	t.Logf("%d pushes of two instances, %d times both on one DEA; %.1f s a push", pushes, together, time.Since(begin).Seconds()/float64(pushes))
}

// killControllers pushes apps one after the other while one controller is
// killed, and when it runs again the other one: a push succeeds, or says that it
// did not and can be repeated.
func (p *platform) killControllers(t *testing.T, address map[string]string) {
	const least = 6
	app := filepath.Join(t.TempDir(), "app")
	if err := os.MkdirAll(app, 0o755); err != nil {
		t.Fatal(err)
	}
	pushed := make(chan bool) // one more is
	killed := make(chan error, 1)
	go func() {
		defer close(killed)
		for _, id := range []string{"cloud_controller/0", "cloud_controller/1"} {
			for range 2 {
				if _, more := <-pushed; !more {
					return
				}
			}
			if err := p.killAndWait(id); err != nil {
				killed <- err
			}
		}
	}()
	var names []string
	repeated := 0
	for done := false; !done || len(names) < least; {
		name := fmt.Sprintf("page%d", len(names))
		names = append(names, name)
		if err := os.WriteFile(filepath.Join(app, "index.html"), fmt.Appendf(nil, "this is %s\n", name), 0o644); err != nil {
			t.Fatal(err)
		}
		for try := 1; ; try++ {
			out, code := p.vmc("push", name, "--path", app, "--memory", "16M")
			if code == 0 {
				break
			}
			t.Logf("push %s exited with %d: %s", name, code, out)
			if repeated++; try == 5 || strings.TrimSpace(out) == "" {
				t.Fatalf("%s cannot be pushed", name)
			}
		}
		select {
		case pushed <- true:
		case err, failed := <-killed:
			if failed {
				t.Fatal(err)
			}
			done = true
		default: // one is being killed
		}
		if len(names) > 18 { // of the 20 that an account may have
			t.Fatal("the controllers were not killed in time")
		}
	}
	t.Logf("%d pushes, %d repeated by hand", len(names), repeated)
	var apps []struct{ Name, Version string }
	if err := json.Unmarshal([]byte(p.mustVmc("apps", "--json")), &apps); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		p.mustRun(name, 1, nil)
		p.mustServe(name, "this is "+name)
		i := slices.IndexFunc(apps, func(a struct{ Name, Version string }) bool { return a.Name == name })
		if i < 0 {
			t.Fatalf("%s is not among the apps: %v", name, apps)
		}
		// Whichever controller took it, each has the droplet or gets it.
		for _, id := range []string{"cloud_controller/0", "cloud_controller/1"} {
			hash, _, _ := strings.Cut(apps[i].Version, "-")
			if !p.hasDroplet(strings.ReplaceAll(id, "/", "-"), hash) {
				t.Errorf("%s has no droplet of %s", id, name)
			}
		}
	}
}

// killAndWait kills a controller and waits until another process serves in its
// place.
func (p *platform) killAndWait(id string) error {
	state := func() (pid int, running bool) {
		for _, in := range p.status().Instances {
			if in.ID == id {
				for _, process := range in.Processes {
					if process.Name == "cloud_controller" {
						return process.PID, in.State == "running"
					}
				}
			}
		}
		return 0, false
	}
	before, running := state()
	if !running {
		return fmt.Errorf("%s does not run", id)
	}
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if pid, running := state(); running && pid != before {
			return nil
		}
		<-time.After(100 * time.Millisecond)
	}
	return fmt.Errorf("%s does not come back", id)
}

// hasDroplet reports whether a controller has a droplet, or gets it within a
// minute, which is two of its looks for what it lacks.
func (p *platform) hasDroplet(vm, hash string) bool {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		found := false
		disk := filepath.Join(p.state, "cf", "vms", "disks", vm) // to which the VM's data folder links
		err := filepath.WalkDir(disk, func(path string, _ fs.DirEntry, err error) error {
			found = found || filepath.Base(path) == hash+".tgz"
			return nil // what vanishes meanwhile is not the droplet
		})
		if found && err == nil {
			return true
		}
		<-time.After(500 * time.Millisecond)
	}
	return false
}
