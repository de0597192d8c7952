package rolling

import (
	"fmt"
	"slices"
)

// Watch looks after a version for a while after its update is done: what proves
// bad only then is taken back while the release before it is at hand. It is pure, as
// the machine.
type Watch struct {
	Update
	changed bool
}

// ResumeWatch returns the watch over the version of an update that is done.
func ResumeWatch(u Update) *Watch {
	u.Crashed = slices.Clone(u.Crashed)
	return &Watch{Update: u}
}

// Changed reports whether Update differs from the last call's.
func (w *Watch) Changed() bool {
	defer func() { w.changed = false }()
	return w.changed
}

// Step takes an event at a time. It returns why the version is to be taken back, ""
// if it is not: two of its instances have crashed, or the only one that the app has.
// One crash among several is the health manager's.
func (w *Watch) Step(e Event, instances int) (reason string) {
	switch e := e.(type) {
	case Looked:
		for _, i := range e.Instances {
			if i.Crashed {
				w.crashed(i.Version, i.ID)
			}
		}
	case Exited:
		if e.Crashed {
			w.crashed(e.Version, e.ID)
			reason = e.Why
		}
	}
	if instances == 0 || len(w.Crashed) < min(2, instances) {
		return ""
	}
	w.Failed = w.Crashed[len(w.Crashed)-1]
	text := fmt.Sprintf("the new version crashed after its update was done (%d of %d instances)", min(len(w.Crashed), instances), instances)
	if reason != "" {
		text += ": " + reason
	}
	return text
}

func (w *Watch) crashed(version, id string) {
	if version == w.Target && !slices.Contains(w.Crashed, id) {
		w.Crashed, w.changed = append(w.Crashed, id), true
	}
}
