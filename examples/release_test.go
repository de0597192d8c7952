//go:build e2e

package examples

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// packagesWithAnother is a folder of built packages in which one program is
// another one, which does the same.
func packagesWithAnother(t *testing.T, program string) string {
	t.Helper()
	platform := runtime.GOOS + "_" + runtime.GOARCH
	programs, err := filepath.Abs("../bin/programs/" + platform)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(programs)
	if err != nil {
		t.Fatal(err)
	}
	from, to := t.TempDir(), t.TempDir()
	args := []string{from, filepath.Join(to, platform), runtime.GOOS + "/" + runtime.GOARCH}
	for _, e := range entries {
		args = append(args, e.Name())
		if e.Name() != program {
			if err := os.Symlink(filepath.Join(programs, e.Name()), filepath.Join(from, e.Name())); err != nil {
				t.Fatal(err)
			}
			continue
		}
		content, err := os.ReadFile(filepath.Join(programs, program))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(from, program), append(content, "another"...), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("../bin/pack", args...).CombinedOutput(); err != nil {
		t.Fatalf("pack: %v\n%s", err, out)
	}
	return to
}

// digestOf is the digest of a built package.
func digestOf(t *testing.T, packages, program string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(packages, runtime.GOOS+"_"+runtime.GOARCH, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		Packages map[string]struct{ Digest string }
	}
	if err := json.Unmarshal(data, &index); err != nil {
		t.Fatal(err)
	}
	return index.Packages[program].Digest
}

// release describes what `deploy release create --json` tells.
type release struct {
	Archive, Version, SHA256 string
	Jobs, Programs           []string
}

func createRelease(t *testing.T, packages, jobs, version string) release {
	t.Helper()
	var r release
	cmd := exec.Command(deployBinary(t), "release", "create", jobs, "-o", filepath.Join(t.TempDir(), "r.tar.gz"), "--version", version, "--json")
	cmd.Env = append(os.Environ(), "DEPLOY_PACKAGES="+packages)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("release create: %v", err)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// tool runs deploy without a manifest and returns what it prints.
func (c *cluster) tool(words ...string) string {
	c.t.Helper()
	out, err := exec.Command(deployBinary(c.t), words...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("deploy %v: %v\n%s", words, err, out)
	}
	return string(out)
}

// TestReleaseIsPinned: a release is what its sha256 says, and is signed by one of the
// keys that the manifest names.
func TestReleaseIsPinned(t *testing.T) {
	t.Parallel()
	c := start(t, "hello.hcl")
	c.edit(`"3s"`, `"300ms"`)
	// Only the bus and one hello.
	source, err := os.ReadFile(c.manifest)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(source), `publish = { (var.listen) = "lb:8080" }`, "", 1)
	lb, hello := strings.Index(text, `group "lb"`), strings.Index(text, `group "hello"`)
	text = strings.Replace(text[:lb]+text[hello:], "var.hellos", "1", 1)

	builtIn, err := filepath.Abs("../bin/packages")
	if err != nil {
		t.Fatal(err)
	}
	first := createRelease(t, builtIn, "jobs", "1.0")
	if again := createRelease(t, builtIn, "jobs", "1.0"); again.SHA256 != first.SHA256 {
		t.Error("the same jobs and programs made another archive")
	}
	another := packagesWithAnother(t, "hello")
	second := createRelease(t, another, "jobs", "2.0") // what is built has nothing of it

	pin := func(r release, version, sha256 string) {
		t.Helper()
		old := text[strings.Index(text, `release "examples" {`):]
		old = old[:strings.Index(old, "}")+1]
		text = strings.Replace(text, old, "release \"examples\" {\n  archive = \""+r.Archive+"\"\n  version = \""+version+"\"\n  sha256  = \""+sha256+"\"\n}", 1)
		if err := os.WriteFile(c.manifest, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// mustRun applies and tells with which program hello runs.
	mustRun := func(digest string) {
		t.Helper()
		c.mustApply()
		pid := c.status().pids()["hello/0 hello"]
		command, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err != nil || !bytes.Contains(command, []byte("store/"+digest+"/hello")) {
			t.Errorf("hello runs as %q (%v), want the program %s", command, err, digest)
		}
		if _, err := os.Stat(filepath.Join(c.state, "hello/packages", digest+".tar.gz")); err != nil {
			t.Errorf("its package is not kept: %v", err)
		}
	}
	one, two := digestOf(t, builtIn, "hello"), digestOf(t, another, "hello")

	pin(first, "1.0", second.SHA256)
	out, code := c.run("plan")
	mustTell(t, out, code, 1, "Cannot read release", first.SHA256, second.SHA256, "pin")
	pin(first, "1.1", first.SHA256)
	out, code = c.run("plan")
	mustTell(t, out, code, 1, "Cannot read release", `"1.0"`, `"1.1"`)

	// Keys are named: the archive must be signed by one of them.
	key, other := filepath.Join(t.TempDir(), "release.key"), filepath.Join(t.TempDir(), "other.key")
	public, stranger := strings.TrimSpace(c.tool("release", "key", key)), strings.TrimSpace(c.tool("release", "key", other))
	unsigned := text
	mustFail := func(keys string, want ...string) {
		t.Helper()
		pin(second, "2.0", second.SHA256)
		text = strings.Replace(text, "  version = \"2.0\"\n", "  version = \"2.0\"\n  public_keys = ["+keys+"]\n", 1)
		if err := os.WriteFile(c.manifest, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, code := c.run("apply", "--auto-approve")
		text = unsigned
		oneLine := strings.Join(strings.Fields(out), " ") // it is wrapped
		mustTell(t, oneLine, code, 1, append(want, "on "+c.manifest+" line ")...)
	}
	mustFail(strconv.Quote(public), "is not signed")
	c.tool("release", "sign", other, second.Archive)
	mustFail(strconv.Quote(public), "is not of this archive by one of the release's public_keys")
	mustFail(`"RWQ"`, "Not a public key")
	c.tool("release", "sign", key, second.Archive)
	pin(second, "2.0", second.SHA256)
	text = strings.Replace(text, "  version = \"2.0\"\n", fmt.Sprintf("  version = \"2.0\"\n  public_keys = [%q, %q]\n", stranger, public), 1)
	if err := os.WriteFile(c.manifest, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(two) // through SSH: there is no bus yet
	text = unsigned
	pin(first, "1.0", first.SHA256)
	mustRun(one)
	if r := c.applyJSON(); r.Changed || r.Counts.StateWrites != 0 {
		t.Errorf("nothing was to be done, and yet: %+v", r)
	}
	pin(second, "2.0", second.SHA256)
	mustRun(two)

	// All of these revisions are kept.
	pin(first, "1.0", first.SHA256)
	for _, greeting := range []string{"Good morning", "Good day", "Good night"} {
		c.setenv("DEPLOY_VAR_greeting", greeting)
		mustRun(one)
	}
	var kept struct {
		Revisions []struct {
			Number      int
			Generations map[string]string
			Packages    []string
		}
	}
	if err := json.Unmarshal([]byte(c.mustDeploy("", "state", "revisions", c.manifest, "--json")), &kept); err != nil {
		t.Fatal(err)
	}
	if len(kept.Revisions) != 6 || kept.Revisions[5].Number != 6 || kept.Revisions[4].Generations["hello/0"] == kept.Revisions[5].Generations["hello/0"] {
		t.Errorf("revisions: %+v", kept.Revisions)
	}
	if _, err := os.Stat(filepath.Join(c.state, "hello/packages", two+".tar.gz")); err != nil {
		t.Errorf("a package that a kept revision needs is gone: %v", err)
	}
}
