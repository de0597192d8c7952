package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// fenceLimit bounds telling an agent that another run has taken over. An agent
// that does not hear it obeys the earlier run until it is told anything, but the
// state keeps that run from continuing.
const fenceLimit = 5 * time.Second

// Identify tells the agents of instances who they are: those on new VMs, and those
// whose VM or address has changed. After a takeover it tells all the new epoch.
func (f *Fleet) Identify(ctx context.Context, ids []string) error {
	return f.s.Each(ctx, len(ids), func(ctx context.Context, i int) error {
		id := ids[i]
		inv := f.Inventory(id)
		if inv == nil || !f.s.Has(id) || f.s.Exempt(id) != "" && !f.s.TookOver {
			return nil
		}
		vm := f.s.VM(state.Own(id))
		// With a bus, ConnectAgents tells where metrics are served.
		settled := f.ReportsWhereWanted(inv) && KnowsNames(f.s, id, inv) || len(f.credentials.BusURLs(nil)) > 0
		known := inv.DeploymentID == f.s.State.DeploymentID && inv.Instance == id && inv.VMID == vm.ID && settled && len(inv.Agent.Damaged) == 0
		if known && !f.s.TookOver {
			return nil
		}
		if known { // it only learns the new epoch
			fence, cancel := context.WithTimeout(ctx, fenceLimit)
			defer cancel()
			if err := f.configure(fence, id, nil); err != nil {
				f.s.Event(session.Event{Phase: session.PhaseSurvey, Message: "not told that another run has taken over: " + err.Error()})
			}
			return nil
		}
		if err := f.RefuseForeign(id, inv); err != nil {
			return err
		}
		return f.configure(ctx, id, nil)
	})
}

// ReportsWhereWanted reports whether an agent serves metrics and sends logs where
// the manifest says.
func (f *Fleet) ReportsWhereWanted(inv *api.Inventory) bool {
	d := f.s.Manifest.Deployment
	return inv.MetricsPort == d.MetricsPort && inv.Syslog == d.Syslog
}

// namesOn returns what the VM of an instance calls all instances; nil if the machine is
// not the instance's alone, and has names of its own.
func namesOn(s *session.Session, id string) []api.Name {
	if !s.VM(state.Own(id)).System {
		return nil
	}
	var list []api.Name
	for _, other := range s.VMIDs() {
		if vm := s.VM(state.Own(other)); vm.Address != "" {
			list = append(list, api.Name{Instance: other, Address: vm.Address})
		}
	}
	slices.SortFunc(list, func(a, b api.Name) int { return strings.Compare(a.Instance, b.Instance) })
	return list
}

// KnowsNames reports whether the VM of an instance has the host name and the names of
// all instances that it should have.
func KnowsNames(s *session.Session, id string, inv *api.Inventory) bool {
	return inv.Names == api.NamesDigest(id, namesOn(s, id))
}

// ConnectAgents tells agents where the bus is, once it serves, and the addresses of
// instances that have changed.
func (f *Fleet) ConnectAgents(ctx context.Context) error {
	urls := f.credentials.BusURLs(nil)
	if len(urls) == 0 {
		return tellNames(ctx, f)
	}
	// Issuing changes the state, so it is done before the machines work side by side.
	due := map[string]*api.Bus{}
	var ids []string
	for _, id := range f.s.VMIDs() {
		// An instance comes onto the bus once its previous VM is deleted.
		if inv := f.Inventory(id); inv != nil && f.s.Touches(id) && !f.s.HasPrevious(id) {
			if b := f.credentials.BusFor(urls, id, inv); b != nil &&
				(b.Digest != inv.Bus.Digest || !f.ReportsWhereWanted(inv) || !KnowsNames(f.s, id, inv)) {
				due[id] = b
				ids = append(ids, id)
			}
		}
	}
	if len(ids) > 0 {
		if err := f.s.Save(); err != nil {
			return err
		}
		f.s.Event(session.Event{Phase: session.PhaseBus, Message: fmt.Sprintf("%s to %s", session.Count(len(ids), "agent"), strings.Join(urls, ", "))})
		// Those on the bus come first: a server with a firewall lets nobody in whose
		// address it was not told.
		there, coming := divide(f, ids, due)
		for _, part := range [][]string{there, coming} {
			err := f.s.Each(ctx, len(part), func(ctx context.Context, i int) error { return f.configure(ctx, part[i], due[part[i]]) })
			if err != nil {
				return err
			}
		}
	}
	if !slices.Equal(f.s.State.Bus, urls) {
		f.s.State.Bus = urls
		f.forgetBus()
	}
	return nil
}

// divide divides instances into those whose agents are on the bus that is due, and
// those that come to it.
func divide(f *Fleet, ids []string, due map[string]*api.Bus) (there, coming []string) {
	for _, id := range ids {
		if inv := f.Inventory(id); f.s.Manifest.Deployment.Firewall != nil && inv != nil && inv.Bus.Digest == due[id].Digest {
			there = append(there, id)
		} else {
			coming = append(coming, id)
		}
	}
	return there, coming
}

// tellNames tells agents that have no bus the names of instances.
func tellNames(ctx context.Context, f *Fleet) error {
	var ids []string
	for _, id := range f.s.VMIDs() {
		if inv := f.Inventory(id); inv != nil && f.s.Touches(id) && !KnowsNames(f.s, id, inv) {
			ids = append(ids, id)
		}
	}
	return f.s.Each(ctx, len(ids), func(ctx context.Context, i int) error { return f.configure(ctx, ids[i], nil) })
}

func (f *Fleet) configure(ctx context.Context, id string, b *api.Bus) error {
	vm := f.s.VM(state.Own(id))
	step, settings := "identify", ""
	if b != nil {
		step, settings = "configure", "."+b.Digest[:min(8, len(b.Digest))]
		f.s.Event(session.Event{Phase: session.PhaseBus, Instance: id, Step: step})
	}
	names := namesOn(f.s, id)
	if digest := api.NamesDigest(id, names); digest != "" {
		settings += "." + digest[:8]
	}
	// The same settings give the same operation, whoever sends them.
	opID := fmt.Sprintf("%.8s-%d.%s.%s%s", f.s.State.DeploymentID, f.s.State.Epoch, step, api.SubjectToken(id), settings)
	s := f.Submission(id, opID)
	s.Kind = api.KindConfigure
	s.Configure = &api.Configure{
		Deployment: f.s.Manifest.Deployment.Name, VMID: vm.ID, Address: vm.Address, Disk: vm.Disk, Bus: b,
		MetricsPort: f.s.Manifest.Deployment.MetricsPort, Syslog: f.s.Manifest.Deployment.Syslog, Names: names,
	}
	if inv := f.Inventory(id); inv != nil && session.Renamed(f.s.Manifest.Moves, inv.Instance, id) {
		s.Configure.Renamed = inv.Instance
	}
	err := Within(ctx, 30*time.Second, func(ctx context.Context) error { return f.Client(state.Own(id)).Do(ctx, s, nil) })
	if err != nil {
		return fmt.Errorf("cannot configure the agent of %s: %w", id, err)
	}
	if b != nil {
		f.s.Event(session.Event{Phase: session.PhaseBus, Instance: id, Step: step, Done: true})
	}
	return nil
}
