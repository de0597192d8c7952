package manifests

import (
	"fmt"
	"net/netip"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// checkNetworks reports static addresses that two groups would share.
func (l *loader) checkNetworks() {
	owners := map[netip.Addr]*Group{}
	for _, g := range l.m.Groups {
		if g.Network == nil {
			continue
		}
		for _, s := range g.Network.Static[:min(len(g.Network.Static), g.Instances)] {
			a, err := netip.ParseAddr(s)
			if err != nil {
				continue
			}
			if other := owners[a]; other != nil {
				l.Report(syntax.Problem("Address in use",
					fmt.Sprintf("Groups %q and %q both have the static address %s. Give each group a network of its own.", other.Name, g.Name, s), g.Range))
				break
			}
			owners[a] = g
		}
	}
}

// evaluate tries every property and every expression of every job with nothing
// known but the manifest itself: a wrong type is wrong whatever the values are.
func (l *loader) evaluate() {
	asked := l.m.evaluator(l.m.assumed(0), true)
	for _, x := range l.m.locals {
		l.Report(asked.localDiags[x.name]...)
	}
	var atLeastOne *Evaluator
	names := uniqueNames{}
	for _, g := range l.m.Groups {
		e := asked
		if g.Instances == 0 {
			// What is never rendered need not find instances of others either.
			if atLeastOne == nil {
				atLeastOne = l.m.evaluator(l.m.assumed(1), true)
			}
			e = atLeastOne
		}
		for _, job := range g.Jobs {
			ctx, diags := e.JobContext(g.Name, 0, job)
			l.Report(diags...)
			if diags.HasErrors() || l.unresolved[job] {
				continue
			}
			for _, d := range job.Spec.Evaluate(ctx) {
				d.Detail += fmt.Sprintf(" This is job %q as group %q runs it.", job.Spec.Name, g.Name)
				l.Report(d)
			}
		}
		l.checkPorts(g, e)
		names.check(l, g, e)
	}
}

// assumed are the facts that hold whatever becomes of the manifest: how many
// instances there are.
func (m *Manifest) assumed(least int) Facts {
	f := Facts{Instances: map[string][]Instance{}}
	for _, g := range m.Groups {
		list := make([]Instance, max(g.Instances, least))
		for i := range list {
			list[i] = Instance{Group: g.Name, Index: i}
		}
		f.Instances[g.Name] = list
	}
	return f
}
