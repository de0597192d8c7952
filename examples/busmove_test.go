//go:build e2e

package examples

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// busLog returns what the components have said of the bus since a moment.
func (c *cluster) busLog(since time.Time) string {
	c.t.Helper()
	var said strings.Builder
	stamp := regexp.MustCompile(`time=(\S+) .* bus`)
	for _, group := range []string{"router", "hello"} {
		out, code := c.run("logs", "--lines=1000", group)
		if code != 0 {
			c.t.Fatalf("logs exited with %d:\n%s", code, out)
		}
		for line := range strings.Lines(out) {
			m := stamp.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			at, err := time.Parse(time.RFC3339, m[1])
			if err != nil {
				c.t.Fatal(err)
			}
			if at.After(since) {
				said.WriteString(line)
			}
		}
	}
	return said.String()
}

// watchServers looks who of the bus's servers accepts connections, until it is
// told to end, and then says whether all did at a time, and how often none did.
func watchServers(t *testing.T, servers ...string) (end func() (all bool, none int)) {
	t.Helper()
	stop := make(chan struct{})
	var looking sync.WaitGroup
	all, none := false, 0
	looking.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			there := 0
			for _, server := range servers {
				if conn, err := net.DialTimeout("tcp", server, 5*time.Second); err == nil {
					_ = conn.Close()
					there++
				}
			}
			all = all || there == len(servers)
			if there == 0 {
				none++
			}
		}
	})
	return func() (bool, int) {
		close(stop)
		looking.Wait()
		return all, none
	}
}

// The bus moves to other addresses, as one server and as three. Agents and
// components follow, and no process but its own servers' is another. There is
// always a server to go to: a lone one is made beside the one that it replaces,
// which goes when all know both; of three, one moves at a time and is known to all
// before the next one does.
func TestBusMoves(t *testing.T) {
	t.Parallel()
	c := helloCluster(t)
	prefix, _ := strings.CutSuffix(c.cidr, "0/24")
	static := func(first, n int) string {
		var list []string
		for i := range n {
			list = append(list, strconv.Quote(prefix+strconv.Itoa(first+i)))
		}
		return "static = [" + strings.Join(list, ", ") + "]"
	}
	at := static(100, 1)
	c.edit(`group "nats" {`, "network \"bus\" { "+at+" }\ngroup \"nats\" {\n  network = network.bus")
	c.mustApply()
	c.mustSpeak("before")
	pids := c.status().pids()

	move := func(when string, first, servers int) {
		t.Helper()
		c.edit(at, static(first, servers))
		at = static(first, servers)
		c.mustApply()
		if out, code := c.run("plan"); code != 0 {
			t.Errorf("%s: that apply left something to do; a plan exits with %d:\n%s", when, code, out)
		}
		c.mustAllRun(3 + servers)
		for i := range servers {
			instance, want := fmt.Sprintf("nats/%d", i), prefix+strconv.Itoa(first+i)
			if address := c.addressOf(instance); address != want {
				t.Errorf("%s: %s is at %s, want %s", when, instance, address, want)
			}
		}
		c.mustSpeak(when)
		c.mustBeOnBus(when, 3+servers)
		pids = c.mustKeepProcesses(when, pids)
		if out, code := c.run("plan"); code != 0 {
			t.Errorf("%s: a plan exits with %d:\n%s", when, code, out)
		}
	}
	before := time.Now()
	both := watchServers(t, prefix+"100:4222", prefix+"110:4222")
	move("one server, elsewhere", 110, 1)
	if all, none := both(); !all || none > 0 {
		t.Errorf("while one server moved, both were there: %v; and none was, %d times", all, none)
	}
	if said := c.busLog(before); strings.Contains(said, "cannot reach") || !strings.Contains(said, "connected to the bus") {
		t.Errorf("while one server moved, components said of the bus:\n%s", said)
	}
	if _, err := net.DialTimeout("tcp", prefix+"100:2222", time.Second); err == nil {
		t.Error("the VM that it had before is still there")
	}
	both = watchServers(t, prefix+"100:4222", prefix+"110:4222")
	move("one server, back again", 100, 1)
	if all, none := both(); !all || none > 0 {
		t.Errorf("while one server moved back, both were there: %v; and none was, %d times", all, none)
	}
	move("one server, elsewhere again", 110, 1)
	c.edit("instances = 1", "instances = 3")
	move("three servers", 110, 3)
	before = time.Now()
	move("three servers, elsewhere", 120, 3)
	if said := c.busLog(before); strings.Contains(said, "cannot reach") || !strings.Contains(said, "connected to the bus") {
		t.Errorf("while three servers moved, components said of the bus:\n%s", said)
	}
}

// The new VM of a lone bus does not come up: it goes again, and nothing has
// happened to the old one. Then the deployer is killed while both are there: the
// next one goes on from there.
func TestBusMoveGoesWrong(t *testing.T) {
	t.Parallel()
	c := helloCluster(t)
	prefix, _ := strings.CutSuffix(c.cidr, "0/24")
	at := func(n int) string { return "static = [" + strconv.Quote(prefix+strconv.Itoa(n)) + "]" }
	c.edit(`group "nats" {`, "network \"bus\" { "+at(100)+" }\ngroup \"nats\" {\n  network = network.bus")
	c.mustApply()
	c.mustSpeak("before")
	pids := c.status().pids()

	// Something else has the port of the new server.
	taken, err := net.Listen("tcp", prefix+"110:6222")
	if err != nil {
		t.Fatal(err)
	}
	c.edit(at(100), at(110))
	out, code := c.run("apply", "--auto-approve")
	if code != 1 || !strings.Contains(out, "the old one never stopped serving") {
		t.Errorf("the apply exits with %d:\n%s", code, out)
	}
	c.mustKeepEveryProcess("a move that failed", pids)
	if address := c.addressOf("nats/0"); address != prefix+"100" {
		t.Errorf("after a move that failed, nats/0 is at %s", address)
	}
	if conn, err := net.DialTimeout("tcp", prefix+"110:2222", time.Second); err == nil {
		_ = conn.Close()
		t.Error("the VM that did not come up is still there")
	}
	c.mustBeOnBus("a move that failed", 4)
	if out, code := c.run("plan"); code != 2 || !strings.Contains(out, "nats/0 move") {
		t.Errorf("the next plan exits with %d:\n%s", code, out)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}

	cmd, told := c.startApply("nats/0")
	file := filepath.Join(c.state, "bus", "state.json")
	within(t, time.Minute, "both VMs are in the state", func() bool {
		data, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(data), `"leaving"`)
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatalf("the apply ended before it was killed:\n%s", told())
	}
	if out, code := c.run("plan"); code != 2 || !strings.Contains(out, "previous VM of nats/0") {
		t.Errorf("a plan after it exits with %d:\n%s", code, out)
	}
	c.mustApply()
	if address := c.addressOf("nats/0"); address != prefix+"110" {
		t.Errorf("nats/0 is at %s", address)
	}
	if conn, err := net.DialTimeout("tcp", prefix+"100:2222", time.Second); err == nil {
		_ = conn.Close()
		t.Error("the VM that it had before is still there")
	}
	if out, code := c.run("plan"); code != 0 {
		t.Errorf("that apply left something to do; a plan exits with %d:\n%s", code, out)
	}
	c.mustKeepProcesses("the move", pids)
	c.mustSpeak("the move")
	c.mustBeOnBus("the move", 4)
}
