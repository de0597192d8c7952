package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Snapshots go with an instance that moves: through a folder which both nodes see and
// which is the instance's own. Their seals hold there, since the key is the instance's.

// Working reports whether a job of an instance is at work: a snapshot that it makes would
// be left behind.
func (k *Keeper) Working(instance string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, working := k.work[instance]
	return working
}

// Pack copies the snapshots that a keeper has of an instance into a folder, which it makes if there are any. A
// damaged one is left out, and logged.
func Pack(ctx context.Context, k *Keeper, instance, folder string) error {
	if k.off != nil {
		return nil
	}
	key, err := k.known(instance)
	if err != nil {
		return err
	}
	list, problems, err := k.vault.list(instance, key)
	if err != nil {
		return err
	}
	for _, l := range list {
		switch err := transfer(ctx, l, key, k.vault, vault{folder: folder}); {
		case errors.Is(err, errTampered):
			problems = append(problems, fmt.Errorf("snapshot %s: %w", l.ID, err))
		case err != nil:
			return fmt.Errorf("cannot take snapshot %s along: %w", l.ID, err)
		}
	}
	if len(problems) > 0 {
		k.log.Error("damaged snapshots do not move with their instance", "instance", instance, "error", errors.Join(problems...))
	}
	return nil
}

// Unpack has a keeper keep the snapshots of an instance that Pack has put into a folder. What
// its node had of the instance, from an earlier stay, is removed.
func Unpack(ctx context.Context, k *Keeper, instance string, key []byte, folder string) error {
	from := vault{folder: folder}
	list, problems, err := from.list(instance, key)
	switch {
	case err != nil:
		return err
	case len(problems) > 0:
		return errors.Join(errTampered, errors.Join(problems...))
	case k.off != nil && len(list) > 0:
		return errors.Join(wire.Failure(wire.ServiceUnavailable, "the instance has %d snapshots, and this node keeps none: its operator gives it a folder for them (snapshots_dir), or their owner deletes them", len(list)), k.off)
	case k.off != nil:
		return nil
	}
	if err := k.vault.forget(instance); err != nil {
		return err
	}
	var size int64
	for _, l := range list {
		size += l.Size
	}
	if room, err := free(k.config.Folder); err != nil {
		return err
	} else if len(list) > 0 && room-size < spare {
		return errors.Join(errNoSpace, fmt.Errorf("%d bytes are free, and the instance's snapshots have %d", room, size))
	}
	for _, l := range list {
		if err := transfer(ctx, l, key, from, k.vault); err != nil {
			return fmt.Errorf("cannot bring snapshot %s: %w", l.ID, err)
		}
	}
	k.mu.Lock()
	delete(k.past, instance) // the schedule looks again
	k.mu.Unlock()
	return nil
}

// transfer copies a snapshot, and checks it on the way.
func transfer(ctx context.Context, l label, key []byte, from, to vault) error {
	in, err := os.Open(from.at(l.Instance, l.ID+dataEnding))
	if errors.Is(err, os.ErrNotExist) {
		return errTampered
	}
	if err != nil {
		return fmt.Errorf("cannot open a snapshot: %w", err)
	}
	defer in.Close()
	copied, err := to.write(ctx, l, key, l.Size, func(int) {}, func(ctx context.Context, out io.Writer) error {
		_, err := io.Copy(out, newReader(ctx, in, l, func(int) {}))
		return err
	})
	if err == nil && copied.SHA256 != l.SHA256 {
		err = errTampered
	}
	return err
}

// Packed is where Pack puts an instance's snapshots, in the folder of its move.
func Packed(folder string) string { return filepath.Join(folder, "snapshots") }
