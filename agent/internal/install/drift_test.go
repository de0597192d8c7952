package install

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// driftFixture is an instance with two processes of one job, with a package and
// files of all classes.
type driftFixture struct {
	*Installer
	dir     string
	r       *recorder
	spec    api.Spec
	program string // the package's program
}

func newDriftFixture(t *testing.T) *driftFixture {
	t.Helper()
	packed := archive(t,
		tar.Header{Typeflag: tar.TypeReg, Name: "./program", Mode: 0o755, Linkname: "machine code"},
		tar.Header{Typeflag: tar.TypeReg, Name: "./lib/data", Mode: 0o644, Linkname: "data"})
	sum := sha256.Sum256(packed)
	digest := hex.EncodeToString(sum[:])
	dir := t.TempDir()
	r := &recorder{running: map[ref]api.ProcessStatus{}}
	i, err := Open(Config{Dir: dir, Supervisor: r, Env: []string{"PATH=/usr/bin:/bin"}, Fetch: func(_ context.Context, want string, w io.Writer) error {
		if want != digest {
			return fmt.Errorf("no package %s", want)
		}
		_, err := w.Write(packed)
		return err
	}})
	must(t, err)
	program := filepath.Join(dir, "store", digest, "program")
	reload := &api.Reload{Signal: "HUP"}
	f := &driftFixture{Installer: i, dir: dir, r: r, program: program, spec: api.Spec{
		Generation: "g1", Instance: "test/0", Address: "127.0.0.1",
		Packages: []api.Package{{Name: "tool", Digest: digest, Size: int64(len(packed)), Format: api.PackageTarGz}},
		Jobs: []api.Job{
			{Name: "a", Files: []api.File{
				{Path: "config", Mode: 0o600, Content: []byte("config"), OnChange: api.OnChangeRestart},
				{Path: "sub/table", Mode: 0o640, Content: []byte("table"), OnChange: api.OnChangeReload},
				{Path: "note", Mode: 0o644, Content: []byte("note"), OnChange: api.OnChangeNone},
			}, Processes: []api.Process{
				{Name: "main", Command: []string{program}, Digest: "1", ReloadDigest: "1", Reload: reload},
				{Name: "side", Command: []string{"true"}, Digest: "1", ReloadDigest: "1"},
			}},
			{Name: "b", Files: []api.File{{Path: "config", Mode: 0o600, Content: []byte("other"), OnChange: api.OnChangeRestart}},
				Processes: []api.Process{{Name: "main", Command: []string{"true"}, Digest: "1", ReloadDigest: "1"}}},
		},
	}}
	must(t, prepareAndUpdate(t, i, f.spec))
	r.take()
	return f
}

// installed is everything that the installer has installed, as text.
func (f *driftFixture) installed(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, folder := range []string{"store", "generations", "jobs"} {
		entries, err := scan(f.path(folder), true)
		must(t, err)
		for _, e := range entries {
			fmt.Fprintln(&out, folder, e.Path, e.Mode, e.UID, e.GID, e.SHA256, e.Link)
		}
	}
	return out.String()
}

func driftText(drift []api.Drift) string {
	var out []string
	for _, d := range drift {
		text := string(d.Kind) + " " + d.Path
		if len(d.Restart) > 0 {
			text += " restart " + strings.Join(d.Restart, " ")
		}
		if len(d.Reload) > 0 {
			text += " reload " + strings.Join(d.Reload, " ")
		}
		if d.Left {
			text += " left"
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

// Whatever was changed by hand is told, is repaired by the next prepare and update
// of the same generation, and only the processes concerned notice.
func TestDriftIsToldAndMended(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, f *driftFixture)
		drift  string // PACKAGE is its folder
		calls  string
	}{
		{"a file is edited", func(t *testing.T, f *driftFixture) {
			must(t, os.WriteFile(f.path("jobs", "a", "config"), []byte("CONFIG"), 0o600))
		}, "changed jobs/a/config restart a/main a/side", "stop a/side, stop a/main, start a/main, start a/side"},
		{"a file is replaced by one of the same size and time", func(t *testing.T, f *driftFixture) {
			name := f.path("jobs", "b", "config")
			info, err := os.Stat(name)
			must(t, err)
			must(t, os.WriteFile(name+".new", []byte("OTHER"), 0o600))
			must(t, os.Chtimes(name+".new", time.Now(), info.ModTime()))
			must(t, os.Rename(name+".new", name))
		}, "changed jobs/b/config restart b/main", "stop b/main, start b/main"},
		{"a reload-class file is edited", func(t *testing.T, f *driftFixture) {
			must(t, os.WriteFile(f.path("jobs", "a", "sub", "table"), []byte("T"), 0o640))
		}, "changed jobs/a/sub/table restart a/side reload a/main", "stop a/side, start a/side, reload a/main"},
		{"a file that nobody loads is edited", func(t *testing.T, f *driftFixture) {
			must(t, os.WriteFile(f.path("jobs", "a", "note"), []byte("n"), 0o644))
		}, "changed jobs/a/note", ""},
		{"a file is removed", func(t *testing.T, f *driftFixture) {
			must(t, os.Remove(f.path("jobs", "b", "config")))
		}, "missing jobs/b/config restart b/main", "stop b/main, start b/main"},
		{"a folder is removed", func(t *testing.T, f *driftFixture) {
			must(t, os.RemoveAll(f.path("jobs", "a", "sub")))
		}, "missing jobs/a/sub restart a/side reload a/main", "stop a/side, start a/side, reload a/main"},
		{"a file is readable by all", func(t *testing.T, f *driftFixture) {
			must(t, os.Chmod(f.path("jobs", "a", "config"), 0o644))
		}, "mode jobs/a/config", ""},
		{"a file is added", func(t *testing.T, f *driftFixture) {
			must(t, os.WriteFile(f.path("jobs", "b", "more"), nil, 0o600))
		}, "extra jobs/b/more restart b/main", "stop b/main, start b/main"},
		{"a link is removed", func(t *testing.T, f *driftFixture) {
			must(t, os.Remove(f.path("jobs", "b")))
		}, "missing jobs/b restart b/main", "stop b/main, start b/main"},
		{"a folder takes the place of a link", func(t *testing.T, f *driftFixture) {
			must(t, os.Remove(f.path("jobs", "b")))
			must(t, os.MkdirAll(f.path("jobs", "b", "mine"), 0o755))
		}, "changed jobs/b restart b/main", "stop b/main, start b/main"},
		{"a job's files are nobody's", func(t *testing.T, f *driftFixture) {
			must(t, os.MkdirAll(f.path("jobs", "c", "mine"), 0o755))
		}, "extra jobs/c", ""},
		{"a program is cut", func(t *testing.T, f *driftFixture) {
			must(t, os.Truncate(f.program, 3))
		}, "changed PACKAGE/program restart a/main", "stop a/main, start a/main"},
		{"a package is removed", func(t *testing.T, f *driftFixture) {
			must(t, os.RemoveAll(filepath.Dir(f.program)))
		}, "missing PACKAGE restart a/main", "stop a/main, start a/main"},
		{"a program cannot be executed", func(t *testing.T, f *driftFixture) {
			must(t, os.Chmod(f.program, 0o644))
		}, "mode PACKAGE/program", ""},
		{"the spec is no JSON any more", func(t *testing.T, f *driftFixture) {
			must(t, os.WriteFile(f.path("generations", "g1", "spec.json"), []byte("?"), 0o600))
		}, "changed generations/g1/spec.json", ""},
		{"the generation is gone", func(t *testing.T, f *driftFixture) {
			must(t, os.RemoveAll(f.path("generations", "g1")))
		}, "missing generations/g1", "stop b/main, stop a/side, stop a/main, start a/main, start a/side, start b/main"},
	} {
		for _, again := range []bool{false, true} { // also by an agent that was started anew
			t.Run(fmt.Sprintf("%s/%t", tc.name, again), func(t *testing.T) {
				f := newDriftFixture(t)
				if drift := f.Drift(true); drift != nil {
					t.Fatalf("drift where there is none: %v", drift)
				}
				whole := f.installed(t)
				tc.change(t, f)
				if again {
					f.Installer = newInstallerLike(t, f)
				}
				want := strings.ReplaceAll(tc.drift, "PACKAGE", "store/"+f.spec.Packages[0].Digest)
				for _, full := range []bool{false, true, false} {
					if got := driftText(f.Drift(full)); got != want {
						t.Fatalf("full %t: drift %q, want %q", full, got, want)
					}
				}
				must(t, f.Prepare(t.Context(), f.spec, &steps{}))
				if tc.calls != "" && f.Drift(true) == nil {
					t.Error("after the preparation nobody knows what is owed")
				}
				if got := f.r.take(); got != "" {
					t.Errorf("a preparation has touched what runs: %s", got)
				}
				must(t, f.Update(t.Context(), api.Update{Generation: "g1"}, &steps{}))
				if got := f.r.take(); got != tc.calls {
					t.Errorf("calls %q, want %q", got, tc.calls)
				}
				if drift := f.Drift(true); drift != nil {
					t.Errorf("not repaired: %v", drift)
				}
				if got := f.installed(t); got != whole {
					t.Errorf("mended to\n%s\nwant\n%s", got, whole)
				}
				must(t, prepareAndUpdate(t, f.Installer, f.spec))
				if got := f.r.take(); got != "" {
					t.Errorf("mended twice: %s", got)
				}
			})
		}
	}
}

func newInstallerLike(t *testing.T, f *driftFixture) *Installer {
	t.Helper()
	i, err := Open(f.Config)
	must(t, err)
	return i
}

// What programs add to their own packages is told, and no reason to stop them.
func TestFilesAddedToPackagesAreLeft(t *testing.T) {
	t.Parallel()
	f := newDriftFixture(t)
	added := filepath.Join(filepath.Dir(f.program), "lib", "data.cache")
	must(t, os.WriteFile(added, []byte("x"), 0o644))
	if got := driftText(f.Drift(false)); got != "extra store/"+f.spec.Packages[0].Digest+"/lib/data.cache left" {
		t.Errorf("drift %q", got)
	}
	must(t, prepareAndUpdate(t, f.Installer, f.spec))
	if got := f.r.take(); got != "" {
		t.Errorf("calls %q", got)
	}
	if _, err := os.Stat(added); err != nil {
		t.Error(err)
	}
}

// A folder that an agent of an earlier version has installed is taken as it is.
func TestDriftIsToldSinceTheRecord(t *testing.T) {
	t.Parallel()
	f := newDriftFixture(t)
	must(t, os.RemoveAll(f.path("records")))
	f.Installer = newInstallerLike(t, f)
	if drift := f.Drift(false); drift != nil {
		t.Errorf("drift %v", drift)
	}
	must(t, os.Truncate(f.program, 3))
	if drift := f.Drift(false); len(drift) != 1 {
		t.Errorf("drift %v", drift)
	}
}

// A crash anywhere in the repairing leaves something that the next update ends.
func TestMendingIsContinued(t *testing.T) {
	t.Parallel()
	for cut := 1; ; cut++ {
		f := newDriftFixture(t)
		whole := f.installed(t)
		must(t, os.Truncate(f.program, 3))
		must(t, os.WriteFile(f.path("jobs", "a", "sub", "table"), []byte("T"), 0o640))
		must(t, f.Prepare(t.Context(), f.spec, &steps{}))
		err := f.Update(t.Context(), api.Update{Generation: "g1"}, &steps{left: cut})
		calls := f.r.take()
		f.Installer = newInstallerLike(t, f)
		must(t, prepareAndUpdate(t, f.Installer, f.spec))
		calls += " | " + f.r.take()
		for _, want := range []string{"stop a/main", "start a/main", "stop a/side", "start a/side"} {
			if !strings.Contains(calls, want) {
				t.Errorf("cut %d: no %q in %s", cut, want, calls)
			}
		}
		if got := f.installed(t); got != whole || f.Drift(true) != nil {
			t.Errorf("cut %d: not repaired: %v", cut, f.Drift(true))
		}
		if err == nil {
			return
		}
	}
}

// The same for a reload, which no digest tells of.
func TestReloadOfMendedFilesIsOwedAcrossACrash(t *testing.T) {
	t.Parallel()
	for cut := 1; ; cut++ {
		f := newDriftFixture(t)
		must(t, os.WriteFile(f.path("jobs", "a", "sub", "table"), []byte("T"), 0o640))
		must(t, f.Prepare(t.Context(), f.spec, &steps{}))
		err := f.Update(t.Context(), api.Update{Generation: "g1"}, &steps{left: cut})
		f.Installer = newInstallerLike(t, f)
		must(t, prepareAndUpdate(t, f.Installer, f.spec))
		if calls := f.r.take(); !strings.Contains(calls, "reload a/main") || strings.Contains(calls, "stop a/main") {
			t.Errorf("cut %d: %s", cut, calls)
		}
		if err == nil {
			return
		}
	}
}
