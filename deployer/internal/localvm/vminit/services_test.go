package vminit

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// servicesTestLimit bounds what these tests wait for.
const servicesTestLimit = 60 * time.Second

// TestMain is the test, or, in a binary that was run again, an init with the boot
// services of a folder: it reaps all its children, which a test process must not.
func TestMain(m *testing.M) {
	if dir := os.Getenv("VMINIT_TEST_DIR"); dir != "" {
		os.Exit(serveFolder(dir))
	}
	os.Exit(m.Run())
}

// serveFolder reloads at each line of standard input and answers it with the error,
// until its end.
func serveFolder(dir string) int {
	log := slog.New(slog.DiscardHandler)
	v := &vmInit{Daemon: &localvm.Daemon{Dir: dir, ID: filepath.Base(dir), Log: log}, children: newChildren(log), env: localvm.BaseEnv()}
	s := newServices(v)
	lines := make(chan bool)
	go func() {
		for {
			var line string
			if _, err := fmt.Scanln(&line); err != nil {
				close(lines)
				return
			}
			lines <- true
		}
	}()
	reaping, over := make(chan bool), make(chan bool)
	go func() {
		defer close(over)
		for {
			v.children.reap()
			select {
			case <-reaping:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	for range lines {
		out, _ := json.Marshal(fmt.Sprint(s.reload()))
		fmt.Println(string(out))
	}
	s.close()
	close(reaping)
	<-over
	return 0
}

// folder is one with boot services, and the init that keeps them.
type folder struct {
	t      *testing.T
	dir    string
	reload func() string
}

func startFolder(t *testing.T) *folder {
	t.Helper()
	f := &folder{t: t, dir: filepath.Join(t.TempDir(), "vminit-"+strconv.Itoa(os.Getpid())+"-"+t.Name())}
	for _, name := range []string{localvm.ServicesFolder, localvm.LogFolder} {
		if err := os.MkdirAll(filepath.Join(f.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "VMINIT_TEST_DIR="+f.dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the init: %v", err)
		}
	})
	answers := json.NewDecoder(out)
	f.reload = func() string {
		t.Helper()
		if _, err := fmt.Fprintln(in, "reload"); err != nil {
			t.Fatal(err)
		}
		var answer string
		if err := answers.Decode(&answer); err != nil {
			t.Fatal(err)
		}
		return answer
	}
	return f
}

// put writes a service that notes its pid and a word, then sleeps until it is told to end.
func (f *folder) put(name, word string) {
	f.t.Helper()
	data, err := json.Marshal(serviceFile{
		Command: []string{"/bin/sh", "-c", `echo "$$ $WORD" >>"$NOTES"; exec sleep 1000`},
		Env:     map[string]string{"WORD": word, "NOTES": filepath.Join(f.dir, name+".notes")},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(name, string(data))
}

func (f *folder) write(name, content string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, localvm.ServicesFolder, name+".json"), []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// await waits for the n-th start of a service, and returns its pid and word.
func (f *folder) await(name string, n int) (pid int, word string) {
	f.t.Helper()
	for end := time.Now().Add(servicesTestLimit); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		data, _ := os.ReadFile(filepath.Join(f.dir, name+".notes"))
		lines := strings.Split(string(data), "\n")
		if len(lines) <= n { // the last one is empty, or not whole
			continue
		}
		if _, err := fmt.Sscan(lines[n-1], &pid, &word); err != nil {
			f.t.Fatal(err)
		}
		return pid, word
	}
	f.t.Fatalf("%s was not started %d times", name, n)
	return 0, ""
}

// ends waits until a process is no more.
func (f *folder) ends(pid int) {
	f.t.Helper()
	for end := time.Now().Add(servicesTestLimit); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		if unix.Kill(pid, 0) == unix.ESRCH {
			return
		}
	}
	f.t.Fatalf("the process %d is still there", pid)
}

func (f *folder) runs(pid int) bool { return unix.Kill(pid, 0) == nil }

// TestServicesFollowTheFolder: one that ends is started again, another file replaces
// it, and without its file it ends; its neighbour runs all the time.
func TestServicesFollowTheFolder(t *testing.T) {
	f := startFolder(t)
	f.put("agent", "first")
	f.put("other", "still")
	if got := f.reload(); got != "<nil>" {
		t.Fatalf("the first reload: %s", got)
	}
	first, _ := f.await("agent", 1)
	other, _ := f.await("other", 1)

	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second, word := f.await("agent", 2)
	if word != "first" || second == first {
		t.Errorf("after its end %d %s runs, it was %d", second, word, first)
	}

	f.put("agent", "changed")
	f.reload()
	third, word := f.await("agent", 3)
	if word != "changed" || f.runs(second) {
		t.Errorf("another file started %s; the earlier process runs: %v", word, f.runs(second))
	}

	if err := os.Remove(filepath.Join(f.dir, localvm.ServicesFolder, "agent.json")); err != nil {
		t.Fatal(err)
	}
	f.reload()
	f.ends(third)
	if !f.runs(other) {
		t.Error("its neighbour was ended too")
	}
}

// TestABrokenServiceFileLeavesItsService: what cannot be read is named, and what was
// started from the file as it was runs on, as all others do.
func TestABrokenServiceFileLeavesItsService(t *testing.T) {
	f := startFolder(t)
	f.put("agent", "good")
	f.reload()
	pid, _ := f.await("agent", 1)
	for broken, want := range map[string]string{"{": "agent.json", `{"command": []}`: "it has no command"} {
		f.write("agent", broken)
		if got := f.reload(); !strings.Contains(got, want) {
			t.Errorf("the reload of %s says %q, want %q", broken, got, want)
		}
		if !f.runs(pid) {
			t.Errorf("%s ended the service", broken)
		}
	}
}
