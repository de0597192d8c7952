package deployer

import (
	"context"
	"errors"
	"fmt"

	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/session"
)

// RollbackRequest names the revision to return to.
type RollbackRequest struct {
	// Revision is its number; 0: the last one that is not what runs.
	Revision int
	Approve  Approve
}

// Rollback applies the manifest, jobs and programs of an earlier revision, at the
// pace of its own policies. Data, secrets and addresses are today's. The manifest
// file stays as it is.
func (d *Deployer) Rollback(ctx context.Context, q RollbackRequest) (*Result, error) {
	if q.Revision == 0 {
		var err error
		if q.Revision, err = lastGood(ctx, d); err != nil {
			return nil, err
		}
	}
	other, err := at(d, q.Revision)
	if err != nil {
		return nil, err
	}
	result, err := other.Apply(ctx, ApplyRequest{Approve: q.Approve})
	if result != nil && err == nil {
		if result.Changed {
			result.Summary = fmt.Sprintf("Rolled back to revision %d", q.Revision)
		} else {
			result.Summary = fmt.Sprintf("nothing to do, this is revision %d already", q.Revision)
		}
	}
	return result, err
}

// lastGood returns the last revision if something else runs (an apply has failed or
// was interrupted), else the one before.
func lastGood(ctx context.Context, d *Deployer) (int, error) {
	store, err := d.source.Store()
	if err != nil {
		return 0, err
	}
	st, err := store.LoadState()
	if err != nil {
		return 0, err
	}
	if st == nil {
		return 0, session.ErrNoState
	}
	n := len(st.Revisions)
	if n == 0 {
		return 0, errors.New("cannot roll back: no apply has succeeded yet, so there is nothing to return to")
	}
	last := st.Revisions[n-1]
	other, err := at(d, last.Number)
	if err != nil {
		return 0, err
	}
	x, err := other.load()
	if err != nil {
		return 0, err
	}
	defer x.fleet.Close()
	inventories := x.fleet.Survey(ctx, fleet.Patient)
	for id, generation := range last.Generations {
		if inv := inventories[id]; inv == nil || inv.Active != generation {
			return last.Number, nil
		}
	}
	if len(x.Removed) > 0 { // more than it had
		return last.Number, nil
	}
	if n == 1 {
		return 0, fmt.Errorf("cannot roll back: what runs is revision %d, and no earlier one is kept", last.Number)
	}
	return st.Revisions[n-2].Number, nil
}
