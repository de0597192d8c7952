package plugins

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/jobs/wire"
)

// write makes a folder of files.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestHeap: classes, code and threads of Java have room beside its heap.
func TestHeap(t *testing.T) {
	for quota, want := range map[int]string{32: "-Xmx8m", 64: "-Xmx16m", 128: "-Xmx64m", 256: "-Xmx192m", 512: "-Xmx384m", 2048: "-Xmx1536m"} {
		var p wire.StagingProperties
		p.Resources.Memory = quota
		if got := heap(p); got != want {
			t.Errorf("of %d MB: %s, want %s", quota, got, want)
		}
	}
}

func TestWSGIModule(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"wsgi.py", map[string]string{"wsgi.py": "", "app.py": "Flask(__name__)"}, "wsgi"},
		{"a Procfile says it", map[string]string{"Procfile": "worker: x\nweb: gunicorn --workers=2 shop.web:create --bind 0.0.0.0:$PORT\n", "wsgi.py": ""}, "shop.web:create"},
		{"Flask's own example", map[string]string{"app.py": "from flask import Flask\napp = Flask(__name__)\n"}, "app"},
		{"Django", map[string]string{"manage.py": "", "mysite/wsgi.py": "", "polls/views.py": ""}, "mysite.wsgi"},
		{"two projects", map[string]string{"manage.py": "", "a/wsgi.py": "", "b/wsgi.py": ""}, "error: there is a manage.py, and 2"},
		{"no web app", map[string]string{"app.py": "print(1)"}, "error: cannot tell what starts this Python app"},
	} {
		got, err := wsgiModule(write(t, tc.files))
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != tc.want && !(err != nil && strings.HasPrefix(got, tc.want)) {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// TestMissing: what an app lists and lacks is said by name, and nothing else is.
func TestMissing(t *testing.T) {
	var log bytes.Buffer
	s := &staging{Config: Config{RuntimePath: "/usr/bin/python3"}, log: &log}
	python := write(t, map[string]string{
		"requirements.txt":                      "# all\nnosuchmodule==1.0\nbrought>=2\n-r other.txt\nmodule @ https://example.com/x\n",
		"vendor/brought-2.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: brought\nVersion: 2.0\n",
	})
	if _, err := s.python(python); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); !strings.HasPrefix(got, "missing: requirements.txt lists nosuchmodule, which") {
		t.Errorf("of Python: %q", got)
	}
	log.Reset()
	node := write(t, map[string]string{"node_modules/express/package.json": "{}", "node_modules/@org/a/package.json": "{}"})
	if err := s.npm(node, packageJSON{Dependencies: map[string]string{"express": "^4", "pg": "^8", "@org/a": "1"}}); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); !strings.HasPrefix(got, "missing: package.json lists pg, which") {
		t.Errorf("of Node.js: %q", got)
	}
	log.Reset()
	if err := s.npm(node, packageJSON{Dependencies: map[string]string{"express": "^4"}}); err != nil || log.Len() > 0 {
		t.Errorf("where nothing is missing: %q, %v", log.String(), err)
	}
}

// TestNodeStarts: what package.json says is what runs, and it is said if that cannot be.
func TestNodeStarts(t *testing.T) {
	const none = "no-such-manager"
	for _, tc := range []struct{ main, files, want string }{
		{"src/app.js", "gulpfile.js src/app.js", "src/app.js"}, // not the only one in the root
		{"index.js", "index.js app.js main.js", "index.js"},
		{"index.js", "index.js server.js", "server.js"}, // npm start runs it
		{"gone.js", "app.js gulpfile.js", "app.js"},
		{"", "one.js", "one.js"},
	} {
		files := map[string]string{}
		for _, name := range strings.Fields(tc.files) {
			files[name] = ""
		}
		if got, err := nodeMain(write(t, files), packageJSON{Main: tc.main}); err != nil || strings.Trim(got, "'") != tc.want {
			t.Errorf("main %q of %s: %q, %v; want %s", tc.main, tc.files, got, err, tc.want)
		}
	}
	t.Setenv("PATH", t.TempDir()) // no manager of packages
	scripts := map[string]string{"serve": "node x.js", "start:prod": "node y.js"}
	for command, want := range map[string]string{
		"yarn serve": "npm run serve", "pnpm run start:prod": "npm run start:prod", "bun serve": "npm run serve",
		"yarn build": "yarn build", "pnpm serve && x": "pnpm serve && x", "node x.js": "node x.js", none: none,
	} {
		if got := byNpm(command, scripts); got != want {
			t.Errorf("%q is run as %q, want %q", command, got, want)
		}
	}
	var log bytes.Buffer
	s := &staging{log: &log}
	app := write(t, map[string]string{"dist/a.js": "", "lib/index.js": ""})
	for _, script := range []string{"dist/a.js", "dist/a", "lib", "."} {
		if script == "." {
			app = filepath.Join(app, "lib")
		}
		if s.built(app, script, packageJSON{}); log.Len() > 0 {
			t.Errorf("%s: %s", script, log.String())
		}
	}
	s.built(app, "dist/server.js", packageJSON{Scripts: map[string]string{"build": "tsc"}})
	if got := log.String(); !strings.HasPrefix(got, "missing: package.json starts dist/server.js, which") || !strings.Contains(got, "npm run build") {
		t.Errorf("of what must be built: %q", got)
	}
}

// TestStaticPasswords: a site that is not for everybody is not served to everybody.
func TestStaticPasswords(t *testing.T) {
	source := write(t, map[string]string{"index.html": "x", "Staticfile.auth": "user:hash"})
	s := &staging{Config: Config{SourceDir: source, DestDir: t.TempDir(), StaticServer: "/bin/true"}, log: io.Discard}
	if _, err := static(s); err == nil || !strings.Contains(err.Error(), "Staticfile.auth") {
		t.Errorf("a site with passwords: %v", err)
	}
	if err := os.Remove(filepath.Join(s.DestDir, "app", "Staticfile.auth")); err != nil {
		t.Fatal(err)
	}
	s.SourceDir, s.DestDir = filepath.Join(s.DestDir, "app"), t.TempDir()
	if _, err := static(s); err != nil {
		t.Errorf("without them: %v", err)
	}
}

// TestStaticfileRoot: a folder that is to be served and is not there is said when the
// site is staged, not by 404s; what a Staticfile asks for in vain is said in the log.
func TestStaticfileRoot(t *testing.T) {
	source := write(t, map[string]string{"dist/index.html": "x", "Staticfile": "root: build\nssi: enabled\n"})
	var log bytes.Buffer
	s := &staging{Config: Config{SourceDir: source, DestDir: t.TempDir(), StaticServer: "/bin/true"}, log: &log}
	if _, err := static(s); err == nil || !strings.Contains(err.Error(), "root: build") {
		t.Errorf("a root that is not there: %v", err)
	}
	if err := os.Rename(filepath.Join(s.DestDir, "app", "dist"), filepath.Join(s.DestDir, "app", "build")); err != nil {
		t.Fatal(err)
	}
	s.SourceDir, s.DestDir = filepath.Join(s.DestDir, "app"), t.TempDir()
	if _, err := static(s); err != nil || !strings.Contains(log.String(), "Staticfile: ssi: not known here") {
		t.Errorf("with it: %v, %q", err, log.String())
	}
}

// TestNodeWaitsForItsOutput: an app of Node.js that prints more than a pipe takes waits
// until it is read, and keeps nothing of it in memory; NODE_OPTIONS of its own count.
func TestNodeWaitsForItsOutput(t *testing.T) {
	dest := filepath.Join(t.TempDir(), "a folder")
	s := &staging{Config: Config{DestDir: dest}}
	env := map[string]string{}
	if err := s.waitForOutput(env); err != nil {
		t.Fatal(err)
	}
	const app = `for (let i = 0; i < 1000; i++) console.log('x'.repeat(1000)); console.error(process.stdout.writableLength, process.title)`
	cmd := exec.CommandContext(t.Context(), "/bin/bash", "-c", `export NODE_OPTIONS="`+env["NODE_OPTIONS"]+`"; exec node -e "$0"`, app)
	cmd.Dir, cmd.Env = dest, append(os.Environ(), "NODE_OPTIONS=--title=mine")
	var said bytes.Buffer
	cmd.Stderr = &said
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd.Stdout = write
	err = cmd.Start()
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	// Nothing is read before the pipe is full.
	for end := time.Now().Add(2 * time.Minute); ; runtime.Gosched() {
		waiting, err := unix.IoctlGetInt(int(read.Fd()), unix.TIOCINQ)
		if err != nil || time.Now().After(end) {
			t.Fatalf("%d bytes are in the pipe, %v; %s", waiting, err, said.String())
		}
		if waiting > 60_000 {
			break
		}
	}
	got, err := io.Copy(io.Discard, read)
	if err := errors.Join(err, cmd.Wait()); err != nil || got != 1_001_000 {
		t.Errorf("%d bytes, %v", got, err)
	}
	if said.String() != "0 mine\n" {
		t.Errorf("it says %q: so many bytes were in memory, want none", said.String())
	}
}

// TestLineEnds: a script that was written on Windows does not start, and the shell's own
// words do not say why.
func TestLineEnds(t *testing.T) {
	var log bytes.Buffer
	s := &staging{log: &log}
	app := write(t, map[string]string{"start.sh": "#!/bin/sh\r\nexec x\r\n", "good.sh": "#!/bin/sh\nexec x\r\n", "notes.txt": "a\r\nb\r\n", "lib/inner.sh": "#!/bin/sh\r\n", "empty": ""})
	if err := s.lineEnds(app); err != nil || strings.Count(log.String(), "\n") != 1 || !strings.HasPrefix(log.String(), "missing: start.sh has Windows' line ends") {
		t.Errorf("%v, %q", err, log.String())
	}
}
