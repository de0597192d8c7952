package localvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

const (
	// processGrace is what processes of a VM that ends have between TERM and KILL.
	processGrace = 3 * time.Second
	// folderCheck is how often an init looks whether its VM still exists.
	folderCheck = 2 * time.Second
)

// vmInit is the first process of a VM.
type vmInit struct {
	*daemon
	children *children
	signer   ssh.Signer
	// authorized is the key that is let in; SIGHUP changes it.
	authorized atomic.Pointer[ssh.PublicKey]
	config     machineConfig // as it was at the start, but for authorized
	env        []string
}

// InitMain is the program of "deploy local-init --dir DIR" and returns its
// exit status. It serves until SIGTERM, which ends the whole VM; SIGHUP makes
// it reread its configuration and the boot services.
func InitMain(args []string) int {
	return daemonMain(kindInit, args, func(d *daemon) error {
		// Small and idle: many of these run side by side.
		debug.SetGCPercent(25)
		v := &vmInit{daemon: d, children: newChildren(d.log)}
		return v.run()
	})
}

func (v *vmInit) run() error {
	config, err := v.load()
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become the subreaper: %w", err)
	}
	v.env = append(baseEnv(),
		"HOME="+v.dir,
		envVM+"="+v.id,
		"DEPLOY_SERVICES="+filepath.Join(v.dir, servicesFolder),
		"DEPLOY_INIT_PID="+strconv.Itoa(os.Getpid()),
	)

	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	told := make(chan os.Signal, 4)
	signal.Notify(told, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	ctx, cancel := context.WithCancel(context.Background())
	var owned sync.WaitGroup
	defer owned.Wait()
	defer cancel()
	owned.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-ended:
				v.children.reap()
			}
		}
	})

	listener, err := net.Listen("tcp", v.config.sshAddress())
	if err != nil {
		return fmt.Errorf("cannot listen for SSH: %w", err)
	}
	server := newSSHServer(v)
	owned.Go(func() { server.serve(listener) })
	defer server.close(listener)
	services := newServices(v)
	if err := services.reload(); err != nil {
		return err
	}
	if err := v.serving(v.config.sshAddress(), config); err != nil {
		return err
	}
	v.log.Info("serving", "id", v.id, "ssh", v.config.sshAddress(), "pid", os.Getpid())

	tick := time.NewTicker(folderCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if !v.folderGone() {
				continue
			}
			v.log.Warn("the VM's folder was removed: ending everything")
		case s := <-told:
			if s == syscall.SIGHUP {
				v.reload(services)
				continue
			}
			v.log.Info("ending everything", "signal", s.String())
		}
		services.close()
		_ = listener.Close() // no new sessions, and so no new processes
		return v.endAll()
	}
}

// load reads the configuration, at the start and at SIGHUP, and returns its
// digest.
func (v *vmInit) load() (string, error) {
	var config machineConfig
	digest, err := readConfig(v.dir, &config)
	if err != nil {
		return "", err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(config.AuthorizedKey))
	if err != nil {
		return "", fmt.Errorf("cannot read authorized_key in %s: %w", filepath.Join(v.dir, configFile), err)
	}
	if v.signer == nil {
		if v.signer, err = readHostKey(v.dir); err != nil {
			return "", err
		}
		v.config, v.id = config, config.ID
	}
	v.authorized.Store(&key)
	return digest, nil
}

func (v *vmInit) reload(services *services) {
	config, err := v.load()
	if err == nil {
		err = v.serving(v.config.sshAddress(), config)
	}
	if err := errors.Join(err, services.reload()); err != nil {
		v.log.Error("cannot reload", "error", err)
	}
}

// endAll ends every process of the VM: what carries its id, and what descends
// from it and may have dropped its environment.
func (v *vmInit) endAll() error {
	return end(context.Background(), processGrace, func() ([]process, error) {
		marked, err := processesWith(func(id string) bool { return id == v.id })
		if err != nil {
			return nil, err
		}
		below, err := descendants(os.Getpid())
		if err != nil {
			return nil, err
		}
		seen := map[process]bool{}
		for _, p := range marked {
			seen[p] = true
		}
		for _, p := range below {
			if !seen[p] {
				marked = append(marked, p)
			}
		}
		return marked, nil
	})
}
