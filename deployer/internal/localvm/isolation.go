package localvm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Levels of isolation of a VM, and what may be asked for.
const (
	IsolationNone       = "none"
	IsolationNamespaces = "namespaces"
	IsolationAuto       = "auto" // namespaces where the kernel lets us
)

// ErrNoNamespaces is the cause when an init cannot have namespaces of its own.
var ErrNoNamespaces = errors.New("this machine does not let us make namespaces (see user_namespaces(7)); use isolation = \"none\" or \"auto\"")

// envStage tells an init that it is in new namespaces and has to prepare them;
// envSelf then tells it who it is outside of them: "<pid> <start time>".
const (
	envStage = "DEPLOY_LOCAL_STAGE"
	envSelf  = "DEPLOY_LOCAL_SELF"
)

// isolate makes cmd the first process of a PID and a mount namespace, and for
// an ordinary user of a user namespace, which these need. The user stays the
// same in it, so that files belong to whom they seem to.
func isolate(cmd *exec.Cmd) {
	cmd.Env = append(cmd.Env, envStage+"=1")
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS
	if os.Geteuid() == 0 {
		return
	}
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // to mount /proc; dropped after that
}

// whoAmI finds out who this process is for those outside. In new namespaces it
// gives them their /proc and starts its program again, without the capability
// that this takes.
func (d *Daemon) whoAmI() error {
	d.level = IsolationNone
	if text := os.Getenv(envSelf); text != "" {
		_ = os.Unsetenv(envSelf)
		d.level = IsolationNamespaces
		_, err := fmt.Sscanf(text, "%d %d", &d.self.PID, &d.self.Start)
		return err
	}
	// Until another is mounted, /proc is that of the namespace outside.
	link, err := os.Readlink("/proc/self")
	if err != nil {
		return fmt.Errorf("cannot find the own process: %w", err)
	}
	pid, err := strconv.Atoi(link)
	if err != nil {
		return fmt.Errorf("cannot find the own process: %w", err)
	}
	self, found := FindProcess(pid)
	if !found {
		return errors.New("cannot find the own process in /proc")
	}
	d.self = self
	if os.Getenv(envStage) == "" {
		return nil
	}
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // capabilities are a thread's; the one that calls exec stays
	// What is mounted here shall not be seen outside, but what is mounted outside
	// later shall be seen here.
	err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	if err == nil {
		err = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	if err != nil {
		return fmt.Errorf("cannot mount /proc: %w: %w", ErrNoNamespaces, err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot drop capabilities: %w", err)
	}
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, envStage+"=") {
			env = append(env, e)
		}
	}
	env = append(env, fmt.Sprintf("%s=%d %d", envSelf, self.PID, self.Start))
	if d.reply != nil {
		env = append(env, envReady+"=1")
		// What follows is told by the program that starts again.
		if _, err := unix.FcntlInt(readyFD, unix.F_SETFD, 0); err != nil {
			return err
		}
	}
	return fmt.Errorf("cannot start the program again: %w", syscall.Exec(executable, os.Args, env))
}

// HostPIDs returns the pids on this machine of the processes of VMs that have a
// PID namespace of their own, by the VM's instance ("router/0") and the pid on the
// VM. VMs without a namespace are not in it; nil if none has one.
func HostPIDs(vms string) map[string]map[int]int {
	dirs, err := filepath.Glob(filepath.Join(vms, "*", ConfigFile))
	if err != nil {
		return nil
	}
	spaces := map[string]map[int]int{}
	var out map[string]map[int]int
	for _, path := range dirs {
		dir := filepath.Dir(path)
		var c Machine
		s, init, alive := Find(dir)
		if _, err := ReadConfig(dir, &c); err != nil || !alive || s.Isolation != IsolationNamespaces {
			continue
		}
		space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", init.PID))
		if err != nil {
			continue // it has just ended
		}
		if out == nil {
			out = map[string]map[int]int{}
		}
		spaces[space] = map[int]int{}
		out[fmt.Sprintf("%s/%d", c.Group, c.Index)] = spaces[space]
	}
	if out == nil {
		return nil
	}
	all, err := procfs.AllProcs()
	if err != nil {
		return out
	}
	for _, p := range all {
		// Both fail for processes that have just ended, and the link for other users'.
		space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", p.PID))
		if err != nil || spaces[space] == nil {
			continue
		}
		status, err := p.NewStatus()
		if err != nil || len(status.NSpids) == 0 {
			continue
		}
		spaces[space][int(status.NSpids[len(status.NSpids)-1])] = p.PID
	}
	return out
}
