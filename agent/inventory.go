package agent

import (
	"context"
	"os"
	"runtime"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// Inventory tells what is there now.
func (a *Agent) Inventory(context.Context) (api.Inventory, error) {
	installed := a.installer.Installed()
	installed.Census = a.installer.HasCensus()
	state, reasons, since := health(a.supervisor, a.installer)
	drift := a.installer.Drift(false)
	figures := vitals(a.config.Dir)
	a.mu.Lock()
	defer a.mu.Unlock()
	return api.Inventory{
		Agent: api.AgentInfo{
			Version: a.config.Version, Digest: a.config.Digest, PID: os.Getpid(), StartedAt: a.started,
			API: api.Version, OS: runtime.GOOS, Arch: runtime.GOARCH, Dir: a.config.Dir,
			Unkept: os.Getppid() != a.parent, DiskGone: a.diskGone(), Damaged: damage(a.identity.damaged, a.config.Parts),
		},
		DeploymentID: a.identity.DeploymentID,
		Instance:     a.identity.Instance,
		VMID:         a.identity.VMID,
		BootID:       a.bootID,
		Epoch:        a.identity.Epoch,
		PublicKey:    a.key.public,
		Bus:          a.busStatus(),
		Installed:    installed,
		State:        state,
		Reasons:      reasons,
		HealthySince: since,
		Processes:    a.supervisor.Statuses(),
		Running:      a.ops.runningNow(),
		MetricsPort:  a.identity.MetricsPort,
		Syslog:       a.identity.Syslog,
		Names:        a.identity.namesDigest(a.config.Root),
		Drift:        drift[:min(len(drift), api.MaxDrift)],
		Vitals:       &figures,
		Now:          time.Now().UTC(),
	}, nil
}

// Drift reads everything that was installed and tells what differs.
func (a *Agent) Drift(context.Context) (api.DriftReport, error) {
	return api.DriftReport{Drift: a.installer.Drift(true)}, nil
}

// Census has the jobs say what lives on the instance.
func (a *Agent) Census(ctx context.Context) (api.CensusReport, error) {
	return a.installer.Census(ctx)
}

// Spec reads a generation.
func (a *Agent) Spec(_ context.Context, r api.SpecRequest) (api.Spec, error) {
	return a.installer.Spec(r.Generation)
}
