package deployer

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/doctor"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Repaired says what was put in the place of a file of the state folder.
type Repaired = state.Repaired

// Check reads every file of the state folder, compares them with each other
// and with what the agents say, and changes nothing.
func (f StateFolder) Check(ctx context.Context) (*Diagnosis, error) {
	d := f.d
	m, store, err := d.source.Locate()
	if err != nil {
		return nil, err
	}
	var doc doctor.Doctor
	doc.Diagnosis.Deployment = m.Deployment.Name
	if !doc.Files(store) {
		return &doc.Diagnosis, nil
	}
	x, err := d.load()
	if doc.Problem("state", err) {
		return &doc.Diagnosis, nil
	}
	defer x.fleet.Close()
	doc.Agree(ctx, doctor.Deployment{Session: x.Session, Fleet: x.fleet})
	return &doc.Diagnosis, nil
}

// Repair puts back what of the state folder is missing or damaged: from its
// copies, from what the engine and the agents know. What it replaces, it sets aside.
func (f StateFolder) Repair(ctx context.Context) ([]Repaired, error) {
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
	now := time.Now()
	done, id, err := state.Repair(store, now)
	noCopy := err
	if errors.Is(noCopy, state.ErrNoCopy) && id != "" {
		var r Repaired
		if r, err = rebuild(store, m.Deployment.Name, id, now, noCopy); err == nil {
			done = append(done, r)
		}
	}
	if err != nil {
		return done, errors.Join(err, store.RemoveUnused())
	}
	if len(done) > 0 && errors.Is(noCopy, state.ErrNoCopy) {
		if err := f.noteBus(); err != nil {
			return done, err
		}
	}
	st, _, err := store.Load()
	if err != nil {
		return done, err
	}
	if st == nil {
		return done, errors.Join(session.ErrNoState, store.RemoveUnused())
	}
	engine, err := infra.RepairEngine(store, st, now)
	done = append(done, engine...)
	if err != nil {
		return done, err
	}
	packages, err := state.RepairPackages(store, st, now)
	return append(done, packages...), err
}

// rebuild makes state.json from what the engine's folder tells.
func rebuild(store state.Store, deployment, id string, now time.Time, noCopy error) (Repaired, error) {
	st, err := infra.Rebuild(store, deployment, id)
	if err != nil {
		return Repaired{}, fmt.Errorf("%w, and it cannot be made from the engine's state: %w; import an export (deploy state import MANIFEST < FILE)", noCopy, err)
	}
	data, err := st.Encode()
	if err != nil {
		return Repaired{}, err
	}
	return state.Replace(store, "state.json", data, "the engine's state "+filepath.Join(store.Terraform(), "terraform.tfstate")+": revisions and ignored instances are not in it", now)
}

// noteBus notes in a state that was made again where the manifest's bus is: agents are
// asked there first, and over SSH if it does not serve.
func (f StateFolder) noteBus() error {
	x, err := f.d.load()
	if err != nil {
		return err
	}
	defer x.fleet.Close()
	x.State.Bus = x.credentials.BusURLs(nil)
	return x.Save()
}

// Adopt makes the state that of this manifest, in the place of another one of
// the same deployment name. It returns the path of the other one.
func (f StateFolder) Adopt(ctx context.Context) (string, error) {
	d := f.d
	_, store, err := d.source.Locate()
	if err != nil {
		return "", err
	}
	before, err := store.LoadState()
	if err != nil {
		return "", err
	}
	if before == nil {
		return "", session.ErrNoState
	}
	other := &Deployer{config: d.config, source: d.source, confirmTime: d.confirmTime, adopts: true}
	return before.Manifest.Path, other.changeState(ctx, func(s *session.Session) error {
		return s.Begin("take over from the manifest "+before.Manifest.Path, 0)
	})
}
