package fleet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/ssh"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// sshConn is a connection, or the attempt to make one.
type sshConn struct {
	patience time.Duration // of the caller that dials
	made     chan struct{} // closed when what follows is set
	client   *ssh.Client   // read with the fleet's lock too
	err      error
	gaveUp   bool // it failed because its caller stopped waiting
}

// Connect returns the SSH connection to a VM. It is made at first use, and made
// anew when it was lost. A caller that finds it being made waits for that, and
// tries again itself if the other caller had less patience.
func (f *Fleet) Connect(ctx context.Context, id state.VMID) (*ssh.Client, error) {
	for {
		var lost *ssh.Client
		f.mu.Lock()
		c, patience := f.ssh[id], f.patience
		if c != nil && c.client != nil && c.client.Ended() {
			c, lost = nil, c.client
		}
		first := c == nil
		if first {
			c = &sshConn{patience: patience, made: make(chan struct{})}
			f.ssh[id] = c
		}
		f.mu.Unlock()
		if lost != nil {
			_ = lost.Close() // it has ended
		}
		if first {
			f.makeConn(ctx, id, c)
			return c.client, c.err
		}
		select {
		case <-c.made:
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot wait for the connection to the VM of %s: %w", id, context.Cause(ctx))
		}
		if c.err == nil || ctx.Err() != nil || !c.gaveUp && c.patience >= patience {
			return c.client, c.err
		}
	}
}

func (f *Fleet) makeConn(ctx context.Context, id state.VMID, c *sshConn) {
	dialled, err := f.dial(ctx, id, c.patience)
	f.mu.Lock()
	defer f.mu.Unlock()
	defer close(c.made)
	c.client, c.err, c.gaveUp = dialled, err, ctx.Err() != nil
	switch {
	case f.ssh[id] != c && err == nil:
		// The run has ended, or the machine is gone: a dial continues for a while after
		// its caller has given up.
		_ = dialled.Close()
		c.client, c.err = nil, fmt.Errorf("cannot use the connection to %s: it came too late", dialled)
	case f.ssh[id] == c && err != nil:
		delete(f.ssh, id) // the next use tries again
	}
}

func (f *Fleet) dial(ctx context.Context, id state.VMID, patience time.Duration) (*ssh.Client, error) {
	vm := f.s.VM(id)
	target, err := f.target(vm)
	if err != nil {
		return nil, err
	}
	switch {
	case vm.Keep:
		patience = min(patience, keptPatience)
	case patience == bootPatience && vm.BootSeconds > 0:
		patience = bootTime(vm)
	default:
		patience = max(patience, bootTime(vm)/slowAsk)
	}
	// An emulated machine that is busy takes half a minute to log somebody in, and is
	// silent for a quarter of one.
	o := ssh.Options{Patience: patience, Attempt: max(usualLogin, 2*bootTime(vm)/slowAsk), KeepAlive: max(usualKeepAlive, bootTime(vm)/slowAsk/2)}
	o.OnDial = func() { f.s.Counters.SSH.Add(1) }
	return ssh.Dial(ctx, target, o)
}

// bootTime returns the time that a VM may take to boot, 0 if its template does not
// say.
func bootTime(vm state.VM) time.Duration { return time.Duration(vm.BootSeconds) * time.Second }

// connected reports whether there is an SSH connection to an instance's VM.
func (f *Fleet) connected(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.ssh[state.Own(id)]
	return c != nil && c.client != nil
}

// target returns how to log in to a VM.
func (f *Fleet) target(vm state.VM) (ssh.Target, error) {
	t := ssh.Target{Host: vm.SSHHost, Port: vm.SSHPort, User: vm.SSHUser, HostKey: vm.HostKey}
	if vm.PrivateKeyFile == "" {
		t.PrivateKey = []byte(f.s.Secrets.SSH.PrivateKey)
		return t, nil
	}
	for _, e := range f.options.Environ {
		if socket, ok := strings.CutPrefix(e, "SSH_AUTH_SOCK="); ok {
			t.Agent = socket
		}
	}
	if vm.PrivateKeyFile == state.SSHAgent {
		if t.Agent == "" {
			return t, fmt.Errorf("cannot log in to %s: its key is to come from an SSH agent, and SSH_AUTH_SOCK names none; start one (eval $(ssh-agent); ssh-add), or set private_key to a file in the manifest's infrastructure block", t)
		}
		return t, nil
	}
	path, err := KeyFile(f.options.Dir, vm.PrivateKeyFile)
	if err == nil {
		t.PrivateKey, err = os.ReadFile(path)
	}
	if err == nil && len(t.PrivateKey) == 0 {
		err = fmt.Errorf("%s is empty", path)
	}
	if err != nil {
		return t, fmt.Errorf("cannot log in to %s: cannot read its private key: %w", t, err)
	}
	return t, nil
}

// KeyFile returns the path of a private key that the manifest names: from the
// user's home with ~/, else from dir.
func KeyFile(dir, name string) (string, error) {
	if rest, ok := strings.CutPrefix(name, "~/"); ok {
		home, err := os.UserHomeDir()
		return filepath.Join(home, rest), err
	}
	if filepath.IsAbs(name) {
		return name, nil
	}
	return filepath.Join(dir, name), nil
}
