package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"deploy/agent/client"
)

// bootPoll is how often Install asks whether the agent answers.
const bootPoll = 20 * time.Millisecond

// service is the boot contract of an init of ours (ARCHITECTURE.md).
type service struct {
	Command []string          `json:"command"`
	Env     map[string]string `json:"env,omitempty"`
}

// Install makes the executable start with the VM as the agent of dir, and
// returns when it answers on its socket. The environment says which init there
// is; environ is as os.Environ gives it.
func Install(ctx context.Context, dir, executable string, environ []string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	digest, err := FileDigest(executable)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot make the agent's folder: %w", err)
	}
	services, pid := lookup(environ, "DEPLOY_SERVICES"), lookup(environ, "DEPLOY_INIT_PID")
	if services == "" || pid == "" {
		return errors.New("cannot install the agent: no boot service is known here; supported is an init of deploy's own, " +
			"which sets DEPLOY_SERVICES and DEPLOY_INIT_PID")
	}
	s := service{Command: []string{executable, "run", "--dir", dir}}
	if err := installService(services, pid, s); err != nil {
		return err
	}
	return waitAnswer(ctx, filepath.Join(dir, "run", "agent.sock"), digest)
}

func lookup(environ []string, name string) string {
	for _, e := range environ {
		if k, v, _ := strings.Cut(e, "="); k == name {
			return v
		}
	}
	return ""
}

func installService(folder, initPID string, s service) error {
	pid, err := strconv.Atoi(initPID)
	if err != nil || pid <= 0 {
		return fmt.Errorf("cannot install the agent: DEPLOY_INIT_PID is %q, not a process id", initPID)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	data = append(data, '\n')
	name := filepath.Join(folder, "agent.json")
	if have, err := os.ReadFile(name); err != nil || string(have) != string(data) {
		if err := renameio.WriteFile(name, data, 0o644); err != nil {
			return fmt.Errorf("cannot install the agent as a service: %w", err)
		}
	}
	// Also when nothing changed: an earlier install may have ended before this.
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		return fmt.Errorf("cannot tell the init (process %d) of the new service: %w", pid, err)
	}
	return nil
}

// waitAnswer waits until the agent with this digest answers; the one before it
// may still do so for a moment.
func waitAnswer(ctx context.Context, socket, digest string) error {
	c := client.Unix(func(ctx context.Context) (net.Conn, error) { return client.DialSocket(ctx, socket) })
	ticker := time.NewTicker(bootPoll)
	defer ticker.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		inventory, err := c.Inventory(attempt)
		cancel()
		if err == nil && inventory.Agent.Digest == digest {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("an agent with another digest answers (%.12s)", inventory.Agent.Digest)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot reach the installed agent on %s: %w", socket, err)
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
