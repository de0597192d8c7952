//go:build e2e

package examples

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// Every program that shows a version shows the one in the file VERSION.
func TestProgramsShowTheVersion(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../VERSION")
	if err != nil {
		t.Fatal(err)
	}
	version := strings.TrimSpace(string(content))
	for _, command := range [][]string{
		{"../bin/deploy", "version"}, {"../bin/deploy", "--version"}, {"../bin/deploy", "version", "--json"},
		{"../bin/vmc", "version"}, {"../bin/vmc", "--version"}, {"../bin/vmc", "version", "--json"},
		{"../bin/programs/" + runtime.GOOS + "_" + runtime.GOARCH + "/agent", "version"},
	} {
		out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), version) {
			t.Errorf("%s: %v, does not show %s:\n%s", strings.Join(command, " "), err, version, out)
		}
	}
}
