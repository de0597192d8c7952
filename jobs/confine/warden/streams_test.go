package warden

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/confine"
)

// logSpec is an instance's with files of 100 bytes.
func logSpec(t *testing.T) (spec Spec, file string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "logs", "stdout.log")
	return Spec{Spec: confine.Spec{Dir: dir}, Streams: &Streams{Stdout: file, MaxBytes: 100, Kept: 2}}, file
}

func text(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestOutputIsBounded: the latest is kept, in files of the size that was asked for,
// with the times of what is in them.
func TestOutputIsBounded(t *testing.T) {
	spec, file := logSpec(t)
	l := &rotating{spec: spec, path: file}
	at := time.UnixMilli(1_000_000)
	for i := range 100 {
		l.write(fmt.Appendf(nil, "line %04d\n", i), at.Add(time.Duration(i)*time.Second))
	}
	l.close()
	for name, want := range map[string]string{file: "line 0090\n", file + ".1": "line 0080\n", file + ".2": "line 0070\n"} {
		if got := text(t, name); !strings.HasPrefix(got, want) || len(got) != 100 {
			t.Errorf("%s has %d bytes: %q", filepath.Base(name), len(got), got)
		}
	}
	if got := text(t, TimesOf(file)); !strings.HasPrefix(got, "0 1090000\n10 1091000\n") {
		t.Errorf("times: %q", got)
	}
	if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 6 {
		t.Errorf("%d files, %v", len(entries), err)
	}
}

// TestOutputIsNeverFatal: whatever an app does to the files of its output, what it
// prints is taken from it, and nothing outside of its folder is written to.
func TestOutputIsNeverFatal(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	for name, spoil := range map[string]func(string) error{
		"a link out":       func(f string) error { return os.Symlink(victim, f) },
		"a folder":         func(f string) error { return os.MkdirAll(filepath.Join(f, "x"), 0o700) },
		"no folder of it":  func(f string) error { return os.RemoveAll(filepath.Dir(f)) },
		"a folder in turn": func(f string) error { return os.MkdirAll(filepath.Join(f+".1", "x"), 0o700) },
	} {
		spec, file := logSpec(t)
		if err := spoil(file); err != nil {
			t.Fatal(err)
		}
		read, write, err := pipe(spec)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			stream(read, spec, file)
		}()
		for range 1000 {
			if _, err := write.WriteString(strings.Repeat("x", 50) + "\n"); err != nil {
				t.Fatalf("%s: the app gets %v", name, err)
			}
		}
		write.Close()
		<-ended
		read.Close()
		if _, err := os.Lstat(victim); err == nil {
			t.Errorf("%s: it led out of the instance's folder", name)
		}
	}
}
