//go:build e2e

package examples

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// vm describes what the deployer remembers of a VM.
type vm struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	Disk    string `json:"disk"`
}

// vms are the VMs as the state has them.
func (c *cluster) vms(deployment string) map[string]vm {
	c.t.Helper()
	var s struct {
		VMs map[string]vm `json:"vms"`
	}
	data, err := os.ReadFile(filepath.Join(c.state, deployment, "state.json"))
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return s.VMs
}

// applying is an apply that goes on while a test looks.
type applying struct {
	done chan struct{}
	out  bytes.Buffer
	code int
}

func (c *cluster) beginApply() *applying {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	a := &applying{done: make(chan struct{})}
	cmd := c.command(ctx, "apply", "--auto-approve")
	cmd.Stdout, cmd.Stderr = &a.out, &a.out
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		defer close(a.done)
		defer cancel()
		_ = cmd.Wait() // the exit code tells
		a.code = cmd.ProcessState.ExitCode()
	}()
	c.t.Cleanup(func() { cancel(); <-a.done })
	return a
}

// TestVMsRoll gives three routers more memory, which replaces their VMs one at
// a time: two answer at every moment, and the load balancer always does.
func TestVMsRoll(t *testing.T) {
	t.Parallel()
	c := start(t, "hello.hcl")
	c.edit("min_healthy_time = \"3s\"", "min_healthy_time = \"500ms\"")
	c.mustApply()
	before, old := c.mustAllRun(8), c.vms("hello")
	c.edit("vm        = vm.small\n\n  job \"router\" {", "vm        = vm.wide\n\n  job \"router\" {")
	c.edit("vm \"small\" {", "vm \"wide\" {\n  cpus      = 1\n  memory_mb = 1024\n}\n\nvm \"small\" {")

	out, code := c.run("plan")
	mustTell(t, out, code, 2, `± VM router/0`, "± router/0 recreate: VM: memory_mb 512 -> 1024 (likewise router/1, router/2)", "3 to recreate, 5 unchanged")

	apply := c.beginApply()
	var mu sync.Mutex
	polls, fewest := 0, 3
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-apply.done:
			running = false
		case <-tick.C:
		}
		if _, err := page(c.listen, "hello.cf.localhost"); err != nil {
			t.Errorf("through the load balancer: %v", err)
		}
		var asked sync.WaitGroup
		answer := 0
		for id, v := range old {
			if strings.HasPrefix(id, "router/") {
				asked.Go(func() {
					if _, err := page(net.JoinHostPort(v.Address, "8081"), "hello.cf.localhost"); err == nil {
						mu.Lock()
						defer mu.Unlock()
						answer++
					}
				})
			}
		}
		asked.Wait()
		fewest = min(fewest, answer)
		polls++
	}
	if apply.code != 0 {
		t.Fatalf("apply exited with %d:\n%s", apply.code, &apply.out)
	}
	t.Logf("%d polls, at least %d routers answered", polls, fewest)
	if fewest != 2 || polls < 20 {
		t.Errorf("at the worst moment of %d, %d routers answered, want 2\n%s", polls, fewest, &apply.out)
	}
	for id, v := range c.vms("hello") {
		if replaced := strings.HasPrefix(id, "router/"); (v.ID != old[id].ID) != replaced || v.Address != old[id].Address {
			t.Errorf("%s: VM %s at %s, was %s at %s", id, v.ID, v.Address, old[id].ID, old[id].Address)
		}
	}
	after := c.mustAllRun(8)
	for process, pid := range before.pids() {
		if replaced := strings.HasPrefix(process, "router/"); (after.pids()[process] != pid) != replaced {
			t.Errorf("%s had pid %d, has %d", process, pid, after.pids()[process])
		}
	}
	if r := c.applyJSON(); r.Changed || r.Counts.EngineRuns != 0 {
		t.Errorf("another apply: %+v", r)
	}
}

// TestVMsRollTouchesNothingElse removes the VM of one instance by hand while
// those of others are replaced: the engine would make it anew within the next
// batch, which is refused.
func TestVMsRollTouchesNothingElse(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 3, waits)
	c.edit("min_healthy_time = \"300ms\"", "min_healthy_time = \"2s\"")
	c.edit("instances = 3", "instances = 3\n  vm = vm.own")
	c.edit("group \"app\"", "vm \"own\" { memory_mb = 256 }\ngroup \"app\"")
	c.mustApply()
	old := c.vms("scripts")
	c.edit("memory_mb = 256", "memory_mb = 300")
	apply := c.beginApply()
	within(t, time.Minute, "the canary has its new VM", func() bool { return c.vms("scripts")["app/0"].ID != old["app/0"].ID })
	folder := filepath.Join(c.state, "scripts", "vms", "app-2")
	within(t, 30*time.Second, "app/2 is removed", func() bool { return os.RemoveAll(folder) == nil })
	<-apply.done
	mustTell(t, apply.out.String(), apply.code, 1, "cannot replace the VMs of app/1",
		`the engine's plan would also create VM app/2`, "apply again")
	now := c.vms("scripts")
	if now["app/1"].ID != old["app/1"].ID {
		t.Error("app/1 has another VM")
	}
	for _, in := range c.status().Instances {
		if in.ID != "app/2" && in.State != "running" {
			t.Errorf("%s is %s", in.ID, in.State)
		}
	}
	c.mustApply()
	c.mustAllRun(3)
	if now = c.vms("scripts"); now["app/1"].ID == old["app/1"].ID {
		t.Error("app/1 has its old VM still")
	}
}
