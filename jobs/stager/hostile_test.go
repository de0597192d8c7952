package stager

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/confine/warden"
)

// hostileApp is an app whose Gemfile runs jobs/confine/hostile with arguments and
// these variables.
func (p *platform) hostileApp(name, program, arguments string, variables map[string]string) {
	p.t.Helper()
	text := "source 'https://rubygems.org'\n"
	for _, variable := range slices.Sorted(maps.Keys(variables)) {
		text += fmt.Sprintf("ENV[%q] = %q\n", variable, variables[variable])
	}
	text += fmt.Sprintf("$stdout.sync = true\nputs `id -u`\nsystem(File.join(__dir__, 'hostile'), *%%w(%s)) or puts 'it was ended'\n", arguments)
	p.put(name, map[string]string{
		"config.ru": "", "Gemfile": text, "hostile!": program,
		"Gemfile.lock": "GEM\n  remote: https://rubygems.org/\n  specs:\n\nPLATFORMS\n  ruby\n\nDEPENDENCIES\n",
	})
}

func hostileProgram(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hostile")
	cmd := exec.Command("go", "build", "-o", file, "github.com/clusterworks/deploy/jobs/confine/hostile")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the hostile program: %v\n%s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// levels are this machine's, and those below it. The stager of each has a folder
// that other users can go through, as on a VM.
func levels(t *testing.T, each func(t *testing.T, p *platform, s *Stager)) {
	root := os.Geteuid() == 0
	for _, tc := range []struct {
		level string
		weak  func(warden.Machine) warden.Machine
	}{
		{"as found", func(m warden.Machine) warden.Machine { return m }},
		{confine.LevelNamespaces, func(m warden.Machine) warden.Machine {
			return warden.Machine{Namespaces: true, Network: m.Network, Landlock: m.Landlock}
		}},
		{confine.LevelProcesses, func(m warden.Machine) warden.Machine { return warden.Machine{Users: root, Landlock: m.Landlock} }},
	} {
		t.Run(tc.level, func(t *testing.T) {
			t.Parallel()
			tmp, err := os.MkdirTemp("/var/tmp", "stager-test-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(tmp) })
			if err := os.Chmod(tmp, 0o755); err != nil {
				t.Fatal(err)
			}
			p := newPlatform(t)
			s, _ := p.start("max_memory_mb: 256\nmax_droplet_mb: 24\nmax_app_mb: 24\nprocesses: 100\nmax_staging_duration: 60\ndirs: {tmp: " + tmp + "}")
			if root && tc.level == "as found" && s.machine.Level() != confine.LevelFull {
				t.Fatalf("root has %+v", s.machine)
			}
			if found := s.machine; tc.level != "as found" {
				found.Close()
				s.machine = tc.weak(found)
			}
			each(t, p, s)
			leftovers(t, s)
		})
	}
}

// TestHostileGemfile: a Gemfile is a program; what it tries is denied, and the app
// is staged all the same.
func TestHostileGemfile(t *testing.T) {
	t.Parallel()
	program := hostileProgram(t)
	levels(t, func(t *testing.T, p *platform, s *Stager) {
		secret := writeFile(t, "the bus's password\n")
		foreign, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		foreign.Close()
		_, port, _ := net.SplitHostPort(foreign.Addr().String())
		abstract := "deploy-" + filepath.Base(s.folder.path)
		one, err := net.Listen("unix", "@"+abstract)
		if err != nil {
			t.Fatal(err)
		}
		defer one.Close()
		victim := exec.Command("/bin/sleep", "1000")
		victim.Env = []string{"OF_ANOTHER=secret"}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = victim.Process.Kill(), victim.Wait() }()
		machine, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer machine.Close()
		p.hostileApp("7", program, "", map[string]string{
			"MACHINE": machine.Addr().String(), "VICTIM_PORT": p.http.Listener.Addr().String(), // the controller
			"SECRET": secret, "VICTIM": strconv.Itoa(victim.Process.Pid), "FOREIGN": port, "ABSTRACT": abstract, "SOCKET": "/run/none",
		})
		answer := p.request("7", properties("rack", "ruby"))
		if answer.Error != "" || p.droplet("7") == nil {
			t.Fatalf("not staged: %+v", answer)
		}
		tried := 0
		for line := range strings.Lines(answer.TaskLog) {
			if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "ATTEMPT" {
				tried++
				// At the lowest level nothing has a network of its own.
				shared := strings.HasPrefix(fields[1], "dial-") && !s.machine.Network
				if (fields[2] == "did") != shared {
					t.Errorf("at level %s %s %s", s.machine.Level(), fields[1], fields[2])
				}
			}
		}
		if tried < 50 || !strings.Contains(answer.TaskLog, "ATTEMPTS ARE OVER") {
			t.Errorf("only %d attempts:\n%s", tried, answer.TaskLog)
		}
		if s.machine.Users && !strings.Contains(answer.TaskLog, "\n"+strconv.Itoa(firstUser)) {
			t.Errorf("it runs as another user than its own:\n%s", answer.TaskLog)
		}
	})
}

// TestGreedyGemfile: what a Gemfile takes of the machine has a bound, and nothing
// of it is left when the staging ends.
func TestGreedyGemfile(t *testing.T) {
	t.Parallel()
	program := hostileProgram(t)
	levels(t, func(t *testing.T, p *platform, s *Stager) {
		for _, tc := range []struct{ what, want string }{
			{"memory", "used more memory than the 256 MB"},
			{"disk", "of disk, more than the"},
			{"inodes", "of disk, more than the"},
			{"output", ""},
			{"processes", ""},
			{"hidden", ""},
		} {
			// Told from those of other tests by the time that it sleeps.
			sleep := strconv.Itoa(100_000_000 + rand.IntN(100_000_000))
			p.hostileApp(tc.what, program, "-bounds "+tc.what+" "+sleep, nil)
			answer := p.request(tc.what, properties("rack", "ruby"))
			if tc.want != "" && !strings.Contains(answer.Error, tc.want) {
				t.Errorf("%s: %q, want %q\n%.2000s", tc.what, answer.Error, tc.want, answer.TaskLog)
			}
			if _, after, found := strings.Cut(answer.TaskLog, "BOUND processes "); found {
				count, _, _ := strings.Cut(after, "\n")
				if n, err := strconv.Atoi(count); err != nil || n > 130 {
					t.Errorf("it started %s processes, may have 100", count)
				}
			}
			if len(answer.TaskLog) > 2*logLimit {
				t.Errorf("%s: a log of %d bytes", tc.what, len(answer.TaskLog))
			}
			if tc.what == "hidden" && findCommand(t, "sleep\x00"+sleep) {
				t.Error("a process that hides outlives its staging")
			}
		}
	})
}

// findCommand reports whether a process has this in its command line.
func findCommand(t *testing.T, part string) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), part)
	})
}
