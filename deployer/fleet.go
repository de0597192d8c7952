package deployer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/client"
	"github.com/clusterworks/deploy/deployer/internal/bus"
	"github.com/clusterworks/deploy/deployer/internal/ssh"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// fleet reaches the agents of a run: over the bus where it serves, over SSH
// otherwise. Connections are made when they are first needed and shared.
type fleet struct {
	run *run

	mu          sync.Mutex
	bus         *bus.Bus
	busErr      error
	busTried    bool
	ssh         map[string]*sshConn
	inventories map[string]*api.Inventory // as last surveyed
	reasons     map[string]error          // why an instance is silent
	patience    time.Duration             // with machines that refuse SSH

	distrusted distrust
}

// sshConn is a connection being made or made.
type sshConn struct {
	patience time.Duration // of who dials
	made     chan struct{} // closed when what follows is set
	client   *ssh.Client   // read with the fleet's lock too
	err      error
	gaveUp   bool // it failed because who dialled did not wait any longer
}

// patience is how hard a survey tries.
type patience int

const (
	// quick asks over the bus only and takes silence for an answer.
	quick patience = iota
	// patient also asks over SSH those that are silent on the bus.
	patient
)

// How long one machine may take.
const (
	busWait    = 700 * time.Millisecond
	busConnect = 2 * time.Second
	sshAsk     = 5 * time.Second
	// A machine that is there accepts SSH at once; one that boots takes its time.
	askPatience  = time.Second
	bootPatience = 90 * time.Second
	// A machine that exists was up before we came.
	keptPatience = 5 * time.Second
)

func newFleet(r *run) *fleet {
	return &fleet{run: r, patience: askPatience, ssh: map[string]*sshConn{}, inventories: map[string]*api.Inventory{}, reasons: map[string]error{}}
}

func (f *fleet) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bus != nil {
		f.bus.Close()
		f.bus = nil
	}
	for id, c := range f.ssh {
		if c.client != nil {
			_ = c.client.Close() // nothing is under way on it any more
		}
		delete(f.ssh, id)
	}
}

// connectBus connects once a run, if the bus has ever served.
func (f *fleet) connectBus(ctx context.Context) *bus.Bus {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busTried || len(f.run.state.Bus) == 0 {
		return f.bus
	}
	f.busTried = true
	settings, err := f.run.busSettings(f.run.state.Bus)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, busConnect)
		defer cancel()
		f.bus, err = bus.Connect(ctx, settings)
	}
	f.busErr = err
	return f.bus
}

// forgetBus makes the next use connect anew.
func (f *fleet) forgetBus() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bus != nil {
		f.bus.Close()
	}
	f.bus, f.busTried = nil, false
}

// client speaks to the agent of an instance: over the bus if there is one, and
// over SSH when that does not work.
func (f *fleet) client(id string) *client.Client {
	overSSH := client.Unix(func(ctx context.Context) (net.Conn, error) {
		c, err := f.connect(ctx, id)
		if err != nil {
			return nil, err
		}
		return c.DialUnix(ctx, path.Join(f.vm(id).AgentDir, "run", "agent.sock"))
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	// An agent that is not on the bus yet would only cost its time-out, and that
	// of a bus's server loses its connection with every change.
	if inv := f.inventories[id]; f.bus == nil || inv == nil || !inv.Bus.Connected || f.run.servesBus(id) {
		return overSSH
	}
	return client.Fallback(f.bus.Agent(id), overSSH)
}

// forget drops what belongs to a VM that is gone.
func (f *fleet) forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.ssh[id]; c != nil && c.client != nil {
		_ = c.client.Close() // the machine is gone
	}
	delete(f.ssh, id)
	delete(f.inventories, id)
	f.distrusted.forget(id)
}

// setPatience is how long a machine that refuses SSH is waited for.
func (f *fleet) setPatience(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.patience = d
}

func (f *fleet) vm(id string) state.VM {
	f.run.vmsMu.Lock()
	defer f.run.vmsMu.Unlock()
	if had, leaving := leavingOf(id); leaving {
		return f.run.state.Leaving[had]
	}
	return f.run.state.VMs[id]
}

// connect is the SSH connection to an instance's VM, made at first use, and anew
// when it was lost. Who finds it being made waits for that, and goes on himself
// where the other one has less patience.
func (f *fleet) connect(ctx context.Context, id string) (*ssh.Client, error) {
	for {
		var lost *ssh.Client
		f.mu.Lock()
		c, patience := f.ssh[id], f.patience
		if c != nil && c.client != nil && c.client.Ended() {
			c, lost = nil, c.client
		}
		first := c == nil
		if first {
			c = &sshConn{patience: patience, made: make(chan struct{})}
			f.ssh[id] = c
		}
		f.mu.Unlock()
		if lost != nil {
			_ = lost.Close() // it has ended
		}
		if first {
			f.makeConn(ctx, id, c)
			return c.client, c.err
		}
		select {
		case <-c.made:
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot wait for the connection to the VM of %s: %w", id, context.Cause(ctx))
		}
		if c.err == nil || ctx.Err() != nil || !c.gaveUp && c.patience >= patience {
			return c.client, c.err
		}
	}
}

func (f *fleet) makeConn(ctx context.Context, id string, c *sshConn) {
	dialled, err := f.dial(ctx, id, c.patience)
	f.mu.Lock()
	defer f.mu.Unlock()
	defer close(c.made)
	c.client, c.err, c.gaveUp = dialled, err, ctx.Err() != nil
	switch {
	case f.ssh[id] != c && err == nil:
		// The run has ended, or the machine is gone: a dial goes on for a while when
		// whoever asked for it has given up.
		_ = dialled.Close()
		c.client, c.err = nil, fmt.Errorf("cannot use the connection to %s: it came too late", dialled)
	case f.ssh[id] == c && err != nil:
		delete(f.ssh, id) // the next use tries again
	}
}

func (f *fleet) dial(ctx context.Context, id string, patience time.Duration) (*ssh.Client, error) {
	vm := f.vm(id)
	target, err := f.run.sshTarget(vm)
	if err != nil {
		return nil, err
	}
	if vm.Keep {
		patience = min(patience, keptPatience)
	}
	return ssh.Dial(ctx, target, ssh.Options{Patience: patience, OnDial: func() { f.run.counts.ssh.Add(1) }})
}

// connected tells whether there is an SSH connection to an instance's VM.
func (f *fleet) connected(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.ssh[id]
	return c != nil && c.client != nil
}

// survey asks all agents side by side. Silent ones, and those that say what
// cannot be true, are absent from the answer; reason says why.
func (f *fleet) survey(ctx context.Context, p patience) map[string]*api.Inventory {
	ids := f.run.vmIDs()
	found := map[string]*api.Inventory{}
	reasons := map[string]error{}
	if b := f.connectBus(ctx); b != nil {
		onBus := slices.DeleteFunc(slices.Clone(ids), f.run.isLeaving)
		for _, id := range f.run.leavingIDs() {
			reasons[id] = errTwoVMs
		}
		for id, answer := range b.Inventories(ctx, onBus, busWait) {
			if answer.Err != nil {
				reasons[id] = answer.Err
				continue
			}
			found[id] = answer.Inventory
		}
	} else {
		for _, id := range ids {
			reasons[id] = f.busErr
		}
	}
	f.distrusted.forget()
	maps.Copy(reasons, f.sift(found))
	f.keep(found, reasons)
	if p == quick {
		return found
	}
	var silent []string
	for _, id := range ids {
		if found[id] == nil && f.distrusted.of(id) == nil {
			silent = append(silent, id)
		}
	}
	var mu sync.Mutex
	// Each instance's failure is its own answer, not the survey's.
	_ = f.run.parallel(ctx, len(silent), func(ctx context.Context, i int) error {
		id := silent[i]
		ctx, cancel := context.WithTimeout(ctx, sshAsk)
		defer cancel()
		inv, err := f.client(id).Inventory(ctx)
		mu.Lock()
		defer mu.Unlock()
		if errors.Is(err, context.DeadlineExceeded) && f.connected(id) {
			err = fmt.Errorf("its machine does, so it hangs: apply starts it anew, what it supervises runs on (%w)", err)
		}
		if err != nil {
			reasons[id] = err
			return nil
		}
		found[id] = &inv
		delete(reasons, id)
		return nil
	})
	maps.Copy(reasons, f.sift(found))
	f.keep(found, reasons)
	return found
}

func (f *fleet) keep(found map[string]*api.Inventory, reasons map[string]error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inventories, f.reasons = map[string]*api.Inventory{}, map[string]error{}
	for id, inv := range found {
		f.inventories[id] = inv
	}
	for id, err := range reasons {
		f.reasons[id] = err
	}
}

// inventory is what an agent last said, nil if it was silent.
func (f *fleet) inventory(id string) *api.Inventory {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inventories[id]
}

func (f *fleet) setInventory(id string, inv *api.Inventory) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inventories[id] = inv
	delete(f.reasons, id)
}

// reason says why an instance was silent.
func (f *fleet) reason(id string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.reasons[id]; err != nil {
		return err.Error()
	}
	return ""
}

// unreachable tells that not even SSH answers at the VM's address: nothing
// listens there.
func (f *fleet) unreachable(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	var op *net.OpError
	return errors.As(f.reasons[id], &op) && op.Op == "dial"
}

// unheard returns why there is no answer of an agent's that could be used.
func (f *fleet) unheard(id string) error {
	if why := f.distrusted.of(id); why != nil {
		return why
	}
	return fmt.Errorf("its agent does not answer: %s", f.reason(id))
}

// sift takes the inventories that cannot be true out of those found and returns
// why each was.
func (f *fleet) sift(found map[string]*api.Inventory) map[string]error {
	refused := map[string]error{}
	for _, id := range slices.Sorted(maps.Keys(found)) {
		if err := impossible(f.run.state, id, found[id]); err != nil {
			f.distrusted.add(id, err, found[id].State == api.InstanceRunning)
			refused[id] = err
			delete(found, id)
		}
	}
	return refused
}

// highestEpoch is the highest that any agent that is believed has seen.
func (f *fleet) highestEpoch() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var highest uint64
	for _, inv := range f.inventories {
		highest = max(highest, inv.Epoch)
	}
	return highest
}

// vmIDs are the instances that have a VM, sorted.
func (r *run) vmIDs() []string {
	r.vmsMu.Lock()
	defer r.vmsMu.Unlock()
	var out []string
	for id := range r.state.VMs {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// parallel runs f for 0..n-1 with the configured limit and returns all errors.
func (r *run) parallel(ctx context.Context, n int, f func(context.Context, int) error) error {
	var group errgroup.Group
	group.SetLimit(r.config.Parallel)
	errs := make([]error, n)
	for i := range n {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				errs[i] = fmt.Errorf("not begun: %w", context.Cause(ctx))
				return nil
			}
			errs[i] = f(ctx, i)
			return nil
		})
	}
	_ = group.Wait() // the errors are kept by index
	return errors.Join(errs...)
}
