package runtimes

import "github.com/clusterworks/deploy/jobs/wire"

// Runtimes are the usual ones, by name, in the order of their names. Their
// executables are looked for where a system has its programs, whatever their
// version; a cloud controller may be configured with others.
func Runtimes() []wire.RuntimeInfo {
	return []wire.RuntimeInfo{
		{Name: "binary", Version: "-", Description: "Programs that need nothing else"},
		{Name: "java", Version: "17", Description: "Java", Executable: "java", VersionFlag: "-version", VersionOutput: `version "\d+`},
		{Name: "node", Version: "20", Description: "Node.js", Executable: "node", VersionFlag: "--version", VersionOutput: `^v\d+\.`},
		{Name: "python", Version: "3", Description: "Python 3", Executable: "python3", VersionFlag: "--version", VersionOutput: `^Python 3\.`},
		{Name: "ruby", Version: "3", Description: "Ruby", Executable: "ruby", VersionFlag: "--version", VersionOutput: `^ruby \d+\.`},
		{Name: "static", Version: "-", Description: "Files; the server comes with them"},
	}
}

// Successor returns the usual runtime that took the place of one of 2012, which
// manifests of that time name; "": none did. Python 2 has none, since its programs
// do not run with Python 3.
func Successor(name string) string {
	switch name {
	case "node04", "node06", "node08":
		return "node"
	case "ruby18", "ruby19":
		return "ruby"
	case "java6", "java7":
		return "java"
	}
	return ""
}

// Frameworks are those that the stager has plugins for, in the order in which a
// client tries to recognize an app: the first whose detection fits is it.
func Frameworks() []wire.FrameworkInfo {
	one := func(runtime string) []map[string]wire.FrameworkRuntime {
		return []map[string]wire.FrameworkRuntime{{runtime: {Default: true}}}
	}
	is := func(pairs ...any) []map[string]any {
		var rules []map[string]any
		for i := 0; i < len(pairs); i += 2 {
			rules = append(rules, map[string]any{pairs[i].(string): pairs[i+1]})
		}
		return rules
	}
	var all []map[string]wire.FrameworkRuntime
	for _, r := range Runtimes() {
		if r.Name != "static" {
			all = append(all, map[string]wire.FrameworkRuntime{r.Name: {}})
		}
	}
	return []wire.FrameworkInfo{
		{Name: "java_web", Runtimes: one("java"), Detection: is("*.war", true, "WEB-INF/web.xml", true)},
		{Name: "rack", Runtimes: one("ruby"), Detection: is("config.ru", true)},
		{Name: "sinatra", Runtimes: one("ruby"), Detection: is("*.rb", `^\s*require[\s(]*['"]sinatra(/base)?['"]`)},
		// A site may have scripts and a package.json for its build; a server that serves
		// pages has one of these names, or a start script.
		{Name: "static", Runtimes: one("static"), Detection: is("index.html", true, "server.js", false, "app.js", false, "wsgi.py", false, "manage.py", false)},
		{Name: "node", Runtimes: one("node"), Detection: is("package.json", true, "*.js", ".")},
		{Name: "wsgi", Runtimes: one("python"), Detection: is("wsgi.py", true, "manage.py", true, "app.py", makesApp, "application.py", makesApp, "main.py", makesApp)},
		{Name: "binary", Runtimes: one("binary")},
		{Name: "standalone", Runtimes: all},
	}
}

// makesApp is found in Python scripts that make a Flask or Bottle app.
const makesApp = `\b(Flask|Bottle|default_app)\(`

// Named finds one of the usual runtimes, for messages that give its name only.
func Named(name string) (wire.RuntimeInfo, bool) {
	for _, r := range Runtimes() {
		if r.Name == name {
			return r, true
		}
	}
	return wire.RuntimeInfo{}, false
}
