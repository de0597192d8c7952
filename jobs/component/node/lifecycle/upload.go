package lifecycle

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"sync"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	partEnding = ".part"
	// syncEvery is after how many bytes an upload is written to the disk, so that its end
	// does not take long.
	syncEvery = 32 << 20
	// uploadIdle is the time that an upload waits for its next piece.
	uploadIdle = 10 * time.Minute
)

// uploads are the files of which pieces come, one an instance. They end with the node.
type uploads struct {
	mu   sync.Mutex
	open map[string]*upload // by the instance
}

// upload is a file of which not all is there.
type upload struct {
	id   string
	head wire.SerializedHead

	mu     sync.Mutex // guards the rest
	file   *os.File
	hash   hash.Hash
	size   int64
	synced int64
	moved  time.Time
}

func (u *uploads) begin(folder vault, instance string, head wire.SerializedHead) (string, error) {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	id := "u" + hex.EncodeToString(b[:])
	if err := os.MkdirAll(folder.at(instance), 0o700); err != nil {
		return "", fmt.Errorf("cannot make the folder of an upload: %w", err)
	}
	file, err := os.OpenFile(folder.at(instance, id+partEnding), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("cannot make the file of an upload: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open[instance] = &upload{id: id, head: head, file: file, hash: sha256.New(), moved: time.Now()}
	return id, nil
}

func (u *uploads) of(instance, id string) (*upload, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	one, there := u.open[instance]
	return one, there && one.id == id
}

// expected returns how many bytes are still to come, of all.
func (u *uploads) expected() (bytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, one := range u.open {
		one.mu.Lock()
		bytes += one.head.Size - one.size
		one.mu.Unlock()
	}
	return bytes
}

// release takes an upload out, and leaves its file.
func (u *uploads) release(instance string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if one, there := u.open[instance]; there {
		one.file.Close() // after a sync, if its file is wanted
		delete(u.open, instance)
	}
}

// drop forgets an upload and removes its file. One that is gone is no error.
func (u *uploads) drop(instance string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if one, there := u.open[instance]; there {
		_ = os.Remove(one.file.Name()) // a file that stays is removed before the next upload
		one.file.Close()
		delete(u.open, instance)
	}
}

func (u *uploads) dropIdle(now time.Time) {
	var idle []string
	u.mu.Lock()
	for instance, one := range u.open {
		one.mu.Lock()
		if now.Sub(one.moved) > uploadIdle {
			idle = append(idle, instance)
		}
		one.mu.Unlock()
	}
	u.mu.Unlock()
	for _, instance := range idle {
		u.drop(instance)
	}
}

func (u *uploads) dropAll() { u.dropIdle(time.Now().Add(2 * uploadIdle)) }

// write takes the next piece. One that was taken before, and whose answer was lost, is
// taken once.
func (u *upload) write(offset int64, piece []byte) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch end := offset + int64(len(piece)); {
	case end == u.size && offset < u.size:
		return nil
	case offset != u.size:
		return wire.Failure(wire.ServiceMalformed, "a piece begins at byte %d of the file, and there are %d", offset, u.size)
	case end > u.head.Size:
		return wire.Failure(wire.ServiceMalformed, "the file is longer than the %d bytes that its first line says", u.head.Size)
	}
	if _, err := u.file.Write(piece); err != nil {
		return fmt.Errorf("cannot write an upload: %w", err)
	}
	_, _ = u.hash.Write(piece) // never fails
	u.size += int64(len(piece))
	u.moved = time.Now()
	if u.size-u.synced >= syncEvery {
		u.synced = u.size
		return u.sync()
	}
	return nil
}

func (u *upload) sync() error {
	if err := u.file.Sync(); err != nil {
		return fmt.Errorf("cannot keep an upload: %w", err)
	}
	return nil
}

// whole returns the checksum of a file that is what its first line says.
func (u *upload) whole() ([]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.size != u.head.Size {
		return nil, wire.Failure(wire.ServiceMalformed, "the file is cut off: it has %d of the %d bytes that its first line says", u.size, u.head.Size)
	}
	sum := u.hash.Sum(nil)
	if want, err := hex.DecodeString(u.head.SHA256); err != nil || !bytes.Equal(sum, want) {
		return nil, errors.Join(wire.Failure(wire.ServiceMalformed, "the file is damaged or was changed: its checksum is not that of its first line"), err)
	}
	return sum, u.sync()
}
