package plugins

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// wsgiServer runs gunicorn where it is installed, else a server of the standard
// library.
//
//go:embed wsgi_server.py
var wsgiServer []byte

func wsgi(s *staging) (start, error) {
	app, err := s.moveApp("app")
	if err != nil {
		return start{}, err
	}
	module, err := wsgiModule(app)
	if err != nil {
		return start{}, err
	}
	s.say("the app is the WSGI callable of %s", module)
	env, err := s.python(app)
	if err != nil {
		return start{}, err
	}
	resources := filepath.Join(s.DestDir, "resources")
	if err := os.MkdirAll(resources, 0o755); err != nil {
		return start{}, err
	}
	if err := os.WriteFile(filepath.Join(resources, "wsgi_server.py"), wsgiServer, 0o644); err != nil {
		return start{}, err
	}
	return start{env: env, command: localRuntime + " ../resources/wsgi_server.py -m " + quote(module) + ` "$@"`}, nil
}

var (
	// procfileServer finds the callable in a Procfile's line for a WSGI server.
	procfileServer = regexp.MustCompile(`(?m)^web:.*\b(?:gunicorn|waitress-serve|uwsgi)\b.*?\s([A-Za-z_][\w.]*:[A-Za-z_]\w*)`)
	// makesCallable finds scripts that make an app of a framework.
	makesCallable = regexp.MustCompile(`\b(Flask|Bottle|default_app|get_wsgi_application|make_wsgi_app)\(`)
)

// wsgiModule finds the module with the app's callable, with ":CALLABLE" if that is
// declared: what a Procfile starts, wsgi.py, the only wsgi.py of a Django project's
// folders, or a script of a usual name that makes a Flask or Bottle app.
func wsgiModule(app string) (string, error) {
	if text, err := os.ReadFile(filepath.Join(app, "Procfile")); err == nil {
		if found := procfileServer.FindSubmatch(text); found != nil {
			return string(found[1]), nil
		}
	}
	if there(app, "wsgi.py") {
		return "wsgi", nil
	}
	if there(app, "manage.py") {
		found, err := filepath.Glob(filepath.Join(app, "*", "wsgi.py"))
		if err != nil {
			return "", err
		}
		if len(found) != 1 {
			return "", fmt.Errorf("there is a manage.py, and %d of its folders have a wsgi.py: name the callable in a Procfile, such as \"web: gunicorn project.wsgi:application\"", len(found))
		}
		return filepath.Base(filepath.Dir(found[0])) + ".wsgi", nil
	}
	for _, name := range []string{"app", "application", "main"} {
		text, err := os.ReadFile(filepath.Join(app, name+".py"))
		if err == nil && makesCallable.Match(text) {
			return name, nil
		}
	}
	return "", errors.New("cannot tell what starts this Python app: it needs a wsgi.py with the callable application, a manage.py of Django, an app.py that makes a Flask app, or a Procfile with a line such as \"web: gunicorn module:callable\"")
}

// listMissing prints which of the distributions that its arguments name are not
// there; modules that an app brings are below the first argument.
const listMissing = `
import importlib.metadata as metadata, importlib.util as util, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        if not util.find_spec(name.lower().replace("-", "_")):
            print(name)
`

var requirement = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*`)

// missingModules returns the names in requirements.txt that neither the app nor the
// machine has.
func (s *staging) missingModules(app string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(app, "requirements.txt"))
	if err != nil {
		return nil, err
	}
	names := []string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if name := requirement.FindString(line); name != "" && !strings.Contains(line, "://") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	cmd := exec.Command(s.RuntimePath, append([]string{"-c", listMissing, filepath.Join(app, "vendor")}, names...)...)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("cannot see which modules are there: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// python installs the modules that requirements.txt names into the droplet, if
// the stager may fetch them, and returns the app's variables. Modules that the
// app brings are in its folder vendor.
func (s *staging) python(app string) (map[string]string, error) {
	env := map[string]string{
		"PYTHONUNBUFFERED": "true",
		"PYTHONPATH":       "$PWD/app/vendor:$PWD/python${PYTHONPATH:+:$PYTHONPATH}",
	}
	if !there(app, "requirements.txt") {
		return env, nil
	}
	if !s.FetchDependencies {
		absent, err := s.missingModules(app)
		if err != nil {
			return nil, err
		}
		if len(absent) > 0 {
			s.missing("requirements.txt lists %s, which neither the app's folder vendor nor this cloud's Python has, and this stager fetches nothing: `pip install -t vendor -r requirements.txt`, and push vendor along", strings.Join(absent, ", "))
		}
		return env, nil
	}
	return env, s.command(app, nil, s.RuntimePath, "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
		"--target", filepath.Join(s.DestDir, "python"), "-r", "requirements.txt")
}
