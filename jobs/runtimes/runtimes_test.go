package runtimes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// program writes a script that counts its runs in a file beside it.
func program(t *testing.T, file, body string) (runs func() int) {
	t.Helper()
	counter := file + ".runs"
	text := fmt.Sprintf("#!/bin/sh\necho run >> %s\n%s\n", counter, body)
	// Another name first: a program that is open for writing cannot be run.
	if err := os.WriteFile(file+".new", []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	return func() int {
		data, err := os.ReadFile(counter)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return strings.Count(string(data), "run")
	}
}

// TestChecks: what a description asks for, and what an error tells.
func TestChecks(t *testing.T) {
	dir := t.TempDir()
	lang := filepath.Join(dir, "lang")
	program(t, lang, `case $1 in -v) echo "lang 4.2" >&2; exit 3;; --ok) echo true;; --bad) echo no;; env) env;; esac`)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("SECRET", "hidden")
	if err := os.WriteFile(filepath.Join(dir, "text"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		info wire.RuntimeInfo
		want string // part of the error; "": found
	}{
		{"flag by default, standard error, any status", wire.RuntimeInfo{Executable: lang, VersionOutput: `4\.\d`}, ""},
		{"nothing to match", wire.RuntimeInfo{Executable: lang}, ""},
		{"additional check", wire.RuntimeInfo{Executable: lang, AdditionalChecks: "--ok"}, ""},
		{"additional check fails", wire.RuntimeInfo{Executable: lang, AdditionalChecks: "--bad"}, `prints "no\n"`},
		{"another version", wire.RuntimeInfo{Executable: lang, VersionOutput: "5"}, `prints "lang 4.2", which does not match "5"`},
		{"needs nothing", wire.RuntimeInfo{}, ""},
		{"checks nothing", wire.RuntimeInfo{VersionOutput: "1"}, "no executable"},
		{"not there", wire.RuntimeInfo{Executable: filepath.Join(dir, "none")}, "not on this machine"},
		{"on this process's PATH only", wire.RuntimeInfo{Executable: "lang"}, "no program lang"},
		{"relative", wire.RuntimeInfo{Executable: "./lang"}, "absolute path"},
		{"no program", wire.RuntimeInfo{Executable: filepath.Join(dir, "text")}, "is not a program"},
		{"a folder", wire.RuntimeInfo{Executable: dir}, "is not a program"},
		{"no expression", wire.RuntimeInfo{Executable: lang, VersionOutput: "("}, "version_output"},
		{"environment", wire.RuntimeInfo{Executable: lang, VersionFlag: "env", VersionOutput: "SECRET"}, "does not match"},
		{"home", wire.RuntimeInfo{Executable: lang, VersionFlag: "env", VersionOutput: "HOME=/"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.info.Name = "lang"
			var f Finder
			found, err := f.Find(t.Context(), tc.info)
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want one with %q", err, tc.want)
			case err == nil && found.Path != tc.info.Executable:
				t.Errorf("found at %q", found.Path)
			}
		})
	}
}

// TestChecksOnce: many askers at once cause one check; a changed description or
// executable causes another.
func TestChecksOnce(t *testing.T) {
	lang := filepath.Join(t.TempDir(), "lang")
	runs := program(t, lang, "echo 1.0")
	var f Finder
	info := wire.RuntimeInfo{Name: "lang", Executable: lang, VersionOutput: `^1`}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if found, err := f.Find(t.Context(), info); err != nil || found.Output != "1.0" {
				t.Error(found, err)
			}
		})
	}
	group.Wait()
	if n := runs(); n != 1 {
		t.Errorf("ran %d times, want once", n)
	}
	info.Name, info.Description = "other", "said differently"
	if _, err := f.Find(t.Context(), info); err != nil || runs() != 1 {
		t.Errorf("a new name: ran %d times, %v", runs(), err)
	}
	info.VersionOutput = `1\.0`
	if _, err := f.Find(t.Context(), info); err != nil || runs() != 2 {
		t.Errorf("a new pattern: ran %d times, %v", runs(), err)
	}
	program(t, lang, "echo 1.0, again")
	if found, err := f.Find(t.Context(), info); err != nil || found.Output != "1.0, again" {
		t.Errorf("a new program: found %+v, %v", found, err)
	}
	if err := os.Remove(lang); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Find(t.Context(), info); err == nil {
		t.Error("found what was removed")
	}
}

// TestCheckIsStopped: a program that never ends ends with the context, and what
// is asked for next is not held up.
func TestCheckIsStopped(t *testing.T) {
	lang := filepath.Join(t.TempDir(), "lang")
	runs := program(t, lang, "while :; do sleep 1000; done")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for end := time.Now().Add(time.Minute); runs() == 0 && time.Now().Before(end); {
			<-time.After(5 * time.Millisecond)
		}
		cancel()
	}()
	var f Finder
	if _, err := f.Find(ctx, wire.RuntimeInfo{Name: "lang", Executable: lang}); err == nil || !strings.Contains(err.Error(), "cannot check runtime lang") {
		t.Errorf("error %v", err)
	}
}

// TestCatalog: every framework's runtimes are known, one at most is its default,
// and the usual runtimes of this machine are what the catalog says.
func TestCatalog(t *testing.T) {
	for _, framework := range Frameworks() {
		defaults := 0
		for _, entry := range framework.Runtimes {
			for name, runtime := range entry {
				if _, ok := Named(name); !ok {
					t.Errorf("framework %s: runtime %s is unknown", framework.Name, name)
				}
				if runtime.Default {
					defaults++
				}
			}
		}
		if len(framework.Runtimes) == 0 || defaults > 1 {
			t.Errorf("framework %s: %d runtimes, %d defaults", framework.Name, len(framework.Runtimes), defaults)
		}
	}
	if _, ok := Named("cobol"); ok {
		t.Error("knows cobol")
	}
	// The tests of DEA and stager need these; .ci/setup.sh installs them.
	var f Finder
	for _, name := range []string{"node", "python", "ruby", "binary"} {
		info, _ := Named(name)
		if _, err := f.Find(t.Context(), info); err != nil {
			t.Errorf("%v; make setup installs it", err)
		}
	}
}
