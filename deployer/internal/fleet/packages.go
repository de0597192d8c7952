package fleet

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/bootstrap"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// missing returns the digests of the packages that each changed instance lacks.
func (f *Fleet) missing(p *plan.Plan, wanted []plan.Wanted) map[string][]string {
	changes := map[string]bool{}
	for _, c := range p.Changes() {
		changes[c.Instance] = !c.Action.NewVM() // the new VM gets its own
	}
	missing := map[string][]string{}
	for _, w := range wanted {
		id := w.Spec.Instance
		inv := f.Inventory(id)
		if !changes[id] || inv == nil {
			continue
		}
		for _, pkg := range w.Spec.Packages {
			if !slices.Contains(inv.Store, pkg.Digest) {
				missing[id] = append(missing[id], pkg.Digest)
			}
		}
	}
	return missing
}

// Deliver brings the packages that a plan's changes need to the bus, once, where
// it serves, else to each VM. What the bus does not deliver is uploaded when an agent asks for it.
func (f *Fleet) Deliver(ctx context.Context, p *plan.Plan, wanted []plan.Wanted) error {
	missing := f.missing(p, wanted)
	if len(missing) == 0 {
		return nil
	}
	var direct []string
	cached := map[string]bool{}
	b := f.ConnectBus(ctx)
	for id, digests := range missing {
		if inv := f.Inventory(id); b != nil && inv.Bus.Connected {
			for _, d := range digests {
				cached[d] = true
			}
			continue
		}
		direct = append(direct, id)
	}
	slices.Sort(direct)
	for digest := range cached {
		if err := f.publish(ctx, digest); err != nil {
			// The cache is a convenience: agents are served over SSH instead.
			f.s.Event(session.Event{Phase: session.PhasePackages, Message: "not over the bus: " + err.Error()})
			break
		}
	}
	return f.s.Each(ctx, len(direct), func(ctx context.Context, i int) error {
		return f.Upload(ctx, direct[i], missing[direct[i]])
	})
}

// publish puts a package into the bus's object store, unless it is there.
func (f *Fleet) publish(ctx context.Context, digest string) error {
	blob, err := f.packages.Blob(digest)
	if err != nil {
		return err
	}
	file, err := os.Open(blob.File)
	if err != nil {
		return fmt.Errorf("cannot read a built package: %w", err)
	}
	defer file.Close()
	return Within(ctx, 2*time.Minute, func(ctx context.Context) error {
		return f.ConnectBus(ctx).Publish(ctx, digest, blob.Size, file)
	})
}

// Upload puts packages onto a VM over SSH.
func (f *Fleet) Upload(ctx context.Context, id string, digests []string) error {
	c, err := f.Connect(ctx, state.Own(id))
	if err != nil {
		return err
	}
	for _, digest := range digests {
		blob, err := f.packages.Blob(digest)
		if err != nil {
			return err
		}
		f.s.Event(session.Event{Phase: session.PhasePackages, Instance: id, Step: "upload", Message: fmt.Sprintf("uploading %s", path.Base(blob.File))})
		if err := bootstrap.UploadPackage(ctx, c, f.s.VM(state.Own(id)).AgentDir, digest, blob.File); err != nil {
			return fmt.Errorf("cannot install package %s on %s: %w; what runs there was not changed; remove the cause, then apply again", path.Base(blob.File), id, err)
		}
	}
	return nil
}
