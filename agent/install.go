package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"deploy/agent/api"
	"deploy/agent/client"
	"deploy/agent/internal/boot"
)

const (
	// bootPoll is how often Install asks whether the agent answers.
	bootPoll = 20 * time.Millisecond
	// rivalLimit is how long an agent of another program may go on once it was to
	// be replaced; then it is one that nobody watches over any more.
	rivalLimit = 2 * time.Second
)

// Install makes the executable start with the VM as the agent of dir, and
// returns when it answers on its socket. The environment says whether there is
// an init of deploy's own; environ is as os.Environ gives it. The note, if any,
// is what remains to be done by the operator.
func Install(ctx context.Context, dir, executable string, environ []string) (note string, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	digest, err := FileDigest(executable)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the agent's folder: %w", err)
	}
	answers := func() bool {
		inventory, err := ask(ctx, dir)
		return err == nil && inventory.Agent.Digest == digest
	}
	note, err = machine(dir, environ).Install(ctx, executable, answers)
	if err != nil {
		return "", fmt.Errorf("cannot install the agent: %w", err)
	}
	return note, waitAnswer(ctx, dir, digest)
}

// machine is where the agent of dir is to start.
func machine(dir string, environ []string) boot.Machine {
	return boot.Here(dir, lookup(environ, "DEPLOY_SERVICES"), lookup(environ, "DEPLOY_INIT_PID"))
}

// Keep runs the executable as the agent of dir, and again whenever it ends, on
// a machine that has nothing else to do so. It returns when the context ends.
func Keep(ctx context.Context, dir, executable string, environ []string, log *slog.Logger) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	return machine(dir, environ).Keep(ctx, executable, log)
}

func lookup(environ []string, name string) string {
	for _, e := range environ {
		if k, v, _ := strings.Cut(e, "="); k == name {
			return v
		}
	}
	return ""
}

// ask asks whoever is the agent of dir now.
func ask(ctx context.Context, dir string) (api.Inventory, error) {
	socket := filepath.Join(dir, "run", "agent.sock")
	c := client.Unix(func(ctx context.Context) (net.Conn, error) { return client.DialSocket(ctx, socket) })
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return c.Inventory(ctx)
}

// waitAnswer waits until the agent with this digest answers; the one before it
// may still do so for a moment.
func waitAnswer(ctx context.Context, dir, digest string) error {
	ticker := time.NewTicker(bootPoll)
	defer ticker.Stop()
	began := time.Now()
	for {
		inventory, err := ask(ctx, dir)
		if err == nil && inventory.Agent.Digest == digest {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("an agent with another digest answers (%.12s)", inventory.Agent.Digest)
			if time.Since(began) > rivalLimit {
				// It holds the folder, and its processes outlive it.
				if killErr := syscall.Kill(inventory.Agent.PID, syscall.SIGTERM); killErr != nil {
					err = fmt.Errorf("%w and cannot be ended: %w", err, killErr)
				}
				began = time.Now()
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot reach the installed agent in %s: %w", dir, err)
		case <-ticker.C:
		}
	}
}

// FileDigest is the sha256 of a file, hex.
func FileDigest(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("cannot read the agent's program: %w", err)
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", fmt.Errorf("cannot read the agent's program: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
