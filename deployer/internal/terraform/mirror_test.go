package terraform

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAMirrorOfProvidersIsRead: with hosts, as engines write one, and without.
func TestAMirrorOfProvidersIsRead(t *testing.T) {
	for _, test := range []struct {
		name  string
		files []string
		hosts bool
		want  []string
	}{
		{"without hosts", []string{"dmacvicar/libvirt/0.7.6/linux_amd64/p", "a/b/1.0.0/linux_amd64/p", "dmacvicar/.build/x"}, false, []string{"a/b", "dmacvicar/libvirt"}},
		{"with hosts", []string{"registry.example/dmacvicar/libvirt/0.7.6/linux_amd64/p"}, true, []string{"registry.example/dmacvicar/libvirt"}},
		{"hidden folders", []string{".tmp/b/c/p"}, false, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, file := range test.files {
				path := filepath.Join(dir, filepath.FromSlash(file))
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, nil, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			m, err := readMirror(dir)
			if err != nil || m.hosts != test.hosts || !slices.Equal(m.providers, test.want) {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
}

// TestAMirrorThatIsNamedMustHoldProviders: a typing error is no reason to ask a
// registry.
func TestAMirrorThatIsNamedMustHoldProviders(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(MirrorEnv, dir)
	if _, err := findMirror(); err == nil || !strings.Contains(err.Error(), "NAMESPACE/TYPE") {
		t.Errorf("an empty one: %v", err)
	}
	t.Setenv(MirrorEnv, filepath.Join(dir, "missing"))
	if _, err := findMirror(); err == nil || !strings.Contains(err.Error(), MirrorEnv) {
		t.Errorf("a missing one: %v", err)
	}
	// The one in the cache folder may be missing.
	t.Setenv(MirrorEnv, "")
	t.Setenv("XDG_CACHE_HOME", dir)
	if m, err := findMirror(); err != nil || len(m.providers) != 0 {
		t.Errorf("no mirror: %+v, %v", m, err)
	}
}

// TestTheEngineAsksTheMirror: a real engine takes a provider from the mirror alone.
// What lies there is no program, so it says which provider it found.
func TestTheEngineAsksTheMirror(t *testing.T) {
	base := t.TempDir()
	mirror := filepath.Join(base, "mirror")
	folder := filepath.Join(mirror, "nobody", "nothing", "1.2.3", "linux_amd64")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "terraform-provider-nothing_v1.2.3"), []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	template := filepath.Join(base, "template")
	if err := os.MkdirAll(template, 0o700); err != nil {
		t.Fatal(err)
	}
	module := "terraform {\n  required_providers {\n    nothing = { source = \"nobody/nothing\" }\n  }\n}\noutput \"instances\" {\n  value = {}\n}\n"
	for _, name := range []string{"deployment", "instances", "disks", "ssh_public_key", "settings"} {
		module += "variable \"" + name + "\" {}\n"
	}
	if err := os.WriteFile(filepath.Join(template, "main.tf"), []byte(module), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(MirrorEnv, mirror)
	r, err := Open(Options{Dir: filepath.Join(base, "terraform"), VMs: filepath.Join(base, "vms"), BaseDir: base, Template: "./template"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if _, err := r.Write(Input{}); err != nil {
		t.Fatal(err)
	}
	if err := r.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	locked, err := os.ReadFile(filepath.Join(base, "terraform", engineLock))
	if err != nil || !strings.Contains(string(locked), "nobody/nothing") || !strings.Contains(string(locked), "1.2.3") {
		t.Errorf("the engine did not take the provider from the mirror: %v\n%s", err, locked)
	}
}
