package vmc

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// jar is an archive with a manifest.
func jar(t *testing.T, manifest string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	entry, err := w.Create("META-INF/MANIFEST.MF")
	must(t, err)
	_, err = io.WriteString(entry, manifest)
	must(t, errors.Join(err, w.Close()))
	return b.Bytes()
}

// TestDeclared: files that declare how an app runs count for more than a guess, and
// say with what and whether it is to have a URL.
func TestDeclared(t *testing.T) {
	boot := &fstest.MapFile{Data: jar(t, "Manifest-Version: 1.0\r\nMain-Class: org.springframework.boot.loader.JarLauncher\r\n")}
	library := &fstest.MapFile{Data: jar(t, "Manifest-Version: 1.0\r\n")}
	text := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for name, tc := range map[string]struct {
		files fstest.MapFS
		want  kind
	}{
		"a server of Python's":  {fstest.MapFS{"Procfile": text("web: gunicorn app:app --bind 0.0.0.0:$PORT\n"), "app.py": text("x")}, kind{framework: "wsgi", web: true}},
		"npm start":             {fstest.MapFS{"Procfile": text("web: npm start"), "package.json": text("{}")}, kind{framework: "node", web: true}},
		"any program":           {fstest.MapFS{"Procfile": text("release: x\nweb: python server.py --fast\nworker: y\n")}, kind{"standalone", "python", "python server.py --fast", true}},
		"a worker":              {fstest.MapFS{"Procfile": text("worker: A=1 bundle exec sidekiq\n")}, kind{"standalone", "ruby", "A=1 bundle exec sidekiq", false}},
		"what it runs with":     {fstest.MapFS{"Procfile": text("web: bin/start\n"), "Gemfile": text("")}, kind{"standalone", "ruby", "bin/start", true}},
		"two that are not web":  {fstest.MapFS{"Procfile": text("a: b\nc: d\n")}, kind{}},
		"Django with a package": {fstest.MapFS{"manage.py": text(""), "package.json": text(`{"scripts": {"start": "webpack -w"}}`)}, kind{framework: "wsgi", web: true}},
		"an executable archive": {fstest.MapFS{"my app.jar": boot, "lib.jar": library}, kind{"standalone", "java", "java $JAVA_OPTS -jar 'my app.jar'", true}},
		"two of them":           {fstest.MapFS{"a.jar": boot, "b.jar": boot}, kind{}},
		"a library":             {fstest.MapFS{"a.jar": library}, kind{}},
		"a start script":        {fstest.MapFS{"package.json": text(`{"scripts": {"start": "node x"}}`)}, kind{framework: "node", web: true}},
		"a site":                {fstest.MapFS{"Staticfile": text("root: dist\n"), "package.json": text(`{"scripts": {"start": "webpack -w"}}`)}, kind{framework: "static", web: true}},
		"written on Windows":    {fstest.MapFS{"Procfile": text("\ufeffweb: node server.js\r\nworker: x\r\n")}, kind{"standalone", "node", "node server.js", true}},
		"in capitals":           {fstest.MapFS{"Procfile": text("Web: node server.js\n")}, kind{"standalone", "node", "node server.js", true}},
		"nothing":               {fstest.MapFS{"x.py": text("")}, kind{}},
	} {
		if got, err := declares(tc.files); err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tc.want)
		}
	}
	// An archive is looked into; its links are no hindrance.
	zipped := filepath.Join(t.TempDir(), "app.zip")
	out, err := os.Create(zipped)
	must(t, err)
	w := zip.NewWriter(out)
	for name, mode := range map[string]os.FileMode{"server.js": 0o644, "node_modules/.bin/p": 0o777 | os.ModeSymlink} {
		header := &zip.FileHeader{Name: name}
		header.SetMode(mode)
		entry, err := w.CreateHeader(header)
		must(t, err)
		_, err = io.WriteString(entry, "../p/cli.js")
		must(t, err)
	}
	must(t, errors.Join(w.Close(), out.Close()))
	if got, err := detect(zipped, frameworks); err != nil || got.framework != "node" {
		t.Errorf("a .zip: %+v, %v", got, err)
	}
	file := filepath.Join(t.TempDir(), "boot.jar")
	must(t, os.WriteFile(file, boot.Data, 0o644))
	if got, err := detect(file, frameworks); err != nil || got.command != "java $JAVA_OPTS -jar boot.jar" {
		t.Errorf("an archive alone: %+v, %v", got, err)
	}
}

// TestNotStarted: what a Procfile has beside the process that serves is named.
func TestNotStarted(t *testing.T) {
	for text, want := range map[string]string{
		"web: a\nworker: b\r\nrelease: c\nworker: d\n": "worker release",
		"\ufeffWeb: a": "", "worker: a": "", "# web: a\nx: b": "", "": "",
	} {
		if got := strings.Join(notStarted(fstest.MapFS{"Procfile": {Data: []byte(text)}}), " "); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := notStarted(fstest.MapFS{}); got != nil {
		t.Errorf("without a Procfile: %q", got)
	}
}

// TestAdvice: who pushes what does not run here is told what would do.
func TestAdvice(t *testing.T) {
	for files, want := range map[string]string{
		"Dockerfile app.py": "no container images", "pom.xml": "target/APP.jar", "go.mod main.go": "GOOS=linux", "index.php": "no PHP",
		"requirements.txt job.py": "wsgi.py", "x.txt": "", "main.go": "GOOS=linux", "README.md public/index.html": "/public",
	} {
		dir := t.TempDir()
		for _, name := range strings.Fields(files) {
			must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
		}
		if got := advice(dir); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", files, got, want)
		}
	}
}
