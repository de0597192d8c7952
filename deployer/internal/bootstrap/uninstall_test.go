package bootstrap

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUninstall(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	dir := v.machine.AgentDir
	gone := func(what string) {
		t.Helper()
		if err := Uninstall(contextTest(t), v.conn, dir, "d"); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the folder is left: %v", what, err)
		}
	}
	gone("nothing was ever there")
	if _, _, _, err := agentOn(t, v, script(t, "exit 1")); err == nil {
		t.Fatal("no error")
	}
	if err := os.RemoveAll(filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	gone("no agent got there")

	// What is not the agent's is not touched.
	if err := os.MkdirAll(filepath.Join(dir, "photos"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Uninstall(contextTest(t), v.conn, dir, "d"); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("somebody else's folder: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "photos")); err != nil {
		t.Errorf("it was touched: %v", err)
	}
	gone("an empty folder")

	if _, _, _, err := agentOn(t, v, script(t, `case "$*" in *"--deployment d") exit 4;; *) exit 1;; esac`)); err == nil {
		t.Fatal("no error")
	}
	if err := Uninstall(contextTest(t), v.conn, dir, "d"); !errors.Is(err, ErrForeign) {
		t.Errorf("an agent of another deployment: %v", err)
	}
}
