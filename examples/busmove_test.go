//go:build e2e

package examples

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// busLog is what the components have said of the bus since a moment.
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

// The bus moves to other addresses, as one server and as three. Agents and
// components follow, and no process but its own servers' is another. Of three,
// one moves at a time and is known to all before the next one does, so that
// there is always a server to go to.
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
	move("one server, elsewhere", 110, 1)
	c.edit("instances = 1", "instances = 3")
	move("three servers", 110, 3)
	before := time.Now()
	move("three servers, elsewhere", 120, 3)
	if said := c.busLog(before); strings.Contains(said, "cannot reach") || !strings.Contains(said, "connected to the bus") {
		t.Errorf("while three servers moved, components said of the bus:\n%s", said)
	}
}
