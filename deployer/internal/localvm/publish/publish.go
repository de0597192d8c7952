// Package publish forwards an address of this machine to local VMs. It is the
// program "deploy local-publish"; package provider starts it.
package publish

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// publisher forwards TCP connections to the first target that accepts,
// beginning with another one each time.
type publisher struct {
	*localvm.Daemon
	targets atomic.Pointer[[]string]
	turn    atomic.Uint64

	connections localvm.Connections
}

// Main is the program of "deploy local-publish --dir DIR" and returns its exit
// status. It serves until SIGTERM; SIGHUP makes it read its targets again without
// closing a connection.
func Main(args []string) int {
	return localvm.Main(localvm.Publish, args, func(d *localvm.Daemon) error {
		debug.SetGCPercent(25)
		return (&publisher{Daemon: d}).run()
	})
}

func (p *publisher) run() error {
	config, digest, err := p.load()
	if err != nil {
		return err
	}
	told := make(chan os.Signal, 4)
	signal.Notify(told, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	listener, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return fmt.Errorf("cannot publish: %w", err)
	}
	p.connections.Serve(listener, p.Log, p.forward)
	defer p.connections.Close(listener)
	if err := p.Serving(config.Listen, digest); err != nil {
		return err
	}
	p.Log.Info("serving", "listen", config.Listen, "targets", config.Targets, "pid", os.Getpid())

	tick := time.NewTicker(localvm.FolderCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if p.FolderGone() {
				p.Log.Warn("the publication's folder was removed")
				return nil
			}
		case s := <-told:
			if s != syscall.SIGHUP {
				return nil
			}
			changed, digest, err := p.load()
			if err == nil {
				err = p.Serving(config.Listen, digest)
			}
			if err != nil {
				p.Log.Error("cannot reload", "error", err)
				continue
			}
			p.Log.Info("reloaded", "targets", changed.Targets)
		}
	}
}

func (p *publisher) load() (localvm.Publication, string, error) {
	var config localvm.Publication
	digest, err := localvm.ReadConfig(p.Dir, &config)
	if err != nil {
		return config, "", err
	}
	p.ID = config.ID
	p.targets.Store(&config.Targets)
	return config, digest, nil
}

func (p *publisher) forward(conn net.Conn) {
	targets := *p.targets.Load()
	first := p.turn.Add(1)
	var errs []error
	for i := range targets {
		target := targets[(first+uint64(i))%uint64(len(targets))]
		to, err := net.DialTimeout("tcp", target, localvm.DialTimeout)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if p.connections.Keep(to) {
			localvm.Join(conn.(localvm.HalfCloser), to.(localvm.HalfCloser))
		}
		p.connections.Drop(to)
		return
	}
	p.Log.Warn("no target accepts", "error", errors.Join(errs...))
}
