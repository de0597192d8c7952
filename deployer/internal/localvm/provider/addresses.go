package provider

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// loopback can be bound as a whole, by anyone, on Linux.
var loopback = netip.MustParsePrefix("127.0.0.0/8")

// checkCIDR reads the range that addresses are taken from.
func checkCIDR(network, text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf("cannot read cidr %q: want a range such as %q", text, DefaultCIDR)
	}
	if network == localvm.NetworkBridge {
		if !p.Addr().Is4() || !p.Masked().Addr().IsPrivate() || p.Bits() < 8 || p.Bits() > 29 {
			return p, fmt.Errorf("cannot use cidr %q for a bridge: want a private IPv4 range of 8 to 29 bits, such as \"10.40.0.0/16\"", text)
		}
		return p.Masked(), nil
	}
	if !p.Addr().Is4() || p.Bits() < loopback.Bits() || !loopback.Contains(p.Addr()) {
		return p, fmt.Errorf("cannot use cidr %q: only addresses within %s can be used without setting up interfaces", text, loopback)
	}
	return p.Masked(), nil
}

// checkStatic reads a static address.
func checkStatic(network string, cidr netip.Prefix, text string) (netip.Addr, error) {
	within := loopback
	if network == localvm.NetworkBridge {
		within = cidr
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !within.Contains(a) {
		return a, fmt.Errorf("cannot use static address %q: it must be within %s", text, within)
	}
	if network == localvm.NetworkBridge && (a == cidr.Addr() || a == localvm.Gateway(cidr)) {
		return a, fmt.Errorf("cannot use static address %q: this machine has the first addresses of the bridge's range", text)
	}
	return a, nil
}

// lowestFree returns the lowest address of the range that is not taken and for
// which try succeeds. An error of try other than EADDRINUSE ends the search.
// The first address of a range and the last are left out, as in a real network.
func lowestFree(ctx context.Context, cidr netip.Prefix, taken map[netip.Addr]bool, try func(netip.Addr) error) (netip.Addr, error) {
	var busy error
	for a := cidr.Addr().Next(); cidr.Contains(a) && cidr.Contains(a.Next()); a = a.Next() {
		if taken[a] {
			continue
		}
		if ctx.Err() != nil {
			return netip.Addr{}, context.Cause(ctx)
		}
		err := try(a)
		if err == nil {
			return a, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return netip.Addr{}, err
		}
		if busy == nil {
			busy = err
		}
	}
	if busy != nil {
		return netip.Addr{}, fmt.Errorf("cannot find a free address in %s: the first that no VM of this deployment has is taken by someone else (%w); choose another cidr or ssh_port", cidr, busy)
	}
	return netip.Addr{}, fmt.Errorf("cannot find a free address in %s: all are in use; choose a wider cidr", cidr)
}

// canListen tells whether a TCP address could be bound now.
func canListen(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return l.Close()
}
