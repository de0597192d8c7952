package manifests

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// mostChecked is the number of instances of a group whose ports are compared if
// they differ by instance.
const mostChecked = 64

// port is a port of an instance.
type port struct {
	network string
	number  int
}

// owner describes who listens on a port.
type owner struct {
	name string
	job  *GroupJob // nil: the agent
}

// checkPorts reports ports that do not exist, and ports that two listeners of an
// instance share, and notes those there are. A port that is not known yet is left to the agent, which looks
// before anything is touched.
func (l *loader) checkPorts(g *Group, e *Evaluator) {
	instances := 1
	for _, job := range g.Jobs {
		for _, listen := range job.Spec.Listens {
			if job.perInstance || listen.Port != nil && syntax.RefersTo(listen.Port, "instance") {
				instances = min(max(g.Instances, 1), mostChecked)
			}
		}
	}
	for index := range instances {
		owners := map[port]owner{}
		if n := l.m.Deployment.MetricsPort; n != 0 {
			owners[port{"tcp", n}] = owner{"the agent's metrics", nil}
		}
		for _, job := range g.Jobs {
			ctx, diags := e.JobContext(g.Name, index, job)
			if diags.HasErrors() || l.unresolved[job] {
				continue
			}
			for _, listen := range job.Spec.Listens {
				l.checkPort(g, job, listen, ctx, owners)
			}
		}
		for p := range owners {
			g.addPort(p, isBalancer(l, g, owners[p].job))
		}
	}
}

// isBalancer reports whether a job is a load balancer; nil is the agent.
func isBalancer(l *loader, g *Group, job *GroupJob) bool {
	return slices.ContainsFunc((&domainLoader{l}).balancers(), func(b balancer) bool { return b.group == g && b.job == job })
}

// addPort adds a port to those of the group, once.
func (g *Group) addPort(p port, public bool) {
	at, there := slices.BinarySearchFunc(g.Ports, p, func(a Port, b port) int {
		return cmp.Or(cmp.Compare(a.Number, b.number), cmp.Compare(a.Network, b.network))
	})
	if !there {
		g.Ports = slices.Insert(g.Ports, at, Port{Network: p.network, Number: p.number})
	}
	g.Ports[at].Public = g.Ports[at].Public || public
}

// checkPort checks one listener and adds it to the owners of ports.
func (l *loader) checkPort(g *Group, job *GroupJob, listen *Listen, ctx *hcl.EvalContext, owners map[port]owner) {
	if listen.Port == nil {
		return
	}
	v, diags := listen.Port.Value(ctx)
	v, err := convert.Convert(syntax.Unmarked(v), cty.Number)
	if diags.HasErrors() || err != nil || !v.IsKnown() || v.IsNull() {
		return // evaluate reports what is wrong; null is not opened
	}
	at := listenRange(job, listen)
	who := fmt.Sprintf("job %q (listen %q)", job.Spec.Name, listen.Name)
	number, exact := v.AsBigFloat().Int64()
	if exact != big.Exact || number < 1 || number > 65535 {
		l.Report(syntax.Problem("Invalid port",
			fmt.Sprintf("%s cannot be the port of %s in group %q. A port is a whole number from 1 to 65535.", v.AsBigFloat().Text('f', -1), who, g.Name), at, job.Range))
		return
	}
	key := port{listen.Network, int(number)}
	if other, taken := owners[key]; taken {
		l.Report(syntax.Problem("Port in use",
			fmt.Sprintf("In group %q, %s and %s would listen on the same %s port %d of an instance. Give one of them another port, or a group of its own.", g.Name, other.name, who, key.network, key.number), at, job.Range))
		return
	}
	owners[key] = owner{who, job}
}

// listenRange returns where the manifest says a port: the value of the property
// that the listen block names, else the job block.
func listenRange(job *GroupJob, listen *Listen) hcl.Range {
	for name := range syntax.Referred(listen.Port, "property") {
		if attr := job.properties[name]; attr != nil {
			return attr.Expr.Range()
		}
	}
	return job.Range
}
