package stager

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/host/unpack"
)

// unpackDroplet unpacks a droplet as a DEA does.
func unpackDroplet(t *testing.T, droplet []byte) (folder string) {
	t.Helper()
	folder = t.TempDir()
	if err := unpack.TarGz(t.Context(), bytes.NewReader(droplet), folder, unpack.Options{Bytes: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	return folder
}

// freePort is one that nobody listens on, below those that the kernel gives out.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(10000)
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// instance is a droplet that runs as it does in a DEA.
type instance struct {
	t      *testing.T
	folder string
	port   int // 0: none
	cmd    *exec.Cmd
	ended  chan error
}

func run(t *testing.T, droplet []byte, runtime string, hasPort bool, env ...string) *instance {
	t.Helper()
	i := &instance{t: t, folder: unpackDroplet(t, droplet), ended: make(chan error, 1)}
	startup := filepath.Join(i.folder, "startup")
	text, err := os.ReadFile(startup)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"startup", "stop"} {
		if info, err := os.Stat(filepath.Join(i.folder, name)); err != nil || info.Mode() != 0o500 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if err := os.Remove(startup); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(startup, bytes.ReplaceAll(text, []byte("%VCAP_LOCAL_RUNTIME%"), []byte(runtime)), 0o500); err != nil {
		t.Fatal(err)
	}
	// By way of bash: another test may be forking while the file is still open.
	i.cmd = exec.Command("/bin/bash", "./startup")
	i.cmd.Dir = i.folder
	i.cmd.Env = append([]string{"HOME=" + i.folder, `VCAP_APPLICATION={"name":"app","instance_index":3}`}, env...)
	if hasPort {
		i.port = freePort(t)
		i.cmd.Args = append(i.cmd.Args, "-p", strconv.Itoa(i.port))
		i.cmd.Env = append(i.cmd.Env, fmt.Sprintf("VCAP_APP_PORT=%d", i.port))
	}
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	i.cmd.Stdout, i.cmd.Stderr = t.Output(), t.Output()
	if err := i.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		i.ended <- i.cmd.Wait()
		close(i.ended)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-i.cmd.Process.Pid, syscall.SIGKILL)
		<-i.ended
		if t.Failed() {
			t.Logf("%s\nstdout: %s\nstderr: %s", text, i.log("stdout.log"), i.log("stderr.log"))
		}
	})
	return i
}

func (i *instance) log(name string) string {
	text, err := os.ReadFile(filepath.Join(i.folder, "logs", name))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// ask gets a page, or posts text if there is some.
func (i *instance) ask(text string) (string, error) {
	url := fmt.Sprintf("http://127.0.0.1:%d/", i.port)
	client := &http.Client{Timeout: deadline, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(url)
	if text != "" {
		if err == nil {
			res.Body.Close()
		}
		res, err = client.Post(url, "text/plain", strings.NewReader(text))
	}
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s: %s", res.Status, body)
	}
	return string(body), err
}

// pid is the app's, as startup wrote it.
func (i *instance) pid() int {
	i.t.Helper()
	var pid int
	eventually(i.t, "run.pid", func() bool {
		text, err := os.ReadFile(filepath.Join(i.folder, "run.pid"))
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil
	})
	return pid
}

// The folder of the examples, which these tests push.
const apps = "../../examples/apps"

// TestApps: each example is staged, runs, answers, and leaves when it gets TERM,
// with status 0 (Java's is 143, as its own).
func TestApps(t *testing.T) {
	p := newPlatform(t)
	dir := t.TempDir()
	staticServer := filepath.Join(dir, "static_server")
	build(t, ".", nil, "go", "build", "-o", staticServer, "github.com/clusterworks/deploy/jobs/stager/cmd/static_server")
	build(t, filepath.Join(apps, "go"), []string{"CGO_ENABLED=0"}, "go", "build", "-o", filepath.Join(dir, "go", "hello"), ".")
	build(t, ".", nil, filepath.Join(apps, "java", "build.sh"), filepath.Join(dir, "java"))
	p.start("static_server: " + staticServer)
	for _, tc := range []struct {
		name, folder string
		framework    string
		runtime      string
		executable   string
		page, posted string
		status       int
	}{
		{"node", filepath.Join(apps, "node"), "node", "node", "/usr/bin/node", `^Hello from app/3, in Node\.js v\d+`, `, 5 bytes read\n$`, 0},
		{"python", filepath.Join(apps, "python"), "wsgi", "python", "/usr/bin/python3", `^Hello from app/3, in Python 3`, `, 5 bytes read\n$`, 0},
		{"ruby", filepath.Join(apps, "ruby"), "rack", "ruby", "/usr/bin/ruby", `^Hello from app/3, in Ruby `, `, 5 bytes read\n$`, 0},
		{"java", filepath.Join(dir, "java"), "java_web", "java", "/usr/bin/java", `^Hello from app/3, in Java `, `, 5 bytes read\n$`, 143},
		{"static", filepath.Join(apps, "static"), "static", "static", "", `<h1>Hello from static files</h1>`, "", 0},
		{"go", filepath.Join(dir, "go"), "binary", "binary", "", `^Hello from app/3, in go1`, `, 5 bytes read\n$`, 0},
	} {
		p.putFolder(tc.name, tc.folder)
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			answer, err := p.ask(tc.name, properties(tc.framework, tc.runtime))
			if err != nil || answer.Error != "" {
				t.Fatalf("%v, %s\n%s", err, answer.Error, answer.TaskLog)
			}
			i := run(t, p.droplet(tc.name), tc.executable, true)
			var page string
			eventually(t, "a page", func() (ok bool) {
				select {
				case err := <-i.ended:
					t.Fatalf("it ended: %v", err)
				default:
				}
				var err error
				page, err = i.ask("")
				return err == nil
			})
			if !regexp.MustCompile(tc.page).MatchString(page) {
				t.Errorf("page %q", page)
			}
			if tc.posted != "" {
				if page, err := i.ask("12345"); err != nil || !regexp.MustCompile(tc.posted).MatchString(page) {
					t.Errorf("posted: %q, %v", page, err)
				}
			}
			if tc.framework == "java_web" {
				eventually(t, "tomcat.state", func() bool {
					state, err := os.ReadFile(filepath.Join(i.folder, "tomcat.state"))
					return err == nil && string(state) == `{"state":"RUNNING"}`+"\n"
				})
				if text, err := os.ReadFile(filepath.Join(i.folder, "droplet.yaml")); string(text) != "state_file: tomcat.state\n" {
					t.Errorf("droplet.yaml %q, %v", text, err)
				}
			}
			// To bash alone, which hands it on.
			if err := syscall.Kill(i.cmd.Process.Pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			err = waitEnd(t, i)
			var exit *exec.ExitError
			if status := i.cmd.ProcessState.ExitCode(); status != tc.status || err != nil && !errors.As(err, &exit) {
				t.Errorf("left with %d, %v; want %d", status, err, tc.status)
			}
		})
	}
}

// TestStartScripts: what package.json starts an app with runs as npm start runs it:
// lines for a shell, options of node's own, and what comes before the start. The port
// goes to nobody who did not ask for it.
func TestStartScripts(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.start("")
	const server = `require('http').createServer((q, r) => r.end('arguments ' + process.argv.length + ', ' + (process.env.A || '') + require('fs').existsSync('made'))).listen(process.env.VCAP_APP_PORT)`
	for name, tc := range map[string]struct{ scripts, page string }{
		"plain":    {`"start": "node server.js"`, "arguments 4, false"}, // -p PORT, as the original
		"flags":    {`"start": "node server.js --fast"`, "arguments 5, false"},
		"pipeline": {`"start": "node server.js | cat"`, "arguments 2, false"},
		"eval":     {`"start": "node -e \"require('./server.js')\""`, "arguments 1, false"},
		"options":  {`"start": "node --no-warnings server.js"`, "arguments 2, false"},
		"list":     {`"start": "echo first && A=x node server.js"`, "arguments 2, xfalse"},
		"quotes":   {`"start": "node 'server.js'"`, "arguments 2, false"},
		"before":   {`"prestart": "touch made", "start": "node server.js"`, "arguments 4, true"},
	} {
		folder := t.TempDir()
		for file, text := range map[string]string{"server.js": server, "package.json": `{"scripts": {` + tc.scripts + `}}`} {
			if err := os.WriteFile(filepath.Join(folder, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		p.putFolder(name, folder)
		if answer := p.request(name, properties("node", "node")); answer.Error != "" {
			t.Errorf("%s: %v", name, answer)
			continue
		}
		i := run(t, p.droplet(name), "/usr/bin/node", true)
		page := ""
		eventually(t, name+" serves", func() bool {
			var err error
			page, err = i.ask("")
			return err == nil
		})
		if page != tc.page {
			t.Errorf("%s: %q, want %q", name, page, tc.page)
		}
		if got := i.log("err.log"); strings.Contains(got, "first") || strings.Contains(i.log("stderr.log"), "invalid option") {
			t.Errorf("%s: the app's output is among the platform's: %q, %q", name, got, i.log("stderr.log"))
		}
		if err := syscall.Kill(i.cmd.Process.Pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		_ = waitEnd(t, i) // a status of its own for each
	}
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "package.json"), []byte(`{"scripts": {"prestart": "exit 7", "start": "node x.js"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	p.putFolder("broken", broken)
	if answer := p.request("broken", properties("node", "node")); answer.Error != "" {
		t.Fatal(answer)
	}
	i := run(t, p.droplet("broken"), "/usr/bin/node", true)
	if err := waitEnd(t, i); i.cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("what comes before the start fails: %v", err)
	}
}

// TestWorker: an app without a port runs its command; and the stop script ends
// both it and its start script.
func TestWorker(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.start("")
	p.putFolder("worker", filepath.Join(apps, "worker"))
	about := properties("standalone", "python")
	about.Meta.Command = "python3 worker.py"
	if answer := p.request("worker", about); answer.Error != "" {
		t.Fatal(answer)
	}
	leaver := run(t, p.droplet("worker"), "/usr/bin/python3", false, "WORKER_SECONDS=0.05")
	eventually(t, "it works", func() bool { return strings.Contains(leaver.log("stdout.log"), "done 2\n") })
	if err := syscall.Kill(leaver.cmd.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := waitEnd(t, leaver); err != nil || !strings.Contains(leaver.log("stdout.log"), "left after") {
		t.Errorf("it left with %v and said %q", err, leaver.log("stdout.log"))
	}

	killed := run(t, p.droplet("worker"), "/usr/bin/python3", false, "WORKER_SECONDS=0.05")
	eventually(t, "it works", func() bool { return strings.Contains(killed.log("stdout.log"), "done 1\n") })
	pid := killed.pid()
	stop := exec.Command("/bin/bash", "./stop", strconv.Itoa(pid))
	stop.Dir = killed.folder
	if out, err := stop.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("stop: %s, %v", out, err)
	}
	if err := waitEnd(t, killed); err == nil || killed.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the start script ended with %v", err)
	}
	eventually(t, "the app's process is gone", func() bool { return syscall.Kill(pid, 0) != nil })
}

// TestGems: a Sinatra app with gems of its own, which it brings along, gets them
// by bundler, and no others.
func TestGems(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.start("")
	gems := t.TempDir()
	for name, text := range map[string]string{
		"rack.gemspec": "Gem::Specification.new { |s| s.name = 'rack'; s.version = '9.9'; s.summary = 'x'; s.authors = ['x']; s.license = 'MIT'; s.homepage = 'https://example.com'; s.files = ['bin/rackup']; s.bindir = 'bin'; s.executables = ['rackup'] }",
		"bin/rackup": `require 'socket'
server = TCPServer.new('127.0.0.1', ARGV[ARGV.index('-p') + 1].to_i)
while (client = server.accept)
  client.readpartial(1024)
  client.write("HTTP/1.0 200 OK\r\n\r\nrack #{Gem.loaded_specs['rack'].version}, #{defined?(Sinatra).inspect}")
  client.close
end
`,
		"app/Gemfile":            "source 'https://rubygems.org'\ngem 'rack'\n",
		"app/Gemfile.lock":       "GEM\n  remote: https://rubygems.org/\n  specs:\n    rack (9.9)\n\nPLATFORMS\n  ruby\n\nDEPENDENCIES\n  rack\n",
		"app/vendor/cache/.keep": "",
		"app/config.ru":          "",
		"sinatra/other.rb":       "raise 'not this one'",
		"sinatra/zebra.rb":       "require \"sinatra\"\nget('/') { 'sung by ' + settings.environment.to_s }\n",
	} {
		file := filepath.Join(gems, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	build(t, gems, nil, "/usr/bin/ruby", "-S", "gem", "build", "rack.gemspec", "-o", "app/vendor/cache/rack-9.9.gem")
	for name, want := range map[string]string{"app": "rack 9.9, nil", "sinatra": "sung by production"} {
		p.putFolder(name, filepath.Join(gems, name))
		framework := map[string]string{"app": "rack", "sinatra": "sinatra"}[name]
		answer := p.request(name, properties(framework, "ruby"))
		if answer.Error != "" {
			t.Fatalf("%s: %s\n%s", name, answer.Error, answer.TaskLog)
		}
		i := run(t, p.droplet(name), "/usr/bin/ruby", true)
		var page string
		eventually(t, name+" answers", func() bool {
			var err error
			page, err = i.ask("")
			return err == nil
		})
		if page != want {
			t.Errorf("%s: page %q, want %q", name, page, want)
		}
	}
}

func waitEnd(t *testing.T, i *instance) error {
	t.Helper()
	select {
	case err := <-i.ended:
		return err
	case <-time.After(deadline):
		t.Fatal("it does not end")
		return nil
	}
}

func build(t *testing.T, dir string, env []string, command string, args ...string) {
	t.Helper()
	cmd := exec.Command(command, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out)
	}
}
