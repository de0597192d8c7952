package dea

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// portLocks is where the DEAs of a machine lock ports. Apps cannot reach it: it is
// not among what they see, nor what Landlock lets them open. Root's DEAs have a
// folder that nobody else can enter; those of ordinary users share one.
func portLocks() string {
	if os.Geteuid() == 0 {
		return "/run/deploy-dea-ports"
	}
	return "/dev/shm/deploy-dea-ports"
}

// reservePort finds a TCP port that nobody listens on, on any address, and
// reserves it: several DEAs may share a machine, and apps listen on all
// addresses. Whoever holds the lock, a file in the folder locks, has the port; it
// goes with its last holder.
func reservePort(locks string, ports PortRange) (port int, lock *os.File, err error) {
	if err := os.MkdirAll(locks, 0o700); err != nil {
		return 0, nil, fmt.Errorf("cannot reserve a port: %w", err)
	}
	if os.Geteuid() != 0 {
		_ = os.Chmod(locks, 0o1777) // fails for those who have not made it
	}
	n := ports.Last - ports.First + 1
	begin := rand.IntN(n)
	for i := range n {
		port := ports.First + (begin+i)%n
		lock, err := lockPort(locks, port)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrPermission) {
			continue // another DEA's
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

// lockPort takes a port's lock; the error is EWOULDBLOCK if another has it.
func lockPort(locks string, port int) (*os.File, error) {
	name := filepath.Join(locks, strconv.Itoa(port))
	// Not to be made by O_CREATE if it is there: the kernel refuses that for files of
	// other users in a folder that all may write.
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
