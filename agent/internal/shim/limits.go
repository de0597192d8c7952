package shim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/agent/api"
)

// limitsCommand is the shim's second part: "shim limits files=64,... PROGRAM
// ARGS...". Limits cannot be set between fork and exec, and those on memory must
// not hold for the shim itself, so a program in between sets them and then
// becomes the process.
const limitsCommand = "limits"

// limit is one rlimit with the value that is wanted.
type limit struct {
	name     string
	resource int
	value    uint64
}

func limitsOf(l api.Limits) []limit {
	all := []limit{
		{"files", unix.RLIMIT_NOFILE, l.OpenFiles},
		{"processes", unix.RLIMIT_NPROC, l.Processes},
		{"memory", unix.RLIMIT_AS, l.MemoryBytes}, // last: it may leave no room for more of ours
	}
	set := all[:0]
	for _, one := range all {
		if one.value != 0 {
			set = append(set, one)
		}
	}
	return set
}

// raise raises the shim's own hard limits where those of the process are
// higher: the process may have no right to.
func raise(limits api.Limits) error {
	for _, l := range limitsOf(limits) {
		var own unix.Rlimit
		if err := unix.Prlimit(0, l.resource, nil, &own); err != nil {
			return fmt.Errorf("its limit on %s: %w", l.name, err)
		}
		if own.Max >= l.value {
			continue
		}
		own.Max = l.value
		if err := unix.Prlimit(0, l.resource, &own, nil); err != nil {
			return fmt.Errorf("its limit on %s (%d) is above the VM's: %w", l.name, l.value, err)
		}
	}
	return nil
}

// limitedCommand is the command that sets the limits and becomes argv.
func limitedCommand(self []string, limits api.Limits, path string, argv []string) []string {
	var words []string
	for _, l := range limitsOf(limits) {
		words = append(words, l.name+"="+strconv.FormatUint(l.value, 10))
	}
	command := append(append([]string{}, self...), limitsCommand, strings.Join(words, ","), path)
	return append(command, argv...)
}

// limited is the program in between: args are limits, path, argv. It returns
// only when it fails; what it says is in the process's log then.
func limited(args []string) int {
	if len(args) < 3 {
		return 2
	}
	wanted, err := parseLimits(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	environ := os.Environ()
	for _, l := range limitsOf(wanted) {
		if err := syscall.Setrlimit(l.resource, &syscall.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			fmt.Fprintf(os.Stderr, "cannot limit %s to %d: %v\n", l.name, l.value, err)
			return 126
		}
	}
	err = syscall.Exec(args[1], args[2:], environ)
	fmt.Fprintf(os.Stderr, "cannot start %s: %v\n", args[1], err)
	return 127
}

func parseLimits(text string) (api.Limits, error) {
	var l api.Limits
	fields := map[string]*uint64{"files": &l.OpenFiles, "processes": &l.Processes, "memory": &l.MemoryBytes}
	for word := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(word, "=")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil || fields[name] == nil {
			return api.Limits{}, fmt.Errorf("cannot read the limit %q", word)
		}
		*fields[name] = n
	}
	return l, nil
}
