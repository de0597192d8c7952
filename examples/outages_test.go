//go:build e2e

package examples

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// outages takes parts of a whole platform away: status and plan tell what is lost, by
// their words and exit codes, one apply makes it good, and the app is served. All are
// lost at once; in the long form each is then lost by itself. A clock that is off is in
// TestClockAnHourOff.
func (p *platform) outages(t *testing.T) {
	lost := func(vm string) func() { return func() { p.loseVM("cf", vm) } }
	type outage struct {
		what   string
		strike func()
		status string // the begin of the instance's line
		plan   string
	}
	outages := []outage{
		{"the bus is lost", lost("nats-0"), `nats/0 +unreachable `, "nats/0 start: its VM is stopped"},
		{"the database is lost", lost("postgres-0"), `postgres/0 +unreachable `, "postgres/0 start: its VM is stopped"},
		{"the load balancer is lost", lost("lb-0"), `lb/0 +unreachable `, "lb/0 start: its VM is stopped"},
		{"an agent is stuck", func() {
			if err := syscall.Kill(agentOf(t, p.cluster, "router-1"), syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}, `router/1 +silent `, "router/1 blocked: the agent does not answer: its machine does, so the agent hangs; apply restarts it"},
		{"a VM's folder is lost", func() {
			p.loseVM("cf", "dea-1")
			if err := os.RemoveAll(filepath.Join(p.state, "cf", "vms", "dea-1")); err != nil {
				t.Fatal(err)
			}
		}, `dea/1 +unreachable `, "dea/1 create: its VM is gone"},
	}
	rounds := [][]outage{outages}
	if *long {
		for _, o := range outages {
			rounds = append(rounds, []outage{o})
		}
	}
	for _, round := range rounds {
		for _, o := range round {
			o.strike()
		}
		status, statusCode := p.run("status", "--exit-code")
		plan, planCode := p.run("plan")
		for _, o := range round {
			if statusCode != 3 || !regexp.MustCompile("(?m)^"+o.status).MatchString(status) {
				t.Errorf("%s: status exited with %d, want 3 and a line %q:\n%s", o.what, statusCode, o.status, status)
			}
			if planCode != 2 || !strings.Contains(strings.Join(strings.Fields(plan), " "), o.plan) {
				t.Errorf("%s: plan exited with %d, want 2 and %q:\n%s", o.what, planCode, o.plan, plan)
			}
		}
		began := time.Now()
		if out, code := p.run("apply", "--auto-approve"); code != 0 {
			t.Errorf("%s: apply exited with %d:\n%s", round[0].what, code, out)
		}
		t.Logf("%d outages: one apply, %.1f s", len(round), time.Since(began).Seconds())
		if out, code := p.run("plan"); code != 0 {
			t.Errorf("%s: a plan after the apply exited with %d:\n%s", round[0].what, code, out)
		}
		if out, code := p.run("status", "--exit-code"); code != 0 {
			t.Errorf("%s: status after the apply exited with %d:\n%s", round[0].what, code, out)
		}
		p.mustAllRun(15)
		p.mustServe("node", "Hello from node/")
	}
}
