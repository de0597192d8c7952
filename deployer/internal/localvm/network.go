package localvm

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NetworkBridge gives each VM a network namespace, with an address on a bridge of this
// machine; NetworkLoopback an address in 127.0.0.0/8 of the machine's own.
const (
	NetworkLoopback = "loopback"
	NetworkBridge   = "bridge"
)

// A bridge is named by its range, and a VM's link on this machine by its address:
// whoever makes the link has the address, on the whole machine. The link's alias is
// the VM's folder. The namespace has no name: it and the link end with the last
// process in it.
const (
	bridgePrefix = "deploy-"
	linkPrefix   = "vm-"
	linkOnVM     = "eth0"
)

// ownNetwork is the network namespace of the calling thread.
const ownNetwork = "/proc/thread-self/ns/net"

func linkName(prefix string, a netip.Addr) string { return fmt.Sprintf("%s%x", prefix, a.As4()) }

// hardware returns the MAC address that goes with an IP address, the same for each VM
// that has it one after the other: nobody asks again whose it is.
func hardware(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return append(net.HardwareAddr{0x02, 0xde}, b[:]...)
}

// whole returns what a list of the kernel's has, asked again while others change it:
// links end by themselves with their namespaces.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range 100 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// Gateway returns the address of this machine on the bridge of a range.
func Gateway(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr().Next() }

// CheckBridge reports why no VM can be on a bridge of this range, as far as that is
// known before one is made.
func CheckBridge(cidr netip.Prefix) error {
	if os.Geteuid() != 0 {
		return errors.New("cannot make a bridge for VMs: that takes root; run deploy as root, or leave network = \"bridge\" out")
	}
	links, err := whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("cannot list this machine's network links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	routes, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, unix.AF_INET) })
	if err != nil {
		return fmt.Errorf("cannot list this machine's routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		ones, _ := r.Dst.IP.DefaultMask().Size()
		if r.Dst.Mask != nil {
			ones, _ = r.Dst.Mask.Size()
		}
		a, _ := netip.AddrFromSlice(r.Dst.IP.To4())
		to := netip.PrefixFrom(a, ones)
		if ones > 0 && to.Overlaps(cidr) && (names[r.LinkIndex] != linkName(bridgePrefix, cidr.Masked().Addr()) || to != cidr.Masked()) {
			return fmt.Errorf("cannot use cidr %s for a bridge: this machine has a route to %s by %s; choose another cidr", cidr, to, names[r.LinkIndex])
		}
	}
	return nil
}

// AddressFree reports, by an error that is EADDRINUSE, whether a VM of another folder
// has an address on a bridge.
func AddressFree(dir string, a netip.Addr) error {
	l, err := netlink.LinkByName(linkName(linkPrefix, a))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	owner := l.Attrs().Alias
	if owner == dir {
		return nil
	}
	if _, err := os.Stat(owner); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("the VM in %s has %s: %w", owner, a, syscall.EADDRINUSE)
}

// inNetwork runs start on a thread that is in a new network namespace, with the
// address of the VM in dir on the bridge of at's range. What is started has it.
func inNetwork(dir string, at netip.Prefix, start func() error) error {
	ended := make(chan error)
	go func() {
		runtime.LockOSThread()
		outside, err := os.Open(ownNetwork)
		if err != nil {
			ended <- fmt.Errorf("cannot find this machine's network: %w", err)
			return
		}
		defer func() { _ = outside.Close() }()
		if err = enter(dir, at); err == nil {
			err = start()
		}
		back := unix.Setns(int(outside.Fd()), unix.CLONE_NEWNET)
		ended <- err
		if back != nil {
			// Nobody else may have this thread; it must not end either, since the kernel would
			// kill what was once started from it to end with its parent, such as the engine.
			select {}
		}
		runtime.UnlockOSThread()
	}()
	return <-ended
}

// locked runs f while nobody else changes the links of this network namespace.
func locked(f func(outside *os.File) error) error {
	outside, err := os.Open(ownNetwork)
	if err == nil {
		defer func() { _ = outside.Close() }()
		err = unix.Flock(int(outside.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return fmt.Errorf("cannot lock this machine's network: %w", err)
	}
	return f(outside)
}

// enter moves this thread into a new network namespace and connects that.
func enter(dir string, at netip.Prefix) error {
	return locked(func(outside *os.File) error {
		if err := CheckBridge(at); err != nil {
			return err
		}
		if err := AddressFree(dir, at.Addr()); err != nil {
			return err
		}
		if err := removeLinks(func(l *netlink.LinkAttrs) bool { return l.Name == linkName(linkPrefix, at.Addr()) }); err != nil {
			return err
		}
		bridge, err := ensureBridge(at)
		if err != nil {
			return err
		}
		here, err := netlink.NewHandle() // stays outside
		if err != nil {
			return err
		}
		defer here.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot make a network namespace: %w", err)
		}
		pair := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: linkOnVM, HardwareAddr: hardware(at.Addr())},
			PeerName:  linkName(linkPrefix, at.Addr()), PeerNamespace: netlink.NsFd(int(outside.Fd())),
		}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("cannot make the link %s: %w", pair.PeerName, err)
		}
		peer, err := here.LinkByName(pair.PeerName)
		if err == nil {
			err = errors.Join(here.LinkSetAlias(peer, dir), here.LinkSetMaster(peer, bridge), here.LinkSetUp(peer))
		}
		if err != nil {
			return fmt.Errorf("cannot connect the link %s with the bridge: %w", pair.PeerName, err)
		}
		if err := connect(at); err != nil {
			return fmt.Errorf("cannot give the VM its address %s: %w", at.Addr(), err)
		}
		return nil
	})
}

// connect brings up what is in the VM's namespace.
func connect(at netip.Prefix) error {
	for _, name := range []string{"lo", linkOnVM} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if name == linkOnVM {
			err = netlink.AddrAdd(l, address(at.Addr(), at.Bits()))
		}
		if err := errors.Join(err, netlink.LinkSetUp(l)); err != nil {
			return err
		}
	}
	return netlink.RouteAdd(&netlink.Route{Gw: Gateway(at).AsSlice()})
}

func address(a netip.Addr, bits int) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}}
}

// ensureBridge returns the bridge of a range, with this machine's address on it.
func ensureBridge(at netip.Prefix) (netlink.Link, error) {
	name := linkName(bridgePrefix, at.Masked().Addr())
	err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: hardware(Gateway(at))}})
	if err != nil && !errors.Is(err, syscall.EEXIST) {
		return nil, fmt.Errorf("cannot make the bridge %s: %w; it takes root with the right to change this machine's network", name, err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("cannot find the bridge %s: %w", name, err)
	}
	if err := netlink.AddrReplace(l, address(Gateway(at), at.Bits())); err != nil {
		return nil, fmt.Errorf("cannot give the bridge %s its address: %w", name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return nil, fmt.Errorf("cannot bring up the bridge %s: %w", name, err)
	}
	return l, nil
}

// removeLinks removes the links that match says.
func removeLinks(match func(*netlink.LinkAttrs) bool) error {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("cannot list this machine's network links: %w", err)
	}
	for _, l := range links {
		if !match(l.Attrs()) {
			continue
		}
		// One may end by itself meanwhile, with its namespace.
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, syscall.ENODEV) {
			return fmt.Errorf("cannot remove the link %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// Disconnect removes the link of the VM in dir, and bridges that have none any more.
func Disconnect(dir string) error {
	all, err := net.Interfaces()
	if err != nil || os.Geteuid() != 0 || !slices.ContainsFunc(all, func(i net.Interface) bool { return strings.HasPrefix(i.Name, bridgePrefix) }) {
		return nil // nothing was made
	}
	return locked(func(*os.File) error {
		if err := removeLinks(func(l *netlink.LinkAttrs) bool { return strings.HasPrefix(l.Name, linkPrefix) && l.Alias == dir }); err != nil {
			return err
		}
		links, err := whole(netlink.LinkList)
		if err != nil {
			return fmt.Errorf("cannot list this machine's network links: %w", err)
		}
		used := map[int]bool{}
		for _, l := range links {
			used[l.Attrs().MasterIndex] = true
		}
		return removeLinks(func(l *netlink.LinkAttrs) bool { return strings.HasPrefix(l.Name, bridgePrefix) && !used[l.Index] })
	})
}
