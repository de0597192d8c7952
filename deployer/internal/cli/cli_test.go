package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/agent/api"
)

const manifest = `deployment "cf" { domain = "cf.localhost" }
infrastructure "local" {}
secret "word" { type = "password" }
variable "count" { default = 2 }
vm "small" { memory_mb = 128 }
group "web" {
  instances = var.count
  vm        = vm.small
  job "web" {
    properties { word = secret.word.value }
  }
}
`

const jobFile = `property "word" {
  type      = string
  sensitive = true
}
template "web.conf" { destination = "web.conf" }
process "web" { command = ["/bin/sleep", "1000"] }
hook "errand" {
  name    = "check"
  command = ["/bin/true"]
}
`

// bench is a command line on a manifest of its own.
type bench struct {
	*testing.T
	dir         string
	out, errOut bytes.Buffer
	signals     *signals
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, dir: t.TempDir()}
	b.write("cluster.hcl", manifest)
	// What make build leaves: validate, status and plan want to know it.
	agent := []byte("a program")
	platform := runtime.GOOS + "_" + runtime.GOARCH
	if err := os.MkdirAll(filepath.Join(b.dir, "packages", platform), 0o700); err != nil {
		t.Fatal(err)
	}
	b.write(filepath.Join("packages", platform, "agent"), string(agent))
	b.write(filepath.Join("packages", platform, "index.json"), fmt.Sprintf(
		`{"os": %q, "arch": %q, "api": %d, "agent": {"file": "agent", "digest": "%x", "size": %d}, "packages": {}}`,
		runtime.GOOS, runtime.GOARCH, api.Version, sha256.Sum256(agent), len(agent)))
	t.Setenv("DEPLOY_PACKAGES", filepath.Join(b.dir, "packages"))
	return b
}

func (b *bench) write(name, text string) string {
	b.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

func (b *bench) app(out io.Writer) *app {
	in, err := os.Open(os.DevNull)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = in.Close() })
	b.signals = &signals{interrupt: make(chan struct{}), cancel: func(error) {}}
	return &app{
		builtin: Builtin{
			Version:   "1.2.3",
			Templates: os.DirFS("../../../templates"),
			Jobs: fstest.MapFS{
				"web/job.hcl":            {Data: []byte(jobFile)},
				"web/templates/web.conf": {Data: []byte("word: ${property.word}\n")},
			},
		},
		signals: b.signals, in: in, out: out, errOut: &b.errOut,
		passphrase: func(bool) (string, error) { return "", errors.New("nobody knows it") },
	}
}

// run runs a command; MANIFEST stands for the bench's manifest.
func (b *bench) run(args ...string) (code int, out, errOut string) {
	b.Helper()
	b.out.Reset()
	b.errOut.Reset()
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "MANIFEST", filepath.Join(b.dir, "cluster.hcl"))
	}
	code = b.app(&b.out).run(b.Context(), args)
	return code, b.out.String(), b.errOut.String()
}

func TestCommands(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		code int
		out  string // in the answer
		err  string // in what is said beside it
	}{
		"version":             {[]string{"version"}, 0, "deploy 1.2.3 (go", ""},
		"version flag":        {[]string{"--version"}, 0, "1.2.3", ""},
		"valid":               {[]string{"validate", "MANIFEST"}, 0, "is valid: 1 group, 2 instances, 1 job\n", ""},
		"variable":            {[]string{"validate", "--var", "count=5", "MANIFEST"}, 0, "5 instances", ""},
		"variable misspelt":   {[]string{"validate", "--var", "cuont=5", "MANIFEST"}, 1, "", `declares no variable "cuont"`},
		"variable without =":  {[]string{"validate", "--var", "count", "MANIFEST"}, 1, "", `cannot use --var "count": it must be name=value`},
		"no manifest":         {[]string{"validate"}, 1, "", "cannot run deploy validate: it accepts 1 arg(s), received 0; usage: deploy validate MANIFEST"},
		"missing manifest":    {[]string{"plan", "nowhere.hcl"}, 1, "", "nowhere.hcl"},
		"unknown command":     {[]string{"aply", "MANIFEST"}, 1, "", `unknown command "aply" for "deploy"`},
		"unknown flag":        {[]string{"apply", "--aut", "MANIFEST"}, 1, "", "unknown flag: --aut"},
		"status":              {[]string{"status", "MANIFEST"}, 0, "INSTANCE", ""},
		"secrets":             {[]string{"secret", "list", "MANIFEST"}, 0, "word    password  value       not made yet", ""},
		"secret set":          {[]string{"secret", "set", "MANIFEST", "nosuch"}, 1, "", "nosuch"},
		"history":             {[]string{"history", "MANIFEST"}, 1, "", "there is no state yet"},
		"revision":            {[]string{"rollback", "MANIFEST", "0"}, 1, "", `cannot read revision "0": it must be a number from deploy history`},
		"errand":              {[]string{"run", "MANIFEST", "check"}, 1, "", `cannot run "check": it must name a job and its errand, JOB/ERRAND`},
		"errand variable":     {[]string{"run", "-e", "A", "MANIFEST", "web/check"}, 1, "", `cannot use --env "A": it must be NAME=value`},
		"nothing to pause":    {[]string{"pause", "MANIFEST"}, 1, "", "Error:"},
		"encrypt how":         {[]string{"state", "encrypt", "MANIFEST"}, 1, "", "cannot encrypt: --passphrase or --recipient is missing"},
		"state check":         {[]string{"state", "check", "MANIFEST"}, 0, "there is none yet", ""},
		"state repair":        {[]string{"state", "repair", "MANIFEST"}, 1, "", "there is no state yet"},
		"state adopt":         {[]string{"state", "adopt", "--auto-approve", "MANIFEST"}, 1, "", "there is no state yet"},
		"simulate":            {[]string{"simulate", "--agents", "50", "MANIFEST"}, 0, "cf: 50 instances, done after", ""},
		"simulate with fault": {[]string{"simulate", "--fail", "web/0@noon", "MANIFEST"}, 1, "", `cannot read fault "web/0@noon"`},
		"format":              {[]string{"fmt", "--check", "MANIFEST"}, 0, "", ""},
		"destroy of nothing":  {[]string{"destroy", "MANIFEST"}, 0, "nothing to destroy", ""},
		"secret help":         {[]string{"secret"}, 0, "rotate", ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errOut := newBench(t).run(test.args...)
			if code != test.code || !strings.Contains(out, test.out) || !strings.Contains(errOut, test.err) {
				t.Errorf("exit code %d, want %d; answer\n%s\nwant %q; beside it\n%s\nwant %q", code, test.code, out, test.out, errOut, test.err)
			}
			if test.code == 0 && errOut != "" || test.code == 1 && out != "" {
				t.Errorf("the answer %q and what is beside it, %q: only one of them was due", out, errOut)
			}
		})
	}
}

// An export in plain goes to a file that only its owner can read, or nowhere.
func TestExportIsNotForOthers(t *testing.T) {
	b := newBench(t)
	if code, _, errOut := b.run("secret", "rotate", "MANIFEST", "word"); code != 0 {
		t.Fatal(errOut)
	}
	target := filepath.Join(b.dir, "backup")
	if code, _, errOut := b.run("state", "export", "--out", target, "MANIFEST"); code != 0 {
		t.Fatal(errOut)
	}
	if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o600 || info.Size() == 0 {
		t.Errorf("%v, %v", info, err)
	}
	if code, _, errOut := b.run("state", "export", "--out", target, "MANIFEST"); code != 1 || !strings.Contains(errOut, "file exists") {
		t.Errorf("overwrote a backup: %d, %s", code, errOut)
	}
	for mode, want := range map[os.FileMode]int{0o644: 1, 0o640: 1, 0o600: 0} {
		f, err := os.OpenFile(filepath.Join(b.dir, fmt.Sprintf("to-%o", mode)), os.O_CREATE|os.O_RDWR, 0o600)
		if err == nil {
			err = f.Chmod(mode)
		}
		if err != nil {
			t.Fatal(err)
		}
		b.errOut.Reset()
		code := b.app(f).run(t.Context(), []string{"state", "export", filepath.Join(b.dir, "cluster.hcl")})
		info, err := f.Stat()
		if err != nil || code != want || (info.Size() > 0) != (want == 0) || want == 1 && !strings.Contains(b.errOut.String(), "--out") {
			t.Errorf("into a file of mode %o: exit code %d, %d bytes, %s", mode, code, info.Size(), b.errOut.String())
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	const recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
	if code, out, errOut := b.run("state", "export", "--recipient", recipient, "MANIFEST"); code != 0 || !strings.HasPrefix(out, "-----BEGIN AGE") {
		t.Errorf("encrypted: %d, %.40s, %s", code, out, errOut)
	}
}

// Each command has an example and is in a group, and what it says of itself fits
// a terminal of 80 columns.
func TestHelp(t *testing.T) {
	b := newBench(t)
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		name := cmd.CommandPath()
		if cmd.HasParent() && cmd.Example == "" {
			t.Errorf("%s has no example", name)
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || len(cmd.Short) > 80 {
			t.Errorf("%s is described as %q: want a line without a full stop", name, cmd.Short)
		}
		for line := range strings.Lines(cmd.Long) {
			if len([]rune(line)) > 90 {
				t.Errorf("%s: a line of its help is too long: %s", name, line)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	root := rootCommand(b.app(&b.out))
	walk(root)
	for _, cmd := range root.Commands() {
		if cmd.GroupID == "" && cmd.Name() != "version" {
			t.Errorf("%s is in no group of deploy -h", cmd.Name())
		}
	}
}

func TestJSON(t *testing.T) {
	for _, args := range [][]string{
		{"version"}, {"validate", "MANIFEST"}, {"status", "MANIFEST"}, {"secret", "list", "MANIFEST"},
		{"simulate", "MANIFEST"}, {"doctor", "MANIFEST"},
	} {
		_, out, _ := newBench(t).run(append([]string{"--json"}, args...)...)
		d := json.NewDecoder(strings.NewReader(out))
		var v any
		if err := d.Decode(&v); err != nil {
			t.Errorf("%q: %v in %s", args, err, out)
		}
		if _, err := d.Token(); err != io.EOF {
			t.Errorf("%q prints more than one document", args)
		}
	}
}

func TestCompletion(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"instances":       {[]string{"__complete", "logs", "MANIFEST", ""}, "web\nweb/0\nweb/1\n"},
		"begun":           {[]string{"__complete", "restart", "MANIFEST", "web/"}, "web/0\nweb/1\n"},
		"not twice":       {[]string{"__complete", "restart", "MANIFEST", "web/0", "web/"}, "web/1\n"},
		"errands":         {[]string{"__complete", "run", "MANIFEST", ""}, "web/check\n"},
		"target":          {[]string{"__complete", "apply", "MANIFEST", "--target", "web/1"}, "web/1\n"},
		"manifests":       {[]string{"__complete", "plan", ""}, "hcl\n"},
		"broken manifest": {[]string{"__complete", "logs", "nowhere.hcl", ""}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, out, _ := newBench(t).run(test.args...)
			got, _, _ := strings.Cut(out, ":")
			if got != test.want {
				t.Errorf("offers %q, want %q", got, test.want)
			}
		})
	}
}

// full is a disk that is full.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestAnswerThatCannotBePrintedIsAnError(t *testing.T) {
	for _, args := range [][]string{
		{"status", "MANIFEST"}, {"--json", "status", "MANIFEST"}, {"validate", "MANIFEST"}, {"version"}, {"secret", "list", "MANIFEST"}, {"simulate", "MANIFEST"},
	} {
		b := newBench(t)
		for i, a := range args {
			args[i] = strings.ReplaceAll(a, "MANIFEST", filepath.Join(b.dir, "cluster.hcl"))
		}
		if code := b.app(full{}).run(b.Context(), args); code != exitError || !strings.Contains(b.errOut.String(), "cannot print") {
			t.Errorf("%q to a full disk: exit code %d, %s", args, code, b.errOut.String())
		}
	}
}

func TestSignals(t *testing.T) {
	ended := func(ctx context.Context) bool { return ctx.Err() != nil }
	newSignals := func(reads bool) (context.Context, *signals) {
		ctx, cancel := context.WithCancelCause(t.Context())
		s := &signals{interrupt: make(chan struct{}), cancel: cancel}
		s.reads.Store(reads)
		return ctx, s
	}
	interruptedNow := func(s *signals) bool {
		select {
		case <-s.interrupt:
			return true
		default:
			return false
		}
	}
	for _, by := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE} {
		ctx, s := newSignals(true)
		s.arrive(by)
		if !ended(ctx) {
			t.Errorf("a command that only reads goes on after %s", by)
		}
		code, show := exitStatus(ctx, context.Canceled)
		if code != 128+int(by) || show == (by == syscall.SIGPIPE) {
			t.Errorf("after %s the exit code is %d, shown: %v", by, code, show)
		}
		ctx, s = newSignals(false)
		s.arrive(by)
		if ended(ctx) || !interruptedNow(s) {
			t.Errorf("after %s a command that changes something is cut off: %v, or not told: %v", by, ended(ctx), !interruptedNow(s))
		}
		s.arrive(by)
		if ended(ctx) != (by != syscall.SIGPIPE) {
			t.Errorf("after a second %s a command that changes something has ended: %v", by, ended(ctx))
		}
	}
}

// A reader that ends, as head does, interrupts in order.
func TestBrokenPipeInterrupts(t *testing.T) {
	ctx, s, stop := listen()
	defer stop()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = read.Close()
	p := &pipe{File: write, signals: s}
	for range 3 {
		if _, err := p.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("writing to a pipe that nobody reads: %v", err)
		}
	}
	<-s.interrupt
	if ctx.Err() != nil {
		t.Error("the command was cut off")
	}
	_, err = p.Write([]byte("x"))
	if code, show := exitStatus(ctx, fmt.Errorf("cannot print: %w", err)); code != 141 || show {
		t.Errorf("exit code %d, shown: %v", code, show)
	}
	// A connection to a VM that was cut is an error like all others.
	if code, show := exitStatus(ctx, fmt.Errorf("cannot write: %w", syscall.EPIPE)); code != exitError || !show {
		t.Errorf("a cut connection: exit code %d, shown: %v", code, show)
	}
}
