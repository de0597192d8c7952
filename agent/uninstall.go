package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent/host/parent"
	"github.com/clusterworks/deploy/agent/host/proc"
	"github.com/clusterworks/deploy/agent/internal/firewall"
	"github.com/clusterworks/deploy/agent/internal/shim"
)

// uninstallGrace is the time that a process has to end unless its spec says otherwise.
const uninstallGrace = 10 * time.Second

// ErrForeign says that an agent is another deployment's.
var ErrForeign = errors.New("it belongs to another deployment")

// Uninstall leaves a machine as it was before Install: the agent does not start
// any more, it and all that it has started have ended, its folder is gone. What
// was interrupted is continued by the next call. With a deployment's id, an
// agent of another one is left alone, and the error is ErrForeign.
func Uninstall(ctx context.Context, dir, deploymentID string, environ []string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	id, err := loadIdentity(filepath.Join(dir, "agent.json"))
	if err == nil && deploymentID != "" && id.DeploymentID != "" && id.DeploymentID != deploymentID {
		return fmt.Errorf("cannot uninstall the agent in %s: %w (id %s)", dir, ErrForeign, id.DeploymentID)
	}
	// Anything could have been named by mistake, and all of it will be removed.
	programs, err := filepath.Glob(filepath.Join(dir, "bin", "agent*"))
	if err != nil {
		return err
	}
	_, err = os.Stat(dir)
	gone := errors.Is(err, fs.ErrNotExist)
	if !gone && (err != nil || len(programs) == 0) {
		return fmt.Errorf("cannot uninstall the agent: %s is not the folder of one, it has no bin/agent-*; nothing was removed", dir)
	}
	if err := machine(dir, environ).Remove(ctx); err != nil {
		return fmt.Errorf("cannot uninstall the agent: %w", err)
	}
	if gone {
		return nil
	}
	if inventory, err := ask(ctx, dir, askLimit); err == nil { // one that nobody watches over
		_ = syscall.Kill(inventory.Agent.PID, syscall.SIGTERM) // the lock tells the outcome
	}
	lock, err := lockFolder(ctx, filepath.Join(dir, "agent.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := endProcesses(ctx, dir); err != nil {
		return fmt.Errorf("cannot uninstall the agent: %w", err)
	}
	if err := (firewall.Table{Dir: dir}).Remove(ctx); err != nil {
		return fmt.Errorf("cannot uninstall the agent: %w", err)
	}
	return removeFolder(dir)
}

// endProcesses stops all that the agent has started, as it would be at the end
// of the machine: side by side, each with its own signal and grace.
func endProcesses(ctx context.Context, dir string) error {
	shims, err := filepath.Glob(filepath.Join(dir, "run", "*", "*.shim"))
	if err != nil {
		return err
	}
	errs := make([]error, len(shims))
	var work sync.WaitGroup
	for i, folder := range shims {
		work.Go(func() { errs[i] = endProcess(ctx, folder) })
	}
	work.Wait()
	return errors.Join(errs...)
}

func endProcess(ctx context.Context, folder string) error {
	spec, err := shim.ReadSpec(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was ever started
	}
	if err != nil {
		return err
	}
	signal, grace := spec.StopSignal, time.Duration(spec.StopGraceMS)*time.Millisecond
	if signal == "" {
		signal = "TERM"
	}
	if grace <= 0 {
		grace = uninstallGrace
	}
	if conn, err := shim.Connect(ctx, folder); err == nil {
		defer conn.Close()
		if err := shim.Stop(ctx, folder, signal, grace); err == nil {
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				conn.Wait() // ends with the connection
			}()
			select {
			case <-gone:
			case <-time.After(grace + 2*time.Second): // it kills after the grace period
			case <-ctx.Done():
			}
		}
	}
	// What is left of it, or all if its shim was gone.
	var started *shim.Started
	boot, err := proc.BootID()
	if err != nil {
		return err
	}
	if s, err := shim.ReadStarted(folder); err == nil && s.ID == spec.ID && s.BootID == boot {
		started = &s
		if err := parent.Kill(ctx, s.ShimPID, s.ShimTicks); err != nil {
			return err
		}
	}
	return shim.Sweep(ctx, spec.ID, started)
}

// removeFolder removes the agent's folder, its programs last: whoever finds them
// can go on with what was interrupted.
func removeFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot remove the agent's folder: %w", err)
	}
	for _, e := range entries {
		if e.Name() != "bin" {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("cannot remove the agent's folder: %w", err)
			}
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "bin")); err != nil {
		return fmt.Errorf("cannot remove the agent's folder: %w", err)
	}
	// A folder that somebody else made for an ordinary user stays, empty.
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("cannot remove the agent's folder: %w", err)
	}
	return nil
}
