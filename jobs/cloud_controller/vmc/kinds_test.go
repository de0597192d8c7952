package vmc

import (
	"archive/zip"
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
// within the archive, stored.
//
// Real are the Spring framework (4.3, which Boot 1.5 has), its MVC, and the Tomcat inside
// the program: Debian's archives, unchanged. Debian does not pack Boot itself. Ours are
// therefore the launcher, under the name and with the manifest of Boot's, but unpacking
// what it loads, and the few lines of main for which Boot has SpringApplication.run:
// they read SERVER_PORT, as it does.
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
import java.nio.file.Files;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;
import org.springframework.web.bind.annotation.*;
import org.springframework.web.context.support.AnnotationConfigWebApplicationContext;
import org.springframework.web.servlet.DispatcherServlet;
import org.springframework.web.servlet.mvc.method.annotation.*;
@RestController
public class Application {
    @RequestMapping("/")
    String home(@RequestParam(defaultValue = "Spring") String name) {
        return name + " with " + Runtime.getRuntime().maxMemory() / 1048576 + " MB";
    }
    public static void main(String[] args) throws Exception {
        AnnotationConfigWebApplicationContext spring = new AnnotationConfigWebApplicationContext();
        spring.register(Application.class, RequestMappingHandlerMapping.class, RequestMappingHandlerAdapter.class);
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(Files.createTempDirectory("tomcat").toString());
        tomcat.setPort(Integer.parseInt(System.getenv().getOrDefault("SERVER_PORT", "8080")));
        tomcat.getConnector();
        Context root = tomcat.addContext("", null);
        Tomcat.addServlet(root, "dispatcher", new DispatcherServlet(spring)).setLoadOnStartup(1);
        root.addServletMappingDecoded("/", "dispatcher");
        tomcat.start();
        tomcat.getServer().await();
    }
}
`

// springArchives are what BOOT-INF/lib of such a program has, by Debian's names.
var springArchives = []string{
	"spring3-aop", "spring3-beans", "spring3-context", "spring3-core", "spring3-expression", "spring3-web", "spring3-web.servlet", "commons-logging",
	"tomcat9-annotations-api", "tomcat9-api", "tomcat9-catalina", "tomcat9-coyote", "tomcat9-jaspic-api", "tomcat9-jni", "tomcat9-juli", "tomcat9-servlet-api", "tomcat9-util", "tomcat9-util-scan",
}

// bootJar builds the executable archive.
func bootJar(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	read := func(file string) string {
		text, err := os.ReadFile(file)
		must(t, err)
		return string(text)
	}
	const application, launcher = "shop/Application.class", "org/springframework/boot/loader/launch/JarLauncher.class"
	var path []string
	var nested [][2]string
	for _, name := range springArchives {
		file := "/usr/share/java/" + name + ".jar"
		path = append(path, file)
		nested = append(nested, [2]string{"BOOT-INF/lib/" + name + ".jar", read(file)})
	}
	for name, text := range map[string]string{"JarLauncher": launcherJava, "Application": shopJava} {
		must(t, os.WriteFile(filepath.Join(dir, name+".java"), []byte(text), 0o644))
	}
	// What this Spring reads of classes is of Java 8.
	build := exec.Command("/usr/bin/javac", "--release", "8", "-Xlint:none", "-parameters", "-cp", strings.Join(path, ":"), "-d", "classes", "JarLauncher.java", "Application.java")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	file := filepath.Join(dir, "boot-0.0.1-SNAPSHOT.jar")
	out, err := os.Create(file)
	must(t, err)
	writeJar(t, out, append([][2]string{
		{"META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\nMain-Class: org.springframework.boot.loader.launch.JarLauncher\r\nStart-Class: shop.Application\r\nSpring-Boot-Classes: BOOT-INF/classes/\r\nSpring-Boot-Lib: BOOT-INF/lib/\r\n\r\n"},
		{launcher, read(filepath.Join(dir, "classes", launcher))}, {"BOOT-INF/classes/" + application, read(filepath.Join(dir, "classes", application))},
	}, nested...))
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
		"boot":    {bootJar(t), "Spring with 384 MB"},
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
