package deployer_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

// What a process that plans may take.
const (
	planCPU    = 6.0     // seconds of user CPU for 10,000 instances
	planMemory = 1 << 30 // bytes at its peak, for 10,000 instances
	planGrowth = 6.0     // times the CPU of 2,000 instances
)

// rolePlan makes the test binary a process that plans once and prints the plan.
const rolePlan = "plan-in-a-process"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == rolePlan {
		if err := planInAProcess(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// planInAProcess plans the cluster that the JSON describes, without the engine,
// and prints what a terminal shows.
func planInAProcess(cluster string) error {
	var c deployer.ScaleCluster
	if err := json.Unmarshal([]byte(cluster), &c); err != nil {
		return err
	}
	p, err := c.Plan(context.Background())
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	views.Plan(out, p, true)
	if err := out.Flush(); err != nil {
		return err
	}
	peak, err := peakMemory()
	fmt.Fprint(os.Stderr, peak)
	return err
}

// peakMemory returns the most memory that this process has had, in bytes. What
// wait4 says of a child is not less than what its parent had when it began.
func peakMemory() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	var kilobytes int64
	_, err = fmt.Sscan(after, &kilobytes)
	return kilobytes << 10, err
}

// BenchmarkPlanProcess prints the CPU and the memory of a process that plans a
// change to half of 2,000 and of 10,000 simulated instances: it reads manifest
// and state, asks every agent over the bus, renders, compares and prints. The
// agents and the bus are in this process, whose CPU and memory do not count.
func BenchmarkPlanProcess(b *testing.B) {
	took := map[int]float64{}
	for _, n := range []int{2000, 10000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			c := deployer.NewScaleCluster(b, n)
			cluster, err := json.Marshal(c)
			if err != nil {
				b.Fatal(err)
			}
			var cpu float64
			var memory int64
			b.ResetTimer()
			for b.Loop() {
				cmd := exec.CommandContext(b.Context(), os.Args[0], rolePlan, string(cluster))
				cmd.Env = append(os.Environ(), "GOGC="+strconv.Itoa(cli.GCPercent)) // as the program has it
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil {
					b.Fatalf("%v: %s", err, stderr.Bytes())
				}
				if want := fmt.Sprintf("Plan: %d to reload", (n-1)/2); !strings.Contains(string(out), want) {
					b.Fatalf("the plan does not say %q: %.2000s", want, out)
				}
				cpu += cmd.ProcessState.UserTime().Seconds()
				peak, err := strconv.ParseInt(stderr.String(), 10, 64)
				if err != nil {
					b.Fatal(err)
				}
				memory = max(memory, peak)
			}
			took[n] = cpu / float64(b.N)
			b.ReportMetric(took[n], "cpu-s/plan")
			b.ReportMetric(float64(memory)/(1<<20), "MiB")
			if n == 10000 {
				b.ReportMetric(took[n]/planCPU, "of-limit")
				if memory > planMemory {
					b.Errorf("a plan of %d instances takes %d MiB, more than %d", n, memory>>20, planMemory>>20)
				}
				if few := took[2000]; few > 0 {
					b.ReportMetric(took[n]/few, "of-2000")
					if took[n] > planGrowth*few {
						b.Errorf("a plan of 10,000 instances takes %.1f times the CPU of 2,000, more than %.0f", took[n]/few, planGrowth)
					}
				}
			}
		})
	}
}
