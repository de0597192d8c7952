// Package vminit is the first process of a local VM, the program "deploy
// local-init": it serves SSH and SFTP (sshserver.go, session.go), keeps boot
// services running (services.go), and reaps what they leave (children.go).
// Package provider starts it, and has the tests that do so.
package vminit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// vmInit is the first process of a VM.
type vmInit struct {
	*localvm.Daemon
	children *children
	signer   ssh.Signer
	// authorized is the key that is let in; SIGHUP changes it.
	authorized atomic.Pointer[ssh.PublicKey]
	config     localvm.Machine // as it was at the start, but for authorized
	env        []string
	read       map[string][]byte // its files as they were last read
	user       string            // whom it lets in: everything runs as the current user
}

// Main is the program of "deploy local-init --dir DIR" and returns its
// exit status. It serves until SIGTERM, which ends the whole VM; SIGHUP makes
// it reread its configuration and the boot services.
func Main(args []string) int {
	return localvm.Main(localvm.Init, args, func(d *localvm.Daemon) error {
		// Small and idle: many of these run side by side.
		debug.SetGCPercent(25)
		v := &vmInit{Daemon: d, children: newChildren(d.Log)}
		return v.run()
	})
}

func (v *vmInit) run() error {
	config, err := v.load()
	if err != nil {
		return err
	}
	me, err := user.Current()
	if err != nil {
		return fmt.Errorf("cannot tell the current user: %w", err)
	}
	v.user = me.Username
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become the subreaper: %w", err)
	}
	v.env = append(localvm.BaseEnv(),
		"HOME="+v.Dir,
		localvm.EnvVM+"="+v.ID,
		"DEPLOY_SERVICES="+filepath.Join(v.Dir, localvm.ServicesFolder),
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

	listener, err := net.Listen("tcp", v.config.SSHAddress())
	if err != nil {
		return fmt.Errorf("cannot listen for SSH: %w", err)
	}
	server := newSSHServer(v)
	server.connections.Serve(listener, v.Log, server.connection)
	defer server.connections.Close(listener)
	services := newServices(v)
	if err := services.reload(); err != nil {
		// The deployer puts the agent back over SSH; without an init nobody could.
		v.Log.Error("starting without a boot service", "error", err)
	}
	if err := v.Serving(v.config.SSHAddress(), config); err != nil {
		return err
	}
	v.Log.Info("serving", "id", v.ID, "ssh", v.config.SSHAddress(), "pid", os.Getpid())

	tick := time.NewTicker(localvm.FolderCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if !v.FolderGone() {
				v.Heal(append(v.kept(), services.kept()...))
				continue
			}
			v.Log.Warn("the VM's folder was removed; ending everything")
		case s := <-told:
			if s == syscall.SIGHUP {
				v.reload(services)
				continue
			}
			v.Log.Info("ending everything", "signal", s.String())
		}
		services.close()
		_ = listener.Close() // no new sessions, and so no new processes
		return v.endAll()
	}
}

// load reads the configuration, at the start and at SIGHUP, and returns its
// digest.
func (v *vmInit) load() (string, error) {
	var config localvm.Machine
	digest, err := localvm.ReadConfig(v.Dir, &config)
	if err != nil {
		return "", err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(config.AuthorizedKey))
	if err != nil {
		return "", fmt.Errorf("cannot read authorized_key in %s: %w", filepath.Join(v.Dir, localvm.ConfigFile), err)
	}
	if v.signer == nil {
		if v.signer, err = localvm.ReadHostKey(v.Dir); err != nil {
			return "", err
		}
		v.config, v.ID = config, config.ID
	}
	v.authorized.Store(&key)
	return digest, v.keep()
}

// keep remembers the files that it can put back.
func (v *vmInit) keep() error {
	read := map[string][]byte{}
	for _, name := range []string{localvm.ConfigFile, localvm.HostKeyFile} {
		data, err := os.ReadFile(filepath.Join(v.Dir, name))
		if name == localvm.HostKeyFile && v.read[name] != nil {
			data, err = v.read[name], nil // that of the start is in use
		}
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", name, err)
		}
		read[name] = data
	}
	v.read = read
	return nil
}

func (v *vmInit) kept() []localvm.Kept {
	return []localvm.Kept{
		{Name: localvm.HostKeyFile, Data: v.read[localvm.HostKeyFile]},
		{Name: localvm.ConfigFile, Data: v.read[localvm.ConfigFile], Possible: func(data []byte) bool {
			var config localvm.Machine
			return json.Unmarshal(data, &config) == nil && config.ID == v.ID
		}},
	}
}

func (v *vmInit) reload(services *services) {
	config, err := v.load()
	if err == nil {
		err = v.Serving(v.config.SSHAddress(), config)
	}
	if err := errors.Join(err, services.reload()); err != nil {
		v.Log.Error("cannot reload", "error", err)
	}
}

// endAll ends every process of the VM: what carries its id, and what descends
// from it and may have dropped its environment.
func (v *vmInit) endAll() error {
	return localvm.EndAll(context.Background(), localvm.ProcessGrace, func() ([]localvm.Process, error) {
		marked, err := localvm.ProcessesWith(func(id string) bool { return id == v.ID })
		if err != nil {
			return nil, err
		}
		below, err := localvm.Descendants(os.Getpid())
		if err != nil {
			return nil, err
		}
		seen := map[localvm.Process]bool{}
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
