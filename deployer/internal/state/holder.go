package state

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Holder is the process id that holds the folder's lock, 0 if nobody does or
// the kernel does not tell. The lock file itself stays empty, so that holding
// it writes nothing.
func (s Store) Holder() int {
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(s.Dir, "lock"), &st); err != nil {
		return 0
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer f.Close()
	inode := fmt.Sprintf(":%d", st.Ino)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 1234 fd:00:5678 0 EOF
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], inode) {
			continue
		}
		pid, _ := strconv.Atoi(fields[4])
		return pid
	}
	return 0
}
