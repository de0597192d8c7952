//go:build e2e

package examples

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
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
	begin := time.Now()
	if out, code := c.run("apply", "--auto-approve", script(0)); code != 0 {
		t.Fatal(out)
	}
	// That apply made the VMs: an update takes half of it, and so on.
	whole := time.Since(begin)
	longest := map[string]time.Duration{"apply": whole / 2, "destroy": whole / 4, "plan": whole / 4, "status": whole / 10}
	ways := []string{"HUP", "INT", "TERM", "PIPE", "KILL"}
	commands := []string{"apply", "plan", "status", "destroy"}
	for i := range *moments {
		way, command := ways[i%len(ways)], commands[random.IntN(len(commands))]
		after := time.Duration(random.Int64N(int64(longest[command])))
		group := random.IntN(2) == 0
		what := fmt.Sprintf("moment %d: %s %v after the begin of %s, to its group: %v", i, way, after, command, group)
		e := c.endAt(command, script(i+1), way, after, group)
		t.Logf("%s: exit code %d, %v later", what, e.code, e.took)
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
}

var signalNamed = map[string]syscall.Signal{"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "PIPE": syscall.SIGPIPE, "KILL": syscall.SIGKILL}

// ending is how a command took its end.
type ending struct {
	ended bool          // before it was told to
	code  int           // as a shell shows it
	took  time.Duration // from the signal to its end
	out   string
}

// endAt begins a command and ends it after a while.
func (c *cluster) endAt(name, flag, way string, after time.Duration, group bool) ending {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Minute)
	defer cancel()
	flags := []string{flag}
	if name == "apply" || name == "destroy" {
		flags = append(flags, "--auto-approve")
	}
	cmd := c.command(ctx, name, flags...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said bytes.Buffer
	cmd.Stderr = &said
	reader, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	read, exited := make(chan []byte, 1), make(chan error, 1)
	go func() {
		data, _ := io.ReadAll(reader) // its end is that of the command, or ours
		read <- data
		exited <- cmd.Wait()
	}()
	var e ending
	var err2 error
	select {
	case err2 = <-exited:
		e.ended = true
	case <-time.After(after):
		at := time.Now()
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
		e.took = time.Since(at)
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
	e.out = string(<-read) + said.String()
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
