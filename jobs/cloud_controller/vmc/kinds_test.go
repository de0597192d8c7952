package vmc

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A program as Spring Boot's are packed: an executable archive whose Main-Class is a
// launcher, with the app's classes in BOOT-INF/classes and what they need in archives
// within the archive. The port is that of SERVER_PORT.
const launcherJava = `
package org.springframework.boot.loader.launch;
import java.io.*;
import java.net.*;
import java.nio.file.*;
import java.util.*;
import java.util.jar.*;
public class JarLauncher {
    public static void main(String[] args) throws Exception {
        File self = new File(JarLauncher.class.getProtectionDomain().getCodeSource().getLocation().toURI());
        Path work = Files.createTempDirectory("boot");
        List<URL> path = new ArrayList<>();
        path.add(work.toUri().toURL());
        String start;
        try (JarFile jar = new JarFile(self)) {
            start = jar.getManifest().getMainAttributes().getValue("Start-Class");
            for (JarEntry e : Collections.list(jar.entries())) {
                boolean nested = e.getName().startsWith("BOOT-INF/lib/");
                if (!nested && !e.getName().startsWith("BOOT-INF/classes/")) continue;
                Path to = work.resolve(e.getName().substring(e.getName().indexOf('/', 9) + 1));
                Files.createDirectories(to.getParent());
                try (InputStream in = jar.getInputStream(e)) { Files.copy(in, to); }
                if (nested) path.add(to.toUri().toURL());
            }
        }
        ClassLoader loader = new URLClassLoader(path.toArray(new URL[0]), JarLauncher.class.getClassLoader());
        Thread.currentThread().setContextClassLoader(loader);
        loader.loadClass(start).getMethod("main", String[].class).invoke(null, (Object) args);
    }
}
`

const shopJava = `
package shop;
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
public class Application {
    public static void main(String[] args) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(Integer.parseInt(System.getenv("SERVER_PORT"))), 0);
        server.createContext("/", exchange -> {
            byte[] page = library.Greeting.text(Runtime.getRuntime().maxMemory() / 1048576).getBytes();
            exchange.sendResponseHeaders(200, page.length);
            exchange.getResponseBody().write(page);
            exchange.close();
        });
        server.start();
    }
}
`

const libraryJava = `
package library;
public class Greeting { public static String text(long megabytes) { return "Java with " + megabytes + " MB"; } }
`

// bootJar builds the executable archive.
func bootJar(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("/usr/bin/javac", "-d", "classes", "JarLauncher.java", "Application.java", "Greeting.java")
	for name, text := range map[string]string{"JarLauncher": launcherJava, "Application": shopJava, "Greeting": libraryJava} {
		must(t, os.WriteFile(filepath.Join(dir, name+".java"), []byte(text), 0o644))
	}
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	class := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, "classes", name))
		must(t, err)
		return string(text)
	}
	var library bytes.Buffer
	const greeting, application, launcher = "library/Greeting.class", "shop/Application.class", "org/springframework/boot/loader/launch/JarLauncher.class"
	writeJar(t, &library, [][2]string{{greeting, class(greeting)}})
	file := filepath.Join(dir, "boot-0.0.1-SNAPSHOT.jar")
	out, err := os.Create(file)
	must(t, err)
	writeJar(t, out, [][2]string{
		{"META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\nMain-Class: org.springframework.boot.loader.launch.JarLauncher\r\nStart-Class: shop.Application\r\n\r\n"},
		{launcher, class(launcher)}, {"BOOT-INF/classes/" + application, class(application)}, {"BOOT-INF/lib/library-1.0.jar", library.String()},
	})
	must(t, out.Close())
	return file
}

// writeJar writes an archive; archives within it are stored, as Spring Boot wants them.
func writeJar(t *testing.T, to io.Writer, entries [][2]string) {
	t.Helper()
	w := zip.NewWriter(to)
	for _, entry := range entries {
		header := &zip.FileHeader{Name: entry[0], Method: zip.Deflate}
		if filepath.Ext(entry[0]) == ".jar" {
			header.Method = zip.Store
		}
		e, err := w.CreateHeader(header)
		must(t, err)
		_, err = io.WriteString(e, entry[1])
		must(t, err)
	}
	must(t, w.Close())
}

// packages are those of Debian's Node.js modules, where npm install would take them
// from its registry.
const packages = "/usr/share/nodejs"

// install puts a module and all that it depends on into node_modules, as npm does.
func install(t *testing.T, app, module string) {
	t.Helper()
	to := filepath.Join(app, "node_modules", filepath.FromSlash(module))
	if _, err := os.Stat(to); err == nil {
		return
	}
	must(t, os.MkdirAll(filepath.Dir(to), 0o755))
	// With what links lead to: these are Debian's own.
	if out, err := exec.Command("cp", "-rL", filepath.Join(packages, module), to).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", module, err, out)
	}
	text, err := os.ReadFile(filepath.Join(to, "package.json"))
	must(t, err)
	var about struct{ Dependencies map[string]string }
	must(t, json.Unmarshal(text, &about))
	for name := range about.Dependencies {
		if _, err := os.Stat(filepath.Join(packages, name)); err == nil { // Debian leaves out what Node.js has by itself
			install(t, app, name)
		}
	}
}

// express is an app as Express's own guide has it, after npm install.
func (p *platform) express() string {
	app := p.write(p.t.TempDir(), map[string]string{
		"package.json": `{"name": "shop", "version": "0.1.0", "main": "index.js", "scripts": {"start": "node app.js", "test": "echo no"}, "dependencies": {"express": "^4.18.2"}}`,
		"app.js":       "const express = require('express')\nconst app = express()\nconst port = process.env.PORT || 3000\n\napp.get('/', (req, res) => {\n  res.send('Hello World!')\n})\n\napp.listen(port, () => {\n  console.log(`Example app listening on port ${port}`)\n})\n",
	})
	install(p.t, app, "express")
	return app
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
		"express": {p.express(), "Hello World!"},
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
