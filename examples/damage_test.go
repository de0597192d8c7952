//go:build e2e

package examples

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// One of the damages in damageEvery is tried; make soak tries all of them, for a
// quarter of an hour.
var (
	damageEvery = flag.Int("damage-every", 29, "TestEveryFileDamaged tries one of so many damages")
	damageFirst = flag.Int("damage-first", 0, "the first that it tries")
	damageFiles = flag.String("damage-files", "", "only those of files that match this expression")
)

// derived are files that hold nothing of worth: each run makes them anew, or they
// are the records of what has ended.
var derived = regexp.MustCompile(`(^|/)(lock|\.gitignore|agent\.lock|init\.log|status\.json|plan|terraform\.rc|main\.tf\.json)$|/\.terraform/|/template/|/agent/(log|ops|run|records|incoming)/|/log/agent\.log$|\.damaged|-[0-9TZ]+\.tar\.gz$`)

// changing are files that a successful apply may change.
var changing = regexp.MustCompile(`^(state\.json|journal\.jsonl|revisions/.*|terraform/(applied\.json|terraform\.tfstate.*)|vms/[^/]*/agent/.*|vms/[^/]*/(config\.json|services/.*))$`)

// TestEveryFileDamaged takes each file of the state folder and of the agent's
// folder, and removes, empties, halves it or puts another deployment's in its place.
// Whatever status, plan, apply and destroy then do: no other file loses its content,
// the VM and its disk stay what they are, nothing runs after "Destroyed", and what
// cannot go on names the file.
func TestEveryFileDamaged(t *testing.T) {
	t.Parallel()
	c, other := storedCluster(t, "stored"), storedCluster(t, "other")
	c.mustApply()
	other.mustApply()
	names := c.files()
	theirs := map[string]string{}
	for _, name := range other.files() {
		theirs[likeness(name)] = name
	}
	for _, must := range []string{"state.json", "secrets.json", "journal.jsonl", "terraform/terraform.tfstate", "vms/app-0/agent/agent.json"} {
		if !slices.Contains(names, must) {
			t.Fatalf("%s is not among the files: %s", must, strings.Join(names, "\n"))
		}
	}
	d := damages{cluster: c, t: t}
	d.begin()
	n := 0
	for _, name := range names {
		if ok, err := regexp.MatchString(*damageFiles, name); err != nil || !ok {
			continue
		}
		for _, how := range []string{"removed", "emptied", "halved", "foreign"} {
			if n++; n%*damageEvery != *damageFirst%*damageEvery {
				continue
			}
			// Names have digests and times in them: the file may be another by now.
			name := name
			if at := slices.IndexFunc(c.files(), func(now string) bool { return likeness(now) == likeness(name) }); at >= 0 {
				name = c.files()[at]
			} else {
				continue
			}
			whole := d.read(name)
			data := map[string][]byte{"emptied": {}, "halved": whole[:len(whole)/2]}[how]
			if how == "foreign" {
				path, ok := theirs[likeness(name)]
				if !ok {
					continue
				}
				var err error
				if data, err = os.ReadFile(filepath.Join(other.root(), path)); err != nil {
					t.Fatal(err)
				}
			}
			d.what = name + " " + how
			d.try(name, data, how == "removed")
			if t.Failed() && *damageEvery > 1 {
				t.FailNow()
			}
		}
	}
}

func storedCluster(t *testing.T, name string) *cluster {
	t.Helper()
	c := shellCluster(t, 1, waits)
	t.Cleanup(func() {
		if out, code := c.run("destroy", "--auto-approve", "--delete-disks"); code != 0 {
			t.Errorf("destroy exited with %d:\n%s", code, out)
		}
	})
	c.edit(`deployment "scripts"`, fmt.Sprintf("secret \"password\" { type = \"password\" }\ndisk \"data\" { size_gb = 1 }\ndeployment %q", name))
	c.edit(`group "app" {`, "group \"app\" {\n  disk = disk.data\n")
	c.edit(`script = var.script`, `script = "# ${secret.password.value}\n${var.script}"`)
	return c
}

// root is the folder of the deployment's state.
func (c *cluster) root() string { return only(c.t.(*testing.T), filepath.Join(c.state, "*")) }

// files are the names of all files below the state folder.
func (c *cluster) files() []string {
	c.t.Helper()
	root := c.root()
	var out []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && e.Type().IsRegular() {
			out = append(out, strings.TrimPrefix(path, root+"/"))
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

var varying = regexp.MustCompile(`[0-9a-f]{8,}|\d{8}T\d{6}Z|epoch\d+|00000\d|-\d+\.`)

// likeness is a file's name without what two deployments cannot have in common.
func likeness(name string) string { return varying.ReplaceAllString(name, "*") }

// damages tries one after the other.
type damages struct {
	*cluster
	t    *testing.T
	what string
	init int // the VM's
}

func (d *damages) errorf(format string, args ...any) {
	d.t.Helper()
	d.t.Errorf("%s: %s", d.what, fmt.Sprintf(format, args...))
}

func (d *damages) read(name string) []byte {
	data, err := os.ReadFile(filepath.Join(d.root(), name))
	if err != nil {
		d.t.Fatal(err)
	}
	return data
}

// marks are files of the job's, on its VM and on its disk.
func (d *damages) marks() []string {
	root := d.root()
	return []string{filepath.Join(root, "vms/app-0/mark"), filepath.Join(root, "vms/disks/app-0/data/mark")}
}

// begin leaves the marks and remembers the VM.
func (d *damages) begin() {
	d.mustAllRun(1)
	for _, path := range d.marks() {
		if err := os.WriteFile(path, []byte("kept"), 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
	var status struct{ PID int }
	if err := json.Unmarshal(d.read("vms/app-0/status.json"), &status); err != nil || status.PID == 0 {
		d.t.Fatalf("%v: %s", err, d.read("vms/app-0/status.json"))
	}
	d.init = status.PID
}

// worth returns what must not change: all files but those that are derived, and the
// damaged one.
func (d *damages) worth(but string, more *regexp.Regexp) map[string]string {
	out := map[string]string{}
	for _, name := range d.files() {
		if name != but && !derived.MatchString(name) && (more == nil || !more.MatchString(name)) {
			if data, err := os.ReadFile(filepath.Join(d.root(), name)); err == nil {
				out[name] = string(data)
			}
		}
	}
	return out
}

// unchanged checks that files of worth are as they were.
func (d *damages) unchanged(after string, before, now map[string]string) {
	d.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if text, ok := now[name]; !ok {
			d.errorf("after %s %s is gone", after, name)
		} else if text != before[name] {
			d.errorf("after %s %s is another:\n%.600s\nwas\n%.600s", after, name, text, before[name])
		}
	}
}

// kept checks that the VM is the same and nothing on it or its disk is lost.
func (d *damages) kept(after string) {
	d.t.Helper()
	if err := syscall.Kill(d.init, 0); err != nil {
		d.errorf("after %s the VM's init %d does not run: %v", after, d.init, err)
	}
	for _, path := range d.marks() {
		if data, err := os.ReadFile(path); err != nil || string(data) != "kept" {
			d.errorf("after %s: %q, %v", after, data, err)
		}
	}
}

func (d *damages) put(name string, data []byte, remove bool) {
	path := filepath.Join(d.root(), name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.t.Fatal(err)
	}
	if remove {
		return
	}
	mode := fs.FileMode(0o600)
	if strings.Contains(name, "/bin/") {
		mode = 0o755
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		d.t.Fatal(err)
	}
}

// endAgent kills the agent, so that the next one reads what was damaged.
func (d *damages) endAgent() {
	for _, p := range processesUnder(d.root()) {
		if strings.Contains(p, "/bin/agent-") && strings.Contains(p, " run ") {
			pid, err := strconv.Atoi(strings.Fields(p)[0])
			if err != nil {
				d.t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				d.t.Fatal(err)
			}
		}
	}
}

// named reports whether a message names a file, or the folder it is all of.
func named(out, name string) bool {
	return strings.Contains(out, filepath.Base(name)) || strings.Contains(out, filepath.Base(filepath.Dir(name)))
}

func (d *damages) try(name string, data []byte, remove bool) {
	begin := time.Now()
	whole := d.read(name)
	ofAgent := strings.Contains(name, "/agent/")
	d.put(name, data, remove)
	if ofAgent {
		d.endAgent()
	}

	before := d.worth(name, nil)
	status, statusCode := d.run("status")
	d.unchanged("status", before, d.worth(name, nil))
	planned, planCode := d.run("plan")
	d.unchanged("plan", before, d.worth(name, nil))
	applied, applyCode := d.run("apply", "--auto-approve")
	d.kept("apply")
	way := "apply"
	if applyCode == 0 {
		d.unchanged("apply", d.without(before), d.worth(name, changing))
	} else {
		d.unchanged("a refused apply", before, d.worth(name, nil))
		if !named(applied, name) {
			d.errorf("apply does not name it:\n%s", applied)
		}
		way = "repair"
		repaired, errOut, code := d.deploy("", "state", "repair", "--state", d.state, d.manifest)
		repaired += errOut
		if code == 0 {
			applied, applyCode = d.run("apply", "--auto-approve")
		}
		if code != 0 || applyCode != 0 {
			way = "hand"
			d.t.Logf("%s: repair: %s\nand then: %s", d.what, repaired, applied)
			d.put(name, whole, false)
			if ofAgent {
				d.endAgent()
			}
			if applied, applyCode = d.run("apply", "--auto-approve"); applyCode != 0 {
				d.t.Fatalf("%s: with the file back: %s", d.what, applied)
			}
		}
		d.kept("the way back")
	}
	if out, code := d.run("plan"); code != 0 {
		d.errorf("a plan after the way back (%s) exited with %d:\n%s", way, code, out)
	}
	d.mustAllRun(1)
	if strings.Contains(name, "/bin/") && !bytes.Equal(d.read(name), whole) {
		d.errorf("after the way back (%s) it is not whole", way)
	}
	if d.t.Failed() {
		out, code := d.run("status")
		d.t.Logf("%s: the apply of the way back said %s\nstatus %d: %s", d.what, applied, code, out)
	}
	for _, p := range d.files() {
		if strings.Contains(p, ".damaged") {
			_ = os.Remove(filepath.Join(d.root(), p))
		}
	}
	d.t.Logf("%s: status %d, plan %d, way back %s, %.1f s", d.what, statusCode, planCode, way, time.Since(begin).Seconds())
	if os.Getenv("DAMAGE_VERBOSE") != "" {
		d.t.Logf("status: %s\nplan: %s\napply: %s", status, planned, applied)
	}

	// And a destroy.
	now := name
	if at := slices.IndexFunc(d.files(), func(f string) bool { return likeness(f) == likeness(name) }); at < 0 {
		return
	} else {
		now = d.files()[at]
	}
	whole = d.read(now)
	d.put(now, data, remove)
	before = d.worth(now, nil)
	out, code := d.run("destroy", "--auto-approve", "--delete-disks")
	if code != 0 {
		d.unchanged("a refused destroy", before, d.worth(now, nil))
		d.kept("a refused destroy")
		if !named(out, now) {
			d.errorf("destroy does not name it:\n%s", out)
		}
		d.put(now, whole, false)
		d.mustAllRun(1)
		return
	}
	if left := processesUnder(d.state); len(left) > 0 {
		d.t.Fatalf("%s: destroyed, and there run %v", d.what, left)
	}
	if entries, _ := filepath.Glob(filepath.Join(d.state, "*", "*")); len(entries) > 0 {
		d.errorf("destroyed, and left are %v", entries)
	}
	d.mustApply()
	d.begin()
}

// without returns the files but those that a successful apply may change.
func (d *damages) without(files map[string]string) map[string]string {
	out := maps.Clone(files)
	maps.DeleteFunc(out, func(name, _ string) bool { return changing.MatchString(name) })
	return out
}
