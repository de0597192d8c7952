package deployer

import "github.com/clusterworks/deploy/deployer/internal/domains"

// Summary counts the parts of a valid manifest.
type Summary struct {
	Deployment string `json:"deployment"`
	Groups     int    `json:"groups"`
	Instances  int    `json:"instances"`
	Jobs       int    `json:"jobs"`
}

// Validate checks the manifest, its jobs and all templates without a VM:
// everything is rendered with what is not known yet left open.
func (d *Deployer) Validate() (*Summary, error) {
	x, err := d.load()
	if err != nil {
		return nil, err
	}
	if _, err := x.desired.Render(nil); err != nil {
		return nil, err
	}
	if err := domains.Check(x.Manifest, x.Secrets, x.Now); err != nil {
		return nil, err
	}
	s := &Summary{Deployment: x.Manifest.Deployment.Name, Groups: len(x.Manifest.Groups)}
	jobs := map[string]bool{}
	for _, g := range x.Manifest.Groups {
		s.Instances += g.Instances
		for _, j := range g.Jobs {
			jobs[j.Spec.Name] = true
		}
	}
	s.Jobs = len(jobs)
	return s, nil
}
