// Package desired renders what the manifest wants of each instance, as plans
// compare it.
package desired

import (
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/credentials"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/render"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/source"
	"github.com/clusterworks/deploy/manifests"
)

// Renderer renders a session's instances. It keeps what it has rendered, so a
// second time costs little.
type Renderer struct {
	s           *session.Session
	credentials *credentials.Credentials
	packages    *source.Packages
	renderer    *render.Renderer // of the last facts
}

// New returns the renderer of a session.
func New(s *session.Session, c *credentials.Credentials, p *source.Packages) *Renderer {
	return &Renderer{s: s, credentials: c, packages: p}
}

// Render returns every instance as it is wanted, in rollout order. It must not be
// called concurrently.
func (r *Renderer) Render(places credentials.Places) ([]plan.Wanted, error) {
	programs, err := r.packages.Programs()
	if err != nil {
		return nil, err
	}
	facts := r.credentials.Facts(places)
	if r.renderer == nil {
		r.renderer = render.New(r.s.Manifest, facts, r.s.Secrets.DigestKey, programs)
	} else {
		r.renderer = r.renderer.With(facts, programs)
	}
	var list []render.Wanted
	for _, wave := range r.s.Manifest.Order {
		for _, g := range wave {
			for _, in := range facts.Instances[g.Name] {
				list = append(list, render.Wanted{Group: g, Instance: in})
			}
		}
	}
	rendered, problems := r.renderer.All(list)
	out := make([]plan.Wanted, 0, len(list))
	var diags hcl.Diagnostics
	failed := map[string]bool{} // the same problem for every instance of a group helps nobody
	for i, x := range rendered {
		g := list[i].Group
		if !failed[g.Name] {
			for _, d := range problems[i] {
				d := *d // the renderer may keep it
				d.Detail += fmt.Sprintf(" This is for instance %s.", api.InstanceID(g.Name, list[i].Instance.Index))
				diags = append(diags, &d)
			}
			failed[g.Name] = problems[i].HasErrors()
		}
		out = append(out, wanted(g, list[i].Instance, x))
	}
	if diags.HasErrors() {
		return nil, &manifests.Error{Diagnostics: diags, Files: r.s.Manifest.Files}
	}
	return out, nil
}

// Levels returns what jobs require of facts beside what agents report of them, in
// rollout order. Nothing is rendered for it; a job whose properties cannot be
// evaluated, which Render says, is left out.
func (r *Renderer) Levels(inventories map[string]*api.Inventory) []plan.LevelReport {
	facts := r.credentials.Facts(nil)
	evaluator := r.s.Manifest.Evaluator(facts)
	var list []plan.Wanted
	for _, wave := range r.s.Manifest.Order {
		for _, g := range wave {
			for _, job := range g.Jobs {
				if !slices.ContainsFunc(job.Spec.Properties, func(p *manifests.Property) bool { return len(p.Levels) > 0 }) {
					continue
				}
				for _, in := range facts.Instances[g.Name] {
					ctx, diags := evaluator.JobContext(g.Name, in.Index, job)
					if diags.HasErrors() {
						continue
					}
					w := plan.Wanted{Spec: api.Spec{Instance: api.InstanceID(g.Name, in.Index)}}
					for _, l := range manifests.LevelsOf(job.Spec, ctx) {
						w.Levels = append(w.Levels, plan.Level(l))
					}
					list = append(list, w)
				}
			}
		}
	}
	return plan.LevelsOf(list, inventories)
}

// wanted returns a rendered instance as plans compare it.
func wanted(g *manifests.Group, in manifests.Instance, x *render.Instance) plan.Wanted {
	w := plan.Wanted{
		Group: g.Name, AZ: in.AZ, Spec: x.Spec, Known: x.Known,
		Shown: make(map[string]string, len(x.Files)), Sources: make(map[plan.Part][]string, len(x.Sources)),
	}
	for _, l := range x.Levels {
		w.Levels = append(w.Levels, plan.Level(l))
	}
	for key, text := range x.Files {
		w.Shown[key.Job+"/"+key.Path] = text.String()
	}
	for part, names := range x.Sources {
		w.Sources[plan.Part(part)] = names
	}
	return w
}
