package shim

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"github.com/clusterworks/deploy/agent/host/parent"
	"github.com/clusterworks/deploy/agent/host/proc"
)

// lostGrace is the time that a shim whose folder is gone has to end its process in
// order.
const lostGrace = 15 * time.Second

// EndLost ends the shims of an agent's folder whose own folder or socket is gone,
// or another shim's by now: nobody could ever reach them again, and what they run has the
// ports that its successor needs.
func EndLost(ctx context.Context, agentDir string, log *slog.Logger) error {
	all, err := procfs.AllProcs()
	if err != nil {
		return err
	}
	for _, p := range all {
		dir := shimDir(p, agentDir)
		if dir == "" {
			continue
		}
		started, err := ReadStarted(dir)
		_, socketErr := os.Stat(filepath.Join(dir, socketFile))
		if err == nil && started.ShimPID == p.PID && socketErr == nil {
			continue
		}
		if started.ID == "" && socketErr == nil {
			continue // its record is lost, and it answers
		}
		ticks, err := proc.StartOf(p.PID)
		if err != nil {
			continue // it has ended
		}
		log.Warn("the folder of a shim was removed; ending the shim", "dir", dir, "pid", p.PID)
		_ = syscall.Kill(p.PID, syscall.SIGTERM) // it may have ended
		if err := awaitEnd(ctx, p.PID, ticks); err != nil {
			return err
		}
	}
	return nil
}

// shimDir is the folder that a process was started with as a shim of an agent's
// folder, "" if it is none.
func shimDir(p procfs.Proc, agentDir string) string {
	args, err := p.CmdLine()
	if err != nil || len(args) < 3 || args[len(args)-2] != "--dir" {
		return ""
	}
	dir := args[len(args)-1]
	if !strings.HasPrefix(dir, filepath.Join(agentDir, "run")+"/") || !strings.HasSuffix(dir, ".shim") {
		return ""
	}
	if !slices.ContainsFunc(args[:len(args)-2], func(a string) bool { return strings.Contains(filepath.Base(a), "shim") }) {
		return ""
	}
	return dir
}

// awaitEnd waits for the end of a process, and kills it when it takes too long.
func awaitEnd(ctx context.Context, pid int, ticks uint64) error {
	deadline := time.After(lostGrace)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for proc.Runs(pid, ticks) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline:
			return parent.Kill(ctx, pid, ticks)
		case <-ticker.C:
		}
	}
	return nil
}
