package dea

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// reservePort finds a TCP port that nobody listens on, on any address, and
// reserves it: several DEAs may share a machine, and apps listen on all
// addresses. Whoever holds the lock has the port. It is a socket with a name in
// the network namespace, so it goes with its last holder, and it keeps nothing
// from the app.
func reservePort(ports PortRange) (port int, lock *os.File, err error) {
	n := ports.Last - ports.First + 1
	begin := rand.IntN(n)
	for i := range n {
		port := ports.First + (begin+i)%n
		lock, err := lockPort(port)
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			return 0, nil, fmt.Errorf("cannot reserve a port: %w", err)
		}
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			lock.Close()
			continue // some other program's
		}
		l.Close()
		return port, lock, nil
	}
	return 0, nil, fmt.Errorf("cannot reserve a port: all of %d to %d are taken", ports.First, ports.Last)
}

func lockPort(port int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("@vcap-dea-port-%d", port)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
