package plugins

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// packageJSON describes what matters of a Node.js app's package.json.
type packageJSON struct {
	Main         string            `json:"main"`
	Scripts      map[string]string `json:"scripts"`
	Dependencies map[string]string `json:"dependencies"`
}

func node(s *staging) (start, error) {
	app, err := s.moveApp("app")
	if err != nil {
		return start{}, err
	}
	var about packageJSON
	if err := readJSON(filepath.Join(app, "package.json"), &about); err != nil {
		return start{}, err
	}
	how := start{env: map[string]string{}}
	if err := s.waitForOutput(how.env); err != nil {
		return start{}, err
	}
	command := byNpm(strings.TrimSpace(about.Scripts["start"]), about.Scripts)
	script, isNode := strings.CutPrefix(command, "node ")
	first, _, _ := strings.Cut(command, " ")
	switch {
	case isNode && plainScript.MatchString(script):
		s.built(app, strings.Fields(script)[0], about)
	case command == "":
		if script, err = nodeMain(app, about); err != nil {
			return start{}, err
		}
	case there(app, first) && plainScript.MatchString(command):
		script = command
	default: // a program of one of its modules, most likely, or a line for a shell
		how.command = commandLine(command)
	}
	before := strings.TrimSpace(about.Scripts["prestart"])
	if how.command != "" || before != "" {
		how.env["PATH"] = "$PWD/resources:$PWD/app/node_modules/.bin:$PATH"
		how.preamble = linkRuntime("node")
	}
	if before != "" { // as npm start does
		how.preamble += "\n(cd app && exec " + commandLine(before) + ") >> logs/stdout.log 2>> logs/stderr.log || exit"
	}
	if how.command == "" {
		how.command = localRuntime + " $NODE_ARGS " + strings.TrimSpace(script) + ` "$@"`
	}
	return how, s.npm(app, about)
}

// built says so if a script that package.json starts is not among the app's files.
func (s *staging) built(app, script string, about packageJSON) {
	for _, end := range []string{"", ".js", ".json", ".node", "/index.js"} {
		if there(app, script+end) {
			return
		}
	}
	how := "push it along (does an ignore file name it?)"
	if about.Scripts["build"] != "" {
		how = "build the app first (npm run build), and " + how
	}
	s.missing("package.json starts %s, which is not among the app's files: %s", script, how)
}

// runsScript finds a command that has another manager of packages run a script.
var runsScript = regexp.MustCompile(`^(yarn|pnpm|bun) (run )?([A-Za-z0-9:._-]+)$`)

// byNpm returns a command that runs a script of the package with npm, which is there
// wherever Node.js is, if it is to be run by a program that is not.
func byNpm(command string, scripts map[string]string) string {
	parts := runsScript.FindStringSubmatch(command)
	if parts == nil || scripts[parts[3]] == "" {
		return command
	}
	if _, err := exec.LookPath(parts[1]); err == nil {
		return command
	}
	return "npm run " + parts[3]
}

//go:embed node_output.cjs
var nodeOutput []byte

// waitForOutput has Node.js wait until what an app prints is read, by a file that comes
// with the droplet and the environment that it adds to.
func (s *staging) waitForOutput(env map[string]string) error {
	resources := filepath.Join(s.DestDir, "resources")
	if err := os.MkdirAll(resources, 0o755); err != nil {
		return err
	}
	env["NODE_OPTIONS"] = `--require=\"$PWD/resources/output.cjs\"${NODE_OPTIONS:+ $NODE_OPTIONS}`
	return os.WriteFile(filepath.Join(resources, "output.cjs"), nodeOutput, 0o644)
}

// plainScript finds a script, with arguments or without, to which the port can be
// added as one more: what has words of a shell, or begins with an option of node's
// own, runs as it is and finds its port in PORT.
var plainScript = regexp.MustCompile(`^\s*[A-Za-z0-9_./@+][A-Za-z0-9_./@+=:,-]*(\s+[A-Za-z0-9_./@+=:,-]+)*\s*$`)

// nodeMain is the script to run when the package does not say how to start: server.js,
// as npm has it, or the package's main one if it names one; else the only one in the root,
// or the first of the usual names.
func nodeMain(app string, about packageJSON) (string, error) {
	switch {
	case about.Main != "" && there(app, "server.js"):
		return "server.js", nil
	case about.Main != "" && there(app, about.Main):
		return quote(about.Main), nil
	}
	scripts, err := filepath.Glob(filepath.Join(app, "*.js"))
	if err != nil {
		return "", err
	}
	if len(scripts) == 1 {
		return quote(filepath.Base(scripts[0])), nil
	}
	for _, name := range []string{"application.js", "main.js", "index.js", "app.js", "server.js"} {
		if there(app, name) {
			return name, nil
		}
	}
	return "", errors.New("cannot tell what starts this Node.js app: name it in package.json as scripts.start, or call it server.js")
}

// npm installs the modules that the app names and does not bring.
func (s *staging) npm(app string, about packageJSON) error {
	var settings struct {
		IgnoreNodeModules bool `json:"ignoreNodeModules"`
	}
	if err := readJSON(filepath.Join(app, "cloudfoundry.json"), &settings); err != nil {
		return err
	}
	var absent []string
	for _, name := range slices.Sorted(maps.Keys(about.Dependencies)) {
		if !there(app, "node_modules", name) {
			absent = append(absent, name)
		}
	}
	if len(about.Dependencies) == 0 || len(absent) == 0 && !settings.IgnoreNodeModules {
		return nil
	}
	if !s.FetchDependencies {
		if len(absent) > 0 {
			s.missing("package.json lists %s, which node_modules lacks, and this stager fetches nothing: `npm install`, and push node_modules along (does an ignore file name it?)", strings.Join(absent, ", "))
		}
		return nil
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return fmt.Errorf("cannot install the app's modules: npm is not on the stager's machine; push node_modules along: %w", err)
	}
	if settings.IgnoreNodeModules {
		if err := os.RemoveAll(filepath.Join(app, "node_modules")); err != nil {
			return err
		}
	}
	install := "install"
	if there(app, "package-lock.json") || there(app, "npm-shrinkwrap.json") {
		install = "ci"
	}
	return s.command(app, nil, npm, install, "--omit=dev", "--no-audit", "--no-fund")
}

// readJSON reads a file of the app; one that is not there leaves v as it is.
func readJSON(file string, v any) error {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return fmt.Errorf("cannot read the app's %s: %w", filepath.Base(file), err)
	}
	return nil
}
