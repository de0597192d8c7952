//go:build e2e

package examples

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
)

// deploy runs `deploy WORDS... --state DIR` with an input and returns standard
// output, standard error and the exit code.
func (c *cluster) deploy(input string, words ...string) (string, string, int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, deployBinary(c.t), append(words, "--state", c.state, "--var", "listen="+c.listen)...)
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), c.env...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("deploy %v did not run: %v", words, err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// mustDeploy is deploy for what has to work; it returns standard output.
func (c *cluster) mustDeploy(input string, words ...string) string {
	c.t.Helper()
	out, errOut, code := c.deploy(input, words...)
	if code != 0 {
		c.t.Fatalf("deploy %v exited with %d:\n%s%s", words, code, out, errOut)
	}
	return out
}

// needle is a secret in all the forms in which it could be written somewhere.
type needle struct {
	name  string
	forms [][]byte
}

// newNeedle takes what is secret of a value: of PEM, a line in its middle.
func newNeedle(name, value string) needle {
	if strings.HasPrefix(value, "-----BEGIN") {
		value = strings.Split(value, "\n")[2]
	}
	n := needle{name, [][]byte{[]byte(value)}}
	// Files travel and lie as base64 in JSON: the same bytes read differently at
	// each of three places. Edges depend on what stands beside.
	for shift := range 3 {
		text := base64.StdEncoding.EncodeToString(append(make([]byte, shift), value...))
		n.forms = append(n.forms, []byte(text[4:len(text)-4]))
	}
	return n
}

func (n needle) in(data []byte) bool {
	return slices.ContainsFunc(n.forms, func(f []byte) bool { return bytes.Contains(data, f) })
}

// needles are all secrets that a deployment has made.
func (c *cluster) needles(deployment string) []needle {
	c.t.Helper()
	dir := filepath.Join(c.state, deployment)
	data, err := os.ReadFile(filepath.Join(dir, "secrets.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(data, &tree); err != nil {
		c.t.Fatal(err)
	}
	var out []needle
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				walk(path+"."+k, x)
			}
		case string:
			switch {
			case strings.HasSuffix(path, ".private_key"), strings.HasSuffix(path, ".value"):
				out = append(out, newNeedle(path, v))
			case strings.HasSuffix(path, ".digest_key"):
				key, err := base64.StdEncoding.DecodeString(v)
				if err != nil {
					c.t.Fatal(err)
				}
				out = append(out, needle{path, [][]byte{[]byte(v), key, []byte(hex.EncodeToString(key))}})
			}
		}
	}
	walk("secrets", tree)
	// What machines made for themselves.
	err = filepath.WalkDir(filepath.Join(dir, "vms"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil || info.Size() > 1<<16 {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && bytes.HasPrefix(data, []byte("-----BEGIN")) && bytes.Contains(data[:40], []byte("PRIVATE KEY")) {
			if filepath.Base(path) == "key.pem" || strings.Contains(filepath.Base(path), "host") {
				out = append(out, newNeedle(path, string(data)))
			}
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// Where secrets belong, below the deployment's state folder; all of it is
// readable by its owner only.
var secretPlaces = []*regexp.Regexp{
	regexp.MustCompile(`^secrets\.json$`),
	regexp.MustCompile(`^vms/[^/]+/(root/)?ssh_host[^/]*$`),                   // the machine's SSH host key
	regexp.MustCompile(`^vms/.*/key\.pem$`),                                   // the agent's own key
	regexp.MustCompile(`^vms/.*/generations/[0-9a-f]+/(spec\.json|jobs/.+)$`), // what jobs need to run
}

func TestSecretsAreNowhereElse(t *testing.T) {
	t.Parallel()
	// No process that deploy starts may inherit it.
	const passphrase = "correct horse battery staple"
	c := start(t, "hello.hcl")
	c.setenv("DEPLOY_PASSPHRASE", passphrase)
	c.edit(`"3s"`, `"300ms"`)
	c.edit(`"34%"`, `"100%"`)
	c.edit(`secret "nats" {`, `secret "ca" {
  type = "ca"
}
secret "tls" {
  type  = "certificate"
  ca    = secret.ca
  names = ["cf.localhost"]
}
secret "ssh" {
  type = "ssh"
}
secret "rsa" {
  type = "rsa"
}
secret "nats" {`)

	outputs := map[string]string{}
	run := func(name string, wantCode int, words ...string) {
		t.Helper()
		out, errOut, code := c.deploy("", append(words, "-v")...)
		if code != wantCode {
			t.Fatalf("%s exited with %d:\n%s%s", name, code, out, errOut)
		}
		outputs[name] = out + errOut
	}
	run("apply", 0, "apply", "--auto-approve", c.manifest)
	c.mustAllRun(8)
	old := c.needles("hello")
	run("rotate", 0, "secret", "rotate", c.manifest, "nats")
	run("rotate ca", 0, "secret", "rotate", c.manifest, "ca")
	run("plan", 2, "plan", c.manifest)
	run("plan --json", 2, "plan", "--json", c.manifest)
	for _, name := range []string{"plan", "plan --json"} {
		if !strings.Contains(outputs[name], "a sensitive value changed") {
			t.Errorf("%s does not tell that a secret changed", name)
		}
	}
	// A program that agents get through the bus, so that its store holds something.
	c.setenv("DEPLOY_PACKAGES", packagesWithAnother(t, "hello"))
	run("second apply", 0, "apply", "--json", "--auto-approve", c.manifest)
	run("status", 0, "status", c.manifest)
	run("status --json", 0, "status", "--json", c.manifest)
	run("secret list", 0, "secret", "list", c.manifest)
	run("logs", 0, "logs", c.manifest)
	c.mustAllRun(8)

	needles := append(old, c.needles("hello")...)
	// nats twice, CA, tls, ssh, rsa, the deployment's own three, agents, hosts.
	if len(needles) < 30 {
		t.Fatalf("only %d secrets were found to look for", len(needles))
	}
	for name, out := range outputs {
		for _, n := range needles {
			if n.in([]byte(out)) {
				t.Errorf("the output of %s holds %s", name, n.name)
			}
		}
	}

	ours := processesUnder(c.state)
	if len(ours) < 16 {
		t.Errorf("only %d processes of the cluster were found", len(ours))
	}
	for _, p := range ours {
		pid, _, _ := strings.Cut(p, " ")
		for _, list := range []string{"cmdline", "environ"} {
			data, err := os.ReadFile(filepath.Join("/proc", pid, list))
			if err != nil {
				continue // it ended meanwhile
			}
			for _, n := range append(needles, needle{"the passphrase", [][]byte{[]byte(passphrase)}}) {
				if n.in(data) {
					t.Errorf("the %s of process %s holds %s", list, p, n.name)
				}
			}
		}
	}

	root := filepath.Join(c.state, "hello")
	looked := map[string]int{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.IsDir() {
			if (name == "." || name == "vms" || name == "terraform" || name == "packages") && info.Mode().Perm() != 0o700 {
				t.Errorf("folder %s has mode %v", name, info.Mode())
			}
			// Programs were built before any secret was made.
			if name == "packages" || e.Name() == "store" || e.Name() == "bin" || e.Name() == "incoming" {
				return fs.SkipDir
			}
			return nil
		}
		if !e.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // of the running agents
		}
		if err != nil {
			return err
		}
		belongs := slices.ContainsFunc(secretPlaces, func(p *regexp.Regexp) bool { return p.MatchString(name) })
		for _, kind := range []string{"/log/", "jetstream", "terraform/"} {
			if strings.Contains("/"+name, kind) {
				looked[kind]++
			}
		}
		for _, n := range needles {
			switch {
			case !n.in(data):
			case !belongs:
				t.Errorf("%s holds %s, where no secret belongs", name, n.name)
			case info.Mode().Perm()&0o037 != 0:
				t.Errorf("%s holds %s and has mode %v", name, n.name, info.Mode())
			default:
				looked["found"]++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"/log/", "jetstream", "terraform/", "found"} {
		if looked[kind] == 0 {
			t.Errorf("nothing was looked at: %s", kind)
		}
	}
}

// secretCluster is a shellCluster whose script holds a password.
func secretCluster(t *testing.T) *cluster {
	t.Helper()
	c := shellCluster(t, 1, waits)
	c.edit("properties { script = var.script }", "properties { script = \"# ${secret.pw.value}\\n${var.script}\" }")
	c.edit(`variable "listen"`, `secret "pw" { type = "password" }
secret "ca" { type = "ca" }
secret "tls" {
  type  = "certificate"
  ca    = secret.ca
  names = ["a.test"]
}
variable "listen"`)
	return c
}

// script is the script as it lies on the only VM.
func (c *cluster) script() string {
	c.t.Helper()
	found, err := filepath.Glob(filepath.Join(c.state, "scripts/vms/*/agent/jobs/script/*"))
	if err != nil || len(found) != 1 {
		found, _ = filepath.Glob(filepath.Join(c.state, "scripts/vms/*/*/agent/jobs/script/*"))
	}
	if len(found) != 1 {
		c.t.Fatalf("found %v for the script", found)
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		c.t.Fatal(err)
	}
	return string(data)
}

func TestSecretCommands(t *testing.T) {
	t.Parallel()
	c := secretCluster(t)
	// Before anything exists: a value of one's own.
	c.mustDeploy("open sesame\n", "secret", "set", c.manifest, "pw")
	c.mustApply()
	if got := c.mustDeploy("", "secret", "show", c.manifest, "pw"); got != "open sesame" {
		t.Errorf("show printed %q", got)
	}
	if !strings.Contains(c.script(), "# open sesame\n") {
		t.Errorf("the script is %q", c.script())
	}

	c.mustDeploy("", "secret", "rotate", c.manifest, "pw")
	value := c.mustDeploy("", "secret", "show", c.manifest, "pw.value")
	if len(value) != 32 {
		t.Errorf("rotated to %q", value)
	}
	out, code := c.run("plan")
	mustTell(t, out, code, 2, "a sensitive value changed")
	if strings.Contains(out, value) || strings.Contains(out, "sesame") {
		t.Errorf("the plan shows a password:\n%s", out)
	}
	c.mustApply()
	if !strings.Contains(c.script(), "# "+value+"\n") {
		t.Errorf("the script is %q", c.script())
	}

	// A CA takes its certificates along.
	before := c.mustDeploy("", "secret", "show", c.manifest, "tls.certificate")
	var changed struct{ Changed []string }
	if err := json.Unmarshal([]byte(c.mustDeploy("", "secret", "rotate", c.manifest, "ca", "--json")), &changed); err != nil || !slices.Equal(changed.Changed, []string{"ca", "tls"}) {
		t.Errorf("rotating the CA changed %v, %v", changed.Changed, err)
	}
	if c.mustDeploy("", "secret", "show", c.manifest, "tls.certificate") == before {
		t.Error("the certificate was not signed anew")
	}
	if c.mustDeploy("", "secret", "show", c.manifest, "tls.ca") != c.mustDeploy("", "secret", "show", c.manifest, "ca.certificate") {
		t.Error("the certificate does not name the new CA")
	}
	// Attributes that do not belong together are refused, and change nothing.
	_, errOut, code := c.deploy(before, "secret", "set", c.manifest, "tls.certificate")
	mustTell(t, errOut, code, 1, "tls", "private key does not match")
	_, errOut, code = c.deploy("", "secret", "show", c.manifest, "tls")
	mustTell(t, errOut, code, 1, "tls.ca, tls.certificate, tls.private_key")
	_, errOut, code = c.deploy("", "secret", "show", c.manifest, "pwd")
	mustTell(t, errOut, code, 1, `no secret "pwd"`, "ca, pw, tls")

	lock, err := os.OpenFile(filepath.Join(c.state, "scripts/lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{{"secret", "rotate", c.manifest, "pw"}, {"state", "decrypt", c.manifest}, {"state", "import", c.manifest}} {
		_, errOut, code := c.deploy("", words...)
		mustTell(t, errOut, code, 1, "another deploy works on this deployment", strconv.Itoa(os.Getpid()))
	}
}

func TestEncryptedAndExportedState(t *testing.T) {
	t.Parallel()
	c := secretCluster(t)
	c.mustApply()
	value := c.mustDeploy("", "secret", "show", c.manifest, "pw")
	_, errOut, code := c.deploy("", "state", "encrypt", c.manifest)
	mustTell(t, errOut, code, 1, "--passphrase or --recipient")

	c.setenv("DEPLOY_PASSPHRASE", "correct horse")
	c.mustDeploy("", "state", "encrypt", c.manifest, "--passphrase")
	secrets := filepath.Join(c.state, "scripts/secrets.json")
	if data, err := os.ReadFile(secrets); err != nil || bytes.Contains(data, []byte(value)) || !bytes.HasPrefix(data, []byte("-----BEGIN AGE")) {
		t.Errorf("not encrypted: %v\n%s", err, data)
	}
	// An apply with nothing to do still writes nothing.
	files := snapshot(t, filepath.Join(c.state, "scripts"), "vms")
	if r := c.applyJSON(); r.Changed || r.Counts.StateWrites != 0 {
		t.Errorf("nothing was to be done, and yet: %+v", r)
	}
	for name, content := range snapshot(t, filepath.Join(c.state, "scripts"), "vms") {
		if files[name] != content {
			t.Errorf("%s was written", name)
		}
	}
	c.setenv("DEPLOY_PASSPHRASE", "battery staple")
	_, errOut, code = c.deploy("", "status", c.manifest)
	mustTell(t, errOut, code, 1, "passphrase is wrong", "secrets.json")
	c.setenv("DEPLOY_PASSPHRASE", "correct horse")

	// For recipients instead: then an identity opens it.
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "identity")
	if err := os.WriteFile(file, []byte(identity.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c.mustDeploy("", "state", "encrypt", c.manifest, "--recipient", identity.Recipient().String())
	c.setenv("DEPLOY_PASSPHRASE", "")
	_, errOut, code = c.deploy("", "status", c.manifest)
	mustTell(t, errOut, code, 1, "DEPLOY_IDENTITY")
	c.setenv("DEPLOY_IDENTITY", file)

	// An export is encrypted as the state is, and brings all of it back.
	export := c.mustDeploy("", "state", "export", c.manifest)
	if !strings.HasPrefix(export, "-----BEGIN AGE") {
		t.Errorf("the export is not encrypted: %.40q", export)
	}
	c.mustDeploy("", "secret", "rotate", c.manifest, "pw")
	_, errOut, code = c.deploy(export, "state", "import", c.manifest)
	mustTell(t, errOut, code, 1, "later state", "--force") // the new password would be lost
	c.mustDeploy(export, "state", "import", c.manifest, "--force")
	if got := c.mustDeploy("", "secret", "show", c.manifest, "pw"); got != value {
		t.Error("the import did not bring the password back")
	}
	if r := c.applyJSON(); r.Changed {
		t.Errorf("after export and import there is something to do: %+v", r)
	}
	// Elsewhere too, with nothing there before.
	moved := &cluster{t: t, manifest: c.manifest, state: filepath.Join(t.TempDir(), "moved"), listen: c.listen, env: c.env}
	moved.mustDeploy(export, "state", "import", moved.manifest)
	for name, content := range map[string]string{"state.json": "", "secrets.json": "", "terraform/terraform.tfstate": ""} {
		was, err := os.ReadFile(filepath.Join(c.state, "scripts", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(moved.state, "scripts", name))
		if err != nil || !bytes.Equal(got, was) {
			t.Errorf("%s did not arrive: %v%s", name, err, content)
		}
	}
	c.mustDeploy("", "state", "decrypt", c.manifest)
	if data, err := os.ReadFile(secrets); err != nil || !bytes.Contains(data, []byte(value)) {
		t.Errorf("not decrypted: %v", err)
	}
}

func TestMachinesOfAnotherDeployment(t *testing.T) {
	t.Parallel()
	c := secretCluster(t)
	c.mustApply()
	// Somebody made the state anew, secrets and all, and typed the machines in.
	file, secrets := filepath.Join(c.state, "scripts/state.json"), filepath.Join(c.state, "scripts/secrets.json")
	right := mustRead(t, file)
	id := regexp.MustCompile(`"deployment_id": "([0-9a-f]{32})"`).FindSubmatch(right)
	for _, name := range []string{file, secrets} {
		wrong := bytes.ReplaceAll(mustRead(t, name), id[1], bytes.Repeat([]byte("ab"), 16))
		if err := os.WriteFile(name, wrong, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The machines stay as they are for the engine, too: it is asked last.
	for _, command := range []string{"plan", "apply"} {
		words := []string{command, c.manifest}
		if command == "apply" {
			words = append(words, "--auto-approve")
		}
		_, errOut, code := c.deploy("", words...)
		mustTell(t, errOut, code, 1, "app/0", "belongs to another deployment", string(id[1]), filepath.Join(c.state, "scripts"), "deploy state import")
	}
	export := c.mustDeploy("", "state", "export", c.manifest)
	for _, name := range []string{file, secrets} {
		back := bytes.ReplaceAll(mustRead(t, name), bytes.Repeat([]byte("ab"), 16), id[1])
		if err := os.WriteFile(name, back, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, errOut, code := c.deploy(export, "state", "import", c.manifest)
	mustTell(t, errOut, code, 1, "another deployment", "--force")
	if out := c.mustApply(); !strings.Contains(out, "nothing to do") {
		t.Errorf("with the right state again:\n%s", out)
	}
}
