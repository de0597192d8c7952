package deployer

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Ignore leaves instances alone from now on, whatever the manifest says of them,
// until Unignore; they count for what their group can do without, as they are.
// It returns the instances for which that is new.
func (d *Deployer) Ignore(ctx context.Context, targets []string) ([]string, error) {
	return d.changeIgnored(ctx, "ignore", targets, func(ignored []string, id string) []string {
		if slices.Contains(ignored, id) {
			return ignored
		}
		return append(ignored, id)
	})
}

// Unignore ends Ignore.
func (d *Deployer) Unignore(ctx context.Context, targets []string) ([]string, error) {
	return d.changeIgnored(ctx, "unignore", targets, func(ignored []string, id string) []string {
		return slices.DeleteFunc(ignored, func(x string) bool { return x == id })
	})
}

func (d *Deployer) changeIgnored(ctx context.Context, what string, targets []string, change func([]string, string) []string) ([]string, error) {
	r, err := d.open()
	if err != nil {
		return nil, err
	}
	lock, _, err := d.hold(ctx, r.store)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	if r.state, r.secrets, err = r.store.Load(); err != nil { // what was read before the lock may be another's past
		return nil, err
	}
	if r.state == nil {
		return nil, errNoState
	}
	groups := r.state.Groups
	r.assign()
	ids, err := r.resolve(targets)
	r.state.Groups = groups // the manifest's are an apply's to keep
	if err != nil {
		return nil, err
	}
	before := slices.Clone(r.state.Ignored)
	for _, id := range ids {
		r.state.Ignored = change(r.state.Ignored, id)
	}
	slices.SortFunc(r.state.Ignored, compareIDs)
	changed := slices.DeleteFunc(ids, func(id string) bool {
		return slices.Contains(before, id) == slices.Contains(r.state.Ignored, id)
	})
	if len(changed) == 0 {
		return []string{}, nil
	}
	err = r.begin(what + " " + strings.Join(changed, ", "))
	r.ended(err)
	return changed, err
}

// refuseIgnored keeps what is ignored from being destroyed by mistake.
func (r *run) refuseIgnored() error {
	var there []string
	for _, id := range r.state.Ignored {
		if _, made := r.state.VMs[id]; made {
			there = append(there, id)
		}
	}
	if len(there) == 0 {
		return nil
	}
	return fmt.Errorf("cannot destroy %s: it is ignored, which means that nothing touches it; nothing was done; deploy unignore first if it shall go", strings.Join(there, ", "))
}
