package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/firewall"
	"github.com/clusterworks/deploy/agent/internal/install"
)

// firewallLook is the time after which the agent looks whether the kernel still has
// its rules.
const firewallLook = 30 * time.Second

// firewallKeeper keeps the VM's firewall as the active generation wants it.
type firewallKeeper struct {
	table firewall.Table
	peers func() []string // the addresses of the deployment's VMs
	log   *slog.Logger

	mu     sync.Mutex
	wanted *api.Firewall // nil: none
}

func newFirewallKeeper(dir string, log *slog.Logger, peers func() []string) *firewallKeeper {
	return &firewallKeeper{table: firewall.Table{Dir: dir}, peers: peers, log: log}
}

// guard makes the firewall what a generation wants; nil removes it.
func (k *firewallKeeper) guard(ctx context.Context, f *api.Firewall) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted = f
	return k.apply(ctx)
}

// again applies what is wanted, since the peers have changed.
func (k *firewallKeeper) again(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wanted == nil {
		return nil
	}
	return k.apply(ctx)
}

// apply is called with k.mu held.
func (k *firewallKeeper) apply(ctx context.Context) error {
	if k.wanted == nil {
		return k.table.Remove(ctx)
	}
	peers := k.peers()
	if len(peers) == 0 {
		return errors.New("cannot set the firewall: the agent was not told the addresses of the deployment's VMs; apply again")
	}
	return k.table.Apply(ctx, *k.wanted, peers)
}

// resume applies what the active generation wants, as after a boot, before its
// processes start. They start all the same if that fails: the log says why.
func (k *firewallKeeper) resume(ctx context.Context, i *install.Installer) {
	spec, err := i.Spec("")
	if err != nil || spec.Firewall == nil {
		return // nothing is active, or the installer says why it cannot be read
	}
	if err := k.guard(ctx, spec.Firewall); err != nil {
		k.log.Error("cannot set the firewall of the active generation", "err", err)
	}
}

// keep puts the rules back when somebody has removed them, until the context ends.
func (k *firewallKeeper) keep(ctx context.Context) {
	ticker := time.NewTicker(firewallLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			k.look(ctx)
		}
	}
}

// look puts the rules back if somebody has removed them.
func (k *firewallKeeper) look(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wanted == nil || k.table.InPlace(ctx) || ctx.Err() != nil {
		return
	}
	if err := k.apply(ctx); err != nil {
		k.log.Error("the firewall's rules were removed, and cannot be put back", "err", err)
		return
	}
	k.log.Warn("the firewall's rules were removed by somebody: put back")
}

// peersOf returns the addresses of the names that an agent was told.
func peersOf(names []api.Name) []string {
	addresses := make([]string, len(names))
	for i, n := range names {
		addresses[i] = n.Address
	}
	return addresses
}
