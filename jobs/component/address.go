package component

import (
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// defaultRoute is the well-known address that the original takes when no
// local_route is given. Nothing is sent to it.
const defaultRoute = "198.41.0.4"

// connectTimeout bounds every connection attempt, to the bus and to backends.
const connectTimeout = 5 * time.Second

// ownAddress finds the address on which others reach this component: route
// itself if it is an address of this machine, else the one that packets to route
// leave from. fixed says that it was the former, so connections shall leave from
// it as well.
func ownAddress(route string) (ip net.IP, fixed bool, err error) {
	if ip := net.ParseIP(route); ip != nil && !ip.IsUnspecified() {
		if conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip}); err == nil {
			conn.Close()
			return ip, true, nil
		}
	}
	if route == "" {
		route = defaultRoute
	}
	conn, err := net.Dial("udp", net.JoinHostPort(route, "1"))
	if err != nil {
		return nil, false, fmt.Errorf("cannot find the own address on the way to %s (set local_route to the address of this instance): %w", route, err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP, false, nil
}

// dialer connects from the component's own address where that is fixed.
func dialer(ip net.IP, fixed bool) *net.Dialer {
	d := &net.Dialer{Timeout: connectTimeout, KeepAlive: 15 * time.Second}
	if !fixed {
		return d
	}
	d.LocalAddr = &net.TCPAddr{IP: ip}
	d.Control = func(_, _ string, conn syscall.RawConn) error {
		// Let connect choose the port: a port chosen at bind could not be shared
		// between destinations, and busy routers would run out of them. Where the
		// kernel does not know the option, bind chooses, which is right as well.
		return conn.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		})
	}
	return d
}
