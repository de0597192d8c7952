package node

import (
	"context"
	"io"
	"time"

	"github.com/clusterworks/deploy/jobs/component/node/lifecycle"
	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	// diskSpare is the number of bytes that an import leaves free on the disk.
	diskSpare = 64 << 20
	// diskInterval is the time between two looks at it: a file may be small and what is in
	// it large.
	diskInterval = 200 * time.Millisecond
)

// serialize makes a dump into a file.
func (a *archive) serialize(ctx context.Context, name string, from io.Reader, to io.Writer) error {
	i, err := a.whole(name)
	if err != nil {
		return err
	}
	return a.porter.Serialize(ctx, i, from, to)
}

// importFile replaces what is in an instance by a file that anybody may have written.
func (a *archive) importFile(ctx context.Context, name string, source int64, from io.ReadSeeker, loaded func() error) error {
	if from == nil {
		return a.replace(ctx, name, nil, nil)
	}
	return a.replace(ctx, name, func(ctx context.Context, i Instance) error {
		ctx, stop := context.WithCancelCause(ctx)
		watched := make(chan struct{})
		go func() { defer close(watched); a.watchDisk(ctx, stop) }()
		defer func() { stop(nil); <-watched }()
		return a.load(ctx, i, source, from, a.porter.Deserialize)
	}, loaded)
}

// watchDisk ends an import that fills the disk.
func (a *archive) watchDisk(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(diskInterval)
	defer tick.Stop()
	for {
		if room, err := a.room(); err == nil && room < diskSpare {
			stop(errNoRoom)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// serializedWork is an operation about a file that a keeper answers.
type serializedWork func(context.Context, wire.SerializedRequest) (any, error)

func serialize(k *lifecycle.Keeper) serializedWork {
	return func(_ context.Context, r wire.SerializedRequest) (any, error) {
		j, err := k.Export(r.InstanceID, r.SnapshotID)
		return wire.SerializedAnswer{Success: true, Job: &j}, err
	}
}

func readPiece(k *lifecycle.Keeper) serializedWork {
	return func(_ context.Context, r wire.SerializedRequest) (any, error) {
		head, piece, err := k.ReadExport(r.InstanceID, r.SnapshotID, r.Offset)
		return wire.SerializedAnswer{Success: true, Head: &head, Data: piece}, err
	}
}

func beginUpload(k *lifecycle.Keeper) serializedWork {
	return func(_ context.Context, r wire.SerializedRequest) (any, error) {
		if r.Head == nil {
			return nil, wire.Failure(wire.ServiceMalformed, "Malformed request")
		}
		id, err := k.BeginUpload(r.InstanceID, *r.Head)
		return wire.SerializedAnswer{Success: true, UploadID: id}, err
	}
}

func writePiece(k *lifecycle.Keeper) serializedWork {
	return func(_ context.Context, r wire.SerializedRequest) (any, error) {
		return wire.SerializedAnswer{Success: true}, k.WriteUpload(r.InstanceID, r.UploadID, r.Offset, r.Data)
	}
}

func importUpload(k *lifecycle.Keeper) serializedWork {
	return func(_ context.Context, r wire.SerializedRequest) (any, error) {
		j, err := k.Import(r.InstanceID, r.UploadID)
		return wire.SerializedAnswer{Success: true, Job: &j}, err
	}
}
