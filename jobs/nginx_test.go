package jobs_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/jobs"
	"github.com/clusterworks/deploy/jobs/nginx"
	"github.com/clusterworks/deploy/manifests"
)

const deadline = 60 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustBeFine(t *testing.T, diags hcl.Diagnostics) {
	t.Helper()
	if diags.HasErrors() {
		t.Fatal(errors.Join(diags.Errs()...))
	}
}

// TestJobs: every built-in job is sound, with its templates.
func TestJobs(t *testing.T) {
	entries, err := fs.ReadDir(jobs.FS, ".")
	must(t, err)
	names := []string{}
	for _, e := range entries {
		if e.Name() == "component" {
			continue // bases of jobs
		}
		names = append(names, e.Name())
		job, diags := manifests.LoadJob(jobs.FS, e.Name())
		mustBeFine(t, diags)
		if job.Description == "" {
			t.Errorf("job %s has no description", e.Name())
		}
		for _, p := range job.Properties {
			if p.Description == "" {
				t.Errorf("property %s of job %s has no description", p.Name, e.Name())
			}
		}
	}
	folders, err := filepath.Glob("*/job.hcl")
	must(t, err)
	if len(names) < 3 || len(names) != len(folders) {
		t.Errorf("built-in jobs: %v, in the folders %v", names, folders)
	}
}

// TestNginxMarker: what tells one configuration from another covers every
// property, and nginx.conf, wherever it has it, and proof.json agree on it.
func TestNginxMarker(t *testing.T) {
	job, diags := manifests.LoadJob(jobs.FS, "nginx")
	mustBeFine(t, diags)
	marker := regexp.MustCompile(`sha256\(jsonencode\(\[[^]]*\]`)
	found := map[string]bool{}
	for _, name := range []string{"nginx.conf", "proof.json"} {
		text, err := fs.ReadFile(job.FS, "templates/"+name)
		must(t, err)
		for _, expr := range marker.FindAllString(string(text), -1) {
			found[expr] = true
			for _, p := range job.Properties {
				if !strings.Contains(expr, "property."+p.Name+",") && !strings.Contains(expr, "property."+p.Name+"]") {
					t.Errorf("the marker in %s leaves out property %s", name, p.Name)
				}
			}
		}
	}
	if len(found) != 1 {
		t.Errorf("the markers differ: %v", found)
	}
}

// balancer is the nginx job on a VM that is a folder and an address.
type balancer struct {
	t       *testing.T
	program string
	address string
	dir     string
	job     *manifests.GroupJob
	vars    *hcl.EvalContext
	command *exec.Cmd
	edit    func(text string) string // of each rendered file, if set
	blocks  string                   // of the manifest, in the place of the property domains
	facts   manifests.Facts          // beside the load balancer's own
	log     lockedBuffer             // what nginx prints, its access log
	within  []string                 // what commands run within: "ip netns exec NAME"
}

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(data []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(data)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// nginxProgram finds the real nginx; without it there is nothing to test.
func nginxProgram(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if program, err := exec.LookPath(name); err == nil {
			return program
		}
	}
	t.Fatal("nginx is neither on PATH nor in /usr/sbin: install Debian's nginx-light")
	return ""
}

// TestMain lets this program be lb_check under that name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "lb_check" {
		os.Exit(nginx.Main(os.Args[1:], os.Stderr))
	}
	os.Exit(m.Run())
}

// lbCheck is this program as lb_check.
func lbCheck(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	link := filepath.Join(t.TempDir(), "lb_check")
	must(t, os.Symlink(self, link))
	return link
}

func loopback() string {
	return fmt.Sprintf("127.%d.%d.%d", 100+rand.IntN(100), rand.IntN(250), 1+rand.IntN(250))
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	b := &balancer{t: t, program: nginxProgram(t), address: loopback(), dir: t.TempDir()}
	// nginx gives up root in its workers, and they write below the VM's folder.
	must(t, os.Chmod(b.dir, 0o755))
	for _, folder := range []string{"data/nginx", "run/nginx", "jobs"} {
		must(t, os.MkdirAll(filepath.Join(b.dir, folder), 0o755))
	}
	return b
}

// render writes the job's files for these properties into a folder.
func (b *balancer) render(folder, properties string) {
	b.t.Helper()
	manifest := `
deployment "cf" {
  domain = "cf.localhost"
}
infrastructure "local" {}
vm "small" {
  cpus      = 1
  memory_mb = 512
}
group "lb" {
  instances = 1
  vm        = vm.small
  job "nginx" {
    properties {
      ` + properties + `
    }
  }
}
` + b.blocks
	if b.blocks == "" {
		manifest = strings.Replace(manifest, "properties {", "properties {\n domains = [\"*.${deployment.domain}\", \"www.example.com\"]", 1)
	}
	m, diags := manifests.Load(fstest.MapFS{"cluster.hcl": {Data: []byte(manifest)}}, "cluster.hcl", manifests.Options{Jobs: jobs.FS})
	mustBeFine(b.t, diags)
	b.job = m.Group("lb").Jobs[0]
	facts := b.facts
	facts.Instances = map[string][]manifests.Instance{"lb": {{Group: "lb", Address: b.address, AgentDir: b.dir}}}
	maps.Copy(facts.Instances, b.facts.Instances)
	facts.Packages = map[string]string{"lb_check": "0"}
	b.vars, diags = m.JobContext(facts, "lb", 0, b.job)
	mustBeFine(b.t, diags)
	must(b.t, os.MkdirAll(folder, 0o755))
	for _, template := range b.job.Spec.Templates {
		text, err := fs.ReadFile(b.job.Spec.FS, "templates/"+template.Source)
		must(b.t, err)
		expr, diags := hclsyntax.ParseTemplate(text, template.Source, hcl.InitialPos)
		mustBeFine(b.t, diags)
		content := b.strings(expr)[0]
		if b.edit != nil {
			content = b.edit(content)
		}
		must(b.t, os.WriteFile(filepath.Join(folder, template.Destination), []byte(content), os.FileMode(template.Mode)))
	}
}

// strings evaluates an expression to a list of strings, or one.
func (b *balancer) strings(expr hcl.Expression) []string {
	b.t.Helper()
	v, diags := expr.Value(b.vars)
	mustBeFine(b.t, diags)
	v, _ = v.UnmarkDeep()
	if v.Type() == cty.String {
		return []string{v.AsString()}
	}
	v, err := convert.Convert(v, cty.List(cty.String))
	must(b.t, err)
	list := []string{}
	for _, s := range v.AsValueSlice() {
		list = append(list, s.AsString())
	}
	return list
}

// cmd is a command of the job as the agent runs it.
func (b *balancer) cmd(expr hcl.Expression, env ...string) *exec.Cmd {
	b.t.Helper()
	args := append(slices.Clone(b.within), b.strings(expr)...)
	for i, arg := range args {
		switch {
		case arg == "nginx":
			args[i] = b.program
		case strings.HasSuffix(arg, "/lb_check"):
			args[i] = lbCheck(b.t)
		}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(append(os.Environ(), "PATH="+os.Getenv("PATH")+":"+filepath.Dir(b.program)), env...)
	return cmd
}

// activate makes a generation the active one, as the agent does.
func (b *balancer) activate(folder string) {
	b.t.Helper()
	link := filepath.Join(b.dir, "jobs", "nginx")
	must(b.t, os.Symlink(folder, link+".new"))
	must(b.t, os.Rename(link+".new", link))
}

func (b *balancer) start() {
	b.t.Helper()
	b.command = b.cmd(b.job.Spec.Processes[0].Command)
	b.command.Stderr, b.command.Stdout = b.t.Output(), &b.log
	must(b.t, b.command.Start())
	b.t.Cleanup(func() {
		_ = b.command.Process.Signal(syscall.SIGTERM)
		_ = b.command.Wait()
	})
	check := b.strings(b.job.Spec.Processes[0].Checks[0].Target)[0]
	b.eventually("healthy", func() bool {
		if len(b.within) > 0 { // it tells nobody else
			return exec.Command(b.within[0], append(slices.Clone(b.within[1:]), ownCheck, "health", check)...).Run() == nil
		}
		res, err := http.Get(check)
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == 200
	})
}

func (b *balancer) eventually(what string, condition func() bool) {
	b.t.Helper()
	for end := time.Now().Add(deadline); !condition(); {
		if time.Now().After(end) {
			b.t.Fatalf("never: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// do asks nginx for a host.
func (b *balancer) do(method, host, path string, body io.Reader) (int, string) {
	b.t.Helper()
	req, err := http.NewRequest(method, "http://"+b.address+":8080"+path, body)
	must(b.t, err)
	req.Host = host
	client := &http.Client{Timeout: deadline, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	must(b.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(b.t, err)
	return res.StatusCode, string(text)
}

// backend serves in the place of a router, on an address of its own. kill ends
// it as a crash does: connections and port at once.
func backend(t *testing.T, address string) (kill func()) {
	t.Helper()
	l, err := net.Listen("tcp", address+":8081")
	must(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Upgrade") == "websocket":
			conn, both, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = both.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
			_ = both.Flush()
			_, _ = io.Copy(conn, both)
		case r.URL.Path == "/digest":
			digest := sha256.New()
			n, _ := io.Copy(digest, r.Body)
			fmt.Fprintf(w, "%d %x", n, digest.Sum(nil))
		case r.URL.Path == "/echo":
			_ = http.NewResponseController(w).EnableFullDuplex()
			in := bufio.NewReader(r.Body)
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				_, _ = io.WriteString(w, line)
				_ = http.NewResponseController(w).Flush()
			}
		default:
			from, _, _ := net.SplitHostPort(r.RemoteAddr)
			fmt.Fprintf(w, "%s host=%s uri=%s for=%s proto=%s from=%s connection=%q", address, r.Host, r.RequestURI,
				r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), from, r.Header.Get("Connection"))
		}
	})}
	var group sync.WaitGroup
	group.Go(func() { _ = server.Serve(l) })
	kill = sync.OnceFunc(func() { server.Close(); group.Wait() })
	t.Cleanup(kill)
	return kill
}

// TestNginx runs the real nginx with what the job renders, before two routers.
func TestNginx(t *testing.T) {
	b := newBalancer(t)
	first, second, third := loopback(), loopback(), loopback()
	killFirst := backend(t, first)
	backend(t, second)
	g1 := filepath.Join(b.dir, "generations", "1")
	b.render(g1, fmt.Sprintf("routers = [%q, %q]\nmax_body_mb = 64", first, second))

	check := b.job.Spec.Hooks[0]
	if out, err := b.cmd(check.Command, "DEPLOY_STAGED="+g1).CombinedOutput(); err != nil {
		t.Fatalf("check: %v: %s", err, out)
	}
	b.activate(g1)
	b.start()

	served := map[string]bool{}
	for range 20 {
		status, body := b.do("GET", "hello.cf.localhost:8080", "/a%2Fb//c?x=1;2", nil)
		router, rest, _ := strings.Cut(body, " ")
		served[router] = true
		want := fmt.Sprintf(`host=hello.cf.localhost:8080 uri=/a%%2Fb//c?x=1;2 for=127.0.0.1 proto=http from=%s connection=""`, b.address)
		if status != 200 || rest != want {
			t.Fatalf("%d\n%s, want\n%s", status, rest, want)
		}
	}
	if !served[first] || !served[second] {
		t.Errorf("served by %v only", served)
	}
	for _, host := range []string{"elsewhere.test", b.address, "cf.localhost"} {
		if status, body := b.do("GET", host, "/", nil); status != 404 {
			t.Errorf("host %s: %d %s", host, status, body)
		}
	}
	if status, _ := b.do("GET", "www.example.com", "/.deploy/generation", nil); status != 200 {
		t.Errorf("an app's path: %d", status)
	}

	t.Run("websocket", func(t *testing.T) {
		conn, err := net.Dial("tcp", b.address+":8080")
		must(t, err)
		defer conn.Close()
		must(t, conn.SetDeadline(time.Now().Add(deadline)))
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a.cf.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		must(t, err)
		if res.StatusCode != 101 {
			t.Fatal(res.Status)
		}
		for range 3 {
			fmt.Fprint(conn, "hello\n")
			if line, err := in.ReadString('\n'); err != nil || line != "hello\n" {
				t.Fatalf("%q, %v", line, err)
			}
		}
	})
	t.Run("streams", func(t *testing.T) {
		r, w := io.Pipe()
		req, err := http.NewRequest("POST", "http://"+b.address+":8080/echo", r)
		must(t, err)
		req.Host = "a.cf.localhost"
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		go func() { _, _ = io.WriteString(w, "one\n") }()
		// The answer begins while the request has not ended: nothing is buffered.
		res, err := http.DefaultClient.Do(req.WithContext(ctx))
		must(t, err)
		defer res.Body.Close()
		in := bufio.NewReader(res.Body)
		line, err := in.ReadString('\n')
		if err != nil || line != "one\n" {
			t.Fatalf("%q, %v", line, err)
		}
		w.Close()
	})
	t.Run("big POST", func(t *testing.T) {
		big := strings.Repeat("0123456789abcdef", 2<<20) // 32 MiB
		status, body := b.do("POST", "a.cf.localhost", "/digest", io.MultiReader(strings.NewReader(big)))
		if want := fmt.Sprintf("%d %x", len(big), sha256.Sum256([]byte(big))); status != 200 || body != want {
			t.Errorf("%d %s, want %s", status, body, want)
		}
		if status, _ := b.do("POST", "a.cf.localhost", "/digest", strings.NewReader(big+big+"x")); status != 413 {
			t.Errorf("too big: %d", status)
		}
	})
	t.Run("a router dies", func(t *testing.T) {
		killFirst()
		for i := range 40 {
			status, body := b.do("POST", "a.cf.localhost", "/", strings.NewReader("x"))
			if status != 200 || !strings.HasPrefix(body, second) {
				t.Fatalf("request %d: %d %s", i, status, body)
			}
		}
	})
	t.Run("reload", func(t *testing.T) {
		backend(t, third)
		verify := b.job.Spec.Processes[0].Reload.Verify
		must(t, b.cmd(verify).Run()) // the present configuration answers
		g2 := filepath.Join(b.dir, "generations", "2")
		b.render(g2, fmt.Sprintf("routers = [%q]", third))
		b.activate(g2)
		must(t, b.command.Process.Signal(syscall.SIGHUP))
		if out, err := b.cmd(verify).CombinedOutput(); err != nil {
			t.Fatalf("verify: %v: %s", err, out)
		}
		b.eventually("the new router only", func() bool {
			_, body := b.do("GET", "a.cf.localhost", "/", nil)
			return strings.HasPrefix(body, third)
		})
		// A configuration that nginx did not take must not be believed.
		g3 := filepath.Join(b.dir, "generations", "3")
		b.render(g3, fmt.Sprintf("routers = [%q, %q]", second, third))
		b.activate(g3)
		began := time.Now()
		if out, err := b.cmd(verify).CombinedOutput(); err == nil || !strings.Contains(string(out), "another configuration") {
			t.Errorf("believed: %v %s", err, out)
		}
		if took := time.Since(began); took > 25*time.Second {
			t.Errorf("gives up after %v, later than the reload's time-out", took)
		}
	})
	t.Run("check", func(t *testing.T) {
		broken := filepath.Join(b.dir, "generations", "broken")
		b.render(broken, fmt.Sprintf("routers = [%q]", first))
		must(t, os.WriteFile(filepath.Join(broken, "nginx.conf"), []byte("worker_processes many;"), 0o600))
		if out, err := b.cmd(check.Command, "DEPLOY_STAGED="+broken).CombinedOutput(); err == nil || !strings.Contains(string(out), "invalid value") {
			t.Errorf("a broken file passes: %v %s", err, out)
		}
	})
	must(t, b.command.Process.Signal(syscall.SIGQUIT))
	must(t, b.command.Wait())
}
