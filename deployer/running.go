package deployer

import (
	"errors"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/manifests"
)

// loadRunning loads the deployment for what only looks at it: while the manifest is
// wrong, by the last revision, whose number is returned. A manifest that is being
// edited must not keep anybody from seeing what runs.
func loadRunning(d *Deployer) (*deployment, int, error) {
	x, wrong := d.load()
	if !errors.As(wrong, new(*manifests.Error)) {
		return x, 0, wrong
	}
	kept, number, err := lastApplied(d, wrong)
	if err != nil {
		return nil, 0, err
	}
	if x, err = kept.load(); err != nil {
		return nil, 0, wrong
	}
	return x, number, nil
}

// loadTold is loadRunning, and an event tells which revision it is by.
func loadTold(d *Deployer) (*deployment, error) {
	x, number, err := loadRunning(d)
	if number > 0 {
		d.config.Report(Event{At: time.Now(), Phase: PhaseLoad, Message: byRevision(number)})
	}
	return x, err
}

// lastApplied returns a deployer to which the last revision is the manifest, and its
// number; without one, what is wrong with the manifest.
func lastApplied(d *Deployer, wrong error) (*Deployer, int, error) {
	store, err := d.source.Store()
	if err != nil {
		return nil, 0, wrong
	}
	st, err := store.LoadState()
	if err != nil || st == nil || len(st.Revisions) == 0 {
		return nil, 0, errors.Join(wrong, err)
	}
	number := st.Revisions[len(st.Revisions)-1].Number
	kept, err := at(d, number)
	if err != nil {
		return nil, 0, errors.Join(wrong, err)
	}
	return kept, number, nil
}

func byRevision(number int) string {
	return fmt.Sprintf("the manifest is wrong, so this is by revision %d, the last that was applied; deploy validate says what is wrong", number)
}
