package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/client"
	"github.com/clusterworks/deploy/agent/host/proc"
	"github.com/clusterworks/deploy/agent/host/sockets"
	"github.com/clusterworks/deploy/agent/internal/boot"
)

const (
	// bootPoll is the interval at which Install asks whether the agent answers.
	bootPoll = 20 * time.Millisecond
	// askLimit bounds the question to an agent for its inventory.
	askLimit = 2 * time.Second
	// rivalLimit is the time that an agent of another program may go on once it was to
	// be replaced; then it is one that nobody watches over any more.
	rivalLimit = 2 * time.Second
	// hungLimit is the time that an agent may accept connections and not answer; then it
	// hangs. What it supervises does not end with it. So long may an agent that ran
	// before the install also be without its socket, and one that fails be started
	// again and again.
	hungLimit = 6 * time.Second
)

// InstallTime is the time that an install has where machines are not slow.
const InstallTime = 3 * time.Minute

// patience is the time that an agent gets where an install waits for it: on a slow
// machine one that merely starts must not be taken for one that hangs.
type patience struct{ answer, rival, hung time.Duration }

// patienceOf returns the patience of an install that may take so long in all.
func patienceOf(all time.Duration) patience {
	more := max(0, all-InstallTime)
	return patience{answer: askLimit + more/24, rival: rivalLimit + more/24, hung: hungLimit + more/6}
}

// Install makes the executable start with the VM as the agent of dir, and
// returns when it answers on its socket. The environment says whether there is
// an init of deploy's own; environ is as os.Environ gives it. It may take the time
// all, which a slow machine has more of than InstallTime. The note, if any,
// is what remains to be done by the operator.
func Install(ctx context.Context, dir, executable string, environ []string, all time.Duration) (note string, err error) {
	ctx, cancel := context.WithTimeout(ctx, all)
	defer cancel()
	limits := patienceOf(all)
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
		inventory, err := ask(ctx, dir, limits.answer)
		return err == nil && inventory.Agent.Digest == digest
	}
	before, err := residents(dir)
	if err != nil {
		return "", err
	}
	if err := os.Remove(failureFile(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot install the agent: %w", err)
	}
	note, err = machine(dir, environ).Install(ctx, executable, answers)
	if err != nil {
		return "", fmt.Errorf("cannot install the agent: %w", err)
	}
	hung, err := waitAnswer(ctx, dir, digest, before, limits)
	if hung != 0 {
		note = strings.TrimSpace(fmt.Sprintf("the agent (process %d) did not answer for %s and was restarted; what it supervises kept running %s", hung, limits.hung, note))
	}
	return note, err
}

// machine returns where the agent of dir is to start.
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

// ask returns the inventory of the agent that runs in dir, or an error after limit.
func ask(ctx context.Context, dir string, limit time.Duration) (api.Inventory, error) {
	socket := filepath.Join(dir, "run", "agent.sock")
	c := client.Unix(func(ctx context.Context) (net.Conn, error) { return sockets.Dial(ctx, socket) })
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.Inventory(ctx)
}

// residents are the agents of a folder that run, by pid, with when they were
// started.
func residents(dir string) (map[int]uint64, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, fmt.Errorf("cannot look for the agent that runs: %w", err)
	}
	found := map[int]uint64{}
	for _, p := range all {
		args, err := p.CmdLine()
		if err != nil || len(args) != 4 || !slices.Equal(args[1:], []string{"run", "--dir", dir}) || !strings.HasPrefix(filepath.Base(args[0]), "agent") {
			continue
		}
		if start, err := proc.StartOf(p.PID); err == nil { // else it has ended
			found[p.PID] = start
		}
	}
	return found, nil
}

// failureFile returns where an agent that could not start says why.
func failureFile(dir string) string { return filepath.Join(dir, "agent.error") }

// NoteFailure keeps why the agent of dir could not start, for who installs it:
// nobody knows where its log goes.
func NoteFailure(dir string, failure error) error {
	return renameio.WriteFile(failureFile(dir), []byte(failure.Error()+"\n"), 0o600)
}

// lastWords returns what an agent said before it failed to start, "" if none did.
func lastWords(dir string) string {
	data, err := os.ReadFile(failureFile(dir))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data[:min(len(data), 4<<10)]))
}

// waitAnswer waits until the agent with this digest answers; the one before it
// may still do so for a moment. An agent that would not be started again, that
// hangs, or that ran before and has lost its socket is ended, so that another
// takes its place: hung is the process of one that did.
func waitAnswer(ctx context.Context, dir, digest string, before map[int]uint64, limits patience) (hung int, err error) {
	ticker := time.NewTicker(bootPoll)
	defer ticker.Stop()
	began := time.Now()
	var silent struct {
		pid   int
		since time.Time
	}
	for {
		asked := time.Now()
		pid := listener(ctx, dir)
		inventory, err := ask(ctx, dir, limits.answer)
		if err == nil && inventory.Agent.Digest == digest && !inventory.Agent.Unkept {
			return hung, nil
		}
		switch {
		case err == nil:
			err = fmt.Errorf("an agent with another digest answers (%.12s)", inventory.Agent.Digest)
			if inventory.Agent.Digest == digest {
				err = errors.New("the agent that answers was started by an init or keeper that has ended")
			}
			if time.Since(began) > limits.rival {
				// It holds the folder, and its processes outlive it.
				if killErr := syscall.Kill(inventory.Agent.PID, syscall.SIGTERM); killErr != nil {
					err = fmt.Errorf("%w and cannot be ended: %w", err, killErr)
				}
				began = time.Now()
			}
		case pid == 0 && time.Since(began) > limits.hung:
			if words := lastWords(dir); words != "" {
				return hung, fmt.Errorf("cannot start the agent in %s: %s", dir, words)
			}
			for old, start := range before {
				if proc.Runs(old, start) && syscall.Kill(old, syscall.SIGKILL) == nil {
					hung = old
				}
			}
			before, began = nil, time.Now()
		case pid == 0 || pid != silent.pid:
			silent.pid, silent.since = pid, asked
		case time.Since(silent.since) > limits.hung:
			if killErr := syscall.Kill(pid, syscall.SIGKILL); killErr != nil {
				err = fmt.Errorf("%w; process %d hangs and cannot be ended: %w", err, pid, killErr)
			} else {
				hung, silent.pid = pid, 0
			}
		}
		select {
		case <-ctx.Done():
			if words := lastWords(dir); words != "" {
				err = fmt.Errorf("%w; it says: %s", err, words)
			}
			return hung, fmt.Errorf("cannot reach the installed agent in %s: %w", dir, err)
		case <-ticker.C:
		}
	}
}

// listener is the process that listens on the agent's socket, 0 if none does.
func listener(ctx context.Context, dir string) int {
	conn, err := sockets.Dial(ctx, filepath.Join(dir, "run", "agent.sock"))
	if err != nil {
		return 0
	}
	defer conn.Close()
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	err = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	})
	if err != nil {
		return 0
	}
	return pid
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
