//go:build e2e

package examples

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The long form is make soak.
var (
	moments = flag.Int("moments", 5, "moments at which TestSignalsAtRandomMoments ends deploy")
	seed    = flag.Uint64("seed", 1, "seed of the moments")
)

// TestSignalsAtRandomMoments ends applies, plans, statuses and destroys at random
// moments: by the signals of a terminal, of an operator and of a lost connection, by a
// reader of the output that ends, and by KILL. What only reads ends at once, and
// the next apply always reaches what the manifest says.
func TestSignalsAtRandomMoments(t *testing.T) {
	t.Parallel()
	const instances = 2
	c := shellCluster(t, instances, waits)
	random := rand.New(rand.NewPCG(*seed, 1))
	script := func(n int) string { return fmt.Sprintf("--var=script=: %d\n%s", n, waits) }
	if out, code := c.run("apply", "--auto-approve", script(0)); code != 0 {
		t.Fatal(out)
	}
	// How many moments each command has, by a run that nothing ends.
	whole := map[string]int{}
	for _, command := range []string{"status", "plan", "apply", "destroy"} {
		n := 0
		if command == "apply" {
			n = 1000 // a change, as those that are ended
		}
		e := c.endAt(command, script(n), "", 0, false)
		if whole[command] = e.moments; e.moments < 3 || e.code != 0 {
			t.Fatalf("%s: exit code %d, %d moments:\n%s", command, e.code, e.moments, e.out)
		}
	}
	if out, code := c.run("apply", "--auto-approve", script(0)); code != 0 {
		t.Fatal(out)
	}
	t.Logf("moments: %v", whole)
	hit := 0
	ways := []string{"HUP", "INT", "TERM", "PIPE", "KILL"}
	commands := []string{"apply", "plan", "status", "destroy"}
	for i := range *moments {
		way, command := ways[i%len(ways)], commands[random.IntN(len(commands))]
		after := 1 + random.IntN(whole[command])
		group := random.IntN(2) == 0
		what := fmt.Sprintf("moment %d: %s at event %d of %d of %s, to its group: %v", i, way, after, whole[command], command, group)
		e := c.endAt(command, script(i+1), way, after, group)
		t.Logf("%s: exit code %d, %v later", what, e.code, e.took)
		if !e.ended {
			hit++
		}
		reads := command == "plan" || command == "status"
		// A machine that is busy is slow for everybody: a program that does nothing
		// is the measure.
		if limit := time.Second + 10*c.timeOfNothing(); reads && way != "PIPE" && e.took > limit {
			t.Errorf("%s: it ended %v after it, want %v at most:\n%s", what, e.took, limit, e.out)
		}
		if want := 128 + int(signalNamed[way]); reads && !e.ended && way != "PIPE" && e.code != want {
			t.Errorf("%s: exit code %d, want %d:\n%s", what, e.code, want, e.out)
		}
		if strings.Contains(e.out, "panic:") {
			t.Errorf("%s:\n%s", what, e.out)
		}
		if out, code := c.run("apply", "--auto-approve", script(i+1)); code != 0 {
			t.Fatalf("%s: the next apply exited with %d:\n%s\nand the one that was ended said\n%s", what, code, out, e.out)
		}
		c.mustAllRun(instances)
		if out, code := c.run("plan", script(i+1)); code != 0 {
			t.Errorf("%s: a plan after the next apply exited with %d:\n%s", what, code, out)
		}
		if out, errOut, code := c.deploy("", "state", "check", c.manifest); code != 0 {
			t.Errorf("%s: the state is damaged:\n%s%s", what, out, errOut)
		}
	}
	t.Logf("%d of %d signals met a command that ran", hit, *moments)
	if hit*2 < *moments {
		t.Errorf("only %d of %d signals met a command that ran", hit, *moments)
	}
}

var signalNamed = map[string]syscall.Signal{"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "PIPE": syscall.SIGPIPE, "KILL": syscall.SIGKILL}

// ending describes how a command took its end.
type ending struct {
	ended bool          // before it was told to
	code  int           // as a shell shows it
	took  time.Duration // from the signal to its end
	out   string
	// moments is their number.
	moments int
}

// endAt begins a command and ends it at one of its moments, counted from 1; 0 lets it
// end by itself.
func (c *cluster) endAt(name, flag, way string, at int, group bool) ending {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Minute)
	defer cancel()
	flags := []string{flag}
	if name == "apply" || name == "destroy" {
		flags = append(flags, "--auto-approve")
	}
	cmd := c.command(ctx, name, flags...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	temporary := c.t.TempDir()
	cmd.Env = append(cmd.Env, "TMPDIR="+temporary)
	events := make(chan struct{}, 100_000)
	w := watch(c.t, events, c.state, c.jobs, filepath.Dir(c.manifest), temporary)
	defer w.end()
	said := &lines{events: events}
	cmd.Stderr = said
	reader, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	printed := &lines{events: events}
	exited := make(chan error, 1)
	go func() {
		_, _ = io.Copy(printed, reader) // its end is that of the command, or ours
		exited <- cmd.Wait()
	}()
	var e ending
	var err2 error
	for running := true; running; {
		select {
		case err2 = <-exited:
			running, e.ended = false, true
		case <-events:
			if e.moments++; e.moments != at {
				continue
			}
			began := time.Now()
			pid := cmd.Process.Pid
			if group {
				pid = -pid
			}
			if way == "PIPE" {
				_ = reader.Close()
			} else if err := syscall.Kill(pid, signalNamed[way]); err != nil && !errors.Is(err, syscall.ESRCH) {
				c.t.Fatal(err)
			}
			err2 = <-exited
			running, e.took = false, time.Since(began)
		}
	}
	var exit *exec.ExitError
	if err2 != nil && !errors.As(err2, &exit) {
		c.t.Fatalf("deploy %s: %v", name, err2)
	}
	e.code = cmd.ProcessState.ExitCode()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.code = 128 + int(status.Signal())
	}
	// One that had its answer when the signal came has ended by itself.
	e.ended = e.ended || e.code == 0 || name == "plan" && e.code == 2
	e.out = string(printed.text) + string(said.text)
	return e
}

// timeOfNothing returns what deploy takes to begin and end.
func (c *cluster) timeOfNothing() time.Duration {
	c.t.Helper()
	begin := time.Now()
	if err := exec.Command(deployBinary(c.t), "version").Run(); err != nil {
		c.t.Fatal(err)
	}
	return time.Since(begin)
}
