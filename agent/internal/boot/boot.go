// Package boot makes an agent start with its machine and start again when it
// ends, by what the machine has: an init of deploy's own (docs/vms.md),
// systemd, or a keeper of the agent's own where neither is. All of them end and
// start the agent alone: its shims and their processes stay.
package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
)

// poll is the interval at which something awaited is looked for.
const poll = 10 * time.Millisecond

// Machine describes what the choice depends on.
type Machine struct {
	Dir string // the agent's folder, absolute
	UID int    // whose agent it is: only root's can be systemd's
	// Services and InitPID are DEPLOY_SERVICES and DEPLOY_INIT_PID: a boot
	// service of deploy's own, if set.
	Services, InitPID string
	// SystemdRuns is the folder that is there when systemd is the init
	// (sd_booted(3)), Units where its units of this machine are.
	SystemdRuns, Units string
}

// Here is this machine, for the agent of dir.
func Here(dir, services, initPID string) Machine {
	return Machine{
		Dir: dir, UID: os.Getuid(), Services: services, InitPID: initPID,
		SystemdRuns: "/run/systemd/system", Units: "/etc/systemd/system",
	}
}

func (m Machine) systemd() bool {
	info, err := os.Stat(m.SystemdRuns)
	return err == nil && info.IsDir() && m.UID == 0
}

// Install makes the executable run as the machine's agent, now and whenever it
// ends, in place of the one that did before. answers tells whether an agent of
// this very program is up, which is then left alone. The note, if any, is what
// the operator has to do beside.
func (m Machine) Install(ctx context.Context, executable string, answers func() bool) (note string, err error) {
	if m.Services != "" && m.InitPID != "" {
		return "", m.installService(executable)
	}
	err = os.MkdirAll(filepath.Dir(m.program()), 0o755)
	if err == nil {
		err = renameio.Symlink(executable, m.program())
	}
	if err != nil {
		return "", fmt.Errorf("cannot link to the agent's program: %w", err)
	}
	if m.systemd() {
		return "", m.installUnit(ctx, executable, answers())
	}
	if err := m.installKeeper(ctx, executable); err != nil {
		return "", err
	}
	return m.keeperNote(), nil
}

// Remove undoes Install, whichever way it was done, and ends the agent that it
// started. It may be called when nothing is installed.
func (m Machine) Remove(ctx context.Context) error {
	var errs []error
	if m.Services != "" && m.InitPID != "" {
		errs = append(errs, m.removeService())
	}
	if m.systemd() {
		errs = append(errs, m.removeUnit(ctx))
	}
	return errors.Join(append(errs, m.endKeeper(ctx))...)
}

// program is a link to the installed program, for people and for the machine's
// own init: its name stays when the program changes.
func (m Machine) program() string { return m.path("bin", "agent") }

func (m Machine) path(elements ...string) string {
	return filepath.Join(append([]string{m.Dir}, elements...)...)
}
