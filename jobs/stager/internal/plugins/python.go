package plugins

import (
	_ "embed"
	"errors"
	"os"
	"path/filepath"
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
	if !there(app, "wsgi.py") {
		return start{}, errors.New("a WSGI app needs a wsgi.py in its root, with the callable application")
	}
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
	return start{env: env, command: localRuntime + ` ../resources/wsgi_server.py "$@"`}, nil
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
		if !there(app, "vendor") {
			s.say("there is a requirements.txt and no folder vendor: this stager fetches no modules, so `pip install -t vendor -r requirements.txt` lets you push them along")
		}
		return env, nil
	}
	return env, s.command(app, nil, s.RuntimePath, "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
		"--target", filepath.Join(s.DestDir, "python"), "-r", "requirements.txt")
}
