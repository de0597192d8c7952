package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/google/renameio/v2"
)

// service is the boot contract of an init of ours (docs/vms.md).
type service struct {
	Command []string          `json:"command"`
	Env     map[string]string `json:"env,omitempty"`
}

func (m Machine) serviceFile() string { return filepath.Join(m.Services, "agent.json") }

func (m Machine) installService(executable string) error {
	data, err := json.Marshal(service{Command: []string{executable, "run", "--dir", m.Dir}})
	if err != nil {
		return err
	}
	if err := writeChanged(m.serviceFile(), append(data, '\n')); err != nil {
		return fmt.Errorf("cannot install the agent as a service: %w", err)
	}
	// Also when nothing changed: an earlier install may have ended before this.
	return m.tellInit()
}

func (m Machine) removeService() error {
	if err := os.Remove(m.serviceFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the agent's service: %w", err)
	}
	return m.tellInit()
}

// tellInit makes the init read its services again.
func (m Machine) tellInit() error {
	pid, err := strconv.Atoi(m.InitPID)
	if err != nil || pid <= 0 {
		return fmt.Errorf("cannot signal the VM's init: DEPLOY_INIT_PID is %q, not a process id", m.InitPID)
	}
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		return fmt.Errorf("cannot signal the VM's init (process %d): %w", pid, err)
	}
	return nil
}

// writeChanged replaces a file if it does not hold data already.
func writeChanged(name string, data []byte) error {
	if have, err := os.ReadFile(name); err == nil && string(have) == string(data) {
		return nil
	}
	return renameio.WriteFile(name, data, 0o644)
}
