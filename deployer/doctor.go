package deployer

import (
	"context"

	"github.com/clusterworks/deploy/deployer/internal/doctor"
	"github.com/clusterworks/deploy/deployer/internal/packages"
)

// Diagnosis lists the findings of Doctor, in the order of the checks.
type Diagnosis = doctor.Diagnosis

// Finding is one line of a Diagnosis.
type Finding = doctor.Finding

// Level is the result of a check.
type Level = doctor.Level

// The levels.
const (
	LevelOK   = doctor.LevelOK
	LevelWarn = doctor.LevelWarn // works, and will not always
	LevelFail = doctor.LevelFail // an apply cannot work, or what runs does not
)

// Doctor checks everything that an apply needs and everything that runs, and
// changes nothing.
func (d *Deployer) Doctor(ctx context.Context) *Diagnosis {
	var doc doctor.Doctor
	doc.Machine(ctx, d.config.Packages)
	m, store, err := d.source.Locate()
	if doc.Problem("manifest", err) {
		return &doc.Diagnosis
	}
	doc.Diagnosis.Deployment = m.Deployment.Name
	doc.State(store)
	x, err := d.load()
	if err != nil {
		if _, packagesErr := packages.Open(d.config.Packages); packagesErr == nil { // else told already
			doc.Problem("state", err)
		}
		return &doc.Diagnosis
	}
	defer x.fleet.Close()
	doc.Examine(ctx, doctor.Deployment{
		Session: x.Session, Credentials: x.credentials, Packages: x.packages, Fleet: x.fleet, Desired: x.desired,
	})
	return &doc.Diagnosis
}
