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
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/agent/host/proc"
)

// Program is one of the two detached programs. The subcommand of deploy that runs
// it is "local-" + its name.
type Program string

const (
	Init    Program = "init"    // package vminit
	Publish Program = "publish" // package publish
)

// Files in a daemon's folder; its log is <program>.log.
const (
	ConfigFile = "config.json"
	StatusFile = "status.json"
	lockFile   = "lock"
)

const (
	// startTimeout is ample for a process on a busy machine.
	startTimeout = 60 * time.Second
	// ServiceGrace is the time between TERM and KILL for a boot service.
	ServiceGrace = 5 * time.Second
	// ProcessGrace is the time between TERM and KILL for the processes of a VM that ends.
	ProcessGrace = 3 * time.Second
	// stopTimeout is longer than an init takes to stop everything of its VM.
	stopTimeout   = ServiceGrace + ProcessGrace + killWait + 10*time.Second
	reloadTimeout = 20 * time.Second
	pollInterval  = 10 * time.Millisecond
)

// envReady tells a daemon that the file descriptor readyFD is a pipe on which
// its parent waits for a startReply.
const (
	envReady = "DEPLOY_LOCAL_READY"
	readyFD  = 3
)

// startReply describes what a daemon tells the process that started it.
type startReply struct {
	Error        string `json:"error,omitempty"`
	AddressInUse bool   `json:"address_in_use,omitempty"`
	NoNamespaces bool   `json:"no_namespaces,omitempty"`
}

// ErrAddressInUse is the cause when a daemon could not listen.
var ErrAddressInUse = errors.New("the address is in use")

// Status describes what a running daemon writes about itself into its folder.
type Status struct {
	ID        string `json:"id"` // its DEPLOY_VM
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // of PID, clock ticks since boot
	BootID    string `json:"boot_id"`
	Listen    string `json:"listen"`
	Config    string `json:"config"` // digest of the configuration in use
	// Isolation is the level at which it runs: IsolationNone or IsolationNamespaces.
	Isolation string `json:"isolation,omitempty"`
}

// ReadStatus returns the status in a daemon's folder, nil if none can be read.
func ReadStatus(dir string) *Status {
	data, err := os.ReadFile(filepath.Join(dir, StatusFile))
	if err != nil {
		return nil
	}
	var s Status
	if json.Unmarshal(data, &s) != nil {
		return nil
	}
	return &s
}

// Find returns the daemon that runs for a folder, and reports whether one does.
func Find(dir string) (*Status, Process, bool) {
	s := ReadStatus(dir)
	if s == nil || s.BootID != bootID() {
		return nil, Process{}, false
	}
	p := Process{PID: s.PID, Start: s.StartTime}
	return s, p, p.Alive() && runsFor(p.PID, dir)
}

// runsFor reports whether a process is a daemon of this folder, as its command line
// says: a status may have come from another folder. One that cannot be read is.
func runsFor(pid int, dir string) bool {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return true
	}
	words, err := p.CmdLine()
	at := slices.Index(words, "--dir")
	if err != nil || at < 0 || at+1 == len(words) {
		return true
	}
	dir, err = filepath.Abs(dir)
	return err != nil || filepath.Clean(words[at+1]) == dir
}

// Runs reports whether a daemon of this id runs for a folder, whatever its status
// file says.
func Runs(k Program, dir, id string) bool {
	found, err := ProcessesWith(func(v string) bool { return v == id })
	return err == nil && slices.ContainsFunc(found, func(p Process) bool {
		q, err := procfs.NewProc(p.PID)
		if err != nil {
			return false
		}
		words, err := q.CmdLine()
		return err == nil && slices.Contains(words, "local-"+string(k)) && runsFor(p.PID, dir)
	})
}

// Await waits until a daemon that runs has written its status, which it does again
// when it finds it damaged.
func Await(ctx context.Context, k Program, dir, id string) {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if _, _, alive := Find(dir); alive || !Runs(k, dir, id) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// bootID differs from boot to boot of this machine; "" if the kernel has none.
func bootID() string {
	id, _ := proc.BootID()
	return id
}

// Digest returns a digest of data that files and names carry.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// WriteConfig puts a daemon's configuration into its folder and returns its
// digest.
func WriteConfig(dir string, config any) (string, error) {
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return "", err
	}
	data = append(data, '\n')
	if err := renameio.WriteFile(filepath.Join(dir, ConfigFile), data, 0o600); err != nil {
		return "", fmt.Errorf("cannot write the configuration: %w", err)
	}
	return Digest(data), nil
}

// ErrBroken is the cause when a file of a VM's folder does not hold what was written.
var ErrBroken = errors.New("the file is broken")

// ReadConfig reads a daemon's configuration and returns its digest. The error
// wraps fs.ErrNotExist if there is none, ErrBroken if it cannot be parsed.
func ReadConfig(dir string, config any) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, ConfigFile))
	if err != nil {
		return "", fmt.Errorf("cannot read the configuration: %w", err)
	}
	if err := json.Unmarshal(data, config); err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrBroken, filepath.Join(dir, ConfigFile), err)
	}
	return Digest(data), nil
}

// Space is what a daemon has to itself.
type Space struct {
	Namespaces bool         // PID, mount and, for an ordinary user, user namespaces
	Network    netip.Prefix // a network namespace with this address on the bridge of its range; not valid: this machine's network
}

// Start starts a detached daemon for a folder, in a space of its own if asked,
// and returns when it serves. The error wraps ErrAddressInUse if it could not
// listen, ErrNoNamespaces if the kernel does not allow namespaces.
func Start(ctx context.Context, executable string, k Program, dir, id string, space Space) error {
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
	cmd.Env = append(BaseEnv(), EnvVM+"="+id, envReady+"=1")
	cmd.Stdout, cmd.Stderr = logTo, logTo
	cmd.ExtraFiles = []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	start := cmd.Start
	if space.Namespaces {
		isolate(cmd)
		start = func() error {
			if err := cmd.Start(); err != nil {
				return fmt.Errorf("%w: %w", ErrNoNamespaces, err)
			}
			return nil
		}
	}
	if space.Network.IsValid() {
		err = inNetwork(dir, space.Network, start)
	} else {
		err = start()
	}
	_ = write.Close()
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("cannot start the %s of %s: %w: %w", k, dir, ErrAddressInUse, err)
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
		return fmt.Errorf("cannot start the %s of %s: %s: %w", k, dir, reply.Error, ErrNoNamespaces)
	case reply.AddressInUse:
		return fmt.Errorf("cannot start the %s of %s: %s: %w", k, dir, reply.Error, ErrAddressInUse)
	case reply.Error != "":
		return fmt.Errorf("cannot start the %s of %s: %s", k, dir, reply.Error)
	}
	return nil
}

// BaseEnv returns the part of this process's environment that a daemon, and so
// everything on its VM, gets: the user, the language, PATH and the proxies, but
// none of the deployer's settings and credentials.
func BaseEnv() []string {
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

// Reload makes a running daemon read its configuration again and returns when it
// uses the one whose digest is wanted.
func Reload(ctx context.Context, k Program, dir, wanted string) error {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for told := false; ; {
		s, p, alive := Find(dir)
		switch {
		case !alive:
			return fmt.Errorf("cannot reload the %s of %s: it has ended; apply again to start it", k, dir)
		case s.Config == wanted:
			return nil
		case !told:
			p.Signal(syscall.SIGHUP)
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

// Stop ends the daemon of a folder and every process whose DEPLOY_VM satisfies
// match, and returns when none is left.
func Stop(ctx context.Context, dir string, match func(vmID string) bool) error {
	if _, p, alive := Find(dir); alive {
		p.Signal(syscall.SIGTERM) // it ends its VM in order
		if err := waitGone(ctx, []Process{p}, time.Now().Add(stopTimeout)); err != nil {
			return err
		}
	}
	return EndAll(ctx, ProcessGrace, func() ([]Process, error) { return ProcessesWith(match) })
}

// Daemon is a running program of a folder.
type Daemon struct {
	Dir string // absolute
	ID  string // the program sets it from its configuration
	Log *slog.Logger

	program Program
	self    Process // as the processes outside its namespaces know it
	level   string  // of isolation
	lock    *os.File
	folder  fs.FileInfo    // Dir, as it was at the start
	status  []byte         // as it was last written
	damaged map[string]int // how often in a row a file was found damaged
	reply   *os.File       // nil: started by hand
}

// Main is the frame of both programs: it reads the flags, takes the lock that
// allows one daemon a folder, replies to the process that started it, and returns
// the exit status.
func Main(k Program, args []string, run func(*Daemon) error) int {
	flags := flag.NewFlagSet("local-"+string(k), flag.ContinueOnError)
	dir := flags.String("dir", "", "folder with config.json")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	d := &Daemon{program: k, Dir: *dir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
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
		d.Log.Error("ended", "error", err)
		d.answer(startReply{Error: err.Error(), AddressInUse: errors.Is(err, syscall.EADDRINUSE), NoNamespaces: errors.Is(err, ErrNoNamespaces)})
		return 1
	}
	return 0
}

// A daemon waits up to lockWait for its folder's lock, and tries every lockAgain.
const (
	lockWait  = 5 * time.Second
	lockAgain = 20 * time.Millisecond
)

func (d *Daemon) take() error {
	if d.Dir == "" {
		return fmt.Errorf("cannot run local-%s: --dir is missing", d.program)
	}
	var err error
	if d.Dir, err = filepath.Abs(d.Dir); err != nil {
		return err
	}
	if d.folder, err = os.Stat(d.Dir); err != nil {
		return fmt.Errorf("cannot lock %s: %w", d.Dir, err)
	}
	if d.lock, err = os.OpenFile(filepath.Join(d.Dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return fmt.Errorf("cannot lock %s: %w", d.Dir, err)
	}
	// The lock goes with the process, however it ends; one that was killed may be
	// seen as gone a moment before it has let go of it.
	for deadline := time.Now().Add(lockWait); ; time.Sleep(lockAgain) {
		err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return fmt.Errorf("cannot lock %s: another %s runs for it: %w", d.Dir, d.program, err)
		}
	}
}

// Serving records that the daemon uses the configuration with this digest; the
// first time it also tells the process that started the daemon.
func (d *Daemon) Serving(listen, config string) error {
	data, err := json.Marshal(Status{
		ID: d.ID, PID: d.self.PID, StartTime: d.self.Start, BootID: bootID(), Listen: listen, Config: config, Isolation: d.level,
	})
	if err != nil {
		return err
	}
	d.status = append(data, '\n')
	if err := renameio.WriteFile(filepath.Join(d.Dir, StatusFile), d.status, 0o600); err != nil {
		return fmt.Errorf("cannot write the status: %w", err)
	}
	d.answer(startReply{})
	return nil
}

func (d *Daemon) answer(reply startReply) {
	if d.reply == nil {
		return
	}
	if err := json.NewEncoder(d.reply).Encode(reply); err != nil {
		d.Log.Warn("cannot report the start: nobody waits for it", "error", err)
	}
	_ = d.reply.Close()
	d.reply = nil
}

// FolderGone reports whether the daemon's folder was removed while it ran, or
// another one took its place. Then the daemon must end what it runs, because nobody
// else can find it.
func (d *Daemon) FolderGone() bool {
	now, err := os.Stat(d.Dir)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(d.folder, now)
}
