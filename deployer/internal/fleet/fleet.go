// Package fleet reaches the agents of a session's instances: over the bus where it
// serves, over SSH otherwise. It surveys them, submits operations and follows
// them, puts agents onto VMs, tells them their settings, brings packages to them,
// and removes them from machines that outlive their instance.
package fleet

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

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/client"
	"github.com/clusterworks/deploy/deployer/internal/bootstrap"
	"github.com/clusterworks/deploy/deployer/internal/bus"
	"github.com/clusterworks/deploy/deployer/internal/credentials"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/source"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Fleet is the agents of a session's instances. Connections are made when they are
// first needed and shared.
type Fleet struct {
	s           *session.Session
	credentials *credentials.Credentials
	packages    *source.Packages
	options     Options

	mu          sync.Mutex
	bus         *bus.Bus
	busErr      error
	busTried    bool
	ssh         map[state.VMID]*sshConn
	inventories map[string]*api.Inventory // by instance, as last surveyed
	reasons     map[string]error          // why an instance is silent
	patience    time.Duration             // with machines that refuse SSH
}

// Options say how VMs are logged in to.
type Options struct {
	Environ []string // has the SSH agent's socket
	Dir     string   // of the manifest: paths of private keys start there
}

// New returns the fleet of a session.
func New(s *session.Session, c *credentials.Credentials, p *source.Packages, o Options) *Fleet {
	return &Fleet{
		s: s, credentials: c, packages: p, options: o, patience: askPatience,
		ssh: map[state.VMID]*sshConn{}, inventories: map[string]*api.Inventory{}, reasons: map[string]error{},
	}
}

// Effort says whether a survey also asks over SSH.
type Effort int

const (
	// Quick asks over the bus only and takes silence for an answer. Where there is no
	// bus it is Patient.
	Quick Effort = iota
	// Patient also asks over SSH those that are silent on the bus.
	Patient
)

// How long one machine may take. askLimit bounds one question to its agent over
// SSH.
const (
	// busWait is the time that all agents may be silent until those that have not answered
	// count as silent. Only one that is connected and hangs makes others wait for it;
	// where the deployer itself is busy, less than this takes well agents for silent.
	busWait    = 2 * time.Second
	busConnect = 2 * time.Second
	askLimit   = 5 * time.Second
	// A machine that is there accepts SSH at once; one that boots takes its time, of
	// which the template may say how much (boot_seconds).
	askPatience  = time.Second
	bootPatience = bootstrap.UsualBoot
	// slowAsk is the part of the time of its boot that a slow machine has for an answer:
	// emulated and busy it takes ten seconds to let us in, and minutes to boot.
	slowAsk = 30
	// usualLogin is the time that one attempt to log in may take.
	usualLogin = 20 * time.Second
	// usualKeepAlive is the time between two questions whether a machine is still there;
	// three without an answer end the connection.
	usualKeepAlive = 5 * time.Second
	// A machine that exists was up before we came.
	keptPatience = 5 * time.Second
)

// AskTime returns how long one question to the agent of a VM may take over SSH.
func AskTime(vm state.VM) time.Duration { return max(askLimit, bootTime(vm)/slowAsk) }

// patient returns a limit of the bus, longer where VMs are slow: an emulated one that
// is busy takes more than two seconds to accept a connection or to answer.
func patient(s *session.Session, limit time.Duration) time.Duration {
	for _, id := range s.VMIDs() {
		if boot := bootTime(s.VM(state.Own(id))); boot > bootstrap.UsualBoot {
			limit = max(limit, boot/slowAsk)
		}
	}
	return limit
}

// Close ends the connections.
func (f *Fleet) Close() {
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

// ConnectBus connects once a run, if the bus has ever served.
func (f *Fleet) ConnectBus(ctx context.Context) *bus.Bus {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busTried || len(f.s.State.Bus) == 0 {
		return f.bus
	}
	f.busTried = true
	settings, err := f.credentials.BusSettings(f.s.State.Bus)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, patient(f.s, busConnect))
		defer cancel()
		f.bus, err = bus.Connect(ctx, settings)
	}
	f.busErr = err
	return f.bus
}

// forgetBus makes the next use connect anew.
func (f *Fleet) forgetBus() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bus != nil {
		f.bus.Close()
	}
	f.bus, f.busTried = nil, false
}

// Client returns a client of the agent on a VM, which it reaches over the bus if
// there is one, and over SSH when that does not work.
func (f *Fleet) Client(id state.VMID) *client.Client {
	overSSH := client.Unix(func(ctx context.Context) (net.Conn, error) {
		c, err := f.Connect(ctx, id)
		if err != nil {
			return nil, err
		}
		return c.DialUnix(ctx, path.Join(f.s.VM(id).AgentDir, "run", "agent.sock"))
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	// An agent that is not on the bus yet would only cost its time-out, and that
	// of a bus's server loses its connection with every change.
	inv := f.inventories[id.Instance]
	if id.Previous || f.bus == nil || inv == nil || !inv.Bus.Connected || f.credentials.ServesBus(id.Instance) {
		return overSSH
	}
	return client.Fallback(f.bus.Agent(id.Instance), overSSH)
}

// Forget drops what belongs to a VM that is gone.
func (f *Fleet) Forget(id state.VMID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.ssh[id]; c != nil && c.client != nil {
		_ = c.client.Close() // the machine is gone
	}
	delete(f.ssh, id)
	if !id.Previous {
		delete(f.inventories, id.Instance)
		f.s.Distrusted.Forget(id.Instance)
	}
}

// setPatience sets how long to wait for a machine that refuses SSH.
func (f *Fleet) setPatience(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.patience = d
}

// Survey asks all agents side by side. Silent ones, and those that say what
// cannot be true, are absent from the answer; Unheard returns why.
func (f *Fleet) Survey(ctx context.Context, effort Effort) map[string]*api.Inventory {
	ids := f.s.VMIDs()
	found := map[string]*api.Inventory{}
	reasons := map[string]error{}
	if b := f.ConnectBus(ctx); b != nil {
		onBus := slices.DeleteFunc(slices.Clone(ids), f.s.HasPrevious)
		for _, id := range f.s.PreviousVMs() {
			reasons[id] = errTwoVMs
		}
		for id, answer := range b.Inventories(ctx, onBus, patient(f.s, busWait)) {
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
	f.s.Distrusted.Forget()
	maps.Copy(reasons, f.sift(found))
	f.keep(found, reasons)
	if effort == Quick && len(f.s.State.Bus) > 0 {
		return found
	}
	var silent []string
	for _, id := range ids {
		if found[id] == nil && f.s.Distrusted.Of(id) == nil {
			silent = append(silent, id)
		}
	}
	var mu sync.Mutex
	// Each instance's failure is its own answer, not the survey's.
	_ = f.s.Each(ctx, len(silent), func(ctx context.Context, i int) error {
		id := silent[i]
		ctx, cancel := context.WithTimeout(ctx, AskTime(f.s.VM(state.Own(id))))
		defer cancel()
		inv, err := f.Client(state.Own(id)).Inventory(ctx)
		mu.Lock()
		defer mu.Unlock()
		if errors.Is(err, context.DeadlineExceeded) && f.connected(id) {
			err = fmt.Errorf("its machine does, so the agent hangs; apply restarts it, and what it supervises keeps running (%w)", err)
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

func (f *Fleet) keep(found map[string]*api.Inventory, reasons map[string]error) {
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

// Inventory returns what an agent last reported, nil if it was silent.
func (f *Fleet) Inventory(id string) *api.Inventory {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inventories[id]
}

func (f *Fleet) setInventory(id string, inv *api.Inventory) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inventories[id] = inv
	delete(f.reasons, id)
}

// Reason returns why an instance was silent.
func (f *Fleet) Reason(id string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.reasons[id]; err != nil {
		return err.Error()
	}
	return ""
}

// Unreachable reports whether not even SSH answers at the VM's address: nothing
// listens there.
func (f *Fleet) Unreachable(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	var op *net.OpError
	return errors.As(f.reasons[id], &op) && op.Op == "dial"
}

// HighestEpoch returns the highest epoch that an agent has seen. Agents that are
// not believed do not count.
func (f *Fleet) HighestEpoch() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var highest uint64
	for _, inv := range f.inventories {
		highest = max(highest, inv.Epoch)
	}
	return highest
}

// Unheard returns why an agent gave no answer that can be used.
func (f *Fleet) Unheard(id string) error {
	if why := f.s.Distrusted.Of(id); why != nil {
		return why
	}
	return fmt.Errorf("its agent does not answer: %s", f.Reason(id))
}

// sift takes the inventories that cannot be true out of those found and returns
// why each was.
func (f *Fleet) sift(found map[string]*api.Inventory) map[string]error {
	refused, others := map[string]error{}, map[string]error{}
	for id, inv := range found {
		if err := impossible(id, inv, f.s.State.Epoch); err != nil {
			refused[id] = err
		} else if err := f.Refuse(id, inv); err != nil {
			others[id] = err
		}
	}
	// Few that say to obey somebody else are not to keep the rest from being
	// deployed. If most do, this is the wrong state or the wrong deploy, and the
	// caller refuses.
	if len(others) <= (len(found)-len(refused))/2 {
		maps.Copy(refused, others)
	}
	for id, err := range refused {
		f.s.Distrusted.Add(id, err, found[id].State == api.InstanceRunning)
		delete(found, id)
	}
	return refused
}

// BusError returns whether the bus is connected, and why it is not.
func (f *Fleet) BusError() (connected bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bus != nil, f.busErr
}

// errTwoVMs explains why an instance is not asked over the bus.
var errTwoVMs = errors.New("the agent of its previous VM answers on the bus in its name")

// Within bounds a context for one exchange with one machine.
func Within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}

// Answer is the answer of one agent.
type Answer[T any] struct {
	Instance string
	Value    T
	Err      error
}

// Ask asks all instances with a VM side by side. The answers are sorted by
// instance. Those that did not answer the survey are not asked again.
func Ask[T any](ctx context.Context, f *Fleet, ask func(context.Context, *client.Client) (T, error)) []Answer[T] {
	ids := f.s.VMIDs()
	out := make([]Answer[T], len(ids))
	// Each instance's failure is its own answer.
	_ = f.s.Each(ctx, len(ids), func(ctx context.Context, i int) error {
		out[i].Instance = ids[i]
		if f.Inventory(ids[i]) == nil {
			out[i].Err = f.Unheard(ids[i])
			return nil
		}
		out[i].Value, out[i].Err = ask(ctx, f.Client(state.Own(ids[i])))
		return nil
	})
	return out
}
