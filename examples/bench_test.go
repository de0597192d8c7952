//go:build e2e

package examples

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// The limits of the promises, on 2 cores with everything built.
const (
	coldLimit  = 15 * time.Second
	noopLimit  = 1500 * time.Millisecond
	noop50More = 3 * time.Second
)

// BenchmarkApply measures the cold apply of the example, then applies with
// nothing to do, beside what the engine alone takes to find that out.
func BenchmarkApply(b *testing.B) {
	c := start(b, "hello.hcl")
	begin := time.Now()
	c.mustApply()
	cold := time.Since(begin)
	noop(b, c, noopLimit)
	b.ReportMetric(cold.Seconds(), "cold-s")
	b.ReportMetric(cold.Seconds()/coldLimit.Seconds(), "cold/limit")
}

// BenchmarkApply58 is the same with 50 more instances.
func BenchmarkApply58(b *testing.B) {
	c := start(b, "hello.hcl")
	c.edit("default     = 3\n  description = \"How many instances of hello there are\"", "default     = 53\n  description = \"How many instances of hello there are\"")
	begin := time.Now()
	c.mustApply()
	cold := time.Since(begin)
	noop(b, c, noop50More)
	b.ReportMetric(cold.Seconds(), "cold-s")
}

// noop applies with nothing to do, and reports the ratio to the limit and to a
// plan of the engine alone over the same VMs.
func noop(b *testing.B, c *cluster, limit time.Duration) {
	b.Helper()
	c.applyJSON() // agents that have just joined the bus settle
	dir := filepath.Join(c.state, "hello", "terraform")
	engine := func(args ...string) time.Duration {
		begin := time.Now()
		cmd := exec.Command("terraform", args...)
		cmd.Dir = dir
		cmd.Env = append(cmd.Environ(), "TF_CLI_CONFIG_FILE="+filepath.Join(dir, "terraform.rc"))
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("terraform %v: %v\n%s", args, err, out)
		}
		return time.Since(begin)
	}
	engine("init", "-input=false")
	peer := engine("plan", "-input=false", "-detailed-exitcode")
	for b.Loop() {
		if r := c.applyJSON(); r.Changed || r.Counts.EngineRuns+r.Counts.SSHDials+r.Counts.StateWrites != 0 {
			b.Fatalf("there was something to do: %+v", r)
		}
	}
	each := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(each/limit.Seconds(), "noop/limit")
	b.ReportMetric(each/peer.Seconds(), "noop/terraform-plan")
}
