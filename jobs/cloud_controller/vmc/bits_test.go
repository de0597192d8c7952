package vmc

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

func TestIgnore(t *testing.T) {
	rules := ignoreRules(strings.Split(`# comment
*.log
!keep.log
/top
build/
docs/*.md
**/cache
deep/**/x
\#odd
a?c
*.py[cod]
file[0-9]
debug[!1]
`+"trail\\ \n", "\n"))
	for name, want := range map[string]bool{
		"x.log": true, "sub/x.log": true, "keep.log": false, "sub/keep.log": false,
		"top": true, "sub/top": false,
		"build/": true, "sub/build/": true, "build": false,
		"docs/a.md": true, "docs/sub/a.md": false, "sub/docs/a.md": false,
		"cache": true, "a/b/cache": true, "mycache": false,
		"deep/x": true, "deep/a/b/x": true,
		"a.pyc": true, "sub/a.pyo": true, "a.py": false, "file1": true, "filea": false, "debug0": true, "debug1": false, "trail ": true, "trail": false,
		"#odd": true, "abc": true, "a/c": false, "comment": false,
	} {
		bare, folder := strings.CutSuffix(name, "/")
		if got := rules.Match(strings.Split(bare, "/"), folder); got != want {
			t.Errorf("%s: ignored %v, want %v", name, got, want)
		}
	}
}

// FuzzIgnore: any line is a rule or none, and never a panic.
func FuzzIgnore(f *testing.F) {
	for _, line := range []string{"*.log", "!/a/**/b/", "[a-", "\\", "**", "a\\"} {
		f.Add(line, "a/b")
	}
	f.Fuzz(func(_ *testing.T, line, name string) {
		ignoreRules([]string{line}).Match(strings.Split(name, "/"), true)
	})
}

func TestScanAndPack(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{
		"server.js": 0o644, "bin/run": 0o755, ".git/config": 0o644, "x~": 0o644, "manifest.yml": 0o644, "sub/manifest.yml": 0o644,
		"node_modules/a/index.js": 0o644, "skip/me": 0o644, ".env": 0o644, ".vmcignore": 0o644,
	} {
		file := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, []byte(name), mode))
	}
	must(t, os.WriteFile(filepath.Join(dir, ".vmcignore"), []byte("skip/\n"), 0o644))
	must(t, os.Symlink("server.js", filepath.Join(dir, "link")))
	must(t, os.MkdirAll(filepath.Join(dir, "tmp/pids"), 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "skip/empty"), 0o755))
	must(t, syscall.Mkfifo(filepath.Join(dir, "tmp/pipe"), 0o600))
	files, skipped, err := scan(dir)
	must(t, err)
	if !slices.Equal(skipped, []string{"tmp/pipe"}) {
		t.Errorf("skipped %q, want the pipe", skipped)
	}
	var b bytes.Buffer
	must(t, pack(&b, dir, files))
	r, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	must(t, err)
	var list []string
	for _, f := range r.File {
		in, err := f.Open()
		must(t, err)
		text, err := io.ReadAll(in)
		must(t, err)
		list = append(list, fmt.Sprintf("%s %v %s", f.Name, f.Mode(), text))
	}
	want := []string{
		".env -rw-r--r-- .env", "bin/run -rwxr-xr-x bin/run", "link Lrwxrwxrwx server.js",
		"node_modules/a/index.js -rw-r--r-- node_modules/a/index.js", "server.js -rw-r--r-- server.js", "sub/manifest.yml -rw-r--r-- sub/manifest.yml",
		"tmp/pids/ drwxr-xr-x ",
	}
	if !slices.Equal(list, want) {
		t.Errorf("packed\n%q\nwant\n%q", list, want)
	}
}

func TestExplode(t *testing.T) {
	archive := func(names ...string) string {
		file := filepath.Join(t.TempDir(), "app.war")
		out, err := os.Create(file)
		must(t, err)
		w := zip.NewWriter(out)
		for _, name := range names {
			one, err := w.Create(name)
			must(t, err)
			_, err = io.WriteString(one, name)
			must(t, err)
		}
		must(t, w.Close())
		must(t, out.Close())
		return file
	}
	folder := filepath.Join(t.TempDir(), "app")
	must(t, explode(archive("WEB-INF/web.xml", "index.jsp"), folder))
	if text, err := os.ReadFile(filepath.Join(folder, "WEB-INF/web.xml")); string(text) != "WEB-INF/web.xml" {
		t.Errorf("%q, %v", text, err)
	}
	if err := explode(archive("../x"), filepath.Join(t.TempDir(), "app")); err == nil || !strings.Contains(err.Error(), "outside") {
		t.Errorf("an entry that leads out: %v", err)
	}
	linked := filepath.Join(t.TempDir(), "app.zip")
	out, err := os.Create(linked)
	must(t, err)
	w := zip.NewWriter(out)
	header := &zip.FileHeader{Name: "node_modules/.bin/tool"}
	header.SetMode(fs.ModeSymlink | 0o777)
	entry, err := w.CreateHeader(header)
	must(t, err)
	_, err = io.WriteString(entry, "../tool/cli.js")
	must(t, errors.Join(err, w.Close(), out.Close()))
	folder = filepath.Join(t.TempDir(), "app")
	must(t, explode(linked, folder))
	if target, err := os.Readlink(filepath.Join(folder, "node_modules/.bin/tool")); target != "../tool/cli.js" {
		t.Errorf("a link of an archive leads to %q, %v", target, err)
	}
	program := filepath.Join(t.TempDir(), "program")
	must(t, os.WriteFile(program, []byte("x"), 0o755))
	folder = filepath.Join(t.TempDir(), "app")
	must(t, explode(program, folder))
	if info, err := os.Stat(filepath.Join(folder, "program")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("a program: %v, %v", info, err)
	}
}

// frameworks are a cloud's, as the controller tells them.
var frameworks = map[string]client.Framework{
	"java_web":   {Name: "java_web", Detection: []map[string]any{{"*.war": true}, {"WEB-INF/web.xml": true}}},
	"rack":       {Name: "rack", Detection: []map[string]any{{"config.ru": true}}},
	"sinatra":    {Name: "sinatra", Detection: []map[string]any{{"*.rb": `^\s*require\s*['"]sinatra['"]`}, {"config/environment.rb": false}}},
	"node":       {Name: "node", Detection: []map[string]any{{"package.json": true}, {"*.js": "."}}},
	"static":     {Name: "static", Detection: []map[string]any{{"index.html": true}, {"server.js": false}, {"app.js": false}}},
	"binary":     {Name: "binary"},
	"standalone": {Name: "standalone"},
}

func TestDetect(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	for name, tc := range map[string]struct {
		files fstest.MapFS
		want  string
	}{
		"node":           {fstest.MapFS{"app.js": {Data: []byte("x")}}, "node"},
		"empty script":   {fstest.MapFS{"app.js": {}}, ""},
		"war":            {fstest.MapFS{"hello.war": {}}, "java_web"},
		"exploded":       {fstest.MapFS{"WEB-INF/web.xml": {}, "index.html": {}}, "java_web"},
		"sinatra":        {fstest.MapFS{"a.rb": {}, "b.rb": {Data: []byte("# hi\nrequire 'sinatra'\n")}}, "sinatra"},
		"not sinatra":    {fstest.MapFS{"b.rb": {Data: []byte("require 'sinatra'")}, "config/environment.rb": {}}, ""},
		"rackup":         {fstest.MapFS{"b.rb": {Data: []byte("require 'sinatra'")}, "config.ru": {}}, "rack"},
		"site":           {fstest.MapFS{"index.html": {}, "main.js": {Data: []byte("document.title")}}, "static"},
		"built site":     {fstest.MapFS{"index.html": {}, "package.json": {Data: []byte(`{"scripts": {"build": "x"}, "main": "index.js"}`)}}, "static"},
		"server":         {fstest.MapFS{"index.html": {}, "server.js": {Data: []byte("x")}}, "node"},
		"start script":   {fstest.MapFS{"index.html": {}, "package.json": {Data: []byte(`{"scripts": {"start": "node index"}}`)}}, "node"},
		"broken package": {fstest.MapFS{"package.json": {Data: []byte(`{`)}}, "node"},
		"static":         {fstest.MapFS{"index.html": {}, "style.css": {}}, "static"},
		"nothing":        {fstest.MapFS{"x.txt": {}}, ""},
		"nothing at all": {fstest.MapFS{}, ""},
	} {
		dir := t.TempDir()
		must(t, os.CopyFS(dir, tc.files))
		if got, err := detect(dir, frameworks); err != nil || got.framework != tc.want {
			t.Errorf("%s: %+v, %v; want %q", name, got, err, tc.want)
		}
	}
	if got, err := detect(self, frameworks); err != nil || got.framework != "binary" {
		t.Errorf("a program: %+v, %v", got, err)
	}
	bad := map[string]client.Framework{"x": {Name: "x", Detection: []map[string]any{{"*": "("}}}}
	if _, err := detect(self, bad); err == nil || !strings.Contains(err.Error(), "framework x") {
		t.Errorf("a bad expression: %v", err)
	}
}

func TestNumbers(t *testing.T) {
	for text, want := range map[string]string{"3": "3", "+2": "4", "-1": "1", "-3": "cannot have -1", "x": "not a number", "1.5": "not a number"} {
		n, err := newCount(2, text)
		if got := fmt.Sprint(n, err); !strings.Contains(got, want) {
			t.Errorf("%s of 2: %s, want %s", text, got, want)
		}
	}
	for text, want := range map[string]int{"64": 64, "64M": 64, "64 mb": 64, "1G": 1024, "2gb": 2048, "0": 0, "1.5G": 1536, "0.5G": 512, "1.2M": 1, "0.5M": 0, "1.G": 0, "x": 0, "": 0} {
		if n, err := parseMegabytes(text); n != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v; want %d", text, n, err, want)
		}
	}
	for text, want := range map[string]string{"hello.x": "hello.x", "http://Hello.x:8080/": "hello.x", "": "", "a b": "", "x/y": "", "http://x.y:8080/path": "", "x.y:8080/path": "", "x.y:80/": "x.y", "x.y?a": ""} {
		if host, err := hostOf(text); host != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", text, host, err, want)
		}
	}
	for _, tc := range [][2][]string{
		{{"scale", "a", "-1"}, {"scale", "a", "--", "-1"}},
		{{"scale", "a", "-12", "--json"}, {"scale", "a", "--json", "--", "-12"}},
		{{"push", "-i", "2"}, {"push", "-i", "2"}},
		{{"scale", "--", "a", "-1"}, {"scale", "--", "a", "-1"}},
	} {
		if got := negativeLast(tc[0]); !slices.Equal(got, tc[1]) {
			t.Errorf("%q: %q, want %q", tc[0], got, tc[1])
		}
	}
	if text, err := lastBytes(strings.NewReader("first\nsecond\nthird\n"), 10); err != nil || string(text) != "third\n" {
		t.Errorf("the end of a log: %q, %v", text, err)
	}
}
