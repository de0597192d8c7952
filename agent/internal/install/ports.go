package install

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/clusterworks/deploy/agent/api"
)

// checkPorts tests by binding that every port which the spec opens is free or
// held by a process of this instance, before anything is touched.
func (i *Installer) checkPorts(spec api.Spec) error {
	ours := make(map[int]bool)
	for _, s := range i.Supervisor.Statuses() {
		if s.PID > 0 {
			ours[s.PID] = true
			// Its shim adopts what a process leaves behind.
			if shim := parent(s.PID); shim > 1 {
				ours[shim] = true
			}
		}
	}
	// All stay bound until the end, so that two jobs that want the same port
	// are found too.
	var open []io.Closer
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	tested := make(map[string]string)
	for _, job := range spec.Jobs {
		for _, l := range job.Listens {
			key := l.Network + " " + l.Address
			who := fmt.Sprintf("job %s, listen %s", job.Name, l.Name)
			if other, ok := tested[key]; ok {
				return fmt.Errorf("cannot open %s for %s: %s wants it too", key, who, other)
			}
			tested[key] = who
			c, err := bind(l)
			if err == nil {
				open = append(open, c)
				continue
			}
			if !errors.Is(err, syscall.EADDRINUSE) {
				return fmt.Errorf("cannot open %s for %s: %w", key, who, err)
			}
			pid, name := holder(l)
			if pid == 0 && i.alreadyListens(l) || descends(pid, ours) {
				continue
			}
			by := "another process; end it or choose another port"
			if pid != 0 {
				by = fmt.Sprintf("process %d (%s); end it or choose another port", pid, name)
			}
			return fmt.Errorf("cannot open %s for %s: address in use by %s", key, who, by)
		}
	}
	return nil
}

func bind(l api.Listen) (io.Closer, error) {
	switch l.Network {
	case "tcp":
		return net.Listen("tcp", l.Address)
	case "udp":
		return net.ListenPacket("udp", l.Address)
	}
	return nil, fmt.Errorf("network %q is neither tcp nor udp", l.Network)
}

// alreadyListens tells whether the active generation opens the same address:
// then a holder that /proc hides from us is taken for our own.
func (i *Installer) alreadyListens(l api.Listen) bool {
	active, err := i.Spec("")
	if err != nil {
		return false
	}
	for _, job := range active.Jobs {
		for _, have := range job.Listens {
			if have.Network == l.Network && have.Address == l.Address {
				return true
			}
		}
	}
	return false
}

// descends tells whether pid is one of ours or a descendant of one.
func descends(pid int, ours map[int]bool) bool {
	for hops := 0; pid > 1 && hops < 64; hops++ {
		if ours[pid] {
			return true
		}
		pid = parent(pid)
	}
	return false
}

// parent is the parent of a process, 0 if that has ended.
func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything; state and parent follow it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	number, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return number
}

// holder finds the process that has the address open, pid 0 if /proc does not
// tell.
func holder(l api.Listen) (pid int, name string) {
	host, portText, err := net.SplitHostPort(l.Address)
	if err != nil {
		return 0, ""
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return 0, ""
	}
	inodes := make(map[string]bool)
	for _, table := range []string{l.Network, l.Network + "6"} {
		f, err := os.Open("/proc/net/" + table)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if inode, ok := socketInode(lines.Text(), l.Network, net.ParseIP(host), port); ok {
				inodes["socket:["+inode+"]"] = true
			}
		}
		f.Close()
	}
	if len(inodes) == 0 {
		return 0, ""
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && inodes[target] {
			pidText := strings.Split(fd, "/")[2]
			pid, _ = strconv.Atoi(pidText)
			comm, _ := os.ReadFile("/proc/" + pidText + "/comm")
			return pid, strings.TrimSpace(string(comm))
		}
	}
	return 0, ""
}

// socketInode reads a line of /proc/net/tcp, tcp6, udp or udp6 and gives the
// socket's inode if it is bound to this port and to this address or to all.
func socketInode(line, network string, host net.IP, port int) (string, bool) {
	fields := strings.Fields(line)
	if len(fields) < 10 {
		return "", false
	}
	if network == "tcp" && fields[3] != "0A" { // TCP_LISTEN
		return "", false
	}
	addressText, portText, ok := strings.Cut(fields[1], ":")
	if !ok {
		return "", false
	}
	have, err := strconv.ParseUint(portText, 16, 16)
	if err != nil || int(have) != port {
		return "", false
	}
	raw, err := hex.DecodeString(addressText)
	if err != nil || len(raw)%4 != 0 {
		return "", false
	}
	// The kernel prints each 32-bit word in host order, which is little-endian
	// on all machines we run on.
	for n := 0; n < len(raw); n += 4 {
		raw[n], raw[n+1], raw[n+2], raw[n+3] = raw[n+3], raw[n+2], raw[n+1], raw[n]
	}
	address := net.IP(raw)
	if !address.IsUnspecified() && host != nil && !host.IsUnspecified() && !address.Equal(host) {
		return "", false
	}
	return fields[9], true
}
