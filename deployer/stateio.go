package deployer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/localvm"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// Encryption is how a state is encrypted: with a passphrase, or for recipients.
type Encryption = state.Encryption

// Revision is what an apply made of the deployment.
type Revision = state.Revision

// errNoState is for commands that need one.
var errNoState = errors.New("there is no state yet: apply first, or check --state")

// EncryptState encrypts the secrets at rest from now on; nil decrypts them.
func (d *Deployer) EncryptState(ctx context.Context, how *Encryption) error {
	if how != nil {
		if err := how.Check(); err != nil {
			return err
		}
	}
	r, err := d.open()
	if err != nil {
		return err
	}
	if r.state == nil {
		return errNoState
	}
	lock, _, err := d.hold(ctx, r.store)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if r.state, r.secrets, err = r.store.Load(); err != nil {
		return err
	}
	if had := r.secrets.Encryption; how != nil && how.Passphrase && had != nil && had.Passphrase {
		return errors.New("the state is encrypted with a passphrase already; to change it, deploy state decrypt first")
	}
	r.secrets.Encryption = how
	what := "encrypt state"
	if how == nil {
		what = "decrypt state"
	}
	err = r.begin(what)
	r.ended(err)
	return err
}

// ExportState writes state, secrets and the engine's state as one archive. It is
// encrypted as asked, or else as the state is.
func (d *Deployer) ExportState(ctx context.Context, w io.Writer, how *Encryption) error {
	if how != nil {
		if err := how.Check(); err != nil {
			return err
		}
	}
	r, err := d.open()
	if err != nil {
		return err
	}
	if r.state == nil {
		return errNoState
	}
	lock, _, err := d.hold(ctx, r.store) // files of one moment
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if _, r.secrets, err = r.store.Load(); err != nil {
		return err
	}
	if how == nil {
		how = r.secrets.Encryption
	}
	return r.store.Export(w, how)
}

// ImportState puts an export in place of the state. Unless forced, nothing is
// lost by it.
func (d *Deployer) ImportState(ctx context.Context, in io.Reader, force bool) (*StateSummary, error) {
	r, err := d.locate()
	if err != nil {
		return nil, err
	}
	lock, _, err := d.hold(ctx, r.store)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	st, err := r.store.Import(in, r.manifest.Deployment.Name, force)
	if err != nil {
		return nil, errors.Join(err, r.store.RemoveUnused())
	}
	return &StateSummary{Deployment: st.Deployment, DeploymentID: st.DeploymentID, Epoch: st.Epoch, Dir: r.store.Dir}, nil
}

// ForgetVMs gives up the VMs that the state has: the next apply makes others. What
// runs of them on this machine is ended, machines elsewhere stay. It is for an
// engine's state that is lost. It returns the VMs' instances.
func (d *Deployer) ForgetVMs(ctx context.Context, approve func(instances []string) (bool, error)) ([]string, error) {
	r, err := d.open()
	if err != nil {
		return nil, err
	}
	lock, _, err := d.hold(ctx, r.store)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	if r.state, r.secrets, err = r.store.Load(); err != nil { // what was read before the lock may be another's past
		return nil, err
	}
	if r.state == nil {
		return nil, errNoState
	}
	machines := machines(r.state)
	ids := slices.Sorted(maps.Keys(machines))
	if len(ids) == 0 {
		return ids, nil
	}
	if ok, err := approve(ids); err != nil {
		return nil, err
	} else if !ok {
		return nil, ErrNotApproved
	}
	err = r.begin("forget the VMs of " + strings.Join(ids, ", "))
	if err == nil {
		err = forgetVMs(ctx, r, machines)
	}
	r.ended(err)
	return ids, err
}

func forgetVMs(ctx context.Context, r *run, machines map[string]string) error {
	for _, id := range machines {
		if err := localvm.End(ctx, id); err != nil {
			return err
		}
	}
	old := filepath.Join(r.store.Terraform(), terraform.StateFile)
	for _, err := range []error{
		os.Rename(old, old+".forgotten-"+time.Now().UTC().Format("20060102T150405Z")),
		os.Remove(filepath.Join(r.store.Terraform(), "applied.json")),
	} {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot set the engine's state aside: %w", err)
		}
	}
	r.state.VMs, r.state.Leaving, r.state.Engine, r.state.Bus = nil, nil, state.EngineState{}, nil
	r.secrets.Agents = nil
	return r.save()
}

// StateSummary says which state it is.
type StateSummary struct {
	Deployment   string `json:"deployment"`
	DeploymentID string `json:"deployment_id"`
	Epoch        uint64 `json:"epoch"`
	Dir          string `json:"dir"`
}

// Revisions are the revisions that are kept, oldest first.
func (d *Deployer) Revisions() ([]Revision, error) {
	r, err := d.locate()
	if err != nil {
		return nil, err
	}
	st, err := r.store.LoadState()
	if err != nil {
		return nil, err
	}
	if st == nil {
		return nil, errNoState
	}
	return st.Revisions, nil
}

// refuse is an error if an agent is not this deploy's to change.
func (r *run) refuse(id string, inv *api.Inventory) error {
	if err := r.refuseForeign(id, inv); err != nil {
		return err
	}
	if inv.Agent.API > api.Version {
		return fmt.Errorf("cannot use the agent of %s: it is newer (version %s, program %.12s) and speaks version %d of the agents' API, this deploy up to version %d; "+
			"use the deploy that has put it there, or a newer one", id, inv.Agent.Version, inv.Agent.Digest, inv.Agent.API, api.Version)
	}
	return nil
}

// older tells whether an agent speaks an API of before this deploy's: then only
// what it says of itself is believed until it has been replaced.
func older(inv *api.Inventory) bool { return inv.Agent.API < api.Version }

// refuseForeign is an error if a machine obeys another deployment than this
// state's: two states would fight over it.
func (r *run) refuseForeign(id string, inv *api.Inventory) error {
	if inv.DeploymentID == "" || inv.DeploymentID == r.state.DeploymentID {
		return nil
	}
	return fmt.Errorf("cannot use the VM of %s at %s: its agent belongs to another deployment (id %s), whose state is not in %s; "+
		"use the folder that holds it (--state), bring it here (deploy state import), or make the machine anew "+
		"(on one of your own, run bin/agent uninstall there, in the agent's folder)",
		id, r.fleet.vm(id).Address, inv.DeploymentID, r.store.Dir)
}
