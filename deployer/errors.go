package deployer

import (
	"errors"

	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/source"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// ManifestError is a manifest that cannot be used: all its problems, with the
// sources to show them in.
type ManifestError = manifests.Error

var (
	// ErrNotApproved is returned by Apply and Destroy when the user said no.
	ErrNotApproved = errors.New("not approved: nothing was changed")
	// ErrInterrupted ends a run that the user asked to stop. What was in flight has
	// finished and is saved.
	ErrInterrupted = session.ErrInterrupted
	// ErrSuperseded ends a run that another one has taken over from.
	ErrSuperseded = state.ErrSuperseded
	// ErrMoved is returned by the apply of a saved plan that is out of date.
	ErrMoved = source.ErrMoved
	// ErrNothingRuns is returned by Pause and Resume.
	ErrNothingRuns = errors.New("no deploy works on this deployment now")
)
