package plugins

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/clusterworks/deploy/jobs/stager/staticserver"
)

// standalone starts whatever the app's owner says.
func standalone(s *staging) (start, error) {
	app, err := s.moveApp("app")
	if err != nil {
		return start{}, err
	}
	command := strings.TrimSpace(s.Environment.Meta.Command)
	if command == "" {
		return start{}, errors.New("a standalone app needs a command to start it")
	}
	if err := makeExecutable(app); err != nil {
		return start{}, err
	}
	if err := s.lineEnds(app); err != nil {
		return start{}, err
	}
	how := start{command: commandLine(command)}
	switch runtime := s.Environment.Runtime; {
	case strings.HasPrefix(runtime, "ruby"):
		how.env, _, err = s.ruby(app)
	case strings.HasPrefix(runtime, "python"):
		if how.env, err = s.python(app); err == nil {
			// Debian has no program python, and pip puts programs into bin.
			how.env["PATH"] = "$PWD/resources:$PWD/python/bin:$PWD/app/vendor/bin:$PATH"
			how.preamble = linkRuntime("python")
		}
	case strings.HasPrefix(runtime, "node"):
		var about packageJSON
		if err = readJSON(filepath.Join(app, "package.json"), &about); err == nil {
			how.env = map[string]string{"PATH": "$PWD/resources:$PWD/app/node_modules/.bin:$PATH"}
			how.preamble = linkRuntime("node")
			if err = s.waitForOutput(how.env); err == nil {
				err = s.npm(app, about)
			}
		}
	case strings.HasPrefix(runtime, "java"):
		how.env = map[string]string{"JAVA_OPTS": heap(s.Environment) + " -Djava.io.tmpdir=$PWD/tmp $JAVA_OPTS"}
		// Spring Boot's name for PORT; empty it would be no number.
		how.preamble = `[ -n "$PORT" ] && export SERVER_PORT="${SERVER_PORT:-$PORT}"`
	}
	return how, err
}

// lineEnds says which scripts of the root Linux cannot start for their line ends.
func (s *staging) lineEnds(app string) error {
	entries, err := os.ReadDir(app)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		f, err := os.Open(filepath.Join(app, entry.Name()))
		if err != nil {
			return err
		}
		first, err := bufio.NewReader(io.LimitReader(f, 256)).ReadString('\n')
		f.Close()
		if err == nil && strings.HasPrefix(first, "#!") && strings.HasSuffix(first, "\r\n") {
			s.missing("%s has Windows' line ends, so no program of the name in its first line is found: save it with those of Unix (git config core.autocrlf input)", entry.Name())
		}
	}
	return nil
}

// linkRuntime returns a line for the start that gives the DEA's executable of the
// runtime a name in resources, for commands that call it.
func linkRuntime(name string) string {
	return "mkdir -p resources && ln -sf \"" + localRuntime + "\" resources/" + name
}

// binary starts a program that needs nothing else: the command, if there is one,
// else the only program in the root.
func binary(s *staging) (start, error) {
	app, err := s.moveApp("app")
	if err != nil {
		return start{}, err
	}
	if command := strings.TrimSpace(s.Environment.Meta.Command); command != "" {
		if err := makeExecutable(app); err != nil {
			return start{}, err
		}
		return start{command: commandLine(command)}, s.lineEnds(app)
	}
	entries, err := os.ReadDir(app)
	if err != nil {
		return start{}, err
	}
	var found []string
	for _, entry := range entries {
		is, err := isProgram(filepath.Join(app, entry.Name()))
		if err != nil {
			return start{}, err
		}
		if is {
			found = append(found, entry.Name())
		}
	}
	if len(found) != 1 {
		return start{}, fmt.Errorf("cannot tell what starts this app: its root has %d programs (%s); give it a command", len(found), strings.Join(found, ", "))
	}
	// The bit may be lost on the way here.
	if err := os.Chmod(filepath.Join(app, found[0]), 0o755); err != nil {
		return start{}, err
	}
	return start{command: quote("./" + found[0])}, nil
}

// isProgram says whether a file is an ELF program or a script that names its
// interpreter and may be executed.
func isProgram(file string) (bool, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	magic := make([]byte, 4)
	n, err := io.ReadFull(f, magic)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	magic = magic[:n]
	return bytes.Equal(magic, []byte("\x7fELF")) || bytes.HasPrefix(magic, []byte("#!")) && info.Mode().Perm()&0o111 != 0, nil
}

// commandLine is an owner's command as one simple command: bash becomes the
// program if that is all there is to run.
func commandLine(command string) string {
	return "/bin/bash -c " + quote(command)
}

// makeExecutable gives all files of an app the mode 0744, and folders 0755.
func makeExecutable(app string) error {
	return filepath.WalkDir(app, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return os.Chmod(name, 0o755)
		case entry.Type().IsRegular():
			return os.Chmod(name, 0o744)
		}
		return nil
	})
}

// static serves the app's files with a server that goes with them.
func static(s *staging) (start, error) {
	if s.StaticServer == "" {
		return start{}, errors.New("the stager has no program that serves static files: set static_server in its configuration")
	}
	app, err := s.moveApp("app")
	if err != nil {
		return start{}, err
	}
	if there(app, staticserver.PasswordsFile) {
		return start{}, errors.New("the site has a Staticfile.auth, and this cloud's server of static files asks for no passwords: everybody would see it; remove the file, or push an app that asks for them")
	}
	text, err := os.ReadFile(filepath.Join(app, staticserver.SettingsFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return start{}, err
	}
	settings := staticserver.Read(text)
	if info, err := os.Stat(filepath.Join(app, settings.Root)); err != nil || !info.IsDir() {
		return start{}, fmt.Errorf("the Staticfile says root: %s, and the app has no such folder; correct it, or push the folder that was built", settings.Root)
	}
	if len(settings.Unknown) > 0 {
		s.say("Staticfile: %s: not known here, left out", strings.Join(settings.Unknown, ", "))
	}
	resources := filepath.Join(s.DestDir, "resources")
	if err := os.MkdirAll(resources, 0o755); err != nil {
		return start{}, err
	}
	server := filepath.Join(resources, "static_server")
	if err := copyFile(s.StaticServer, server); err != nil {
		return start{}, fmt.Errorf("cannot copy the program that serves static files: %w", err)
	}
	if err := os.Chmod(server, 0o755); err != nil {
		return start{}, err
	}
	return start{command: `../resources/static_server "$@" .`}, nil
}
