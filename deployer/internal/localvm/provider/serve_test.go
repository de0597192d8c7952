package provider

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMirrorFollowsTheExecutable(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// What no Go linker has stamped is told apart by its contents.
	other := filepath.Join(t.TempDir(), "other")
	shell, err := os.ReadFile("/bin/sh")
	if err == nil {
		err = os.WriteFile(other, shell, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	first, changed, err := Mirror(dir, own)
	if err != nil || !changed {
		t.Fatalf("first: changed is %t, %v", changed, err)
	}
	if again, changed, err := Mirror(dir, own); err != nil || changed || again != first {
		t.Errorf("again: %s after %s, changed is %t, %v", again, first, changed, err)
	}
	second, changed, err := Mirror(dir, other)
	if err != nil || !changed || second == first {
		t.Errorf("another executable: %s after %s, changed is %t, %v", second, first, changed, err)
	}
	links, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(Source), "*", "*", "*"))
	if err != nil || len(links) != 1 || filepath.Base(links[0]) != "terraform-provider-localvm_v"+second {
		t.Errorf("the mirror holds %v, %v", links, err)
	}
	if !IsProvider(links[0]) || IsProvider(own) {
		t.Error("a provider is not told by its name")
	}
}
