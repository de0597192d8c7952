package localvm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// publishConfig is config.json of a publication.
type publishConfig struct {
	ID      string   `json:"id"`
	Listen  string   `json:"listen"`
	Targets []string `json:"targets"`
}

// publisher forwards TCP connections to the first target that accepts,
// beginning with another one each time.
type publisher struct {
	*daemon
	targets atomic.Pointer[[]string]
	turn    atomic.Uint64

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
	owned  sync.WaitGroup
}

// PublishMain is the program of "deploy local-publish --dir DIR" and returns
// its exit status. It serves until SIGTERM; SIGHUP makes it reread its targets
// without dropping a connection.
func PublishMain(args []string) int {
	return daemonMain(kindPublish, args, func(d *daemon) error {
		debug.SetGCPercent(25)
		p := &publisher{daemon: d, open: map[net.Conn]bool{}}
		return p.run()
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
	p.owned.Go(func() { p.serve(listener) })
	defer p.close(listener)
	if err := p.serving(config.Listen, digest); err != nil {
		return err
	}
	p.log.Info("serving", "listen", config.Listen, "targets", config.Targets, "pid", os.Getpid())

	tick := time.NewTicker(folderCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if p.folderGone() {
				p.log.Warn("the publication's folder was removed")
				return nil
			}
		case s := <-told:
			if s != syscall.SIGHUP {
				return nil
			}
			changed, digest, err := p.load()
			if err == nil {
				err = p.serving(config.Listen, digest)
			}
			if err != nil {
				p.log.Error("cannot reload", "error", err)
				continue
			}
			p.log.Info("reloaded", "targets", changed.Targets)
		}
	}
}

func (p *publisher) load() (publishConfig, string, error) {
	var config publishConfig
	digest, err := readConfig(p.dir, &config)
	if err != nil {
		return config, "", err
	}
	p.id = config.ID
	p.targets.Store(&config.Targets)
	return config, digest, nil
}

func (p *publisher) serve(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			p.log.Error("cannot accept", "error", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if !p.keep(conn) {
			return
		}
		p.owned.Go(func() {
			defer p.drop(conn)
			p.forward(conn)
		})
	}
}

func (p *publisher) forward(conn net.Conn) {
	targets := *p.targets.Load()
	first := p.turn.Add(1)
	var errs []error
	for i := range targets {
		target := targets[(first+uint64(i))%uint64(len(targets))]
		to, err := net.DialTimeout("tcp", target, dialTimeout)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if p.keep(to) {
			join(conn.(halfCloser), to.(halfCloser))
		}
		p.drop(to)
		return
	}
	p.log.Warn("no target accepts", "error", errors.Join(errs...))
}

// keep remembers a connection, to close it at the end; false if that has come.
func (p *publisher) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = conn.Close()
		return false
	}
	p.open[conn] = true
	return true
}

func (p *publisher) drop(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, conn)
	_ = conn.Close()
}

func (p *publisher) close(listener net.Listener) {
	_ = listener.Close()
	p.mu.Lock()
	p.closed = true
	for conn := range p.open {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.owned.Wait()
}
