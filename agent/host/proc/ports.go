package proc

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/prometheus/procfs"
)

// States of a TCP socket (include/net/tcp_states.h of the kernel).
const (
	established = 1
	listening   = 10
)

// sockets returns the sockets of a network, "tcp" or "udp", of both IP versions.
func sockets(network string) (procfs.NetIPSocket, error) {
	return socketsBelow(procfs.DefaultMountPoint, network)
}

// socketsBelow returns those of the network namespace whose tables are below a folder:
// that of /proc is our own, that of /proc/PID the process's.
func socketsBelow(folder, network string) (procfs.NetIPSocket, error) {
	host, err := procfs.NewFS(folder)
	if err != nil {
		return nil, err
	}
	var all procfs.NetIPSocket
	add := func(lines procfs.NetIPSocket, e error) {
		all = append(all, lines...)
		if !errors.Is(e, fs.ErrNotExist) { // else there is no IPv6 here
			err = errors.Join(err, e)
		}
	}
	tcp := func(tcp procfs.NetTCP, e error) { add(procfs.NetIPSocket(tcp), e) }
	udp := func(udp procfs.NetUDP, e error) { add(procfs.NetIPSocket(udp), e) }
	switch network {
	case "tcp":
		//lint:ignore SA1019 the netlink socket that is recommended needs a library of its own for the same lines
		tcp(host.NetTCP())
		//lint:ignore SA1019 as above
		tcp(host.NetTCP6())
	case "udp":
		udp(host.NetUDP())
		udp(host.NetUDP6())
	default:
		return nil, fmt.Errorf("network %q is neither tcp nor udp", network)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the table of %s sockets: %w", network, err)
	}
	return all, nil
}

// Holder returns the process that has an address of a network ("tcp" or "udp")
// open, on this address or on all. It reports false if there is none, or if this
// user may not know.
func Holder(network, address string) (procfs.Proc, bool) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return procfs.Proc{}, false
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return procfs.Proc{}, false
	}
	ip, err := netip.ParseAddr(host)
	all := err != nil || ip.IsUnspecified()
	lines, err := sockets(network)
	if err != nil {
		return procfs.Proc{}, false
	}
	var open []string // as links in /proc/<pid>/fd name them
	for _, l := range lines {
		local, _ := netip.AddrFromSlice(l.LocalAddr)
		if l.LocalPort == port && (network != "tcp" || l.St == listening) && (all || local.IsUnspecified() || local.Unmap() == ip.Unmap()) {
			open = append(open, fmt.Sprintf("socket:[%d]", l.Inode))
		}
	}
	processes, err := procfs.AllProcs()
	if err != nil || len(open) == 0 {
		return procfs.Proc{}, false
	}
	for _, p := range processes {
		// An error: it has ended, or belongs to somebody else.
		targets, _ := p.FileDescriptorTargets()
		if slices.ContainsFunc(targets, func(t string) bool { return slices.Contains(open, t) }) {
			return p, true
		}
	}
	return procfs.Proc{}, false
}

// Listens reports whether anybody listens for TCP connections to a port of this machine,
// at any address.
func Listens(port int) bool {
	lines, err := sockets("tcp")
	for _, l := range lines {
		if l.LocalPort == uint64(port) && l.St == listening {
			return err == nil
		}
	}
	return false
}

// Connections returns the number of established TCP connections of each of this machine's
// own ports that has any.
func Connections() (map[int]int, error) {
	lines, err := sockets("tcp")
	if err != nil {
		return nil, err
	}
	n := map[int]int{}
	for _, l := range lines {
		if l.St == established {
			n[int(l.LocalPort)]++
		}
	}
	return n, nil
}

// Listeners returns the addresses on which processes listen for TCP connections,
// as far as this user may know, in the order of their ports.
func Listeners(pids []int) ([]netip.AddrPort, error) {
	networks := map[string]map[string]netip.AddrPort{} // by namespace, then by the names of links in /proc/<pid>/fd
	var found []netip.AddrPort
	for _, pid := range pids {
		folder := filepath.Join(procfs.DefaultMountPoint, strconv.Itoa(pid))
		namespace, err := os.Readlink(filepath.Join(folder, "ns", "net"))
		if err != nil {
			continue // it has ended, or is not ours to look at
		}
		open, known := networks[namespace]
		if !known {
			lines, err := socketsBelow(folder, "tcp")
			if err != nil {
				continue // as above
			}
			open = map[string]netip.AddrPort{}
			for _, l := range lines {
				if local, ok := netip.AddrFromSlice(l.LocalAddr); ok && l.St == listening && l.LocalPort <= 65535 {
					open[fmt.Sprintf("socket:[%d]", l.Inode)] = netip.AddrPortFrom(local.Unmap(), uint16(l.LocalPort))
				}
			}
			networks[namespace] = open
		}
		p, err := procfs.NewProc(pid)
		if err != nil {
			continue // as above
		}
		targets, _ := p.FileDescriptorTargets() // an error: as above
		for _, target := range targets {
			if address, ok := open[target]; ok && !slices.Contains(found, address) {
				found = append(found, address)
			}
		}
	}
	slices.SortFunc(found, func(a, b netip.AddrPort) int {
		return cmp.Or(cmp.Compare(a.Port(), b.Port()), a.Addr().Compare(b.Addr()))
	})
	return found, nil
}
