package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/clusterworks/deploy/jobs/wire"
)

// An instance moves in five steps, each asked for by an operator through the
// gateway: disable_instance on its node (nobody writes any more, and what is in it
// is exported), import_instance and update_instance on the other one, which returns
// the handles as they are there, enable_instance, and cleanupnfs_instance.

// mover is the service if its instances move, and the folder through which.
func (n *Node) mover(name string) (Mover, string, error) {
	m, is := n.service.(Mover)
	if !is {
		return nil, "", wire.Failure(wire.ServiceExtension, "instances of %s do not move", n.define.Name)
	}
	shared := n.current().MigrationNFS
	if shared == "" {
		return nil, "", wire.Failure(wire.ServiceExtension, "the node has no migration_nfs, through which instances move")
	}
	return m, filepath.Join(shared, "migration", n.prefix, name), nil
}

func (n *Node) disable(ctx context.Context, m wire.Migration) (any, error) {
	name := m.Instance.Credentials.Name()
	mover, folder, err := n.mover(name)
	if err != nil {
		return nil, err
	}
	i, release, err := n.take(ctx, name)
	if err != nil {
		return nil, err
	}
	defer release()
	i.Disabled = true
	if err := n.ledger.put(i); err != nil {
		return nil, err
	}
	if err := mover.Disable(ctx, i); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(folder); err != nil {
		return nil, fmt.Errorf("cannot empty the folder of the move: %w", err)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder of the move: %w", err)
	}
	return wire.ServiceAnswer{Success: true}, mover.Export(ctx, i, folder)
}

// enable lets users into an instance: of the node that it has come to, or again of
// the one where it was disabled.
func (n *Node) enable(ctx context.Context, m wire.Migration) (any, error) {
	name := m.Instance.Credentials.Name()
	mover, _, err := n.mover(name)
	if err != nil {
		return nil, err
	}
	i, release, err := n.take(ctx, name)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := mover.Enable(ctx, i); err != nil {
		return nil, err
	}
	i.Disabled = false
	return wire.ServiceAnswer{Success: true}, n.ledger.put(i)
}

// importInstance makes an instance of what another node has exported, with the same
// users and passwords. It is disabled until enable_instance.
func (n *Node) importInstance(ctx context.Context, m wire.Migration) (any, error) {
	c := m.Instance.Credentials
	mover, folder, err := n.mover(c.Name())
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(folder); err != nil {
		return nil, fmt.Errorf("there is no export of %s in migration_nfs: %w", c.Name(), err)
	}
	cfg := n.current()
	release, ok := n.ledger.hold(ctx.Done(), c.Name())
	if !ok {
		return nil, errBusy
	}
	defer release()
	if _, there := n.ledger.get(c.Name()); there {
		return nil, fmt.Errorf("cannot import %s: %w", c.Name(), errExists)
	}
	version, _ := m.Instance.Configuration["version"].(string)
	wanted := instanceFor(wire.ProvisionRequest{Plan: cfg.Plan, Version: version, Credentials: c}, cfg.DefaultVersion)
	wanted.Disabled = true
	for _, b := range m.Bindings {
		wanted.Bindings = append(wanted.Bindings, Binding{b.Credentials.User(), b.Credentials.Text("password"), Whole})
	}
	i, err := n.ledger.add(wanted, cfg.Capacity, cfg.Ports)
	if err != nil {
		return nil, err
	}
	err = func() error {
		if _, err := n.service.Provision(ctx, i); err != nil {
			return err
		}
		if err := mover.Import(ctx, i, folder); err != nil {
			return err
		}
		for _, b := range i.Bindings {
			if _, err := n.service.Bind(ctx, i, b); err != nil {
				return err
			}
		}
		return mover.Disable(ctx, i)
	}()
	v := n.judged(ctx, err)
	if v.keep {
		i.State = Whole
		if err = n.ledger.put(i); err == nil {
			return wire.ServiceAnswer{Success: true}, nil
		}
		v.failure = failureOf(err)
	}
	return nil, errors.Join(v.failure, err, n.discard(ctx, i))
}

// update returns the handles of an instance as they are on this node.
func (n *Node) update(ctx context.Context, m wire.Migration) (any, error) {
	name := m.Instance.Credentials.Name()
	if _, _, err := n.mover(name); err != nil {
		return nil, err
	}
	i, release, err := n.take(ctx, name)
	if err != nil {
		return nil, err
	}
	defer release()
	credentials, err := n.service.Provision(ctx, i)
	if err != nil {
		return nil, err
	}
	handles := []wire.ServiceHandle{m.Instance}
	handles[0].Credentials = n.granted(name, credentials).Credentials
	for _, b := range m.Bindings {
		at := i.binding(b.Credentials.User())
		if at < 0 {
			return nil, fmt.Errorf("%s has no user %s here", name, b.Credentials.User())
		}
		if credentials, err = n.service.Bind(ctx, i, i.Bindings[at]); err != nil {
			return nil, err
		}
		b.Credentials = n.granted(name, credentials).Credentials
		handles = append(handles, b)
	}
	return handles, nil
}

// cleanUp removes an export.
func (n *Node) cleanUp(_ context.Context, m wire.Migration) (any, error) {
	_, folder, err := n.mover(m.Instance.Credentials.Name())
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(folder); err != nil {
		return nil, fmt.Errorf("cannot remove the export: %w", err)
	}
	return wire.ServiceAnswer{Success: true}, nil
}
