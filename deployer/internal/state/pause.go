package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
)

// Pause is an operator's request to the run that holds the lease: finish what
// is in flight and begin nothing new until it is withdrawn. It is for the run of
// one epoch: a later one does not heed it.
type Pause struct {
	Epoch uint64    `json:"epoch"`
	By    string    `json:"by,omitempty"`
	At    time.Time `json:"at"`
}

func (s Store) pauseFile() string { return filepath.Join(s.Dir, "pause.json") }

// Pause asks the run of p.Epoch to pause. Whether there is one is for the
// caller to find out (Holder, LoadState).
func (s Store) Pause(p Pause) error {
	data, err := encode(p)
	if err == nil {
		err = renameio.WriteFile(s.pauseFile(), data, 0o600, renameio.WithTempDir(s.Dir))
	}
	if err != nil {
		return fmt.Errorf("cannot ask for a pause: %w", err)
	}
	return nil
}

// Resume withdraws a pause. None is no error.
func (s Store) Resume() error {
	if err := os.Remove(s.pauseFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot withdraw the pause: %w", err)
	}
	return nil
}

// Paused is the pause that was asked for, nil if there is none.
func (s Store) Paused() (*Pause, error) {
	data, err := os.ReadFile(s.pauseFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var p Pause
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read whether to pause: %w", err)
	}
	return &p, nil
}
