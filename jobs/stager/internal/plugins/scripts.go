package plugins

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// localRuntime holds what the DEA replaces, in the start script, by the path of its
// own executable of the runtime.
const localRuntime = "%VCAP_LOCAL_RUNTIME%"

// start describes how an app is started.
type start struct {
	// env is set for the app. A value stands between double quotes in a bash
	// script: $PWD is the droplet's folder.
	env map[string]string
	// preamble are lines of bash that come before the start, in the droplet's
	// folder; "$@" are the arguments, -p PORT or none.
	preamble string
	// dir is the folder to start in; "": app.
	dir string
	// command is one simple command of bash, which becomes the app's process.
	command string
	// stateFile, if set, says {"state":"RUNNING"} once the app serves; its path is
	// below the droplet's folder.
	stateFile string
}

// writeScripts writes startup, stop and droplet.yaml.
func (s *staging) writeScripts(how start) error {
	env := map[string]string{
		"PATH":   "$PATH", // bash has one in an empty environment, too
		"TMPDIR": "$PWD/tmp",
	}
	maps.Copy(env, how.env)
	var b strings.Builder
	b.WriteString("#!/bin/bash\n")
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&b, "export %s=\"%s\"\n", name, env[name])
	}
	if how.preamble != "" {
		b.WriteString(strings.TrimSpace(how.preamble) + "\n")
	}
	dir := how.dir
	if dir == "" {
		dir = "app"
	}
	// The last lines hand TERM on: bash itself would end at once and leave the app
	// without a chance to finish its requests. A signal ends a wait with a status of
	// its own; the last wait, after the app's end, has the app's.
	fmt.Fprintf(&b, `DROPLET_BASE_DIR=$PWD
cd %s
%s >> "$DROPLET_BASE_DIR/logs/stdout.log" 2>> "$DROPLET_BASE_DIR/logs/stderr.log" &
STARTED=$!
echo "$STARTED" >> "$DROPLET_BASE_DIR/run.pid"
trap 'kill -TERM "$STARTED" 2> /dev/null' TERM
wait "$STARTED"
while kill -0 "$STARTED" 2> /dev/null; do
  wait "$STARTED"
done
wait "$STARTED"
`, dir, how.command)
	files := []struct{ name, text string }{
		{"startup", b.String()},
		{"stop", stopScript},
	}
	for _, file := range files {
		if err := os.WriteFile(filepath.Join(s.DestDir, file.name), []byte(file.text), 0o500); err != nil {
			return err
		}
	}
	if how.stateFile == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(s.DestDir, "droplet.yaml"), []byte("state_file: "+how.stateFile+"\n"), 0o644)
}

// stopScript ends the app, whose pid it gets, and the start script, its parent:
// that one first, which would end by itself a moment after the app. It asks the
// kernel who it is, since ps is not on every machine.
const stopScript = `#!/bin/bash
APP_PID=$1
APP_PPID=
while read -r NAME VALUE; do
  [ "$NAME" = PPid: ] && APP_PPID=$VALUE
done < "/proc/$APP_PID/status" 2> /dev/null
[ "${APP_PPID:-0}" -gt 1 ] && kill -9 "$APP_PPID"
kill -9 "$APP_PID"
`

// quote makes one word of bash of a text.
func quote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
