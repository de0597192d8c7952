package dea

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/wire"
)

// hostileProgram builds jobs/confine/hostile.
func hostileProgram(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hostile")
	build := exec.Command("go", "build", "-o", file, "github.com/clusterworks/deploy/jobs/confine/hostile")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the hostile program: %v\n%s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// session runs a command beside an instance and returns what it prints.
func (a *agent) session(instance string, command ...string) string {
	a.t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		a.t.Fatal(err)
	}
	defer read.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		a.t.Fatal(err)
	}
	defer null.Close()
	running, err := warden.StartSession(a.t.Context(), a.dea.records(instance), warden.Session{Command: command}, null, write, write)
	write.Close()
	if err != nil {
		a.t.Fatal(err)
	}
	defer running.Close()
	text, err := io.ReadAll(read)
	if err != nil {
		a.t.Fatal(err)
	}
	<-running.Done()
	return fmt.Sprintf("%s(%v)", text, running.Ended())
}

// TestHostileApp runs a program that tries what a hostile app would. At the levels
// full and namespaces all is denied; README.md says what is not at the lowest.
func TestHostileApp(t *testing.T) {
	t.Parallel()
	program := hostileProgram(t)
	root := os.Geteuid() == 0
	for _, tc := range []struct {
		level string
		weak  func(warden.Machine) warden.Machine
		did   []string
	}{
		{"as found", func(m warden.Machine) warden.Machine { return m }, nil},
		{confine.LevelNamespaces, func(m warden.Machine) warden.Machine {
			return warden.Machine{Namespaces: true, Network: m.Network, Landlock: m.Landlock}
		}, nil},
		{confine.LevelProcesses, func(m warden.Machine) warden.Machine { return warden.Machine{Users: root, Landlock: m.Landlock} }, []string{"dial-machine", "dial-victim"}},
	} {
		t.Run(tc.level, func(t *testing.T) {
			t.Parallel()
			c := newCell(t)
			a := &agent{cell: c, base: t.TempDir(), change: tc.weak}
			if err := os.Chmod(filepath.Dir(a.base), 0o711); err != nil { // for the users of instances
				t.Fatal(err)
			}
			a.config = c.configure(a.base, "")
			a.run()
			if root && tc.level == "as found" && a.dea.machine.Level() != confine.LevelFull {
				t.Fatalf("root has %+v", a.dea.machine)
			}
			if a.dea.machine.Landlock < 6 {
				t.Fatalf("this test needs a kernel with Landlock's version 6 (Linux 6.12), and has %d", a.dea.machine.Landlock)
			}
			foreign, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			foreign.Close() // free, and not the app's
			abstract := fmt.Sprintf("deploy-test-%d-%s", os.Getpid(), filepath.Base(a.base)+tc.level)
			one, err := net.Listen("unix", "@"+abstract)
			if err != nil {
				t.Fatal(err)
			}
			defer one.Close()
			machine, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer machine.Close()
			victim := a.launch(a.document("1", a.droplet(), "OF_ANOTHER=secret"))
			victimAddress := net.JoinHostPort(victim.Stats.Host, strconv.Itoa(*victim.Stats.Port))
			a.dea.mu.Lock()
			pid := a.dea.attended[victim.Instance].pid()
			a.dea.mu.Unlock()
			doc := a.document("2", a.droplet(
				entry{name: "startup", mode: 0o500, text: "#!/bin/sh\nexec ./hostile \"$@\" > logs/stdout.log\n"}, entry{name: "hostile", mode: 0o700, text: program},
			), "SECRET="+a.config, "VICTIM="+strconv.Itoa(pid), "FOREIGN="+strings.TrimPrefix(foreign.Addr().String(), "127.0.0.1:"),
				"VICTIM_PORT="+victimAddress, "MACHINE="+machine.Addr().String(), "ABSTRACT="+abstract, "SOCKET="+filepath.Join(a.base, "run", victim.Instance, "warden.sock"))
			doc.Limits.Mem = 128
			hostile := a.launch(doc)
			var said string
			eventually(t, "it has tried everything", func() bool {
				said = file(t, hostile, "/logs/stdout.log")
				return strings.Contains(said, "ATTEMPTS ARE OVER")
			})
			if strings.Contains(t.Name(), "as_found") || tc.level == confine.LevelNamespaces {
				// What runs beside the app is held as the app is.
				beside := a.session(hostile.Instance, "./hostile")
				if n := strings.Count(beside, "ATTEMPT "); n < 50 || strings.Contains(beside, " did") || !strings.Contains(beside, "ATTEMPTS ARE OVER") {
					t.Errorf("beside the app, %d attempts:\n%s", n, beside)
				}
			}
			var did []string
			tried := 0
			for line := range strings.Lines(said) {
				if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "ATTEMPT" {
					tried++
					if fields[2] == "did" {
						did = append(did, fields[1])
					}
				}
			}
			if tried < 50 {
				t.Errorf("only %d attempts:\n%s", tried, said)
			}
			slices.Sort(did)
			if diff := cmp.Diff(tc.did, did); diff != "" {
				t.Errorf("at level %s (-want +got):\n%s\n%s", a.dea.machine.Level(), diff, said)
			}
			a.state("1", wire.StateRunning)
		})
	}
}
