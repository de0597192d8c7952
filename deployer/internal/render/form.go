package render

import (
	"cmp"
	"slices"

	"github.com/clusterworks/deploy/agent/api"
)

// unordered returns a spec as its generation is computed of it: without what only
// names causes, and sorted where the order of blocks means nothing. Processes are
// started in theirs.
func unordered(spec api.Spec) api.Spec {
	spec.Jobs = slices.Clone(spec.Jobs)
	for i := range spec.Jobs {
		job := &spec.Jobs[i]
		job.Inputs, job.Commands = nil, nil
		job.Files, job.Listens, job.Hooks = slices.Clone(job.Files), slices.Clone(job.Listens), slices.Clone(job.Hooks)
		slices.SortFunc(job.Files, func(a, b api.File) int { return cmp.Compare(a.Path, b.Path) })
		slices.SortFunc(job.Listens, func(a, b api.Listen) int { return cmp.Compare(a.Name, b.Name) })
		slices.SortFunc(job.Hooks, func(a, b api.Hook) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
		job.Processes = slices.Clone(job.Processes)
		for k := range job.Processes {
			process := &job.Processes[k]
			process.Checks, process.Routes = slices.Clone(process.Checks), slices.Clone(process.Routes)
			slices.SortFunc(process.Checks, func(a, b api.Check) int {
				return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Host, b.Host), slices.Compare(a.Command, b.Command))
			})
			slices.SortFunc(process.Routes, func(a, b api.Route) int { return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port)) })
		}
	}
	slices.SortFunc(spec.Jobs, func(a, b api.Job) int { return cmp.Compare(a.Name, b.Name) })
	return spec
}
