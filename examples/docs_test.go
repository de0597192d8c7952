//go:build e2e

package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocsNameRealCommands runs the help of every deploy command that a page
// shows, with its flags: a command or flag that does not exist is an error.
func TestDocsNameRealCommands(t *testing.T) {
	t.Parallel()
	command := regexp.MustCompile(`(?m)(?:^    (?:\$ )?|` + "`" + `)(?:bin/)?deploy ([a-z][^` + "`" + `\n]*)`)
	found := 0
	for file, text := range documents(t, os.DirFS("..")) {
		if file == "CHANGELOG.md" { // it also names what was
			continue
		}
		for _, m := range command.FindAllStringSubmatch(text, -1) {
			line, _, _ := strings.Cut(m[1], " -- ")
			line, _, _ = strings.Cut(line, "  ") // what follows is said about it
			if strings.ContainsAny(line, "|<>[…") {
				line, _, _ = strings.Cut(line, " ") // a pattern: the command alone
			}
			found++
			if out, err := exec.Command(deployBinary(t), append(strings.Fields(line), "-h")...).CombinedOutput(); err != nil {
				t.Errorf("%s shows `deploy %s`: %v\n%s", file, line, err, out)
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d commands found in the docs", found)
	}
}

// TestExamplesAreInOrder validates every manifest here, and how it is laid out.
func TestExamplesAreInOrder(t *testing.T) {
	t.Parallel()
	manifests, err := filepath.Glob("*.hcl")
	if err != nil || len(manifests) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, m := range manifests {
		cmd := exec.Command(deployBinary(t), "validate", m)
		cmd.Env = append(os.Environ(), "DEPLOY_VAR_image=/image.qcow2") // a stemcell, which vms.hcl asks for
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", m, err, out)
		}
	}
	if out, err := exec.Command(deployBinary(t), "fmt", "--check", ".", "../jobs").CombinedOutput(); err != nil {
		t.Errorf("not laid out as deploy fmt does: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"version"}, {"version", "--json"}, {"completion", "bash"}, {"completion", "zsh"}, {"completion", "fish"}} {
		if out, err := exec.Command(deployBinary(t), args...).CombinedOutput(); err != nil || len(out) == 0 {
			t.Errorf("deploy %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
