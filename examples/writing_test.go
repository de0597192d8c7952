//go:build e2e

package examples

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var (
	// pageFile is a file that a page tells to write: its name, then its content.
	pageFile = regexp.MustCompile("(?m)^`([^`]+)`:\n\n```[a-z]*\n((?s:.*?))^```$")
	// pageConsole holds what a page tells to type, and lines of the answers.
	pageConsole = regexp.MustCompile("(?m)^```console\n((?s:.*?))^```$")
)

// The page on writing a job is typed as it stands there.
func TestWritingPage(t *testing.T) {
	t.Parallel()
	const name = "../jobs/WRITING.md"
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(page), "\n"); n >= 150 {
		t.Errorf("the page has %d lines, want fewer than 150", n)
	}
	dir := t.TempDir()
	for _, m := range pageFile.FindAllStringSubmatch(string(page), -1) {
		path := filepath.Join(dir, filepath.FromSlash(m[1]))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(m[2]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Dir(deployBinary(t)), filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	shell := func(command string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-c", command)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	t.Cleanup(func() {
		if out, err := shell("bin/deploy destroy --auto-approve motd.hcl"); err != nil {
			t.Errorf("destroy: %v\n%s", err, out)
		}
		if left := processesUnder(dir); len(left) > 0 {
			t.Errorf("processes are left: %v", left)
		}
	})
	commands, lines := 0, 0
	answer := ""
	for _, m := range pageConsole.FindAllStringSubmatch(string(page), -1) {
		for _, line := range strings.Split(strings.TrimSpace(m[1]), "\n") {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				commands++
				if answer, err = shell(command); err != nil {
					t.Fatalf("%s: %v\n%s", command, err, answer)
				}
				continue
			}
			lines++
			if !strings.Contains(answer, line) {
				t.Errorf("the page promises %q, but the answer is\n%s", line, answer)
			}
		}
	}
	if commands < 8 || lines < 8 {
		t.Errorf("%d commands with %d lines of answers were found on the page", commands, lines)
	}
}
