package terraform

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// An engine is in a process group of its own: Ctrl-C at a terminal is for deploy,
// which ends its engine in order.
func TestEngineIsAskedInAGroupOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "group")
	program(t, dir, "tofu", `read -r pid comm state ppid pgrp rest </proc/$$/stat; echo $pgrp >`+out+`; echo '{"terraform_version": "1.12.6"}'`)
	t.Setenv("PATH", dir)
	t.Setenv(EngineEnv, "")
	if _, err := Find(t.Context(), FindOptions{CacheDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	group, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	if group == syscall.Getpgrp() {
		t.Error("the engine is in the process group of deploy")
	}
}
