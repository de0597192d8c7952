package lifecycle

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	// exportKept is the time that the file of an export can be read after it was made.
	exportKept = time.Hour
	// byExport and byUpload are the reasons of files that are no snapshots.
	byExport = "export"
	byUpload = "upload"
)

var (
	errNoExport = wire.Failure(wire.ServiceNotFound, "there is no export of this snapshot, or it was made more than an hour ago; make it again")
	errNoUpload = wire.Failure(wire.ServiceNotFound, "there is no such upload: the node has begun again, or nothing was sent for ten minutes; send the file again")
)

// Export asks that a snapshot be made into a file that can be read by ReadExport for an
// hour. An instance has one at a time.
func (k *Keeper) Export(instance, snapshot string) (wire.ServiceJob, error) {
	if err := k.ports(); err != nil {
		return wire.ServiceJob{}, err
	}
	return k.about(Export, instance, snapshot)
}

// NoExports says that the service has none, before Run.
func (k *Keeper) NoExports() { k.of.Serialize = nil }

// ports says why the service has no exports, or nil.
func (k *Keeper) ports() error {
	if k.off == nil && k.of.Serialize == nil {
		return wire.Failure(wire.ServiceExtension, "%s has no exports", k.service)
	}
	return nil
}

func (k *Keeper) export(ctx context.Context, j Job, key []byte, w *work) error {
	l, err := k.vault.label(j.Instance, j.Snapshot, key)
	if err != nil {
		return asTampered(err)
	}
	w.total.Store(2 * l.Size) // it is read twice
	in, err := k.vault.open(ctx, l, w.moved)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := k.exports().forget(j.Instance); err != nil {
		return err
	}
	room, err := free(k.config.Folder)
	if err != nil {
		return err
	}
	if room-l.Size < spare {
		return errors.Join(errNoSpace, fmt.Errorf("%d bytes are free, and about %d are needed", room, l.Size))
	}
	made := l
	made.By, made.Date = byExport, time.Now().UTC()
	_, err = k.exports().write(ctx, made, key, k.config.MaxBytes, func(int) {}, func(ctx context.Context, to io.Writer) error {
		return k.of.Serialize(ctx, j.Instance, newReader(ctx, in, l, w.moved), to)
	})
	return err
}

// ReadExport returns what an export is, and a piece of it that begins at an offset: an
// empty one at its end.
func (k *Keeper) ReadExport(instance, snapshot string, offset int64) (wire.SerializedHead, []byte, error) {
	key, err := k.known(instance)
	if err != nil {
		return wire.SerializedHead{}, nil, err
	}
	l, err := k.exports().label(instance, snapshot, key)
	switch {
	case errors.Is(err, errNoSnapshot), err == nil && time.Since(l.Date) > exportKept:
		return wire.SerializedHead{}, nil, errNoExport
	case err != nil:
		return wire.SerializedHead{}, nil, asTampered(err)
	}
	head := wire.SerializedHead{Service: l.Service, Version: l.Version, Size: l.Size, SHA256: l.SHA256}
	if offset > l.Size {
		return head, nil, wire.Failure(wire.ServiceMalformed, "the export ends before byte %d", offset)
	}
	in, err := os.Open(k.exports().at(instance, snapshot+dataEnding))
	if err != nil {
		return head, nil, fmt.Errorf("cannot open an export: %w", err)
	}
	defer in.Close()
	piece := make([]byte, min(wire.MaxSerializedPiece, l.Size-offset))
	if _, err := in.ReadAt(piece, offset); err != nil && len(piece) > 0 {
		return head, nil, errors.Join(errTampered, err)
	}
	return head, piece, nil
}

// BeginUpload prepares for a file whose pieces are to come, and returns the upload's id. An
// earlier upload of the instance is forgotten.
func (k *Keeper) BeginUpload(instance string, head wire.SerializedHead) (string, error) {
	if _, err := k.known(instance); err != nil {
		return "", err
	}
	if err := k.ports(); err != nil {
		return "", err
	}
	switch {
	case head.Service != k.service:
		return "", wire.Failure(wire.ServiceMalformed, "the file is an export of %s, and the service is %s", head.Service, k.service)
	case head.Size > k.config.MaxBytes:
		return "", wire.Failure(wire.ServiceMalformed, "the file has %d bytes, and at most %d MiB can be imported", head.Size, k.config.MaxBytes>>20)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, busy := k.queue.active(instance); busy {
		return "", errJobThere
	}
	k.uploads.drop(instance)
	room, err := free(k.config.Folder)
	if err != nil {
		return "", err
	}
	if room-k.uploads.expected()-head.Size < spare {
		return "", errNoSpace
	}
	folder := k.uploaded()
	if err := folder.forget(instance); err != nil {
		return "", err
	}
	return k.uploads.begin(folder, instance, head)
}

// WriteUpload takes the next piece of a file.
func (k *Keeper) WriteUpload(instance, id string, offset int64, piece []byte) error {
	if _, err := k.known(instance); err != nil {
		return err
	}
	u, there := k.uploads.of(instance, id)
	if !there {
		return errNoUpload
	}
	err := u.write(offset, piece)
	if err != nil {
		k.uploads.drop(instance)
	}
	return err
}

// Import asks that all that is in an instance be replaced by a file whose last piece was
// taken. The file is no snapshot: it is gone when the job has ended.
func (k *Keeper) Import(instance, id string) (wire.ServiceJob, error) {
	key, err := k.known(instance)
	if err != nil {
		return wire.ServiceJob{}, err
	}
	u, there := k.uploads.of(instance, id)
	if !there {
		return wire.ServiceJob{}, errNoUpload
	}
	sum, err := u.whole()
	if err != nil {
		k.uploads.drop(instance)
		return wire.ServiceJob{}, err
	}
	k.uploads.release(instance)
	l := label{
		Snapshot: wire.Snapshot{ID: id, Name: byUpload, Date: time.Now().UTC(), Size: u.head.Size, By: byUpload},
		Instance: instance, Service: u.head.Service, Version: u.head.Version, Source: u.head.Size, SHA256: hex.EncodeToString(sum),
	}
	if err := k.uploaded().keep(l, key, partEnding); err != nil {
		return wire.ServiceJob{}, errors.Join(err, k.uploaded().forget(instance))
	}
	j, err := k.submit(Job{Instance: instance, Kind: Import, Snapshot: id, By: wire.SnapshotByUser})
	if err != nil {
		err = errors.Join(err, k.uploaded().forget(instance))
	}
	return j, err
}

func (k *Keeper) importFile(ctx context.Context, j Job, key []byte, w *work) error {
	if j.Loaded {
		return k.of.Import(ctx, j.Instance, 0, nil, func() error { return nil })
	}
	l, err := k.uploaded().label(j.Instance, j.Snapshot, key)
	if err != nil {
		return asTampered(err)
	}
	w.total.Store(2 * l.Size) // it is read twice
	in, err := k.uploaded().open(ctx, l, w.moved)
	if err != nil {
		return err
	}
	defer in.Close()
	return k.of.Import(ctx, j.Instance, l.Source, newReader(ctx, in, l, w.moved), k.loaded(j))
}

// forgetUploads removes the files of uploads that ended with the node's last life, before
// any begins.
func (k *Keeper) forgetUploads() error {
	entries, err := os.ReadDir(k.config.Folder)
	if err != nil {
		return fmt.Errorf("cannot list snapshots: %w", err)
	}
	for _, e := range entries {
		if j, is := k.queue.active(e.Name()); is && j.Kind == Import {
			continue
		}
		if err := k.uploaded().forget(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// exports and uploaded are the folders of files that are no snapshots.
func (k *Keeper) exports() vault  { return vault{k.vault.folder, "exports"} }
func (k *Keeper) uploaded() vault { return vault{k.vault.folder, "uploads"} }

// forgetFiles removes what nobody will read or go on with: exports that are too old, and
// uploads of which nothing came for too long.
func (k *Keeper) forgetFiles(now time.Time) {
	k.uploads.dropIdle(now)
	for _, instance := range k.of.Names() {
		key, _, there := k.of.Key(instance)
		if !there {
			continue
		}
		list, _, err := k.exports().list(instance, key)
		if err == nil && len(list) > 0 && (now.Sub(list[0].Date) > exportKept || list[0].Date.After(now.Add(exportKept))) {
			err = k.exports().forget(instance)
		}
		if err != nil {
			k.log.Error("cannot forget an export", "instance", instance, "error", err)
		}
	}
}
