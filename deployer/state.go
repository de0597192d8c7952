package deployer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Encryption says how a state is encrypted: with a passphrase, or for recipients.
type Encryption = state.Encryption

// Revision records what an apply made of the deployment.
type Revision = state.Revision

// StateFolder describes what a deployer does to the folder that its state is in.
type StateFolder struct{ d *Deployer }

// StateFolder returns the deployment's.
func (d *Deployer) StateFolder() StateFolder { return StateFolder{d} }

// Encrypt encrypts the secrets at rest from now on; nil decrypts them.
func (f StateFolder) Encrypt(ctx context.Context, how *Encryption) error {
	d := f.d
	what := "decrypt state"
	if how != nil {
		if err := how.Check(); err != nil {
			return err
		}
		what = "encrypt state"
	}
	return d.changeState(ctx, func(s *session.Session) error {
		if s.Fresh {
			return session.ErrNoState
		}
		if had := s.Secrets.Encryption; how != nil && how.Passphrase && had != nil && had.Passphrase {
			return errors.New("the state is encrypted with a passphrase already; to change it, deploy state decrypt first")
		}
		s.Secrets.Encryption = how
		if err := s.Begin(what, 0); err != nil {
			return err
		}
		return state.DropCopies(s.Store) // their secrets are as secrets.json was
	})
}

// ErrReadable is returned for an export that holds secrets in plain and would be
// written where others can read it.
var ErrReadable = errors.New("others can read the file, and the export holds every secret in plain")

// Export writes state, secrets and the engine's state as one archive. It is
// encrypted as asked, or else as the state is. With readable, others can read what w
// writes, so an export that is not encrypted is refused.
func (f StateFolder) Export(ctx context.Context, w io.Writer, how *Encryption, readable bool) error {
	d := f.d
	if how != nil {
		if err := how.Check(); err != nil {
			return err
		}
	}
	return d.changeState(ctx, func(s *session.Session) error { // the lock keeps the files those of one moment
		if s.Fresh {
			return session.ErrNoState
		}
		if how == nil {
			how = s.Secrets.Encryption
		}
		if how == nil && readable {
			return fmt.Errorf("cannot export: %w; name a file with --out, set umask 077 before, or encrypt it (--passphrase, --recipient)", ErrReadable)
		}
		return s.Store.Export(w, how)
	})
}

// Import puts an export in place of the state, which may be damaged. Unless
// forced, nothing is lost by it.
func (f StateFolder) Import(ctx context.Context, in io.Reader, force bool) (*StateSummary, error) {
	d := f.d
	m, store, err := d.source.Locate()
	if err != nil {
		return nil, err
	}
	lock, _, err := session.Hold(ctx, d.config.options(&d.counters), store)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	st, err := store.Import(in, m.Deployment.Name, force)
	if err != nil {
		return nil, errors.Join(err, store.RemoveUnused())
	}
	return &StateSummary{Deployment: st.Deployment, DeploymentID: st.DeploymentID, Epoch: st.Epoch, Dir: store.Dir}, nil
}

// ForgetVMs gives up the VMs that the state has: the next apply makes others. What
// runs of them on this machine is ended, machines elsewhere stay. It is for an
// engine's state that is lost. It returns the VMs' instances.
func (f StateFolder) ForgetVMs(ctx context.Context, approve func(instances []string) (bool, error)) ([]string, error) {
	d := f.d
	var ids []string
	err := d.changeState(ctx, func(s *session.Session) error {
		if s.Fresh {
			return session.ErrNoState
		}
		machines := infra.Machines(s.State)
		if ids = slices.Sorted(maps.Keys(machines)); len(ids) == 0 {
			return nil
		}
		if ok, err := approve(ids); err != nil {
			return err
		} else if !ok {
			return ErrNotApproved
		}
		if err := s.Begin("forget the VMs of "+strings.Join(ids, ", "), 0); err != nil {
			return err
		}
		return infra.Forget(ctx, s, machines)
	})
	return ids, err
}

// StateSummary identifies a state.
type StateSummary struct {
	Deployment   string `json:"deployment"`
	DeploymentID string `json:"deployment_id"`
	Epoch        uint64 `json:"epoch"`
	Dir          string `json:"dir"`
}

// Revisions returns the revisions that are kept, oldest first.
func (f StateFolder) Revisions() ([]Revision, error) {
	d := f.d
	_, store, err := d.source.Locate()
	if err != nil {
		return nil, err
	}
	st, err := store.LoadState()
	if err != nil {
		return nil, err
	}
	if st == nil {
		return nil, session.ErrNoState
	}
	return st.Revisions, nil
}
