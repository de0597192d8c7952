//go:build e2e

package examples

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTemplateVM clones a VM that has every component, and does with it what
// the article does by hand.
func TestTemplateVM(t *testing.T) {
	t.Parallel()
	p := startPlatform(t, "template-vm/cluster.hcl", "devbox.localhost")
	c := p.cluster
	folder := filepath.Dir(c.manifest)
	for _, name := range []string{"components", "image"} {
		if err := os.CopyFS(filepath.Join(folder, name), os.DirFS(filepath.Join("template-vm", name))); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("template-vm/fill.sh", filepath.Join(folder, "image")).CombinedOutput(); err != nil {
		t.Fatalf("fill.sh: %v\n%s", err, out)
	}
	router := filepath.Join(folder, "image", "devbox", "config", "router.yml")
	if err := os.Chmod(router, 0o640); err != nil {
		t.Fatal(err)
	}
	c.edit("secret.nats.value", `"first-password"`)

	c.edit(`min_healthy_time = "1s"`, `min_healthy_time = "300ms"`)

	source, err := os.ReadFile(router)
	if err != nil {
		t.Fatal(err)
	}
	c.mustApply()
	before := c.mustAllRun(9)
	address := map[string]string{}
	for _, in := range before.Instances {
		address[in.ID] = in.Address
	}
	config := func(vm, name string) string {
		return filepath.Join(c.state, "devbox", "vms", vm, "image", "devbox", "config", name)
	}
	read := func(path string) string {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	clones := []string{"router-0", "router-1", "hello-0", "hello-1", "both-0", "cloud_controller-0", "stager-0", "dea-0"}
	files := []string{"router.yml", "hello.yml", "stager.yml", "cloud_controller.yml", "health_manager.yml", "dea.yml", "nats_server.yml"}
	// rewritten checks every file of every clone, byte by byte.
	rewritten := func(t *testing.T, password string) {
		t.Helper()
		for _, vm := range clones {
			for _, name := range files {
				image := read(filepath.Join(folder, "image", "devbox", "config", name))
				want := strings.Replace(image, "nats:nats@172.17.4.219", "nats:"+password+"@"+address["nats/0"], 1)
				if got := read(config(vm, name)); got != want {
					t.Errorf("%s on %s is\n%s\nwant\n%s", name, vm, got, want)
				}
			}
		}
		if got := read(router); got != string(source) {
			t.Errorf("the image itself was changed to\n%s", got)
		}
	}
	rewritten(t, "first-password")
	if info, err := os.Stat(config("router-0", "router.yml")); err != nil || info.Mode() != 0o640 {
		t.Errorf("router.yml has the mode %v, %v", info.Mode(), err)
	}

	t.Run("just the components of each VM run", func(t *testing.T) {
		got := map[string]string{}
		for _, in := range before.Instances {
			for _, p := range in.Processes {
				got[in.Group] = strings.TrimSpace(got[in.Group] + " " + p.Name)
			}
		}
		want := map[string]string{"nats": "nats", "router": "router router", "hello": "hello hello", "both": "hello router",
			"cloud_controller": "cloud_controller health_manager", "stager": "stager", "dea": "dea"}
		for group, names := range want {
			if got[group] != names {
				t.Errorf("group %s runs %q, want %q", group, got[group], names)
			}
		}
	})

	t.Run("pages through every router, from every clone", func(t *testing.T) {
		for _, through := range []string{c.listen, net.JoinHostPort(address["router/0"], "8080"), net.JoinHostPort(address["router/1"], "8080"), net.JoinHostPort(address["both/0"], "8080")} {
			seen := map[string]bool{}
			within(t, 30*time.Second, "all three clones of hello answer through "+through, func() bool {
				body, err := page(through, "hello.devbox.localhost")
				if err != nil {
					return false // routes arrive over the bus
				}
				_, at, _ := strings.Cut(strings.TrimSpace(body), ", at ")
				seen[at] = true
				return seen[address["hello/0"]] && seen[address["hello/1"]] && seen[address["both/0"]]
			})
		}
	})

	t.Run("an app is pushed and served, and comes back", func(t *testing.T) {
		p.register()
		p.mustVmc("push", "--path", "apps/node", "--memory", "64M", "--url", "node.devbox.localhost")
		p.mustServe("node", "Hello from node/")
		kill(t, p.process(p.mustRun("node", 2, nil)[1], "server.js"))
		p.mustRun("node", 2, nil)
	})

	t.Run("a second apply does nothing", func(t *testing.T) {
		if r := c.applyJSON(); r.Changed {
			t.Errorf("it cost %+v", r)
		}
	})

	// restarted are the processes with another pid than before.
	pids := before.pids()
	restarted := func(t *testing.T) map[string]bool {
		t.Helper()
		out := map[string]bool{}
		after := c.mustAllRun(9).pids()
		for name, pid := range after {
			if pid != pids[name] {
				out[name] = true
			}
		}
		pids = after
		return out
	}

	t.Run("a file changed by hand restarts its component only", func(t *testing.T) {
		file := config("both-0", "hello.yml")
		if err := os.WriteFile(file, []byte(strings.Replace(read(file), address["nats/0"], "127.0.0.99", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		out, code := c.run("plan")
		mustTell(t, out, code, 2, "both/0 restart", "restart process devbox-hello/hello", "hello.yml: line 4, mbus: nats://nats:***@127.0.0.99:4222 -> ")
		if strings.Contains(out, "first-password") || strings.Contains(out, "process devbox-router/router") {
			t.Errorf("the plan is\n%s", out)
		}
		c.mustApply()
		if got := restarted(t); len(got) != 1 || !got["both/0 hello"] {
			t.Errorf("restarted: %v", got)
		}
		rewritten(t, "first-password")
	})

	t.Run("a new password of the bus", func(t *testing.T) {
		c.edit("first-password", "second-password")
		out, code := c.run("plan")
		mustTell(t, out, code, 2, "restart process devbox-router/router: message-bus URIs (link bus (property password)) changed", "restart process devbox-dea/dea: message-bus URIs (link bus (property password)) changed")
		if strings.Contains(out, "second-password") {
			t.Errorf("the plan shows the password:\n%s", out)
		}
		c.mustApply()
		got := restarted(t)
		if len(got) != 10 || got["nats/0 nats"] {
			t.Errorf("restarted: %v", got)
		}
		p.mustRun("node", 2, nil) // they had no other DEA to go to, and come back
		p.mustServe("node", "Hello from node/")
		rewritten(t, "second-password")
		if body, err := page(c.listen, "hello.devbox.localhost"); err != nil || !strings.Contains(body, "Hello from a clone of the devbox") {
			t.Errorf("the page is %q, %v", body, err)
		}
	})

	t.Run("a file that cannot be read stops the apply before anything moves", func(t *testing.T) {
		file := config("router-1", "stager.yml")
		good := read(file)
		broken := strings.Replace(good, `4222/"`, "4222/", 1)
		if err := os.WriteFile(file, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		c.edit("second-password", "third-password")
		out, code := c.run("apply", "--auto-approve")
		mustTell(t, out, code, 1, "router/1", file, "nothing was touched")
		if strings.Contains(out, "second-password") || strings.Contains(out, "third-password") {
			t.Errorf("the output shows a password:\n%s", out)
		}
		if read(file) != broken {
			t.Errorf("the file was changed to\n%s", read(file))
		}
		if got := c.status().pids(); got["router/0 router"] != pids["router/0 router"] || got["router/1 router"] != pids["router/1 router"] {
			t.Errorf("pids were %v and are %v", pids, got)
		}
		if err := os.WriteFile(file, []byte(good), 0o600); err != nil {
			t.Fatal(err)
		}
		c.mustApply()
		rewritten(t, "third-password")
	})
}
