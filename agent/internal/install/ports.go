package install

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/host/proc"
)

// checkPorts tests by binding that every port which the spec opens is free or
// held by a process of this instance, before anything is touched.
func (i *Installer) checkPorts(spec api.Spec) error {
	ours := make(map[int]bool)
	for _, s := range i.Supervisor.Statuses() {
		if s.PID > 0 {
			ours[s.PID] = true
			// Its shim adopts what a process leaves behind.
			if shim := parentOf(s.PID); shim > 1 {
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
				return fmt.Errorf("cannot open %s for %s: %s opens it, too", key, who, other)
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
			holder, known := proc.Holder(l.Network, l.Address)
			if !known && i.alreadyListens(l) || descends(holder.PID, ours) {
				continue
			}
			by := "another process; end it or choose another port"
			if known {
				name, _ := holder.Comm() // for people
				by = fmt.Sprintf("process %d (%s); end it or choose another port", holder.PID, name)
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
		pid = parentOf(pid)
	}
	return false
}

// parentOf returns the parent of a process, 0 if that has ended.
func parentOf(pid int) int {
	s, _ := proc.Stat(pid)
	return s.PPID
}
