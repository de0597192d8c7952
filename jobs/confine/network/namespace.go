package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// relayPort is the port on which the relay listens in the namespace. Programs cannot take it: it
// is below 1024, for which they have no capability.
const relayPort = 1

// Namespace is a network namespace, and the one thread that is in it.
type Namespace struct {
	work   chan func()
	policy Policy
	open   []Destination
	tcp    []net.Listener
	dns    []net.PacketConn
}

// Enter makes a namespace for a policy.
func Enter(p Policy) (*Namespace, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	open, err := p.destinations()
	if err != nil {
		return nil, err
	}
	n := &Namespace{work: make(chan func()), policy: p, open: open}
	made := make(chan error, 1)
	// This goroutine, and its thread with it, is there for the namespace as long as the
	// process lives. What the program is forked from must not end before it.
	go func() {
		runtime.LockOSThread()
		err := n.make()
		made <- err
		if err != nil {
			return // the thread, which is locked, ends
		}
		for f := range n.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("cannot make a network of its own: %w", err)
	}
	return n, nil
}

// Do runs f on the thread that is in the namespace: sockets that it makes and
// processes that it starts are in it.
func (n *Namespace) Do(f func()) {
	done := make(chan struct{})
	n.work <- func() { defer close(done); f() }
	<-done
}

// make moves this thread into a new namespace and prepares that.
func (n *Namespace) make() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("its loopback interface: %w", err)
	}
	own := netip.MustParseAddr(n.policy.Address)
	if !own.IsLoopback() && !own.IsUnspecified() {
		address := &netlink.Addr{IPNet: &net.IPNet{IP: own.AsSlice(), Mask: net.CIDRMask(own.BitLen(), own.BitLen())}}
		if own.Is6() {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(lo, address); err != nil {
			return fmt.Errorf("its address %s: %w", own, err)
		}
	}
	// The kernel gives lo 127.0.0.1 only if it has no address yet; ::1 it always gives.
	loopback := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 0, 0, 1).To4(), Mask: net.CIDRMask(8, 32)}}
	if err := netlink.AddrAdd(lo, loopback); err != nil {
		return fmt.Errorf("its loopback address: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("its loopback interface: %w", err)
	}
	six := hasIPv6()
	// All that is dialled leaves by lo, where the rules turn it to the relay.
	routes := []*netlink.Route{{LinkIndex: lo.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Src: net.IPv4(127, 0, 0, 1)}}
	if six {
		routes = append(routes, &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}})
	}
	for _, route := range routes {
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("its route: %w", err)
		}
	}
	if err := n.rules(own); err != nil {
		return fmt.Errorf("its rules: %w", err)
	}
	hosts := []string{"127.0.0.1"}
	if six {
		hosts = append(hosts, "::1")
	}
	for _, host := range hosts {
		at := net.JoinHostPort(host, strconv.Itoa(relayPort))
		l, err := net.Listen("tcp", at)
		if err != nil {
			return fmt.Errorf("its relay: %w", err)
		}
		n.tcp = append(n.tcp, l)
		c, err := net.ListenPacket("udp", at)
		if err != nil {
			return fmt.Errorf("its relay: %w", err)
		}
		n.dns = append(n.dns, c)
	}
	return nil
}

// hasIPv6 reports whether the loopback interface has its IPv6 address.
func hasIPv6() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// connectWait bounds a connection to the program, which is on this machine.
const connectWait = 5 * time.Second

// dialInside connects to a port of the program.
func (n *Namespace) dialInside(port int) (*net.TCPConn, error) {
	own := netip.MustParseAddr(n.policy.Address)
	var fd int
	var err error
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: port, Addr: addr4(own)})
	if own.Is6() {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: own.As16()}
	}
	// A socket belongs to the network that it was made in.
	n.Do(func() { fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0) })
	if err != nil {
		return nil, fmt.Errorf("cannot make a socket: %w", err)
	}
	err = unix.Connect(fd, to)
	f := os.NewFile(uintptr(fd), "inside")
	defer f.Close() // FileConn has a duplicate
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, fmt.Errorf("cannot connect to the program: %w", err)
	}
	if errors.Is(err, unix.EINPROGRESS) {
		if err := awaitConnected(f); err != nil {
			return nil, fmt.Errorf("cannot connect to the program: %w", err)
		}
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the program: %w", err)
	}
	return conn.(*net.TCPConn), nil
}

func addr4(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}

// awaitConnected waits until a socket that connects has done so.
func awaitConnected(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if err := f.SetWriteDeadline(time.Now().Add(connectWait)); err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			failed = err
			return true
		}
		if code != 0 {
			failed = unix.Errno(code)
			return true
		}
		_, err = unix.Getpeername(int(fd))
		return err == nil // else it still connects
	})
	return errors.Join(err, failed)
}
