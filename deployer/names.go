package deployer

import (
	"slices"

	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Names are the words that commands take for a deployment.
type Names struct {
	Groups    []string
	Instances []string
	Errands   []string // "job/errand"
	Revisions []Revision
}

// Names reads manifest and state, and asks nobody.
func (d *Deployer) Names() (Names, error) {
	m, store, err := d.source.Locate()
	if err != nil {
		return Names{}, err
	}
	x := session.Session{Manifest: m} // without the secrets, for which somebody would be asked
	if x.State, err = store.LoadState(); err != nil {
		return Names{}, err
	}
	if x.State == nil {
		x.State = state.New(m.Deployment.Name)
	}
	x.Assign()
	var n Names
	n.Groups, n.Instances = x.Known()
	for _, g := range x.Manifest.Groups {
		for _, j := range g.Jobs {
			for _, h := range j.Spec.Hooks {
				if name := j.Spec.Name + "/" + h.Name; h.Name != "" && !slices.Contains(n.Errands, name) {
					n.Errands = append(n.Errands, name)
				}
			}
		}
	}
	slices.Sort(n.Errands)
	n.Revisions = x.State.Revisions
	return n, nil
}
