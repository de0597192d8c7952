package deployer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/bootstrap"
	"github.com/clusterworks/deploy/deployer/internal/ssh"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// uninstallLimit bounds removing the agent from one machine: its processes get
// their time to end.
const uninstallLimit = 3 * time.Minute

// sshTarget is how an instance's VM is reached.
func (r *run) sshTarget(vm state.VM) (ssh.Target, error) {
	t := ssh.Target{Host: vm.SSHHost, Port: vm.SSHPort, User: vm.SSHUser, HostKey: vm.HostKey}
	if vm.PrivateKeyFile == "" {
		t.PrivateKey = []byte(r.secrets.SSH.PrivateKey)
		return t, nil
	}
	for _, e := range r.config.Environ {
		if socket, ok := strings.CutPrefix(e, "SSH_AUTH_SOCK="); ok {
			t.Agent = socket
		}
	}
	if vm.PrivateKeyFile == terraform.SSHAgent {
		if t.Agent == "" {
			return t, fmt.Errorf("cannot log in to %s: its key is to come from an SSH agent, and SSH_AUTH_SOCK names none; start one (eval $(ssh-agent); ssh-add), or set private_key to a file in the manifest's infrastructure block", t)
		}
		return t, nil
	}
	path, err := r.keyPath(vm.PrivateKeyFile)
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

// keyPath finds a file that the manifest names: from the user's home with ~/,
// else from the manifest's folder.
func (r *run) keyPath(name string) (string, error) {
	if rest, ok := strings.CutPrefix(name, "~/"); ok {
		home, err := os.UserHomeDir()
		return filepath.Join(home, rest), err
	}
	if filepath.IsAbs(name) {
		return name, nil
	}
	return filepath.Join(r.manifestDir(), name), nil
}

// manifestDir is the manifest's folder.
func (r *run) manifestDir() string {
	if info, err := os.Stat(r.config.Manifest); err == nil && !info.IsDir() {
		return filepath.Dir(r.config.Manifest)
	}
	return r.config.Manifest
}

// leaveMachines removes the agent, and all that it runs, from those of the
// instances' machines that outlive them. One that cannot be reached is reported
// and, unless it must be, left as it is: it may be gone for good.
func (r *run) leaveMachines(ctx context.Context, ids []string, must bool) error {
	var kept []string
	for _, id := range ids {
		if r.fleet.vm(id).Keep {
			kept = append(kept, id)
		}
	}
	return r.parallel(ctx, len(kept), func(ctx context.Context, i int) error {
		id := kept[i]
		vm := r.fleet.vm(id)
		r.event(Event{Phase: PhaseVMs, Instance: id, Step: "uninstall"})
		e := Event{Phase: PhaseVMs, Instance: id, Step: "uninstall", Done: true}
		defer func() { r.event(e) }()
		conn, err := r.fleet.connect(ctx, id)
		if err != nil && (must || ctx.Err() != nil) {
			err = fmt.Errorf("cannot remove the agent from the machine of %s: %w", id, err)
			e.Done, e.Error = false, err.Error()
			return err
		}
		if err != nil {
			e.Message = fmt.Sprintf("its machine cannot be reached and is left as it is: %v; should it come back, run there: %s/bin/agent uninstall --dir %s", err, vm.AgentDir, vm.AgentDir)
			return nil
		}
		err = within(ctx, uninstallLimit, func(ctx context.Context) error {
			return bootstrap.Uninstall(ctx, conn, vm.AgentDir, r.state.DeploymentID)
		})
		if errors.Is(err, bootstrap.ErrForeign) { // it never became ours
			e.Message = "its machine is left as it is: " + err.Error()
			return nil
		}
		if err != nil {
			err = fmt.Errorf("cannot remove the agent from the machine of %s: %w", id, err)
			e.Done, e.Error = false, err.Error()
		}
		return err
	})
}

// leaveAll is leaveMachines for all there are.
func (r *run) leaveAll(ctx context.Context, must bool) error {
	err := r.leaveMachines(ctx, r.vmIDs(), must)
	if err != nil {
		return errors.Join(err, errors.New("the state is kept: destroy again when the cause is removed, or with --forget-unreachable if a machine is gone for good"))
	}
	return nil
}
