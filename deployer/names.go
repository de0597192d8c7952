package deployer

import (
	"slices"

	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Names are what commands can be told about a deployment.
type Names struct {
	Groups    []string
	Instances []string
	Errands   []string // "job/errand"
	Revisions []Revision
}

// Names reads manifest and state, and asks nobody.
func (d *Deployer) Names() (Names, error) {
	r, err := d.locate()
	if err != nil {
		return Names{}, err
	}
	if r.state, err = r.store.LoadState(); err != nil {
		return Names{}, err
	}
	if r.state == nil {
		r.state = state.New(r.manifest.Deployment.Name)
	}
	r.assign()
	var n Names
	n.Groups, n.Instances = r.known()
	for _, g := range r.manifest.Groups {
		for _, j := range g.Jobs {
			for _, h := range j.Spec.Hooks {
				if name := j.Spec.Name + "/" + h.Name; h.Name != "" && !slices.Contains(n.Errands, name) {
					n.Errands = append(n.Errands, name)
				}
			}
		}
	}
	slices.Sort(n.Errands)
	n.Revisions = r.state.Revisions
	return n, nil
}
