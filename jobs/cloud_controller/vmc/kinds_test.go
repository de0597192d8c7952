package vmc

import (
	"archive/zip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mainJava is a program as Spring Boot's are started: an executable archive that
// finds its port in SERVER_PORT.
const mainJava = `
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
public class Main {
    public static void main(String[] args) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(Integer.parseInt(System.getenv("SERVER_PORT"))), 0);
        server.createContext("/", exchange -> {
            byte[] page = ("Java with " + Runtime.getRuntime().maxMemory() / 1048576 + " MB").getBytes();
            exchange.sendResponseHeaders(200, page.length);
            exchange.getResponseBody().write(page);
            exchange.close();
        });
        server.start();
    }
}
`

// bootJar builds an executable archive.
func bootJar(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "Main.java"), []byte(mainJava), 0o644))
	build := exec.Command("/usr/bin/javac", "Main.java")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	class, err := os.ReadFile(filepath.Join(dir, "Main.class"))
	must(t, err)
	file := filepath.Join(dir, "boot-0.0.1-SNAPSHOT.jar")
	out, err := os.Create(file)
	must(t, err)
	w := zip.NewWriter(out)
	for _, entry := range []struct{ name, text string }{
		{"META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\nMain-Class: Main\r\n\r\n"}, {"Main.class", string(class)},
	} {
		e, err := w.Create(entry.name)
		must(t, err)
		_, err = io.WriteString(e, entry.text)
		must(t, err)
	}
	must(t, errors.Join(w.Close(), out.Close()))
	return file
}

// TestUnmodifiedApps: what the usual tutorials have is pushed as it stands, without
// a manifest, a flag or a word of this cloud in it.
func TestUnmodifiedApps(t *testing.T) {
	p := newPlatform(t)
	p.ok("register", "me@example.com")
	django := t.TempDir()
	start := exec.Command("/usr/bin/django-admin", "startproject", "mysite", django)
	if out, err := start.CombinedOutput(); err != nil {
		t.Fatalf("django-admin: %v\n%s", err, out)
	}
	for name, tc := range map[string]struct {
		path string
		want string
	}{
		"flask": {p.write(t.TempDir(), map[string]string{
			"app.py":           "from flask import Flask\napp = Flask(__name__)\n\n\n@app.route('/')\ndef hello():\n    return '<p>Hello, Flask!</p>'\n",
			"requirements.txt": "Flask>=2\n",
		}), "Hello, Flask!"},
		"flask-procfile": {p.write(t.TempDir(), map[string]string{
			"web.py":   "from flask import Flask\nserver = Flask(__name__)\n\n\n@server.route('/')\ndef hello():\n    return 'declared'\n",
			"Procfile": "web: gunicorn web:server --bind 0.0.0.0:$PORT --log-file -\n",
		}), "declared"},
		"python": {p.write(t.TempDir(), map[string]string{
			"Procfile": "web: python -m http.server $PORT\n", "page.txt": "any program\n",
		}), "page.txt"},
		"django":  {django, "The install worked successfully"},
		"sinatra": {p.write(t.TempDir(), map[string]string{"app.rb": "require 'sinatra'\nget '/' do\n  'Hello, Sinatra!'\nend\n"}), "Hello, Sinatra!"},
		"boot":    {bootJar(t), "Java with 384 MB"},
		"site":    {p.write(t.TempDir(), map[string]string{"index.html": "<h1>Built</h1>", "main.js": "document.title = 'x'", "package.json": `{"scripts": {"build": "x"}}`}), "<h1>Built</h1>"},
		"node":    {p.write(t.TempDir(), map[string]string{"package.json": `{"name": "shop", "main": "index.js", "scripts": {"start": "node server.js"}}`, "server.js": portJS}), `"PORT":`},
	} {
		status, out, errOut := p.vmc("push", name, "--path", tc.path)
		if status != 0 {
			t.Errorf("%s: status %d\n%s%s", name, status, out, errOut)
			continue
		}
		page, err := p.page("http://" + name + "." + strings.TrimPrefix(p.target, "api.") + "/")
		if err != nil || !strings.Contains(page, tc.want) {
			t.Errorf("%s: %.300q, %v; want %q", name, page, err, tc.want)
		}
		p.ok("delete", name, "--force")
	}
}
