package doctor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/prometheus/procfs"
	"github.com/zclconf/go-cty/cty"
	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/agent/host/proc"
	"github.com/clusterworks/deploy/deployer/internal/session"
)

// localTemplate is the template whose VMs run on this machine.
const localTemplate = "local"

// What this machine should let one user have at least.
const (
	leastFiles     = 4096
	leastProcesses = 1024
	// processesUsed is the part of all process ids in use, in percent, from which
	// on there may not be enough.
	processesUsed = 80
)

// machine checks the kernel and the limits here: local VMs run under them.
func (x *Doctor) machine() {
	number := func(name string) (int64, bool) {
		data, err := os.ReadFile(name)
		if err != nil {
			return 0, false
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		return n, err == nil
	}
	cgroups := "no cgroups"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		cgroups = "cgroups v2"
	} else if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
		cgroups = "cgroups v1"
	}
	namespaces, known := number("/proc/sys/user/max_user_namespaces")
	allowed, restricted := number("/proc/sys/kernel/unprivileged_userns_clone") // Debian's kernels
	if known && namespaces > 0 && (!restricted || allowed != 0 || os.Getuid() == 0) {
		x.add(LevelOK, "kernel", "", "user namespaces, %s", cgroups)
	} else {
		x.add(LevelWarn, "kernel", "sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone",
			"no user namespaces for this user: local VMs are plain processes; %s", cgroups)
	}

	most, known := number("/proc/sys/kernel/pid_max")
	if all, err := procfs.AllProcs(); err == nil && known {
		if used := int64(len(all)); used*100 > most*processesUsed {
			x.add(LevelWarn, "processes", "sysctl kernel.pid_max", "%d of %d possible processes are there", used, most)
		}
	}
	short := false
	for _, l := range []struct {
		name, flag string
		resource   int
		least      uint64
	}{{"open files", "-n", unix.RLIMIT_NOFILE, leastFiles}, {"processes", "-u", unix.RLIMIT_NPROC, leastProcesses}} {
		var limit unix.Rlimit
		if err := unix.Getrlimit(l.resource, &limit); err == nil && limit.Max < l.least {
			short = true
			x.add(LevelWarn, "limits", fmt.Sprintf("raise the hard limit: ulimit -H %s, /etc/security/limits.conf", l.flag), "at most %d %s, %d are advisable", limit.Max, l.name, l.least)
		}
	}
	if !short {
		x.add(LevelOK, "limits", "", "open files and processes are not scarce")
	}
}

// disk checks the room below a folder of this machine.
func (x *Doctor) disk(check, dir string) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		x.add(LevelWarn, check, "", "cannot tell how much room is left below %s: %v", dir, err)
		return
	}
	x.free(check, "the disk below "+dir, int64(fs.Bavail)*fs.Bsize)
}

// ports checks that the addresses to publish are free, or served by the
// deployment itself.
func (x *Doctor) ports(s *session.Session) {
	publish, there := s.Manifest.Infrastructure.Settings["publish"]
	if s.Manifest.Infrastructure.Template != localTemplate || !there || !publish.CanIterateElements() {
		return
	}
	for it := publish.ElementIterator(); it.Next(); {
		key, _ := it.Element()
		if key.Type() != cty.String || key.IsNull() {
			continue
		}
		x.port(s, key.AsString())
	}
}

func (x *Doctor) port(s *session.Session, address string) {
	check := "address " + address
	l, err := net.Listen("tcp", address)
	if err == nil {
		if err := l.Close(); err != nil {
			x.Problem(check, err)
			return
		}
		if len(s.State.VMs) > 0 {
			x.add(LevelWarn, check, "deploy apply --refresh starts it", "nothing serves it although the deployment exists")
			return
		}
		x.add(LevelOK, check, "", "free")
		return
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		x.add(LevelFail, check, "choose another address in the infrastructure's publish", "cannot be listened on: %v", err)
		return
	}
	holder, known := proc.Holder("tcp", address)
	words, _ := holder.CmdLine() // for people, and empty if it has ended
	command := strings.Join(words, " ")
	switch {
	case known && strings.Contains(command, " local-publish ") && strings.Contains(command, s.Store.Dir):
		x.add(LevelOK, check, "", "served by this deployment")
	case known:
		x.add(LevelFail, check, "end it, or choose another address in the infrastructure's publish", "in use by process %d (%.80s)", holder.PID, command)
	default:
		x.add(LevelFail, check, "find out by whom (ss -tlnp), or choose another address in the infrastructure's publish", "in use")
	}
}
