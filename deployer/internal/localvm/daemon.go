package localvm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/agent/host/proc"
)

// kind is one of the two detached programs. The subcommand of deploy that runs
// it is "local-" + kind.
type kind string

const (
	kindInit    kind = "init"
	kindPublish kind = "publish"
)

// Files in a daemon's folder; its log is <kind>.log.
const (
	configFile = "config.json"
	statusFile = "status.json"
	lockFile   = "lock"
)

const (
	// startTimeout is ample for a process on a busy machine.
	startTimeout = 60 * time.Second
	// stopTimeout is beyond what an init takes to stop everything of its VM.
	stopTimeout   = serviceGrace + processGrace + killWait + 10*time.Second
	reloadTimeout = 20 * time.Second
	pollInterval  = 10 * time.Millisecond
)

// envReady tells a daemon that the file descriptor readyFD is a pipe on which
// its parent waits for a startReply.
const (
	envReady = "DEPLOY_LOCAL_READY"
	readyFD  = 3
)

// startReply is what a daemon tells the process that started it.
type startReply struct {
	Error        string `json:"error,omitempty"`
	AddressInUse bool   `json:"address_in_use,omitempty"`
	NoNamespaces bool   `json:"no_namespaces,omitempty"`
}

// errAddressInUse is the cause when a daemon could not listen.
var errAddressInUse = errors.New("the address is in use")

// status is what a running daemon says of itself, in its folder.
type status struct {
	ID        string `json:"id"` // its DEPLOY_VM
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // of PID, clock ticks since boot
	BootID    string `json:"boot_id"`
	Listen    string `json:"listen"`
	Config    string `json:"config"` // digest of the configuration in use
	// Isolation is the level that it runs at: isolationNone or isolationNamespaces.
	Isolation string `json:"isolation,omitempty"`
}

// readStatus returns nil if there is none that can be read.
func readStatus(dir string) *status {
	data, err := os.ReadFile(filepath.Join(dir, statusFile))
	if err != nil {
		return nil
	}
	var s status
	if json.Unmarshal(data, &s) != nil {
		return nil
	}
	return &s
}

// daemonProcess is the daemon that runs for a folder, if one does.
func daemonProcess(dir string) (*status, process, bool) {
	s := readStatus(dir)
	if s == nil || s.BootID != bootID() {
		return nil, process{}, false
	}
	p := process{pid: s.PID, start: s.StartTime}
	return s, p, p.alive()
}

// bootID differs from boot to boot of this machine; "" if the kernel has none.
func bootID() string {
	id, _ := proc.BootID()
	return id
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// writeConfig puts a daemon's configuration into its folder and returns its
// digest.
func writeConfig(dir string, config any) (string, error) {
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return "", err
	}
	data = append(data, '\n')
	if err := renameio.WriteFile(filepath.Join(dir, configFile), data, 0o600); err != nil {
		return "", fmt.Errorf("cannot write the configuration: %w", err)
	}
	return digest(data), nil
}

// errBroken is the cause when a file of ours does not hold what we wrote.
var errBroken = errors.New("the file is broken")

// readConfig reads a daemon's configuration and returns its digest; see gone
// for its errors.
func readConfig(dir string, config any) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil {
		return "", fmt.Errorf("cannot read the configuration: %w", err)
	}
	if err := json.Unmarshal(data, config); err != nil {
		return "", fmt.Errorf("%w: %s: %w", errBroken, filepath.Join(dir, configFile), err)
	}
	return digest(data), nil
}

// startDaemon starts a detached daemon for a folder and returns when it
// serves. The error wraps errAddressInUse if it could not listen.
func startDaemon(ctx context.Context, executable string, k kind, dir, id string) error {
	return startDaemonIn(ctx, executable, k, dir, id, false)
}

// startDaemonIn is startDaemon, as the first process of namespaces of its own if
// asked; the error wraps errNoNamespaces if the kernel does not let us.
func startDaemonIn(ctx context.Context, executable string, k kind, dir, id string, namespaces bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	logPath := filepath.Join(dir, string(k)+".log")
	logTo, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("cannot start the %s of %s: %w", k, dir, err)
	}
	defer func() { _ = logTo.Close() }()
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot start the %s of %s: %w", k, dir, err)
	}
	defer func() { _ = read.Close() }()

	cmd := exec.Command(executable, "local-"+string(k), "--dir", dir)
	cmd.Dir = "/"
	cmd.Env = append(baseEnv(), envVM+"="+id, envReady+"=1")
	cmd.Stdout, cmd.Stderr = logTo, logTo
	cmd.ExtraFiles = []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if namespaces {
		isolate(cmd)
	}
	err = cmd.Start()
	_ = write.Close()
	if err != nil && namespaces {
		return fmt.Errorf("cannot start the %s of %s: %w: %w", k, dir, errNoNamespaces, err)
	}
	if err != nil {
		return fmt.Errorf("cannot start the %s of %s: %w", k, dir, err)
	}
	// The daemon outlives us by design. Should it end while we live, it shall not
	// stay as a zombie; the goroutine lasts as long as it.
	go func() { _ = cmd.Wait() }()

	stop := context.AfterFunc(ctx, func() { _ = read.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	answer, err := io.ReadAll(read)
	if ctx.Err() != nil {
		_ = cmd.Process.Kill()
		return fmt.Errorf("cannot start the %s of %s: it was not ready in time: %w", k, dir, context.Cause(ctx))
	}
	var reply startReply
	if err == nil {
		err = json.Unmarshal(answer, &reply)
	}
	switch {
	case err != nil:
		_ = cmd.Process.Kill()
		return fmt.Errorf("cannot start the %s of %s: it ended at once, its log %s ends with: %s", k, dir, logPath, lastLine(logPath))
	case reply.NoNamespaces:
		return fmt.Errorf("cannot start the %s of %s: %s: %w", k, dir, reply.Error, errNoNamespaces)
	case reply.AddressInUse:
		return fmt.Errorf("cannot start the %s of %s: %s: %w", k, dir, reply.Error, errAddressInUse)
	case reply.Error != "":
		return fmt.Errorf("cannot start the %s of %s: %s", k, dir, reply.Error)
	}
	return nil
}

// baseEnv is what a daemon, and through it everything on its VM, gets of our
// environment: where programs and people are and how the network is reached,
// nothing of the deployer's own settings and credentials.
func baseEnv() []string {
	var env []string
	for _, name := range []string{
		"USER", "LOGNAME", "SHELL", "LANG", "TZ",
		"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
	} {
		if value, set := os.LookupEnv(name); set {
			env = append(env, name+"="+value)
		}
	}
	// Daemons such as nginx live in sbin, which an ordinary user's PATH lacks.
	path := filepath.SplitList(os.Getenv("PATH"))
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		known := false
		for _, p := range path {
			known = known || p == dir
		}
		if !known {
			path = append(path, dir)
		}
	}
	return append(env, "PATH="+strings.Join(path, string(filepath.ListSeparator)))
}

func lastLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(lines[len(lines)-1])
}

// reloadDaemon makes a running daemon reread its configuration and returns
// when it uses the one with the digest wanted.
func reloadDaemon(ctx context.Context, k kind, dir, wanted string) error {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for told := false; ; {
		s, p, alive := daemonProcess(dir)
		switch {
		case !alive:
			return fmt.Errorf("cannot reload the %s of %s: it has ended; apply again to start it", k, dir)
		case s.Config == wanted:
			return nil
		case !told:
			p.signal(syscall.SIGHUP)
			told = true
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot reload the %s of %s: it does not take its new configuration, see %s: %w",
				k, dir, filepath.Join(dir, string(k)+".log"), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// endDaemon ends the daemon of a folder and every process whose DEPLOY_VM
// satisfies match, and makes sure that none is left.
func endDaemon(ctx context.Context, dir string, match func(vmID string) bool) error {
	if _, p, alive := daemonProcess(dir); alive {
		p.signal(syscall.SIGTERM) // it ends its VM in order
		if err := waitGone(ctx, []process{p}, time.Now().Add(stopTimeout)); err != nil {
			return err
		}
	}
	return end(ctx, processGrace, func() ([]process, error) { return processesWith(match) })
}

// daemon is the running side.
type daemon struct {
	kind  kind
	self  process // as the processes outside its namespaces know it
	level string  // of isolation
	dir   string
	id    string
	log   *slog.Logger
	lock  *os.File
	reply *os.File // nil: started by hand
}

// daemonMain is the frame of both programs: flags, the lock that makes it the
// only one of its folder, and the reply to whoever started it.
func daemonMain(k kind, args []string, run func(*daemon) error) int {
	flags := flag.NewFlagSet("local-"+string(k), flag.ContinueOnError)
	dir := flags.String("dir", "", "folder with config.json")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	d := &daemon{kind: k, dir: *dir, log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if os.Getenv(envReady) != "" {
		d.reply = os.NewFile(readyFD, "ready")
		unix.CloseOnExec(readyFD)
		_ = os.Unsetenv(envReady)
	}
	err := d.whoAmI()
	if err == nil {
		err = d.take()
	}
	if err == nil {
		err = run(d)
	}
	if err != nil {
		d.log.Error("ended", "error", err)
		d.answer(startReply{Error: err.Error(), AddressInUse: errors.Is(err, syscall.EADDRINUSE), NoNamespaces: errors.Is(err, errNoNamespaces)})
		return 1
	}
	return 0
}

// A daemon waits up to lockWait for its folder's lock, and tries every lockAgain.
const (
	lockWait  = 5 * time.Second
	lockAgain = 20 * time.Millisecond
)

func (d *daemon) take() error {
	if d.dir == "" {
		return fmt.Errorf("cannot run local-%s: --dir is missing", d.kind)
	}
	var err error
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return err
	}
	if d.lock, err = os.OpenFile(filepath.Join(d.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return fmt.Errorf("cannot lock %s: %w", d.dir, err)
	}
	// The lock goes with the process, however it ends; one that was killed may be
	// seen as gone a moment before it has let go of it.
	for deadline := time.Now().Add(lockWait); ; time.Sleep(lockAgain) {
		err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return fmt.Errorf("cannot lock %s: another %s runs for it: %w", d.dir, d.kind, err)
		}
	}
}

// serving records that the daemon uses a configuration; the first time it also
// tells whoever started it.
func (d *daemon) serving(listen, config string) error {
	data, err := json.Marshal(status{
		ID: d.id, PID: d.self.pid, StartTime: d.self.start, BootID: bootID(), Listen: listen, Config: config, Isolation: d.level,
	})
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(d.dir, statusFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot write the status: %w", err)
	}
	d.answer(startReply{})
	return nil
}

func (d *daemon) answer(reply startReply) {
	if d.reply == nil {
		return
	}
	if err := json.NewEncoder(d.reply).Encode(reply); err != nil {
		d.log.Warn("nobody waits for the start", "error", err)
	}
	_ = d.reply.Close()
	d.reply = nil
}

// folderGone tells whether the daemon's folder was removed under it: then its
// VM is gone, and nobody else could end what it runs.
func (d *daemon) folderGone() bool {
	mine, err := d.lock.Stat()
	if err != nil {
		return true
	}
	now, err := os.Stat(filepath.Join(d.dir, lockFile))
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, now)
}
