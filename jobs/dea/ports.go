package dea

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/jobs/wire"
)

// portLocks returns where the DEAs of a machine lock ports. Apps cannot reach it: it is
// not among what they see, nor what Landlock lets them open. Root's DEAs have a
// folder that nobody else can enter; those of ordinary users share one.
func portLocks() string {
	if os.Geteuid() == 0 {
		return "/run/deploy-dea-ports"
	}
	return "/dev/shm/deploy-dea-ports"
}

// ports are those that a DEA gives to instances. An instance's port is nobody else's
// until the DEA has done with its end, and rests afterwards as long as a router that
// has not heard of that may keep its route: another app that listened there would get
// its requests.
type ports struct {
	locks  string // a folder
	within PortRange

	mu    sync.Mutex
	held  map[int]bool
	freed map[int]time.Time
}

// restFor is the time that a port rests: until routers drop a route, and look.
const restFor = wire.RouterStaleAfter + wire.RouterPruneInterval

func newPorts(locks string, within PortRange) *ports {
	return &ports{locks: locks, within: within, held: map[int]bool{}, freed: map[int]time.Time{}}
}

// use marks ports of instances that an earlier DEA has started; 0 is none.
func (p *ports) use(list ...int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, port := range list {
		if port != 0 {
			p.held[port] = true
		}
	}
}

// release gives a port back, which rests now; 0 is none.
func (p *ports) release(port int) {
	if port == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.held, port)
	p.freed[port] = time.Now()
}

// reserve finds a TCP port that nobody listens on, on any address, and reserves it:
// several DEAs may share a machine, and apps listen on all addresses. Whoever holds
// the lock, a file in the folder locks, has the port; it goes with its last holder.
// One that rests is taken only when there is no other.
func (p *ports) reserve() (port int, lock *os.File, err error) {
	if err := os.MkdirAll(p.locks, 0o700); err != nil {
		return 0, nil, fmt.Errorf("cannot reserve a port: %w", err)
	}
	if os.Geteuid() != 0 {
		_ = os.Chmod(p.locks, 0o1777) // fails for those who have not made it
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, port := range p.order(time.Now()) {
		lock, err := lockPort(p.locks, port)
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
		p.held[port] = true
		return port, lock, nil
	}
	return 0, nil, fmt.Errorf("cannot reserve a port: all of %d to %d are taken", p.within.First, p.within.Last)
}

// order returns the ports in the order in which they are to be tried: from a random
// one on, and then those that rest, the longest first.
func (p *ports) order(now time.Time) []int {
	n := p.within.Last - p.within.First + 1
	begin := rand.IntN(n)
	var free, resting []int
	for i := range n {
		port := p.within.First + (begin+i)%n
		freed, rests := p.freed[port]
		if rests && now.Sub(freed) > restFor {
			delete(p.freed, port)
			rests = false
		}
		switch {
		case p.held[port]:
		case rests:
			resting = append(resting, port)
		default:
			free = append(free, port)
		}
	}
	slices.SortStableFunc(resting, func(a, b int) int { return p.freed[a].Compare(p.freed[b]) })
	return append(free, resting...)
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
