package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bounds of a relay, for a program that wants to exhaust its warden.
const (
	maxOutgoing = 2048 // connections at once
	maxIncoming = 4096
	dialWait    = 15 * time.Second
)

// relay carries what a program and the machine's network say to each other.
type relay struct {
	n        *Namespace
	resolver *net.Resolver
	servers  []string // of DNS
	outgoing chan struct{}
	incoming chan struct{}
	work     sync.WaitGroup
}

// Run carries until ctx ends; then the namespace is of no use any more. The listeners
// for what comes in are opened when the program listens, so that nobody takes it for
// ready before.
func (n *Namespace) Run(ctx context.Context) { n.relay().run(ctx) }

func (n *Namespace) relay() *relay {
	return &relay{n: n, resolver: net.DefaultResolver, servers: nameServers(), outgoing: make(chan struct{}, maxOutgoing), incoming: make(chan struct{}, maxIncoming)}
}

func (r *relay) run(ctx context.Context) {
	n := r.n
	for _, l := range n.tcp {
		r.work.Go(func() { r.accept(ctx, l, r.outgoing, r.out) })
	}
	for _, c := range n.dns {
		r.work.Go(func() { r.answer(ctx, c) })
	}
	for _, port := range n.policy.Ports {
		r.work.Go(func() { r.serve(ctx, port) })
	}
	<-ctx.Done()
	r.work.Wait()
	close(n.work)
}

// accept hands connections on until ctx ends, as many at once as fit; more are reset.
func (r *relay) accept(ctx context.Context, l net.Listener, room chan struct{}, handle func(context.Context, *net.TCPConn)) {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for ctx.Err() == nil {
		conn, err := l.Accept()
		if err != nil { // no descriptors, say
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		tcp := conn.(*net.TCPConn)
		select {
		case room <- struct{}{}:
			r.work.Go(func() {
				defer func() { <-room }()
				handle(ctx, tcp)
			})
		default:
			refuse(tcp)
		}
	}
}

// refuse ends a connection with a reset.
func refuse(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	conn.Close()
}

// serve passes on what comes to a port, once the program listens there.
func (r *relay) serve(ctx context.Context, port int) {
	at := net.JoinHostPort(r.n.policy.Address, strconv.Itoa(port))
	for begun := time.Now(); ; {
		conn, err := r.n.dialInside(port)
		if err == nil {
			conn.Close()
			break
		}
		select {
		case <-ctx.Done():
			return
		// A push waits for this. The DEA, too, looks again and again, but less often.
		case <-time.After(min(100*time.Millisecond, max(5*time.Millisecond, time.Since(begun)/16))):
		}
	}
	for {
		l, err := net.Listen("tcp", at)
		if err == nil {
			r.accept(ctx, l, r.incoming, func(ctx context.Context, conn *net.TCPConn) {
				inside, err := r.n.dialInside(port)
				if err != nil {
					refuse(conn)
					return
				}
				carry(ctx, conn, inside)
			})
			return
		}
		fmt.Fprintf(os.Stderr, "cannot listen for the program: %v\n", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// out carries a connection that the program has dialled.
func (r *relay) out(ctx context.Context, conn *net.TCPConn) {
	to, err := original(conn)
	if err != nil {
		refuse(conn)
		return
	}
	outside, first, err := r.dial(ctx, conn, to)
	if err != nil {
		refuse(conn)
		return
	}
	if len(first) > 0 {
		if _, err := outside.Write(first); err != nil {
			refuse(outside)
			refuse(conn)
			return
		}
	}
	carry(ctx, conn, outside)
}

var errClosed = errors.New("the policy does not allow it")

// dial connects to where the program wants to, if it may. What had to be read from the
// program to know is returned.
func (r *relay) dial(ctx context.Context, conn *net.TCPConn, to netip.AddrPort) (_ *net.TCPConn, first []byte, err error) {
	if to.Port() == 53 {
		return r.dialNameServer(ctx)
	}
	candidates := []netip.AddrPort{to}
	if r.n.policy.ByName {
		var host string
		if host, first, err = requested(conn); err != nil {
			return nil, nil, err
		}
		if !r.n.policy.permits(host, to.Port()) {
			return nil, nil, errClosed
		}
		lookup, cancel := context.WithTimeout(ctx, dialWait)
		defer cancel()
		addresses, err := r.resolver.LookupNetIP(lookup, "ip", strings.TrimSuffix(host, ".")+".")
		if err != nil {
			return nil, nil, err
		}
		candidates = candidates[:0]
		for _, address := range addresses {
			candidates = append(candidates, netip.AddrPortFrom(address.Unmap(), to.Port()))
		}
	}
	err = errClosed
	for _, candidate := range candidates {
		if !r.n.policy.reaches(candidate) || r.isOwn(candidate) {
			continue
		}
		dialer := net.Dialer{Timeout: dialWait}
		var outside net.Conn
		if outside, err = dialer.DialContext(ctx, "tcp", candidate.String()); err == nil {
			return outside.(*net.TCPConn), first, nil
		}
	}
	return nil, nil, err
}

// isOwn reports whether an address is one of this machine's that the policy does not
// name: what is sent to one leaves from the same.
func (r *relay) isOwn(to netip.AddrPort) bool {
	for _, d := range r.n.open {
		if d.has(to) {
			return false
		}
	}
	// Nothing is sent: connecting a datagram socket only asks for the way.
	conn, err := net.Dial("udp", to.String())
	if err != nil {
		return false
	}
	defer conn.Close()
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	return err == nil && local.Addr().Unmap() == to.Addr().Unmap()
}

// carry copies in both directions until both are at their end, or ctx ends.
func carry(ctx context.Context, a, b *net.TCPConn) {
	defer a.Close()
	defer b.Close()
	defer context.AfterFunc(ctx, func() { a.Close(); b.Close() })()
	done := make(chan struct{})
	one := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			// One side has broken off: so does the other.
			_ = to.SetLinger(0)
			_ = from.SetLinger(0)
			to.Close()
			from.Close()
			return
		}
		_ = to.CloseWrite()
	}
	go func() {
		defer close(done)
		one(a, b)
	}()
	one(b, a)
	<-done
}

// original returns the address that a connection was dialled to before the rules
// turned it to the relay.
func original(conn *net.TCPConn) (netip.AddrPort, error) {
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return netip.AddrPort{}, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	level := unix.SOL_IP
	if local.Addr().Unmap().Is6() {
		level = unix.SOL_IPV6
	}
	const originalDestination = 80 // SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST
	var address unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(address))
	var failed unix.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, failed = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), originalDestination, uintptr(unsafe.Pointer(&address)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err == nil && failed != 0 {
		err = failed
	}
	if err != nil {
		return netip.AddrPort{}, err
	}
	var to netip.AddrPort
	if level == unix.SOL_IP {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&address))
		to = netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), swap(v4.Port))
	} else {
		to = netip.AddrPortFrom(netip.AddrFrom16(address.Addr).Unmap(), swap(address.Port))
	}
	if to == netip.AddrPortFrom(local.Addr().Unmap(), local.Port()) {
		return netip.AddrPort{}, errors.New("the relay itself was dialled")
	}
	return to, nil
}

// swap reads a port, which stands in network order.
func swap(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}
