package deployer

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/deployer/internal/session"
)

// Ignore leaves instances alone from now on, whatever the manifest says of them,
// until Unignore; they count for what their group can do without, as they are.
// It returns the instances for which that is new.
func (d *Deployer) Ignore(ctx context.Context, targets []string) ([]string, error) {
	return changeIgnored(ctx, d, "ignore", targets, func(ignored []string, id string) []string {
		if slices.Contains(ignored, id) {
			return ignored
		}
		return append(ignored, id)
	})
}

// Unignore ends Ignore.
func (d *Deployer) Unignore(ctx context.Context, targets []string) ([]string, error) {
	return changeIgnored(ctx, d, "unignore", targets, func(ignored []string, id string) []string {
		return slices.DeleteFunc(ignored, func(x string) bool { return x == id })
	})
}

func changeIgnored(ctx context.Context, d *Deployer, what string, targets []string, change func([]string, string) []string) ([]string, error) {
	changed := []string{}
	err := d.changeState(ctx, func(s *session.Session) error {
		if s.Fresh {
			return session.ErrNoState
		}
		groups := s.State.Groups
		s.Assign()
		ids, err := s.Resolve(targets)
		s.State.Groups = groups // the manifest's are an apply's to keep
		if err != nil {
			return err
		}
		before := slices.Clone(s.State.Ignored)
		for _, id := range ids {
			s.State.Ignored = change(s.State.Ignored, id)
		}
		slices.SortFunc(s.State.Ignored, session.CompareIDs)
		for _, id := range ids {
			if slices.Contains(before, id) != slices.Contains(s.State.Ignored, id) {
				changed = append(changed, id)
			}
		}
		if len(changed) == 0 {
			return nil
		}
		return s.Begin(what+" "+strings.Join(changed, ", "), 0)
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

// refuseIgnored returns an error if an ignored instance has a VM, which a destroy
// would delete.
func (x *deployment) refuseIgnored() error {
	var there []string
	for _, id := range x.State.Ignored {
		if _, made := x.State.VMs[id]; made {
			there = append(there, id)
		}
	}
	if len(there) == 0 {
		return nil
	}
	return fmt.Errorf("cannot destroy %s: it is ignored, so nothing touches it; nothing was done; deploy unignore first to destroy it", strings.Join(there, ", "))
}
