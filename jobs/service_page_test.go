package jobs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/format"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/jobs"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
	"github.com/clusterworks/deploy/jobs/wire"
	"github.com/clusterworks/deploy/manifests"
)

var (
	pageFile    = regexp.MustCompile("(?m)^`([^`]+)`:\n\n```[a-z]*\n((?s:.*?))^```$")
	pageCommand = regexp.MustCompile(`(?m)^\$ (.*)$`)
	busURIs     = regexp.MustCompile(`nats://[^"\n]+`)
)

// TestServicePage types the page on services of one's own as it stands there, builds
// what it makes, and uses the service as the cloud controller and an app do: the
// gateway and the node are the page's programs with the page's files, each with the
// user of the bus that its job.hcl says.
func TestServicePage(t *testing.T) {
	t.Parallel()
	dir := writePage(t)
	job := os.DirFS(filepath.Join(dir, "jobs"))
	bus := componenttest.Bus(t, natstest.UsersOf(t, job, "echo_gateway", "echo_node"))
	controller := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Header.Get("X-VCAP-Service-Token") != "token-of-echo" {
			t.Errorf("%s with the token %q", r.URL, r.Header.Get("X-VCAP-Service-Token"))
		}
		_, _ = io.WriteString(w, `{"handles": []}`)
	}))
	t.Cleanup(controller.Close)
	address, gateway := loopback(), loopback()
	node := runRendered(t, job, "echo_node", address, strings.NewReplacer("BUS", natstest.URI(bus, "echo_node")))
	runRendered(t, job, "echo_gateway", gateway, strings.NewReplacer("BUS", natstest.URI(bus, "echo_gateway"), "CONTROLLER", strings.TrimPrefix(controller.URL, "http://")))

	ask := func(method, path, body string) (int, wire.ServiceHandle) {
		request, err := http.NewRequest(method, "http://"+gateway+":9101/gateway/v1/configurations"+path, strings.NewReader(body))
		must(t, err)
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("X-VCAP-Service-Token", "token-of-echo")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0, wire.ServiceHandle{}
		}
		defer response.Body.Close()
		var h wire.ServiceHandle
		must(t, json.NewDecoder(response.Body).Decode(&h))
		return response.StatusCode, h
	}
	var instance wire.ServiceHandle
	componenttest.Eventually(t, "an instance is made", func() bool {
		var status int
		status, instance = ask("POST", "", `{"label": "echo-1.0", "name": "mine", "plan": "free"}`)
		return status == http.StatusOK
	})
	status, binding := ask("POST", "/"+instance.ServiceID+"/handles", `{"label": "echo-1.0"}`)
	if status != http.StatusOK {
		t.Fatalf("bind: %d", status)
	}
	c := binding.Credentials
	says := func(user, password string) string {
		request, err := http.NewRequest("POST", fmt.Sprintf("http://%s:%d/", c.Text("host"), c.Number("port")), strings.NewReader("hello"))
		must(t, err)
		request.SetBasicAuth(user, password)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		must(t, err)
		return fmt.Sprint(response.StatusCode, " ", string(body))
	}
	if got := says(c.User(), c.Text("password")); got != "200 hello" {
		t.Errorf("its user hears %q", got)
	}
	if got := says(c.User(), "wrong"); !strings.HasPrefix(got, "401") {
		t.Errorf("somebody else hears %q", got)
	}
	node() // killed, and begun again with the same records
	componenttest.Eventually(t, "the user is known to a new process", func() bool { return says(c.User(), c.Text("password")) == "200 hello" })
	componenttest.Eventually(t, "the user is removed", func() bool {
		status, _ := ask("DELETE", "/"+instance.ServiceID+"/handles/"+binding.ServiceID, "{}")
		return status == http.StatusOK
	})
	if got := says(c.User(), c.Text("password")); !strings.HasPrefix(got, "401") {
		t.Errorf("a user who was removed hears %q", got)
	}
	if status, _ := ask("DELETE", "/"+instance.ServiceID, "{}"); status != http.StatusOK {
		t.Errorf("unprovision: %d", status)
	}
}

// writePage writes the page's files into a folder and types its commands there.
func writePage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("component/SERVICE.md")
	must(t, err)
	if n := bytes.Count(page, []byte("\n")); n >= 150 {
		t.Errorf("the page has %d lines, want fewer than 150", n)
	}
	dir := t.TempDir()
	must(t, os.CopyFS(filepath.Join(dir, "jobs"), jobs.FS))
	files := pageFile.FindAllSubmatch(page, -1)
	for _, m := range files {
		path := filepath.Join(dir, string(m[1]))
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, m[2], 0o600))
		if formatted, err := format.Source(m[2]); strings.HasSuffix(path, ".go") && (err != nil || !bytes.Equal(formatted, m[2])) {
			t.Errorf("%s is not formatted: %v", m[1], err)
		}
	}
	commands := pageCommand.FindAllSubmatch(page, -1)
	for _, m := range commands {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", string(m[1]))
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", m[1], err, out)
		}
	}
	if len(files) != 4 || len(commands) != 3 {
		t.Errorf("%d files and %d commands were found on the page", len(files), len(commands))
	}
	return dir
}

// buildProgram builds a program as if the folder's Go files were in this one.
func buildProgram(t *testing.T, folder fs.FS, program, binary string) {
	t.Helper()
	root, err := filepath.Abs("..")
	must(t, err)
	overlay := map[string]map[string]string{"Replace": {}}
	source := t.TempDir()
	target := "./jobs/component/cmd/" + program
	must(t, fs.WalkDir(folder, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" {
			return err
		}
		if filepath.Base(path) == "main.go" && strings.HasPrefix(path, program+"/") {
			target = "./jobs/" + filepath.Dir(path)
		}
		text, err := fs.ReadFile(folder, path)
		if err != nil {
			return err
		}
		copied := filepath.Join(source, strings.ReplaceAll(path, "/", "-"))
		overlay["Replace"][filepath.Join(root, "jobs", path)] = copied
		return os.WriteFile(copied, text, 0o600)
	}))
	text, err := json.Marshal(overlay)
	must(t, err)
	file := filepath.Join(source, "overlay.json")
	must(t, os.WriteFile(file, text, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", file, "-o", binary, target)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the page's program %s: %v\n%s", program, err, out)
	}
}

// runRendered builds a job's program, renders the job's file for an instance at an
// address, and runs the program with it until the test ends; again kills it and runs
// it once more. The bus and the controller are the test's.
func runRendered(t *testing.T, folder fs.FS, name, address string, where *strings.Replacer) (again func()) {
	t.Helper()
	manifest := `
deployment "echo" { domain = "cf.localhost" }
infrastructure "local" {}
secret "echo" { type = "password" }
vm "small" {
  cpus      = 1
  memory_mb = 512
}
group "nats" {
  instances = 1
  vm        = vm.small
  job "nats" {
    properties { password = "password" }
  }
}
group "cloud_controller" {
  instances = 1
  vm        = vm.small
  job "cloud_controller" {
    properties {
      external_uri     = "api.cf.localhost"
      database         = "sqlite"
      secret           = "secret-of-the-test"
      builtin_services = { echo = "token-of-echo" }
    }
  }
}
group "own" {
  instances = 1
  vm        = vm.small
  job "` + name + `" {
    properties {
      ` + map[string]string{"echo_gateway": `token = "token-of-echo"`}[name] + `
    }
  }
}
`
	m, diags := manifests.Load(fstest.MapFS{"cluster.hcl": {Data: []byte(manifest)}}, "cluster.hcl", manifests.Options{Jobs: folder})
	mustBeFine(t, diags)
	dir := t.TempDir()
	at := func(group, address string) []manifests.Instance {
		return []manifests.Instance{{Group: group, Address: address, AgentDir: dir}}
	}
	job := m.Group("own").Jobs[0]
	program := map[string]string{"echo_node": "echo_node", "echo_gateway": "service_gateway"}[name]
	vars, diags := m.JobContext(manifests.Facts{
		Instances: map[string][]manifests.Instance{"own": at("own", address), "nats": at("nats", "127.0.0.1"), "cloud_controller": at("cloud_controller", "127.0.0.1")},
		Packages:  map[string]string{program: "0"},
	}, "own", 0, job)
	mustBeFine(t, diags)
	configuration := ""
	for _, template := range job.Spec.Templates {
		if template.Source == "bus-ca.pem" {
			continue // the test's bus speaks no TLS
		}
		source, err := fs.ReadFile(job.Spec.FS, "templates/"+template.Source)
		must(t, err)
		expr, diags := hclsyntax.ParseTemplate(source, template.Source, hcl.InitialPos)
		mustBeFine(t, diags)
		value, diags := expr.Value(vars)
		mustBeFine(t, diags)
		value, _ = value.UnmarkDeep()
		if value.Type() != cty.String || !value.IsKnown() {
			t.Fatalf("%s is %#v", template.Source, value)
		}
		text := busURIs.ReplaceAllString(value.AsString(), "BUS")
		text = regexp.MustCompile(`(?m)^ca: .*$`).ReplaceAllString(text, "")
		text = strings.ReplaceAll(text, "127.0.0.1:9022", "CONTROLLER")
		configuration = filepath.Join(dir, template.Destination)
		must(t, os.WriteFile(configuration, []byte(where.Replace(text)), os.FileMode(template.Mode)))
	}
	binary := filepath.Join(dir, program)
	buildProgram(t, folder, program, binary)
	run := func() (kill func()) {
		cmd := exec.Command(binary, "-c", configuration)
		cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
		must(t, cmd.Start())
		return sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	kill := run()
	t.Cleanup(func() { kill() })
	return func() { kill(); kill = run() }
}
