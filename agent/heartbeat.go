package agent

import (
	"encoding/json"
	"math/rand/v2"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"github.com/clusterworks/deploy/agent/api"
)

// heartbeatEvery is the time between two heartbeats, give or take a tenth.
const heartbeatEvery = 10 * time.Second

// beatNow asks for a heartbeat at once. It never blocks.
func (a *Agent) beatNow() {
	select {
	case a.beat <- struct{}{}:
	default: // one is asked for already, and will tell the latest
	}
}

// heartbeats publishes until the agent ends.
func (a *Agent) heartbeats() {
	for sequence := uint64(1); ; sequence++ {
		timer := time.NewTimer(heartbeatEvery*9/10 + rand.N(heartbeatEvery/5))
		select {
		case <-a.ctx.Done():
			timer.Stop()
			return
		case <-a.beat:
		case <-timer.C:
		}
		timer.Stop()
		a.publishHeartbeat(sequence)
	}
}

func (a *Agent) publishHeartbeat(sequence uint64) {
	a.mu.Lock()
	id, b := a.identity, a.bus
	a.mu.Unlock()
	if b == nil {
		return
	}
	state, _, _ := health(a.supervisor, a.installer)
	data, err := json.Marshal(api.Heartbeat{
		DeploymentID: id.DeploymentID, Instance: id.Instance, BootID: a.bootID, Sequence: sequence, At: time.Now().UTC(),
		State: state, Generation: a.installer.Installed().Active, Processes: a.supervisor.Statuses(), Vitals: vitals(a.config.Dir),
	})
	if err == nil {
		err = b.Publish(api.HeartbeatSubject(id.Instance), data)
	}
	if err != nil {
		a.config.Log.Debug("no heartbeat", "err", err) // the inventory tells of the bus
	}
}

// vitals reads the VM's figures; one that cannot be read stays zero.
func vitals(dir string) api.Vitals {
	var v api.Vitals
	if kernel, err := procfs.NewDefaultFS(); err == nil {
		if load, err := kernel.LoadAvg(); err == nil {
			v.Load1 = load.Load1
		}
		if memory, err := kernel.Meminfo(); err == nil && memory.MemTotalBytes != nil && memory.MemAvailableBytes != nil {
			v.MemoryBytes = int64(*memory.MemTotalBytes)
			v.MemoryUsedBytes = v.MemoryBytes - int64(*memory.MemAvailableBytes)
		}
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err == nil {
		v.DiskBytes = int64(fs.Blocks) * fs.Bsize
		v.DiskUsedBytes = int64(fs.Blocks-fs.Bfree) * fs.Bsize
	}
	return v
}

// freeMemory gives back what an operation needed: an agent is idle nearly all
// its life.
func freeMemory() { debug.FreeOSMemory() }
