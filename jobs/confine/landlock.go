package confine

import (
	"fmt"
	"maps"
	"slices"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsyscall "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// landlockABI is the oldest version that Exec uses: the first that lets files be
// moved between folders (Linux 5.19).
const landlockABI = 2

// Landlock returns the version of Landlock that this kernel has; 0: none that is
// of use.
func Landlock() int {
	version, err := llsyscall.LandlockGetABIVersion()
	if err != nil || version < landlockABI {
		return 0
	}
	return version
}

// restrict holds the calling thread, and what it executes, to the files of spec:
// what is visible for reading, its own folder for everything. Processes outside
// cannot be traced or signalled, nor their abstract sockets reached; the only TCP
// ports to listen on are spec's and those that the kernel chooses. Where the kernel
// does not have that, nothing happens. The thread must be locked.
func restrict(spec Spec) error {
	version := Landlock()
	if version == 0 {
		return nil
	}
	config := landlock.V9
	config.HandledAccessNet = llsyscall.AccessNetBindTCP
	read := spec.Visible
	write := []string{spec.Dir}
	if spec.Namespaces {
		// Nothing else is there.
		read, write = []string{"/"}, []string{Home, "/tmp", "/dev/shm"}
	} else {
		read = append([]string{"/proc", "/sys/devices/system/cpu", "/etc/passwd", "/etc/group"}, read...)
		read = slices.AppendSeq(read, maps.Values(spec.Mounts))
	}
	var devicePaths []string
	for _, device := range devices {
		devicePaths = append(devicePaths, "/dev/"+device)
	}
	files := landlock.AccessFSSet(llsyscall.AccessFSExecute | llsyscall.AccessFSReadFile)
	folders := files | llsyscall.AccessFSReadDir
	rules := []landlock.Rule{
		landlock.RWDirs(write...).WithRefer(),
		landlock.RWFiles(devicePaths...).WithIoctlDev().IgnoreIfMissing(),
	}
	for _, path := range read {
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err != nil {
			continue // it is not on this machine, or not for us
		}
		rights := files
		if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
			rights = folders
		}
		rules = append(rules, landlock.PathAccess(rights, path).IgnoreIfMissing())
	}
	for _, port := range append([]int{0}, spec.Ports...) {
		rules = append(rules, landlock.BindTCP(uint16(port)))
	}
	ruleset, flags, err := config.BestEffort().NewRulesetFD(rules...)
	if err != nil {
		return fmt.Errorf("cannot hold it to its own files: %w", err)
	}
	if ruleset < 0 {
		return nil
	}
	defer unix.Close(ruleset)
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot refuse new privileges: %w", err)
	}
	// The library does it for all threads, of which this one alone goes on.
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), uintptr(flags), 0); errno != 0 {
		return fmt.Errorf("cannot hold it to its own files: %w", errno)
	}
	return nil
}
