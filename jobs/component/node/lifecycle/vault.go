package lifecycle

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	dataEnding  = ".data"
	labelEnding = ".json"
	maxLabel    = 64 << 10 // bytes of a label
)

// label describes what is kept beside a snapshot's file. A file without a label is no snapshot:
// the label is written last.
type label struct {
	wire.Snapshot
	Number   int64  `json:"number"` // the order in which an instance's were made
	Instance string `json:"instance"`
	Service  string `json:"service"`
	Version  string `json:"version"` // of the server
	Source   int64  `json:"source"`  // bytes that the instance had, as its service estimates
	SHA256   string `json:"sha256"`  // of the file
	Seal     string `json:"seal"`    // of all fields above, by the instance's key
}

// sum returns the seal that a label must have.
func (l label) sum(key []byte) string {
	mac := hmac.New(sha256.New, key)
	for _, field := range []string{l.ID, l.Name, l.By, l.Instance, l.Service, l.Version, l.SHA256, l.Date.UTC().Format(time.RFC3339Nano)} {
		_ = binary.Write(mac, binary.BigEndian, int64(len(field))) // a hash takes everything
		_, _ = io.WriteString(mac, field)
	}
	for _, n := range []int64{l.Size, l.Number, l.Source} {
		_ = binary.Write(mac, binary.BigEndian, n)
	}
	return hex.EncodeToString(mac.Sum(nil))
}

// parseLabel reads a label and checks that it belongs to a snapshot of an instance.
func parseLabel(data []byte, instance, id string, key []byte) (label, error) {
	var l label
	if err := json.Unmarshal(data, &l); err != nil {
		return label{}, errors.New("its label is no JSON of a label")
	}
	if l.Instance != instance || l.ID != id || l.Size < 0 || len(l.SHA256) != 2*sha256.Size {
		return label{}, errors.New("its label is another snapshot's")
	}
	if !hmac.Equal([]byte(l.Seal), []byte(l.sum(key))) {
		return label{}, errors.New("its label was changed")
	}
	return l, nil
}

var (
	errNoSnapshot = wire.Failure(wire.ServiceNotFound, "there is no such snapshot")
	errTampered   = wire.Failure(wire.ServiceInternal, "the snapshot is damaged or was changed: its checksum is not that of its making; nothing was rolled back")
	errTooLarge   = errors.New("it is larger than a snapshot may be")
)

// vault is the folder of the snapshots, which only the node may read. Each instance has a
// folder there; below is the one in it that has other files, "" for snapshots.
type vault struct{ folder, below string }

func (v vault) at(instance string, name ...string) string {
	return filepath.Join(append([]string{v.folder, instance, v.below}, name...)...)
}

// list returns an instance's snapshots in the order in which they were made. Labels that
// cannot be read or were changed are problems, and their snapshots are not in the list.
func (v vault) list(instance string, key []byte) (list []label, problems []error, err error) {
	entries, err := os.ReadDir(v.at(instance))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list snapshots: %w", err)
	}
	for _, e := range entries {
		id, is := strings.CutSuffix(e.Name(), labelEnding)
		if !is || !wire.ValidServiceInstance(id) {
			continue
		}
		l, err := v.label(instance, id, key)
		if err != nil {
			problems = append(problems, fmt.Errorf("snapshot %s: %w", id, err))
			continue
		}
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b label) int { return int(min(1, max(-1, a.Number-b.Number))) })
	return list, problems, nil
}

// label reads the label of one snapshot.
func (v vault) label(instance, id string, key []byte) (label, error) {
	in, err := os.Open(v.at(instance, id+labelEnding))
	if errors.Is(err, os.ErrNotExist) {
		return label{}, errNoSnapshot
	}
	if err != nil {
		return label{}, fmt.Errorf("cannot read its label: %w", err)
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxLabel))
	if err != nil {
		return label{}, fmt.Errorf("cannot read its label: %w", err)
	}
	return parseLabel(data, instance, id, key)
}

// newID returns the id of a snapshot, which nobody has yet.
func newID(number int64) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%d-%s", number, hex.EncodeToString(b[:]))
}

// write makes a snapshot of what dump writes, at most limit bytes. Nothing is left of one
// that fails. moved is told of each piece.
func (v vault) write(ctx context.Context, l label, key []byte, limit int64, moved func(int), dump func(context.Context, io.Writer) error) (label, error) {
	if err := os.MkdirAll(v.at(l.Instance), 0o700); err != nil {
		return label{}, fmt.Errorf("cannot make the folder of the snapshots: %w", err)
	}
	path := v.at(l.Instance, l.ID+dataEnding)
	out, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o600), renameio.WithTempDir(v.at(l.Instance)))
	if err != nil {
		return label{}, fmt.Errorf("cannot make a snapshot's file: %w", err)
	}
	defer func() { _ = out.Cleanup() }() // nothing is left to clean up after success
	c := &counter{to: out, hash: sha256.New(), limit: limit, moved: moved}
	if err := dump(ctx, c); err != nil {
		return label{}, errors.Join(c.failed, err)
	}
	if err := errors.Join(c.failed, context.Cause(ctx)); err != nil {
		return label{}, err
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return label{}, fmt.Errorf("cannot keep a snapshot's file: %w", err)
	}
	l.Size, l.SHA256 = c.size, hex.EncodeToString(c.hash.Sum(nil))
	if err := v.seal(&l, key); err != nil {
		return label{}, errors.Join(err, v.remove(l.Instance, l.ID))
	}
	return l, nil
}

// seal writes the label of a file that is there.
func (v vault) seal(l *label, key []byte) error {
	l.Seal = l.sum(key)
	data, err := json.MarshalIndent(l, "", "  ")
	if err == nil {
		err = renameio.WriteFile(v.at(l.Instance, l.ID+labelEnding), data, 0o600, renameio.WithTempDir(v.at(l.Instance)))
	}
	if err == nil {
		err = errors.Join(syncFolder(v.at(l.Instance)), syncFolder(v.folder))
	}
	if err != nil {
		return fmt.Errorf("cannot keep a snapshot's label: %w", err)
	}
	return nil
}

// keep takes in a file whose name ended otherwise while it was written.
func (v vault) keep(l label, key []byte, ending string) error {
	if err := os.Rename(v.at(l.Instance, l.ID+ending), v.at(l.Instance, l.ID+dataEnding)); err != nil {
		return fmt.Errorf("cannot keep a file: %w", err)
	}
	return v.seal(&l, key)
}

// open returns a snapshot's file once all of it has the checksum of its label, at its
// beginning. moved is told of each piece that was checked.
func (v vault) open(ctx context.Context, l label, moved func(int)) (*os.File, error) {
	in, err := os.Open(v.at(l.Instance, l.ID+dataEnding))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errTampered
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open a snapshot: %w", err)
	}
	_, err = io.Copy(io.Discard, newReader(ctx, in, l, moved))
	if err == nil {
		_, err = in.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot check a snapshot: %w", err), in.Close())
	}
	return in, nil
}

// remove removes a snapshot, its label first. One that is not there is removed already.
func (v vault) remove(instance, id string) error {
	for _, ending := range []string{labelEnding, dataEnding} {
		if err := os.Remove(v.at(instance, id+ending)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove a snapshot: %w", err)
		}
		if err := syncFolder(v.at(instance)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove a snapshot: %w", err)
		}
	}
	return nil
}

// tidy removes what is no snapshot from an instance's folder: files of a job that was cut
// off. No job of the instance may be at work.
func (v vault) tidy(instance string) error {
	entries, err := os.ReadDir(v.at(instance))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot list snapshots: %w", err)
	}
	labels := map[string]bool{}
	for _, e := range entries {
		if id, is := strings.CutSuffix(e.Name(), labelEnding); is {
			labels[id] = true
		}
	}
	for _, e := range entries {
		id, isData := strings.CutSuffix(e.Name(), dataEnding)
		hidden := strings.HasPrefix(e.Name(), ".") // a temporary file
		if isData && !labels[id] || hidden {
			if err := os.Remove(v.at(instance, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("cannot remove what is left of a snapshot: %w", err)
			}
		}
	}
	return nil
}

// forget removes all snapshots of an instance.
func (v vault) forget(instance string) error {
	if err := os.RemoveAll(v.at(instance)); err != nil {
		return fmt.Errorf("cannot remove the snapshots of an instance: %w", err)
	}
	return nil
}

// free returns how many bytes of a folder's disk are free. The folder itself need not be
// there, but its disk must.
func free(folder string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(folder, &s); err != nil {
		return 0, fmt.Errorf("cannot find out how much of the disk is free: %w", err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// counter counts and sums up what is written through it, and fails above its limit.
type counter struct {
	to     io.Writer
	hash   hash.Hash
	limit  int64
	size   int64
	failed error
	moved  func(int)
}

func (c *counter) Write(p []byte) (int, error) {
	if c.size+int64(len(p)) > c.limit {
		c.failed = errTooLarge
		return 0, errTooLarge
	}
	n, err := c.to.Write(p)
	c.size += int64(n)
	_, _ = c.hash.Write(p[:n]) // never fails
	c.moved(n)
	if err != nil {
		c.failed = err
	}
	return n, err
}

// reader reads a snapshot until its context ends. Its end is an error if what was read
// is not what the label says. It can be read again from the beginning.
type reader struct {
	ctx   context.Context
	from  io.ReadSeeker
	label label
	hash  hash.Hash
	size  int64
	moved func(int)
}

func newReader(ctx context.Context, from io.ReadSeeker, l label, moved func(int)) *reader {
	return &reader{ctx: ctx, from: from, label: l, hash: sha256.New(), moved: moved}
}

func (r *reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	n, err := r.from.Read(p)
	r.size += int64(n)
	_, _ = r.hash.Write(p[:n]) // never fails
	r.moved(n)
	if errors.Is(err, io.EOF) && (r.size != r.label.Size || hex.EncodeToString(r.hash.Sum(nil)) != r.label.SHA256) {
		return 0, errTampered
	}
	return n, err
}

// Seek goes back to the beginning, and nowhere else.
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	if offset != 0 || whence != io.SeekStart {
		return 0, errors.New("a snapshot can be read from its beginning only")
	}
	r.size = 0
	r.hash.Reset()
	return r.from.Seek(0, io.SeekStart)
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
