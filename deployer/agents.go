package deployer

import (
	"context"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/bootstrap"
	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// platform is the os and arch of the VMs: those there are, or this machine's.
func (r *run) platform() (string, string) {
	for _, id := range r.vmIDs() {
		if vm := r.fleet.vm(id); vm.OS != "" {
			return vm.OS, vm.Arch
		}
	}
	return runtime.GOOS, runtime.GOARCH
}

// agentBlob is the agent program that VMs shall have.
func (r *run) agentBlob() (packages.Blob, error) {
	p, err := r.packages.For(r.platform())
	if err != nil {
		return packages.Blob{}, err
	}
	return p.Agent()
}

// settle waits for operations that an earlier run has left: whoever changes an
// instance first learns how the last change ended.
func (r *run) settle(ctx context.Context) error {
	ids := r.vmIDs()
	return r.parallel(ctx, len(ids), func(ctx context.Context, i int) error {
		id := ids[i]
		inv := r.fleet.inventory(id)
		if inv == nil || inv.Running == nil || older(inv) { // a replaced agent gives up what it does
			return nil
		}
		r.event(Event{Phase: PhaseSurvey, Instance: id, Step: "settle", Message: "waiting for the " + string(inv.Running.Kind) + " that an earlier run began"})
		ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
		defer cancel()
		if err := r.follow(ctx, id, inv.Running); err != nil {
			return err
		}
		r.event(Event{Phase: PhaseSurvey, Instance: id, Step: "settle", Done: true})
		return nil
	})
}

// follow waits until an operation on an agent has ended, well or not.
func (r *run) follow(ctx context.Context, id string, op *api.Operation) error {
	since := uint64(0)
	for {
		progress, err := r.fleet.client(id).Wait(ctx, api.WaitRequest{OpID: op.OpID, Since: since, MaxMS: 10_000})
		if err != nil {
			return fmt.Errorf("cannot follow the %s that runs on %s: %w", op.Kind, id, err)
		}
		if progress.Operation.State != api.OperationRunning {
			return nil
		}
		since = progress.Operation.Sequence
	}
}

// fenceLimit bounds telling an agent that another run has taken over. Whoever
// does not hear it obeys the earlier one until it is told anything, but the state
// keeps that one from going on.
const fenceLimit = 5 * time.Second

// identify tells agents who they are: those of new VMs, and those whose VM or
// address is another than they know.
func (r *run) identify(ctx context.Context) error { return r.identifyVMs(ctx, r.vmIDs()) }

func (r *run) identifyVMs(ctx context.Context, ids []string) error {
	return r.parallel(ctx, len(ids), func(ctx context.Context, i int) error {
		id := ids[i]
		inv := r.fleet.inventory(id)
		if inv == nil || !r.has(id) || r.exempt(id) != "" && !r.tookOver {
			return nil
		}
		vm := r.fleet.vm(id)
		// With a bus, connectAgents tells where metrics are served.
		settled := r.outlets(inv) || len(r.busURLs()) > 0
		known := inv.DeploymentID == r.state.DeploymentID && inv.Instance == id && inv.VMID == vm.ID && settled
		if known && !r.tookOver {
			return nil
		}
		if known { // it only learns the new epoch
			fence, cancel := context.WithTimeout(ctx, fenceLimit)
			defer cancel()
			if err := r.configure(fence, id, nil); err != nil {
				r.event(Event{Phase: PhaseSurvey, Message: "not told that another run has taken over: " + err.Error()})
			}
			return nil
		}
		if err := r.refuseForeign(id, inv); err != nil {
			return err
		}
		return r.configure(ctx, id, nil)
	})
}

// outlets tells whether an agent serves metrics and sends logs where the manifest
// says.
func (r *run) outlets(inv *api.Inventory) bool {
	d := r.manifest.Deployment
	return inv.MetricsPort == d.MetricsPort && inv.Syslog == d.Syslog
}

// connectAgents tells agents where the bus is, once it serves.
func (r *run) connectAgents(ctx context.Context) error {
	urls := r.busURLs()
	if len(urls) == 0 {
		return nil
	}
	// Issuing changes the state, so it is done before the machines work side by side.
	owed := map[string]*api.Bus{}
	var ids []string
	for _, id := range r.vmIDs() {
		// One whose VM of before still runs there comes onto the bus after it.
		if inv := r.fleet.inventory(id); inv != nil && r.touches(id) && !r.isLeaving(id) {
			if b := r.busFor(urls, id, inv); b != nil &&
				(b.Digest != inv.Bus.Digest || !r.outlets(inv)) {
				owed[id] = b
				ids = append(ids, id)
			}
		}
	}
	if len(ids) > 0 {
		if err := r.save(); err != nil {
			return err
		}
		r.event(Event{Phase: PhaseBus, Message: fmt.Sprintf("%d agents to %s", len(ids), strings.Join(urls, ", "))})
		err := r.parallel(ctx, len(ids), func(ctx context.Context, i int) error { return r.configure(ctx, ids[i], owed[ids[i]]) })
		if err != nil {
			return err
		}
	}
	if !slices.Equal(r.state.Bus, urls) {
		r.state.Bus = urls
		r.fleet.forgetBus()
	}
	return nil
}

func (r *run) configure(ctx context.Context, id string, b *api.Bus) error {
	vm := r.fleet.vm(id)
	step, settings := "identify", ""
	if b != nil {
		step, settings = "configure", "."+b.Digest[:min(8, len(b.Digest))]
		r.event(Event{Phase: PhaseBus, Instance: id, Step: step})
	}
	// The same settings give the same operation, whoever sends them.
	opID := fmt.Sprintf("%.8s-%d.%s.%s%s", r.state.DeploymentID, r.state.Epoch, step, api.SubjectToken(id), settings)
	s := r.submission(id, opID)
	s.Kind = api.KindConfigure
	s.Configure = &api.Configure{
		Deployment: r.manifest.Deployment.Name, VMID: vm.ID, Address: vm.Address, Disk: vm.Disk, Bus: b,
		MetricsPort: r.manifest.Deployment.MetricsPort, Syslog: r.manifest.Deployment.Syslog,
	}
	err := within(ctx, 30*time.Second, func(ctx context.Context) error { return r.fleet.client(id).Do(ctx, s, nil) })
	if err != nil {
		return fmt.Errorf("cannot configure the agent of %s: %w", id, err)
	}
	if b != nil {
		r.event(Event{Phase: PhaseBus, Instance: id, Step: step, Done: true})
	}
	return nil
}

// bootstrap puts the agent on every VM that does not run the wanted one, and
// asks it who it is.
func (r *run) bootstrap(ctx context.Context) error { return r.bootstrapVMs(ctx, r.vmIDs()) }

func (r *run) bootstrapVMs(ctx context.Context, of []string) error {
	agent, err := r.agentBlob()
	if err != nil {
		return err
	}
	var ids []string
	for _, id := range of {
		inv := r.fleet.inventory(id)
		if r.touches(id) && (inv == nil || inv.Agent.Digest != agent.Digest || inv.Agent.Unkept) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	r.fleet.setPatience(bootPatience)
	return r.parallel(ctx, len(ids), func(ctx context.Context, i int) error {
		id := ids[i]
		r.event(Event{Phase: PhaseBootstrap, Instance: id, Step: "bootstrap"})
		err := r.bootstrapOne(ctx, id, agent)
		e := Event{Phase: PhaseBootstrap, Instance: id, Step: "bootstrap", Done: err == nil}
		if err != nil {
			e.Error = err.Error()
		}
		r.event(e)
		return err
	})
}

func (r *run) bootstrapOne(ctx context.Context, id string, agent packages.Blob) error {
	vm := r.fleet.vm(id)
	conn, err := r.fleet.connect(ctx, id)
	if err != nil {
		return fmt.Errorf("cannot reach the VM of %s: %w", id, err)
	}
	if vm.HostKey == "" {
		// The infrastructure cannot tell the key, so the first one seen is kept.
		r.event(Event{Phase: PhaseBootstrap, Message: fmt.Sprintf("%s: trusting host key %s at first contact", id, conn.HostKey())})
		r.vmsMu.Lock()
		vm.HostKey = conn.HostKey()
		r.state.VMs[id] = vm
		r.vmsMu.Unlock()
	}
	// Whose machine is it? Another deployment's agent is not even upgraded. A
	// machine without one answers with an error at once.
	var there api.Inventory
	if within(ctx, sshAsk, func(ctx context.Context) (err error) { there, err = r.fleet.client(id).Inventory(ctx); return err }) == nil {
		if err := r.refuse(id, &there); err != nil {
			return err
		}
	}
	_, inv, err := bootstrap.Agent(ctx, conn, bootstrap.Machine{AgentDir: vm.AgentDir, OS: vm.OS, Arch: vm.Arch}, agent, func(s bootstrap.Step) {
		r.event(Event{Phase: PhaseBootstrap, Instance: id, Step: "bootstrap", Message: string(s)})
	}, func(note string) {
		r.event(Event{Phase: PhaseBootstrap, Message: id + ": " + note})
	})
	if err != nil {
		return fmt.Errorf("cannot put the agent on %s: %w", id, err)
	}
	if inv.Agent.API != api.Version {
		return fmt.Errorf("cannot use the agent that was put on %s: it speaks version %d of the agents' API, this deploy version %d; the built packages in %s are not this deploy's, type `make build`",
			id, inv.Agent.API, api.Version, r.config.Packages)
	}
	r.fleet.setInventory(id, &inv)
	return nil
}

// packagesOwed are the digests of packages that each instance lacks.
func (r *run) packagesOwed(p *plan.Plan) (map[string][]string, error) {
	wanted, err := r.wanted()
	if err != nil {
		return nil, err
	}
	changes := map[string]bool{}
	for _, c := range p.Changes() {
		changes[c.Instance] = !c.Action.NewVM() // the new VM gets its own
	}
	owed := map[string][]string{}
	for _, w := range wanted {
		id := w.Spec.Instance
		inv := r.fleet.inventory(id)
		if !changes[id] || inv == nil {
			continue
		}
		for _, pkg := range w.Spec.Packages {
			if !slices.Contains(inv.Store, pkg.Digest) {
				owed[id] = append(owed[id], pkg.Digest)
			}
		}
	}
	return owed, nil
}

// deliver brings packages near: once to the bus where it serves, else to each
// VM. What the bus does not deliver is uploaded when an agent asks for it.
func (r *run) deliver(ctx context.Context, p *plan.Plan) error {
	owed, err := r.packagesOwed(p)
	if err != nil || len(owed) == 0 {
		return err
	}
	var direct []string
	cached := map[string]bool{}
	b := r.fleet.connectBus(ctx)
	for id, digests := range owed {
		if inv := r.fleet.inventory(id); b != nil && inv.Bus.Connected {
			for _, d := range digests {
				cached[d] = true
			}
			continue
		}
		direct = append(direct, id)
	}
	slices.Sort(direct)
	for digest := range cached {
		if err := r.publish(ctx, digest); err != nil {
			// The cache is a convenience: agents are served over SSH instead.
			r.event(Event{Phase: PhasePackages, Message: "not over the bus: " + err.Error()})
			break
		}
	}
	return r.parallel(ctx, len(direct), func(ctx context.Context, i int) error {
		return r.upload(ctx, direct[i], owed[direct[i]])
	})
}

// publish puts a package into the bus's object store, unless it is there.
func (r *run) publish(ctx context.Context, digest string) error {
	blob, err := r.blob(digest)
	if err != nil {
		return err
	}
	f, err := os.Open(blob.File)
	if err != nil {
		return fmt.Errorf("cannot read a built package: %w", err)
	}
	defer f.Close()
	return within(ctx, 2*time.Minute, func(ctx context.Context) error {
		return r.fleet.connectBus(ctx).Publish(ctx, digest, blob.Size, f)
	})
}

// upload puts packages onto a VM over SSH.
func (r *run) upload(ctx context.Context, id string, digests []string) error {
	c, err := r.fleet.connect(ctx, id)
	if err != nil {
		return err
	}
	for _, digest := range digests {
		blob, err := r.blob(digest)
		if err != nil {
			return err
		}
		r.event(Event{Phase: PhasePackages, Instance: id, Step: "upload", Message: fmt.Sprintf("uploading %s", path.Base(blob.File))})
		if err := bootstrap.UploadPackage(ctx, c, r.fleet.vm(id).AgentDir, digest, blob.File); err != nil {
			return fmt.Errorf("cannot bring package %s to %s: %w; nothing that runs there was touched, apply again when the cause is removed", path.Base(blob.File), id, err)
		}
	}
	return nil
}
