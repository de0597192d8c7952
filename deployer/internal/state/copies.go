package state

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/google/renameio/v2"
)

// KeptCopies is the number of copies of its state that a deployment keeps.
const KeptCopies = 5

// Copy is a dated copy of the state: an export, as it was when a run had ended.
// Secrets in it are encrypted as secrets.json was.
type Copy struct {
	Path string
	At   time.Time
	// Epoch is that of the run that it shows the end of.
	Epoch uint64
	// Deployment is the beginning of the deployment's id.
	Deployment string

	number int // grows with each copy: clocks may go back, and so may epochs with an import
}

func copiesDir(s Store) string { return filepath.Join(s.Dir, "copies") }

const copyTime = "20060102T150405Z"

var copyName = regexp.MustCompile(`^([0-9]{6})-epoch([0-9]+)-([0-9a-f]{1,8})-([0-9]{8}T[0-9]{6}Z)\.tar\.gz$`)

// Copies returns the copies, the newest first.
func Copies(s Store) ([]Copy, error) {
	entries, err := os.ReadDir(copiesDir(s))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list the copies of the state: %w", err)
	}
	var out []Copy
	for _, e := range entries {
		m := copyName.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		c := Copy{Path: filepath.Join(copiesDir(s), e.Name()), Deployment: m[3]}
		c.number, _ = strconv.Atoi(m[1]) // six digits
		at, timeErr := time.Parse(copyTime, m[4])
		epoch, err := strconv.ParseUint(m[2], 10, 64)
		if err != nil || timeErr != nil {
			continue
		}
		c.At, c.Epoch = at, epoch
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Copy) int { return b.number - a.number })
	return out, nil
}

// KeepCopy copies the state as it is on disk, which must be that of st, and
// removes the oldest copies.
func KeepCopy(s Store, st *State, now time.Time) error {
	if err := s.Check(st); err != nil {
		return err
	}
	had, err := Copies(s)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if err := s.Export(z, nil); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("cannot pack a copy of the state: %w", err)
	}
	if err := os.MkdirAll(copiesDir(s), 0o700); err != nil {
		return fmt.Errorf("cannot make the folder for copies of the state: %w", err)
	}
	number := 1
	if len(had) > 0 {
		number = had[0].number + 1
	}
	name := fmt.Sprintf("%06d-epoch%d-%.8s-%s.tar.gz", number, st.Epoch, st.DeploymentID, now.UTC().Format(copyTime))
	if err := renameio.WriteFile(filepath.Join(copiesDir(s), name), out.Bytes(), 0o600, renameio.WithTempDir(copiesDir(s))); err != nil {
		return fmt.Errorf("cannot keep a copy of the state: %w", err)
	}
	var gone []Copy
	if len(had) >= KeptCopies {
		had, gone = had[:KeptCopies-1], had[KeptCopies-1:]
	}
	if secrets, err := os.ReadFile(s.secretsFile()); err == nil && Encrypted(secrets) {
		// A run that was ended while it encrypted the state may have left plain ones.
		for _, c := range had {
			if _, files, err := c.Files(s); err == nil && !Encrypted(files["secrets.json"]) {
				gone = append(gone, c)
			}
		}
	}
	return removeCopies(gone)
}

// DropCopies removes all copies: their secrets are not encrypted as they are to be
// from now on.
func DropCopies(s Store) error {
	had, err := Copies(s)
	if err != nil {
		return err
	}
	return removeCopies(had)
}

func removeCopies(copies []Copy) error {
	for _, c := range copies {
		if err := os.Remove(c.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove an old copy of the state: %w", err)
		}
	}
	return nil
}

// Files reads a copy and returns the state in it and all its files by name.
func (c Copy) Files(s Store) (*State, map[string][]byte, error) {
	data, err := os.ReadFile(c.Path)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read a copy of the state: %w", err)
	}
	wrong := func(err error) (*State, map[string][]byte, error) {
		return nil, nil, fmt.Errorf("cannot use the copy %s: %w", c.Path, err)
	}
	if data, err = unzipped(data); err != nil {
		return wrong(err)
	}
	files, err := s.unpack(data)
	if err != nil {
		return wrong(err)
	}
	st, err := parseState(files["state.json"])
	if err != nil {
		return wrong(err)
	}
	return st, files, nil
}

// unzipped returns the content of what gzip has packed, and anything else as it is.
func unzipped(data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		return data, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("cannot unpack it: %w", err)
	}
	out, err := io.ReadAll(io.LimitReader(z, maxExport+1))
	if err != nil {
		return nil, fmt.Errorf("cannot unpack it: %w", err)
	}
	if len(out) > maxExport {
		return nil, fmt.Errorf("it is larger than %d MiB, which no export is", maxExport>>20)
	}
	return out, nil
}
