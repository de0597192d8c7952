package deployer

import (
	"context"
	"fmt"
	"slices"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// unknownJob stands for the jobs of an instance that nobody knows any more: its group
// is not in the manifest, and its agent does not answer.
const unknownJob = "its jobs"

// notAsked is the answer of a job that is installed there without its census hook.
const notAsked = "what is installed there does not know the question; apply once without this change"

// census has the agents say what lives on the instances where the plan takes
// something away, and notes it in the plan. Who does not answer is noted as that.
func (x *deployment) census(ctx context.Context, p *plan.Plan, inventories map[string]*api.Inventory) error {
	type question struct {
		change *plan.InstanceChange
		jobs   []string
		effect plan.Effect
	}
	fates := map[string]plan.Action{}
	for _, d := range p.Disks {
		fates[d.Instance] = d.Action
	}
	var questions []question
	for i := range p.Instances {
		c := &p.Instances[i]
		vm, made := x.State.VMs[c.Instance]
		if !made {
			continue
		}
		effect, jobs := c.Affected(x.keepers(c.Instance, inventories[c.Instance]), vm.Disk != "", fates[c.Instance])
		if inv := inventories[c.Instance]; effect == plan.Away && inv != nil {
			// Nothing is lost, so those that do not know the question are left out.
			jobs = slices.DeleteFunc(slices.Clone(jobs), func(job string) bool { return !slices.Contains(inv.Census, job) })
		}
		if effect != plan.Unharmed && len(jobs) > 0 {
			questions = append(questions, question{c, jobs, effect})
		}
	}
	return x.Each(ctx, len(questions), func(ctx context.Context, i int) error {
		q := questions[i]
		answers := x.askCensus(ctx, q.change.Instance, inventories[q.change.Instance], q.jobs)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		q.change.Census = &plan.Census{Effect: q.effect, Jobs: answers}
		return nil
	})
}

// keepers returns the jobs of an instance that can say what lives there, by what is
// installed and by what the manifest wants there.
func (x *deployment) keepers(id string, inv *api.Inventory) []string {
	var jobs []string
	if inv != nil {
		jobs = slices.Clone(inv.Census)
	}
	group, _, _ := api.SplitInstance(id)
	g := x.Manifest.Group(group)
	if g == nil {
		if inv == nil {
			jobs = append(jobs, unknownJob)
		}
		return jobs
	}
	for _, j := range g.Jobs {
		for _, h := range j.Spec.Hooks {
			if h.Kind == string(api.HookCensus) && !slices.Contains(jobs, j.Spec.Name) && (inv == nil || hasJob(inv, j.Spec.Name)) {
				jobs = append(jobs, j.Spec.Name)
			}
		}
	}
	return jobs
}

// hasJob reports whether a process of the job is installed.
func hasJob(inv *api.Inventory, job string) bool {
	return slices.ContainsFunc(inv.Processes, func(s api.ProcessStatus) bool { return s.Job == job })
}

// askCensus returns one answer for each of the jobs.
func (x *deployment) askCensus(ctx context.Context, id string, inv *api.Inventory, jobs []string) []api.JobCensus {
	var report api.CensusReport
	var err error
	switch {
	case inv == nil:
		err = x.fleet.Unheard(id)
	case len(inv.Census) > 0:
		err = fleet.Within(ctx, 3*api.CensusLimit, func(ctx context.Context) (err error) {
			report, err = x.fleet.Client(state.Own(id)).Census(ctx)
			return err
		})
	}
	out := make([]api.JobCensus, len(jobs))
	for i, job := range jobs {
		out[i] = api.JobCensus{Job: job}
		said := slices.IndexFunc(report.Jobs, func(j api.JobCensus) bool { return j.Job == job })
		switch {
		case err != nil:
			out[i].Error = fmt.Sprintf("it cannot be asked: %v", err)
		case said >= 0:
			out[i] = report.Jobs[said]
		case inv != nil && slices.Contains(inv.Census, job):
			out[i].Error = "the agent's answer leaves it out"
		default:
			out[i].Error = notAsked
		}
		out[i] = out[i].Bounded()
	}
	return out
}

// StatusWithCensus is Status, and has every job that can say what lives there.
func (d *Deployer) StatusWithCensus(ctx context.Context) (*Status, error) {
	x, kept, err := loadRunning(d)
	if err != nil {
		return nil, err
	}
	defer x.fleet.Close()
	inventories := x.fleet.Survey(ctx, fleet.Patient)
	s := x.status(inventories)
	s.by(kept)
	err = x.Each(ctx, len(s.Instances), func(ctx context.Context, i int) error {
		in := &s.Instances[i]
		if _, made := x.State.VMs[in.ID]; !made {
			return nil
		}
		if jobs := x.keepers(in.ID, inventories[in.ID]); len(jobs) > 0 {
			in.Census = x.askCensus(ctx, in.ID, inventories[in.ID], jobs)
		}
		return context.Cause(ctx)
	})
	return s, err
}
