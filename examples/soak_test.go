//go:build e2e && soak

package examples

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var kills = flag.Int("kills", 30, "processes that TestWorstHours kills at random, one after the other")

// roles are the kinds of processes of cluster.hcl, by a pattern of their command
// lines. Agents and shims run on every VM.
var roles = []struct {
	name    string
	pattern *regexp.Regexp
}{
	{"agent", regexp.MustCompile(`/bin/agent-\S+ run `)},
	{"shim", regexp.MustCompile(`/bin/shim-`)},
	{"init", regexp.MustCompile(`local-init `)},
	{"nats", regexp.MustCompile(`/nats -c `)},
	{"router", regexp.MustCompile(`/router -`)},
	{"cloud_controller", regexp.MustCompile(`/cloud_controller -`)},
	{"health_manager", regexp.MustCompile(`/health_manager -`)},
	{"postgres", regexp.MustCompile(`postgres -D `)},
	{"stager", regexp.MustCompile(`/stager -`)},
	{"dea", regexp.MustCompile(`/dea -`)},
	{"nginx", regexp.MustCompile(`nginx: master`)},
}

// roleOf returns the role of a process by its command line, "" if it has none.
func roleOf(command string) string {
	for _, r := range roles {
		if r.pattern.MatchString(command) {
			return r.name
		}
	}
	return ""
}

// found are the cluster's processes by role and VM.
func (p *platform) found() map[string][]int {
	out := map[string][]int{}
	vms := filepath.Join(p.state, "cf", "vms") + "/"
	for _, line := range processesUnder(p.state) {
		pid, command, _ := strings.Cut(line, " ")
		n, err := strconv.Atoi(pid)
		role := roleOf(command)
		if err != nil || role == "" {
			continue
		}
		at := command
		if !strings.Contains(at, vms) {
			at, _ = os.Readlink("/proc/" + pid + "/cwd")
		}
		_, at, _ = strings.Cut(at, vms)
		vm, _, _ := strings.Cut(strings.TrimSpace(at), "/")
		out[role+" of "+vm] = append(out[role+" of "+vm], n)
	}
	return out
}

func howMany(found map[string][]int) map[string]int {
	out := map[string]int{}
	for key, pids := range found {
		out[key] = len(pids)
	}
	return out
}

// probe is one request of a prober.
type probe struct {
	begin, end time.Time
	what       string
	err        error
}

// hurt says when something was killed.
type hurt struct {
	at   time.Time
	what string
}

// prober asks for pages all the time, with a connection for each request.
type prober struct {
	stop func()

	mu   sync.Mutex
	all  int
	bad  []probe
	hurt []hurt
}

func (p *platform) probe(hosts ...string) *prober {
	r := &prober{}
	done := make(chan struct{})
	var work sync.WaitGroup
	r.stop = sync.OnceFunc(func() { close(done); work.Wait() })
	p.t.Cleanup(r.stop)
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, host := range hosts {
		work.Go(func() {
			host, path, _ := strings.Cut(host, "/")
			tick := time.NewTicker(150 * time.Millisecond)
			defer tick.Stop()
			for {
				request, err := http.NewRequest(http.MethodGet, "http://"+p.listen+"/"+path, nil)
				if err != nil {
					panic(err)
				}
				request.Host = host
				one := probe{begin: time.Now(), what: host}
				var response *http.Response
				if response, one.err = client.Do(request); one.err == nil {
					_, one.err = io.Copy(io.Discard, response.Body)
					response.Body.Close()
					if response.StatusCode != http.StatusOK {
						one.err = errors.Join(one.err, fmt.Errorf("status %s", response.Status))
					}
				}
				one.end = time.Now()
				r.mu.Lock()
				r.all++
				if one.err != nil {
					r.bad = append(r.bad, one)
				}
				r.mu.Unlock()
				select {
				case <-tick.C:
				case <-done:
					return
				}
			}
		})
	}
	return r
}

func (r *prober) killed(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hurt = append(r.hurt, hurt{time.Now(), what})
}

// mustLoseNothing checks that what failed was under way when something was killed.
func (r *prober) mustLoseNothing(t *testing.T, when string) {
	t.Helper()
	r.stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	flight := 0
	for _, b := range r.bad {
		if slices.ContainsFunc(r.hurt, func(h hurt) bool { return !b.begin.After(h.at) && !b.end.Before(h.at) }) {
			flight++
			continue
		}
		var last hurt
		for _, h := range r.hurt {
			if h.at.Before(b.begin) {
				last = h
			}
		}
		t.Errorf("%s: a request to %s that began %v after the kill of %s failed after %v: %v", when, b.what, b.begin.Sub(last.at), last.what, b.end.Sub(b.begin), b.err)
	}
	t.Logf("%s: %d probes, %d lost, %d failed that were under way at a kill", when, r.all, len(r.bad)-flight, flight)
}

// freeze stops processes for a time.
func freeze(t *testing.T, pids []int, long time.Duration) {
	t.Helper()
	if len(pids) == 0 {
		t.Fatal("there is nothing to freeze")
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Errorf("freeze %d: %v", pid, err)
		}
	}
	<-time.After(long) // the fault is this long; nothing is waited for
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGCONT) // its agent may have ended it
	}
}

// TestWorstHours: a whole platform loses no request but those under way while any of
// its processes are killed, its bus and its database hang and its disk is full; and
// is as before after everything was killed.
func TestWorstHours(t *testing.T) {
	disk := t.TempDir()
	mount(t, "tmpfs", disk, "tmpfs", 0, "size=4g")
	p := startPlatform(t, "cluster.hcl", "cf.localhost")
	p.state = filepath.Join(disk, "state")
	p.edit("group \"lb\" {\n  instances = 1", "group \"lb\" {\n  instances = 2") // so that one can be lost
	p.mustApply()
	p.register()
	app := filepath.Join(t.TempDir(), "app")
	if err := os.MkdirAll(app, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(app, "index.html"), []byte("it is served\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.mustVmc("push", "page", "--path", app, "--memory", "64M", "--instances", "2")
	p.mustRun("page", 2, nil)
	hosts := []string{"page.cf.localhost", "api.cf.localhost/info"}
	whole := p.found()
	for _, r := range roles {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(whole)), func(key string) bool { return strings.HasPrefix(key, r.name+" of ") }) {
			t.Errorf("no %s runs: %v", r.name, processesUnder(p.state))
		}
	}
	t.Logf("%d processes of %d kinds on their VMs", len(slices.Concat(slices.Collect(maps.Values(whole))...)), len(whole))
	asBefore := func(when string) time.Duration {
		t.Helper()
		began := time.Now()
		if out, code := p.run("apply", "--auto-approve"); code != 0 {
			t.Errorf("%s: apply exited with %d:\n%s", when, code, out)
		}
		var now map[string]int
		defer func() {
			for key, n := range howMany(whole) {
				if now[key] != n {
					t.Logf("%s: %s: %d instead of %d", when, key, now[key], n)
				}
			}
		}()
		within(t, 2*time.Minute, when+": every process runs, none twice", func() bool {
			now = howMany(p.found())
			return maps.Equal(now, howMany(whole))
		})
		p.mustRun("page", 2, nil)
		if out, code := p.run("plan"); code != 0 {
			t.Errorf("%s: plan exited with %d:\n%s", when, code, out)
		}
		return time.Since(began)
	}

	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	probes := p.probe(hosts...)
	var took []time.Duration
	for round := range *kills {
		role := roles[(round+int(seed%uint64(len(roles))))%len(roles)].name
		var keys []string
		for key := range whole {
			if strings.HasPrefix(key, role+" of ") {
				keys = append(keys, key)
			}
		}
		slices.Sort(keys)
		key := keys[random.IntN(len(keys))]
		pids := p.found()[key]
		if len(pids) == 0 {
			t.Fatalf("round %d: no %s", round, key)
		}
		probes.killed(key)
		kill(t, pids[random.IntN(len(pids))])
		long := asBefore(fmt.Sprintf("round %d, %s killed", round, key))
		took = append(took, long)
		t.Logf("round %d, %s: whole after %v", round, key, long.Round(100*time.Millisecond))
	}
	slices.Sort(took)
	t.Logf("whole again after a kill, with apply and plan: median %v, longest %v", took[len(took)/2], took[len(took)-1])
	probes.mustLoseNothing(t, fmt.Sprintf("%d kills", *kills))

	probes = p.probe(hosts...)
	freeze(t, p.found()["nats of nats-0"], 40*time.Second)
	asBefore("bus frozen for 40 s")
	probes.mustLoseNothing(t, "bus frozen for 40 s")

	probes = p.probe(hosts...)
	answers := p.askAPI(func() {
		var database []int
		for _, line := range processesUnder(p.state) {
			if pid, err := strconv.Atoi(strings.Fields(line)[0]); err == nil && strings.Contains(line, "postgres") && !strings.Contains(line, "local-init") && !strings.Contains(line, "shim-") && !strings.Contains(line, "agent-") {
				database = append(database, pid)
			}
		}
		freeze(t, database, 30*time.Second)
	})
	asBefore("database frozen for 30 s")
	probes.mustLoseNothing(t, "database frozen for 30 s")
	t.Logf("database frozen for 30 s: answers of the API by status: %v", answers)
	for status := range answers {
		if status != http.StatusOK && status != http.StatusServiceUnavailable {
			t.Errorf("the API answers with %d while its database hangs", status)
		}
	}

	probes = p.probe(hosts...)
	full := fill(t, disk)
	if out, code := p.run("apply", "--auto-approve", "--var=deas=4"); code != 1 || !strings.Contains(out, "no space left") {
		t.Errorf("apply on a full disk exited with %d:\n%s", code, out)
	}
	probes.killed("a router")
	router := p.found()["router of router-1"]
	kill(t, router[0])
	within(t, time.Minute, "a router is started on a full disk", func() bool {
		now := p.found()["router of router-1"]
		return len(now) == 1 && now[0] != router[0]
	})
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	asBefore("disk full")
	probes.mustLoseNothing(t, "disk full")

	for n := range 2 {
		p.loseAll()
		began := time.Now()
		if out, code := p.run("apply", "--auto-approve"); code != 0 {
			t.Errorf("power cut %d: apply exited with %d:\n%s", n, code, out)
		}
		for _, host := range hosts {
			host, path, _ := strings.Cut(host, "/")
			within(t, 2*time.Minute, host+" answers", func() bool {
				request, err := http.NewRequest(http.MethodGet, "http://"+p.listen+"/"+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				request.Host = host
				response, err := http.DefaultClient.Do(request)
				if err != nil {
					return false
				}
				response.Body.Close()
				return response.StatusCode == http.StatusOK
			})
		}
		t.Logf("power cut %d: app and API answer after %v", n, time.Since(began).Round(100*time.Millisecond))
		asBefore(fmt.Sprintf("power cut %d", n))
	}
}

// loseAll ends every process of the cluster at once, as a power cut does.
func (p *platform) loseAll() {
	p.t.Helper()
	within(p.t, time.Minute, "nothing runs", func() bool {
		left := processesUnder(p.state)
		for _, process := range left {
			if pid, err := strconv.Atoi(strings.Fields(process)[0]); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have gone with another
			}
		}
		return len(left) == 0
	})
}

// fill leaves no byte free on a disk, and returns the file that has them.
func fill(t *testing.T, disk string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(disk, "full"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for len(block) > 0 {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return f.Name()
}

// askAPI lets ten clients list apps while something happens, and 20 more times after
// it, and returns how many answers had which status. No answer counts as status 0.
func (p *platform) askAPI(happens func()) map[int]int {
	p.t.Helper()
	ask := func(method, path, token string, body []byte) (*http.Response, error) {
		request, err := http.NewRequest(method, "http://"+p.listen+path, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		request.Host = "api.cf.localhost"
		request.Header.Set("Authorization", token)
		return (&http.Client{Timeout: time.Minute}).Do(request)
	}
	response, err := ask(http.MethodPost, "/users/somebody@example.com/tokens", "", []byte(`{"password":"of-a-user-of-the-test"}`))
	if err != nil {
		p.t.Fatal(err)
	}
	var login struct{ Token string }
	err = json.NewDecoder(response.Body).Decode(&login)
	response.Body.Close()
	if err != nil || login.Token == "" {
		p.t.Fatalf("no token: %v", err)
	}
	var mu sync.Mutex
	answers := map[int]int{}
	over := make(chan struct{})
	var work sync.WaitGroup
	for range 10 {
		work.Go(func() {
			for left := 2; left > 0; {
				select {
				case <-over:
					left--
				default:
				}
				status := 0
				response, err := ask(http.MethodGet, "/apps", login.Token, nil)
				if err == nil {
					response.Body.Close()
					if status = response.StatusCode; status == http.StatusServiceUnavailable && response.Header.Get("Retry-After") == "" {
						status = -status // as good as no answer
					}
				}
				mu.Lock()
				answers[status]++
				mu.Unlock()
				<-time.After(100 * time.Millisecond)
			}
		})
	}
	happens()
	close(over)
	work.Wait()
	return answers
}
