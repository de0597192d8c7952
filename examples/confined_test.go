//go:build e2e

package examples

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// spyFiles are an app whose Gemfile and whose own program run jobs/confine/hostile
// with these variables. The Gemfile's lock is made before the Gemfile is hostile.
func spyFiles(t *testing.T, variables map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	must := func(cmd *exec.Cmd) {
		t.Helper()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
	const gems = "source 'https://rubygems.org'\ngem 'rack'\ngem 'webrick'\n"
	write("Gemfile", gems)
	lock := exec.Command("/usr/bin/ruby", "-S", "bundle", "lock", "--local")
	lock.Dir = dir
	must(lock)
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "hostile"), "github.com/clusterworks/deploy/jobs/confine/hostile")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	must(build)
	run := "require 'fileutils'\n"
	for name, value := range variables {
		run += fmt.Sprintf("ENV[%q] = %q\n", name, value)
	}
	// A copy, since an upload does not keep modes.
	run += "FileUtils.cp('hostile', 'copy')\nFileUtils.chmod(0755, 'copy')\nsaid = `./copy`\n"
	write("config.ru", run+"run ->(_) { [200, {'content-type' => 'text/plain'}, [said]] }\n")
	write("Gemfile", gems+"unless ENV['VCAP_APP_PORT'] # while it is staged\n"+run+"puts 'uid ' + Process.uid.to_s, said\nend\n")
	return dir
}

// mustTellLevels wants status, plan and doctor to tell the isolation of apps, and, if
// the machine offers less than full, the plan to say so when that is required.
func (p *platform) mustTellLevels(root bool) {
	p.t.Helper()
	packed := func(words ...string) string { // JSON without its blanks
		out, _ := p.run(words[0], words[1:]...)
		return strings.Join(strings.Fields(out), "")
	}
	// An ordinary user has control groups where the machine lets it make some.
	level := "full"
	if out := packed("status", "--json"); !root && strings.Contains(out, `"facts":{"isolation":"namespaces"}`) {
		level = "namespaces"
	} else if !strings.Contains(out, `"facts":{"isolation":"full"}`) {
		p.t.Errorf("status --json:\n%s", out)
	}
	weak := level != "full"
	for command, want := range map[string]string{
		"status": "isolation: " + level + " on stager/0, dea/0", "plan": "isolation: " + level + " on stager/0, dea/0", "doctor": level + " on stager/0, dea/0",
	} {
		if out, code := p.run(command); code != 0 || !strings.Contains(out, want) {
			p.t.Errorf("%s exits with %d without %q:\n%s", command, code, want, out)
		}
	}
	p.edit("max_memory_mb = 1024", "max_memory_mb = 1024\n      isolation     = \"full\"")
	below := "isolation of job dea on dea/0 is namespaces, less than full, which the manifest requires"
	if out, _ := p.run("plan"); strings.Contains(out, below) != weak {
		p.t.Errorf("plan, with full isolation required:\n%s", out)
	}
	if out := packed("plan", "--json"); !strings.Contains(out, `"least":"full"`) || strings.Contains(out, `"below":true`) != weak {
		p.t.Errorf("plan --json, with full isolation required:\n%s", out)
	}
	if out, code := p.run("apply", "--auto-approve"); (code != 0) != weak {
		p.t.Errorf("apply, with full isolation required, exits with %d:\n%s", code, out)
	}
}

// TestConfined stages and runs an app of each runtime on a platform of an ordinary
// user's, and there and on one of root's a hostile app with a hostile Gemfile: all
// that these try is denied. The deployer's secrets, agents' sockets and other apps
// are out of their reach.
func TestConfined(t *testing.T) {
	t.Parallel()
	java := filepath.Join(t.TempDir(), "java")
	if out, err := exec.Command("sh", "-c", "cp -r apps/java "+java+" && cd "+java+" && ./build.sh").CombinedOutput(); err != nil {
		t.Fatalf("cannot build the Java app: %v\n%s", err, out)
	}
	type app struct{ name, path, want string }
	node := app{"node", "apps/node", "Hello from node/"}
	for _, tc := range []struct {
		who  string
		apps []app
	}{
		{"root", []app{node}},
		{"an ordinary user", []app{
			{"python", "apps/python", "Hello from python/"}, {"ruby", "apps/ruby", "Hello from ruby/"},
			{"java", java, "Hello from java/"}, {"static", "apps/static", "<html"}, node,
		}},
	} {
		t.Run(tc.who, func(t *testing.T) {
			var u *user
			if tc.who != "root" {
				u = newUser(t) // before the platform, which is gone before its user is
			}
			p := startPlatform(t, "cluster-small.hcl", "cf.localhost")
			if u != nil {
				p.belongTo(u, "cluster")
			}
			p.mustApply()
			p.register()
			for i, app := range tc.apps {
				p.mustVmc("push", app.name, "--path", app.path)
				p.mustServe(app.name, app.want)
				if i < len(tc.apps)-1 {
					p.mustVmc("delete", "--force", app.name)
				}
			}
			machine, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer machine.Close()
			foreign, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			foreign.Close() // free, and not the app's
			_, port, _ := net.SplitHostPort(foreign.Addr().String())
			abstract := "deploy-" + filepath.Base(t.TempDir()) + port
			one, err := net.Listen("unix", "@"+abstract)
			if err != nil {
				t.Fatal(err)
			}
			defer one.Close()
			secrets := filepath.Join(p.state, "cf", "secrets.json")
			socket := filepath.Join(p.state, "cf", "vms", "dea-0", "agent", "run", "agent.sock")
			for _, file := range []string{secrets, socket} {
				if _, err := os.Stat(file); err != nil {
					t.Fatal(err)
				}
			}
			var victims []instance
			within(t, time.Minute, "node runs", func() bool { victims = p.running(node.name); return len(victims) > 0 })
			victim := victims[0]
			spy := spyFiles(t, map[string]string{
				"SECRET": secrets, "SOCKET": socket, "MACHINE": machine.Addr().String(), "FOREIGN": port, "ABSTRACT": abstract,
				"VICTIM_PORT": fmt.Sprintf("%s:%d", victim.Host, victim.Port), "VICTIM": "1",
			})
			p.mustVmc("push", "spy", "--path", spy, "--framework", "rack", "--runtime", "ruby")
			p.mustServe("spy", "ATTEMPTS ARE OVER")
			page, err := page(p.listen, "spy."+p.domain)
			if err != nil {
				t.Fatal(err)
			}
			log := p.mustVmc("files", "spy", "logs/staging.log")
			if u == nil && strings.Contains(log, "uid 0\n") {
				t.Errorf("the Gemfile runs as root:\n%s", log)
			}
			for what, said := range map[string]string{"Gemfile": log, "app": page} {
				if n := strings.Count(said, "ATTEMPT "); n < 50 || strings.Contains(said, " did\n") || !strings.Contains(said, "ATTEMPTS ARE OVER") {
					t.Errorf("the hostile %s made %d attempts:\n%s", what, n, said)
				}
			}
			p.mustServe(node.name, node.want)
			p.mustTellLevels(u == nil)
		})
	}
}
