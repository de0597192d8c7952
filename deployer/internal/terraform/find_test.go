package terraform

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// program puts an executable script into a folder.
func program(t *testing.T, folder, name, script string) string {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) {
	answer := func(version string) string { return `echo '{"terraform_version": "` + version + `"}'` }
	tests := map[string]struct {
		onPath, cached, chosen string // scripts; "": not there
		name                   string // on PATH
		want                   Engine // without path
		failure                []string
	}{
		"on PATH":            {name: "tofu", onPath: answer("1.12.6"), want: Engine{Name: "tofu", Version: "1.12.6"}},
		"terraform":          {name: "terraform", onPath: answer("1.5.7"), want: Engine{Name: "terraform", Version: "1.5.7"}},
		"too old":            {name: "terraform", onPath: answer("1.4.6"), failure: []string{"1.4.6", "1.5.0", "install OpenTofu", "Go"}},
		"too old, but built": {name: "terraform", onPath: answer("1.4.6"), cached: answer("1.12.6"), want: Engine{Name: "tofu", Version: "1.12.6"}},
		"no answer":          {name: "tofu", onPath: "exit 3", failure: []string{"cannot use the engine on PATH", "cannot ask", "status 3", EngineEnv}},
		"killed":             {name: "terraform", onPath: "kill -INT $$", cached: answer("1.12.6"), failure: []string{"cannot use the engine on PATH", "signal: interrupt"}},
		"chosen":             {name: "tofu", onPath: answer("1.12.6"), chosen: answer("1.9.0"), want: Engine{Name: "terraform", Version: "1.9.0"}},
		"chosen is too old":  {name: "tofu", onPath: answer("1.12.6"), chosen: answer("1.2.0"), failure: []string{EngineEnv, "1.2.0"}},
		"nothing, and no go": {name: "other", onPath: answer("1.12.6"), failure: []string{"install OpenTofu"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			path, cache := t.TempDir(), t.TempDir()
			program(t, path, test.name, test.onPath)
			t.Setenv("PATH", path)
			t.Setenv(EngineEnv, "")
			if test.cached != "" {
				folder := engineFolder(cache)
				if err := os.MkdirAll(folder, 0o700); err != nil {
					t.Fatal(err)
				}
				program(t, folder, "tofu", test.cached)
			}
			if test.chosen != "" {
				t.Setenv(EngineEnv, program(t, t.TempDir(), "my-terraform", test.chosen))
			}
			got, err := Find(t.Context(), FindOptions{CacheDir: cache})
			got.Path = ""
			if got != test.want || (err == nil) != (len(test.failure) == 0) {
				t.Errorf("got %+v, %v", got, err)
			}
			for _, want := range test.failure {
				if err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("%q is missing in: %s", want, err)
				}
			}
		})
	}
}

// A state is for the engine that made it, and for later versions of it.
func TestEngineThatMadeTheState(t *testing.T) {
	path := t.TempDir()
	for name, version := range map[string]string{"tofu": "1.12.6", "terraform": "1.11.4"} {
		program(t, path, name, `echo '{"terraform_version": "`+version+`"}'`)
	}
	t.Setenv("PATH", path)
	for _, test := range []struct {
		made, chosen, want string // want "" is ErrOtherEngine
	}{
		{"", "", "tofu 1.12.6"},
		{"tofu 1.12.6", "", "tofu 1.12.6"},
		{"tofu 1.9.0", "", "tofu 1.12.6"},
		{"terraform 1.11.4", "", "terraform 1.11.4"}, // although tofu comes first
		{"tofu 1.13.0", "", ""},
		{"terraform 1.12.0", "", ""},
		{"terraform 1.12.0", filepath.Join(path, "tofu"), "tofu 1.12.6"},
	} {
		t.Setenv(EngineEnv, test.chosen)
		got, err := Find(t.Context(), FindOptions{CacheDir: t.TempDir(), Made: test.made})
		if test.want == "" && (!errors.Is(err, ErrOtherEngine) || !strings.Contains(err.Error(), test.made) || !strings.Contains(err.Error(), EngineEnv)) || test.want != "" && (err != nil || got.String() != test.want) {
			t.Errorf("%+v: got %s, %v", test, got, err)
		}
	}
}

// An engine is built only if whoever is asked agrees.
func TestBuildIsAskedFor(t *testing.T) {
	path := t.TempDir()
	program(t, path, "go", "echo built >&2; exit 1")
	t.Setenv("PATH", path)
	t.Setenv(EngineEnv, "")
	for agree, want := range map[bool]string{true: "built", false: "as you wish"} {
		_, err := Find(t.Context(), FindOptions{CacheDir: t.TempDir(), Ask: func() (bool, error) { return agree, nil }})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("answered %v: %v", agree, err)
		}
	}
}

func TestEngineEnvironment(t *testing.T) {
	there := filepath.Join(t.TempDir(), "rc")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TF_LOG", "trace")
	t.Setenv("TF_REATTACH_PROVIDERS", "{}")
	t.Setenv("TF_DATA_DIR", "elsewhere")
	t.Setenv("AWS_PROFILE", "mine")
	t.Setenv("TF_CLI_CONFIG_FILE", there)
	env := engineEnv()
	for _, gone := range []string{"TF_LOG", "TF_REATTACH_PROVIDERS", "TF_DATA_DIR"} {
		if value, set := env[gone]; set {
			t.Errorf("%s is %q", gone, value)
		}
	}
	if env["AWS_PROFILE"] != "mine" || env["TF_CLI_CONFIG_FILE"] != there {
		t.Errorf("environment is %v", env)
	}
	t.Setenv("TF_CLI_CONFIG_FILE", there+"-not")
	if value, set := engineEnv()["TF_CLI_CONFIG_FILE"]; set {
		t.Errorf("TF_CLI_CONFIG_FILE is %s, which is not there", value)
	}
}

// What is built is what the module file names.
func TestOpenTofuVersion(t *testing.T) {
	if want := "\t" + openTofuModule + " v" + openTofuVersion; !strings.Contains(string(openTofuMod), want) {
		t.Errorf("opentofu/engine.mod does not hold %q", want)
	}
}
