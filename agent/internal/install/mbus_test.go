package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
)

// image makes a folder as of a cloned devbox and returns it.
func image(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"router", "hello", "dea"} {
		file := filepath.Join(dir, "config", name+".yml")
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, []byte("# "+name+"\nmbus: nats://nats:nats@10.0.0.9:4222/\n"), 0o600))
	}
	return dir
}

// onImage is a spec of two jobs that share an image's folder of files.
func onImage(generation, folder, password string) api.Spec {
	s := spec(generation, "router/router@"+password+"/1", "web/hello@"+password+"/1", "other/other@1/1")
	for n := range 2 {
		s.Jobs[n].Mbus = &api.Mbus{Folder: folder, Files: []string{"config/*.yml"}, Servers: []string{"127.0.0.1:4222", "127.0.0.2:4222"}, User: "cf", Password: password}
	}
	s.Jobs[0].Processes[0].Command = []string{"router", "-c", folder + "//config/router.yml"}
	return s
}

func content(t *testing.T, parts ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	must(t, err)
	return string(data)
}

func TestURIsOfTheImageAreRewritten(t *testing.T) {
	t.Parallel()
	r := &recorder{running: map[ref]api.ProcessStatus{}}
	i := newInstaller(t, t.TempDir(), r)
	dir := image(t)
	router, hello := filepath.Join(dir, "config", "router.yml"), filepath.Join(dir, "config", "hello.yml")
	must(t, os.Chmod(router, 0o4640))
	if os.Getuid() == 0 {
		must(t, os.Chown(router, 1234, 4321))
		must(t, os.Chmod(router, 0o4640))
	}
	stat := func(file string) syscall.Stat_t {
		var s syscall.Stat_t
		must(t, syscall.Stat(file, &s))
		return s
	}
	before := stat(router)

	first := onImage("g1", dir, "one")
	must(t, i.Prepare(t.Context(), first, &steps{}))
	if got := content(t, router); !strings.Contains(got, "nats:nats@10.0.0.9") {
		t.Fatalf("preparing has changed the file to %q", got)
	}
	report := &steps{}
	must(t, i.Update(t.Context(), api.Update{Generation: "g1"}, report))
	if got, want := content(t, router), "# router\nmbus: nats://cf:one@127.0.0.1:4222/\n"; got != want {
		t.Errorf("router.yml is %q, want %q", got, want)
	}
	after := stat(router)
	if after.Mode != before.Mode || after.Uid != before.Uid || after.Gid != before.Gid {
		t.Errorf("mode and owner were %o %d:%d and are %o %d:%d", before.Mode, before.Uid, before.Gid, after.Mode, after.Uid, after.Gid)
	}
	events := strings.Join(report.events, "\n")
	if want := "mbus " + router + ": line 2, mbus: nats://nats:***@10.0.0.9:4222/ -> nats://cf:***@127.0.0.1:4222/"; !strings.Contains(events, want) {
		t.Errorf("the events lack %q:\n%s", want, events)
	}
	if strings.Contains(events, "one") {
		t.Errorf("the events show the password:\n%s", events)
	}
	if got := r.take(); got != "start router/router, start web/hello, start other/other" {
		t.Errorf("calls %q", got)
	}
	if d := i.Drift(false); len(d) > 0 {
		t.Errorf("drifted: %v", d)
	}

	t.Run("a second run writes nothing", func(t *testing.T) {
		must(t, prepareAndUpdate(t, i, first))
		if again := stat(router); again.Ino != after.Ino || again.Mtim != after.Mtim {
			t.Error("the file was replaced")
		}
		if got := r.take(); got != "" {
			t.Errorf("calls %q", got)
		}
	})

	t.Run("a file that was changed by hand restarts who reads it", func(t *testing.T) {
		for _, tc := range []struct{ file, want string }{
			{hello, "drain web/hello, stop web/hello, start web/hello"}, // called as the process
			{router, "drain router/router, stop router/router, start router/router"},
			{filepath.Join(dir, "config", "dea.yml"), ""}, // nobody here reads it
		} {
			must(t, os.WriteFile(tc.file, []byte("mbus: [nats://cf:two@127.0.0.2:4222]\n"), 0o600))
			drifted := i.Drift(false)
			if len(drifted) != 1 || drifted[0].Path != tc.file || (len(drifted[0].Restart) > 0) != (tc.want != "") || strings.Contains(drifted[0].Reason, "two") {
				t.Errorf("drifted: %+v", drifted)
			}
			must(t, prepareAndUpdate(t, i, first))
			if got := r.take(); got != tc.want {
				t.Errorf("%s: calls %q, want %q", tc.file, got, tc.want)
			}
			if got := content(t, tc.file); got != "mbus: [nats://cf:one@127.0.0.2:4222]\n" {
				t.Errorf("%s is %q", tc.file, got)
			}
		}
	})

	t.Run("a new password, and back", func(t *testing.T) {
		must(t, prepareAndUpdate(t, i, onImage("g2", dir, "two")))
		if got := r.take(); strings.Contains(got, "other") || strings.Count(got, "start") != 2 {
			t.Errorf("calls %q", got)
		}
		if got := content(t, router); !strings.Contains(got, "cf:two@") {
			t.Errorf("router.yml is %q", got)
		}
		must(t, i.Rollback(t.Context(), api.Rollback{}, &steps{}))
		if got := content(t, router); !strings.Contains(got, "cf:one@") {
			t.Errorf("after the rollback, router.yml is %q", got)
		}
		r.take()
	})

	t.Run("what cannot be read stays, and so does what runs", func(t *testing.T) {
		const broken = "mbus: [nats://cf:hunter2@127.0.0.2:4222\n"
		must(t, os.WriteFile(router, []byte(broken), 0o600))
		next := onImage("g3", dir, "three")
		err := i.Prepare(t.Context(), next, &steps{})
		if err == nil || !strings.Contains(err.Error(), router) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v, want an error that names the file and no password", err)
		}
		if d := i.Drift(false); len(d) != 1 || !strings.Contains(d[0].Reason, router) {
			t.Errorf("drifted: %+v", d)
		}
		if err := i.Update(t.Context(), api.Update{Generation: "g1"}, &steps{}); err == nil || !strings.Contains(err.Error(), router) {
			t.Errorf("an update ends with %v", err)
		}
		if got := r.take(); got != "" || content(t, router) != broken || !strings.Contains(content(t, hello), "one") {
			t.Errorf("calls %q, router.yml %q, hello.yml %q", got, content(t, router), content(t, hello))
		}
	})
}

// TestRewritingIsResumed ends an update before every one of its steps, and goes
// on: the file is rewritten and its reader started anew, once.
func TestRewritingIsResumed(t *testing.T) {
	t.Parallel()
	for cut := 1; ; cut++ {
		r := &recorder{running: map[ref]api.ProcessStatus{}}
		i := newInstaller(t, t.TempDir(), r)
		dir := image(t)
		router := filepath.Join(dir, "config", "router.yml")
		must(t, prepareAndUpdate(t, i, onImage("g1", dir, "one")))
		r.take()
		must(t, os.WriteFile(router, []byte("mbus: nats://cf:one@127.0.0.9:4222\n"), 0o600))
		err := i.Update(t.Context(), api.Update{Generation: "g1"}, &steps{left: cut + 1})
		if err == nil {
			if cut < 5 {
				t.Fatalf("an update has %d steps only", cut)
			}
			return
		}
		if !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		must(t, i.Update(t.Context(), api.Update{Generation: "g1"}, &steps{}))
		if got := r.take(); strings.Count(got, "start router/router") != 1 || strings.Count(got, "stop router/router") != 1 || strings.Contains(got, "hello") {
			t.Errorf("cut before step %d: calls %q", cut, got)
		}
		if got := content(t, router); got != "mbus: nats://cf:one@127.0.0.1:4222\n" {
			t.Errorf("cut before step %d: router.yml is %q", cut, got)
		}
	}
}

func TestFilesOfTheImage(t *testing.T) {
	t.Parallel()
	dir := image(t)
	outside := filepath.Join(t.TempDir(), "outside.yml")
	must(t, os.WriteFile(outside, []byte("mbus: nats://h\n"), 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "links"), 0o755))
	must(t, os.Symlink("../config/router.yml", filepath.Join(dir, "links", "in.yml")))
	must(t, os.Symlink(outside, filepath.Join(dir, "out.yml")))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling.conf")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	config := func(names ...string) []string {
		for n, name := range names {
			names[n] = filepath.Join(dir, "config", name)
		}
		return names
	}
	for _, tc := range []struct {
		patterns []string
		want     []string
		problem  string
	}{
		{[]string{"config/*.yml"}, config("dea.yml", "hello.yml", "router.yml"), ""},
		{[]string{"./config/r*", "links/in.yml", "*/router.yml"}, config("router.yml"), ""},
		{[]string{dir + "/config/[dh]*.yml"}, config("dea.yml", "hello.yml"), ""},
		{[]string{dir + "/out.yml"}, []string{outside}, ""},
		{[]string{"conf/*.yml"}, nil, fmt.Sprintf("the pattern %q matches no file in %s", "conf/*.yml", dir)},
		{[]string{"config"}, nil, "matches no file in " + dir},
		{[]string{dir + "/none"}, nil, "matches no file in the VM's file system"},
		{[]string{"../*"}, nil, "leads out of " + dir},
		{[]string{"out.yml"}, nil, "is a link that leads out of " + dir},
		{[]string{"dangling.*"}, nil, "no such file"},
		{[]string{"pipe"}, nil, "is not a regular file"},
		{[]string{"[x"}, nil, "cannot be read"},
	} {
		got, err := imageFiles(&api.Mbus{Folder: dir, Files: tc.patterns})
		if tc.problem != "" {
			if err == nil || !strings.Contains(err.Error(), tc.problem) {
				t.Errorf("%q: got %v, %v, want an error with %q", tc.patterns, got, err, tc.problem)
			}
		} else if err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%q: got %v, %v, want %v", tc.patterns, got, err, tc.want)
		}
	}

	// The link stays a link.
	must(t, os.Symlink("config/router.yml", filepath.Join(dir, "router.yml")))
	m := &api.Mbus{Folder: dir, Files: []string{"router.yml"}, Servers: []string{"h:1"}}
	files, err := rewritings(api.Spec{Jobs: []api.Job{{Name: "a", Mbus: m}}})
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	must(t, files[0].write())
	if info, err := os.Lstat(filepath.Join(dir, "router.yml")); err != nil || info.Mode()&os.ModeSymlink == 0 || !strings.Contains(content(t, dir, "config", "router.yml"), "h:1") {
		t.Errorf("%v, %v, %q", info, err, content(t, dir, "config", "router.yml"))
	}

	other := *m
	other.User, other.Password = "x", "y"
	if _, err := rewritings(api.Spec{Jobs: []api.Job{{Name: "a", Mbus: m}, {Name: "b", Mbus: &other}}}); err == nil || !strings.Contains(err.Error(), "job b") {
		t.Errorf("two jobs that want different URIs in one file: %v", err)
	}
}
