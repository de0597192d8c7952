package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Cgroups makes control groups for apps.
type Cgroups struct {
	version int // 1 or 2
	// memory, pids and cpu are the folders in which those of the apps are made; in
	// version 2 they are one.
	memory, pids, cpu string
}

// FindCgroups finds where this process may make control groups, and makes one
// called name there, in which those of the apps will be. An error says why there
// are none.
func FindCgroups(name string) (*Cgroups, error) {
	const mount = "/sys/fs/cgroup"
	if _, err := os.Stat(mount + "/cgroup.controllers"); err == nil {
		return findV2(mount, name)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("there are no control groups: %w", err)
	}
	c := &Cgroups{version: 1}
	for controller, dir := range map[string]*string{"memory": &c.memory, "pids": &c.pids, "cpu": &c.cpu} {
		folder := filepath.Join(mount, controller, v1Path(string(own), controller), name)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, fmt.Errorf("cannot make control groups: %w", err)
		}
		*dir = folder
	}
	return c, nil
}

// v1Path is the group of a controller in /proc/self/cgroup, whose lines are
// "<id>:<controllers>:<path>".
func v1Path(own, controller string) string {
	for line := range strings.Lines(own) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for name := range strings.SplitSeq(fields[1], ",") {
			if name == controller {
				return fields[2]
			}
		}
	}
	return "/"
}

// findV2 makes a group below the root: one in which processes are, as ours is,
// cannot have others below it with controllers.
func findV2(mount, name string) (*Cgroups, error) {
	group := filepath.Join(mount, name)
	if err := os.MkdirAll(group, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make control groups: %w", err)
	}
	for _, dir := range []string{mount, group} {
		if err := writeFile(dir, "cgroup.subtree_control", "+memory +pids +cpu"); err != nil {
			return nil, fmt.Errorf("cannot use control groups: %w", err)
		}
	}
	return &Cgroups{version: 2, memory: group, pids: group, cpu: group}, nil
}

// Close removes the groups that FindCgroups made, unless apps are in them.
func (c *Cgroups) Close() {
	for _, folder := range []string{c.memory, c.pids, c.cpu} {
		_ = syscall.Rmdir(folder) // fails while there is one
	}
}

// Version is 1 or 2.
func (c *Cgroups) Version() int { return c.version }

// Folders are an instance's groups.
func (c *Cgroups) Folders(id string) []string {
	if c.version == 2 {
		return []string{filepath.Join(c.memory, id)}
	}
	return []string{filepath.Join(c.memory, id), filepath.Join(c.pids, id), filepath.Join(c.cpu, id)}
}

// Make makes an instance's groups. What uses more memory than its limit is ended
// by the kernel; OutOfMemory tells of it.
func (c *Cgroups) Make(id string, l Limits) ([]string, error) {
	folders := c.Folders(id)
	for _, folder := range folders {
		if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("cannot make a control group: %w", err)
		}
	}
	memory := strconv.FormatInt(l.MemoryBytes, 10)
	// Who may use more memory gets more of the processors, when they are short.
	weight := max(2, l.MemoryBytes>>20)
	type setting struct{ folder, file, value string }
	var settings, optional []setting
	if c.version == 2 {
		f := folders[0]
		settings = []setting{{f, "memory.max", memory}, {f, "pids.max", strconv.Itoa(l.Processes)}, {f, "cpu.weight", strconv.FormatInt(min(10000, weight), 10)}}
		optional = []setting{{f, "memory.swap.max", "0"}} // without swap it is not there
	} else {
		settings = []setting{{folders[0], "memory.limit_in_bytes", memory}, {folders[1], "pids.max", strconv.Itoa(l.Processes)}, {folders[2], "cpu.shares", strconv.FormatInt(min(262144, weight), 10)}}
		optional = []setting{{folders[0], "memory.memsw.limit_in_bytes", memory}}
	}
	for _, s := range settings {
		if err := writeFile(s.folder, s.file, s.value); err != nil {
			return nil, errors.Join(fmt.Errorf("cannot limit a control group: %w", err), Remove(folders))
		}
	}
	for _, s := range optional {
		_ = writeFile(s.folder, s.file, s.value)
	}
	return folders, nil
}

// Memory returns the bytes that what is in these groups uses, each page counted
// once, but for what the kernel keeps of files and can give back. It reports false
// if the groups do not tell.
func Memory(folders []string) (bytes int64, ok bool) {
	for _, folder := range folders {
		for _, names := range [][2]string{{"memory.current", "inactive_file"}, {"memory.usage_in_bytes", "total_inactive_file"}} {
			text, err := os.ReadFile(filepath.Join(folder, names[0]))
			if err != nil {
				continue
			}
			used, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			if err != nil {
				continue
			}
			stat, err := os.ReadFile(filepath.Join(folder, "memory.stat"))
			if err != nil {
				return used, true
			}
			for line := range strings.Lines(string(stat)) {
				if value, found := strings.CutPrefix(line, names[1]+" "); found {
					if cached, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); err == nil {
						used = max(0, used-cached)
					}
				}
			}
			return used, true
		}
	}
	return 0, false
}

// OutOfMemory says whether the kernel has ended something in these groups for
// its use of memory.
func OutOfMemory(folders []string) bool {
	for _, folder := range folders {
		for _, file := range []string{"memory.events", "memory.oom_control"} {
			data, err := os.ReadFile(filepath.Join(folder, file))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(data)) {
				if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "oom_kill" && fields[1] != "0" {
					return true
				}
			}
		}
	}
	return false
}

// Remove removes groups that nothing is in any more.
func Remove(folders []string) error {
	var failed error
	for _, folder := range folders {
		err := syscall.Rmdir(folder)
		// The kernel may take a moment to let go of the last process.
		for i := 0; errors.Is(err, syscall.EBUSY) && i < 100; i++ {
			time.Sleep(10 * time.Millisecond)
			err = syscall.Rmdir(folder)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, fmt.Errorf("cannot remove the control group %s: %w", folder, err))
		}
	}
	return failed
}

// writeFile writes to a file of the kernel's, in one call.
func writeFile(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
