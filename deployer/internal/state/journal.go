package state

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Entry is a line of the journal: history only, nothing reads it to decide.
// A run writes one when it begins and one, of the same epoch, when it ends.
type Entry struct {
	At    time.Time `json:"at"`
	Epoch uint64    `json:"epoch"`
	What  string    `json:"what"` // "apply", "restart router/0", ...
	Who   string    `json:"who,omitempty"`
	// Result says how it ended: "" with the beginning, "done", "interrupted", or
	// "failed: ..." with the first line of why.
	Result string `json:"result,omitempty"`
	// Revision is the one that it made, 0 for none.
	Revision int `json:"revision,omitempty"`
	// Took is the time that it ran.
	Took time.Duration `json:"took_ns,omitempty"`
}

func (s Store) journalFile() string { return filepath.Join(s.Dir, "journal.jsonl") }

// Journal appends an entry to journal.jsonl.
func (s Store) Journal(e Entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("cannot encode a journal entry: %w", err)
	}
	f, err := os.OpenFile(s.journalFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the journal: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// History reads the journal, oldest first. Lines that cannot be read (a run was
// ended while it wrote) are left out; without a journal there is no history.
func (s Store) History() ([]Entry, error) {
	f, err := os.Open(s.journalFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the journal: %w", err)
	}
	defer f.Close()
	var out []Entry
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e Entry
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.What != "" {
			out = append(out, e)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cannot read the journal: %w", err)
	}
	return out, nil
}
