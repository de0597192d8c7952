package parent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Read reads a record from a parent's folder. The error is fs.ErrNotExist if
// there is none.
func Read[T any](dir, name string) (T, error) {
	var record T
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return record, fmt.Errorf("cannot read the record of a process: %w", err)
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return record, fmt.Errorf("cannot read the record of a process %s: %w", filepath.Join(dir, name), err)
	}
	return record, nil
}

// Write replaces a record at once. It does not sync: records mean nothing after a
// reboot, and the crash of a process alone loses no write.
func Write(dir, name string, record any) error {
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("cannot write the record of a process: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("cannot write the record of a process: %w", err)
	}
	return nil
}
