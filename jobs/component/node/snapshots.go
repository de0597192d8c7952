package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/jobs/component/node/lifecycle"
	"github.com/clusterworks/deploy/jobs/wire"
)

// archive lets snapshots be made of the instances in a ledger.
type archive struct {
	base    string // the folder of the instances' data
	ledger  *ledger
	service Snapshotter
	porter  Porter       // nil: the service has no exports
	state   func() error // of the service, as Service.Ready
}

func (a *archive) ready() error { return a.state() }

// openKeeper returns what keeps the snapshots of a node. serve says, before it runs, for
// which service.
func openKeeper(cfg Config, name string, l *ledger, log *slog.Logger) (k *lifecycle.Keeper, serve func(Service), err error) {
	c := lifecycle.Config{
		Max: cfg.Snapshots.Max, MaxBytes: int64(cfg.Snapshots.MaxMB) << 20, TimeLimit: cfg.Snapshots.TimeLimit.Duration(),
		Every: cfg.Snapshots.Every.Duration(), Keep: cfg.Snapshots.Keep,
	}
	if cfg.Snapshots.Folder != "" {
		c.Folder = filepath.Join(cfg.Snapshots.Folder, cfg.NodeID)
	}
	a := &archive{base: cfg.BaseDir, ledger: l}
	k, err = lifecycle.Open(c, name, filepath.Join(cfg.BaseDir, "jobs"), lifecycle.Instances{
		Ready: a.ready, Names: a.names, Key: a.key, Size: a.size, Dump: a.dump, Rollback: a.rollback, Serialize: a.serialize, Import: a.importFile,
	}, log)
	return k, func(s Service) {
		a.state = s.Ready
		if a.porter, _ = s.(Porter); a.porter == nil {
			k.NoExports()
		}
		var is bool
		if a.service, is = s.(Snapshotter); !is {
			k.TurnOff("snapshots of " + name + " are not possible")
		}
		if w, is := s.(interface{ NoSnapshots() string }); is && w.NoSnapshots() != "" {
			k.TurnOff(w.NoSnapshots())
		}
	}, err
}

// names are the instances of which snapshots can be made now.
func (a *archive) names() []string {
	names := []string{}
	for _, i := range a.ledger.list() {
		if i.State == Whole && !i.Disabled {
			names = append(names, i.Name)
		}
	}
	return names
}

// whole returns an instance that is there and not on its way to another node.
func (a *archive) whole(name string) (Instance, error) {
	i, there := a.ledger.get(name)
	switch {
	case !there || i.State != Whole:
		return Instance{}, errNotFound
	case i.Disabled:
		return Instance{}, errMoving
	}
	return i, nil
}

// sealKey returns what an instance's snapshots are sealed with. It is made of what stays
// with an instance for its life, wherever it is, and which the disk of the snapshots does
// not have.
func sealKey(i Instance) []byte {
	sum := sha256.Sum256([]byte("snapshots of " + i.Name + "\n" + i.Password))
	return sum[:]
}

func (a *archive) key(name string) ([]byte, string, bool) {
	i, there := a.ledger.get(name)
	if !there || i.State != Whole {
		return nil, "", false
	}
	return sealKey(i), i.Version, true
}

func (a *archive) size(ctx context.Context, name string) (int64, error) {
	i, err := a.whole(name)
	if err != nil {
		return 0, err
	}
	return a.service.Size(ctx, i)
}

func (a *archive) dump(ctx context.Context, name string, to io.Writer) error {
	i, err := a.whole(name)
	if err != nil {
		return err
	}
	return a.service.Dump(ctx, i, to)
}

// rollback goes back to a snapshot.
func (a *archive) rollback(ctx context.Context, name string, source int64, from io.ReadSeeker, loaded func() error) error {
	if from == nil {
		return a.replace(ctx, name, nil, nil)
	}
	return a.replace(ctx, name, func(ctx context.Context, i Instance) error { return a.load(ctx, i, source, from, a.service.Load) }, loaded)
}

// replace lets load replace what is in an instance, and its users in again. It holds the
// instance, so that nothing else is done with it. Without load only the latter is to do.
func (a *archive) replace(ctx context.Context, name string, load func(context.Context, Instance) error, loaded func() error) error {
	release, ok := a.ledger.hold(ctx.Done(), name)
	if !ok {
		return context.Cause(ctx)
	}
	defer release()
	i, err := a.whole(name)
	if err != nil {
		return err
	}
	if load != nil {
		err = load(ctx, i)
		if err == nil {
			err = loaded()
		}
		if errors.Is(err, error(ErrHalfLoaded)) {
			return err
		}
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if i, there := a.ledger.get(name); there { // users may have been retired meanwhile
		return errors.Join(err, a.service.Enable(after, i))
	}
	return err
}

func (a *archive) load(ctx context.Context, i Instance, source int64, from io.ReadSeeker, load func(context.Context, Instance, io.ReadSeeker) error) error {
	room, err := a.room()
	if err != nil {
		return err
	}
	// What is there stays until what replaces it is whole.
	if room < source+source/4 {
		return errors.Join(errNoRoom, fmt.Errorf("%d bytes are free, and %d are wanted", room, source+source/4))
	}
	if err := a.service.Disable(ctx, i); err != nil {
		return err
	}
	return load(ctx, i, from)
}

var errNoRoom = wire.Failure(wire.ServiceUnavailable, "the node's disk has no room for what is in it; ask its operator")

// room returns how many bytes of the disk are free.
func (a *archive) room() (int64, error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(a.base, &disk); err != nil {
		return 0, fmt.Errorf("cannot find out how much of the disk is free: %w", err)
	}
	return int64(disk.Bavail) * disk.Bsize, nil
}

// snapshotWork is an operation that a keeper answers.
type snapshotWork func(context.Context, wire.SnapshotRequest) (any, error)

func listSnapshots(k *lifecycle.Keeper) snapshotWork {
	return func(_ context.Context, r wire.SnapshotRequest) (any, error) {
		list, err := k.List(r.InstanceID)
		return wire.SnapshotAnswer{Success: true, Snapshots: list}, err
	}
}

func createSnapshot(k *lifecycle.Keeper) snapshotWork {
	return func(_ context.Context, r wire.SnapshotRequest) (any, error) {
		j, err := k.Create(r.InstanceID, r.Name)
		return wire.SnapshotAnswer{Success: true, Job: &j}, err
	}
}

func rollBack(k *lifecycle.Keeper) snapshotWork {
	return func(_ context.Context, r wire.SnapshotRequest) (any, error) {
		j, err := k.Rollback(r.InstanceID, r.SnapshotID)
		return wire.SnapshotAnswer{Success: true, Job: &j}, err
	}
}

func deleteSnapshot(k *lifecycle.Keeper) snapshotWork {
	return func(_ context.Context, r wire.SnapshotRequest) (any, error) {
		j, err := k.Delete(r.InstanceID, r.SnapshotID)
		return wire.SnapshotAnswer{Success: true, Job: &j}, err
	}
}

func jobDetails(k *lifecycle.Keeper) snapshotWork {
	return func(_ context.Context, r wire.SnapshotRequest) (any, error) {
		j, err := k.Job(r.InstanceID, r.JobID)
		return wire.SnapshotAnswer{Success: true, Job: &j}, err
	}
}
