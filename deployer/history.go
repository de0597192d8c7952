package deployer

import (
	"fmt"
	"slices"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/session"
)

// Diff is the difference of two states of a deployment, as a plan from one to the
// other.
type Diff struct {
	From string     `json:"from"` // "revision 3"
	To   string     `json:"to"`   // "the manifest"
	Plan *plan.Plan `json:"plan"`
}

// Diff compares a revision with another one, or with the manifest (to is 0). No
// agent is asked: both are rendered with the addresses, secrets and certificates
// of today.
func (d *Deployer) Diff(from, to int) (*Diff, error) {
	out := &Diff{From: fmt.Sprintf("revision %d", from), To: "the manifest"}
	before, _, err := rendered(d, from)
	if err != nil {
		return nil, err
	}
	if to != 0 {
		out.To = fmt.Sprintf("revision %d", to)
	}
	after, name, err := rendered(d, to)
	if err != nil {
		return nil, err
	}
	existing := map[string]plan.Existing{}
	for i := range before {
		w := &before[i]
		inv := &api.Inventory{Installed: api.Installed{Active: w.Spec.Generation}}
		if !w.Known {
			inv.Active = "unknown"
		}
		for _, j := range w.Spec.Jobs {
			for _, p := range j.Processes {
				inv.Processes = append(inv.Processes, api.ProcessStatus{
					Job: j.Name, Name: p.Name, State: api.ProcessRunning, Digest: p.Digest, ReloadDigest: p.ReloadDigest,
				})
			}
		}
		existing[w.Spec.Instance] = plan.Existing{VM: true, Inventory: inv, Active: &w.Spec, Shown: w.Shown}
	}
	out.Plan = plan.Make(name, after, existing, nil)
	return out, nil
}

// rendered returns every instance of a revision, or of the manifest (0).
func rendered(d *Deployer, number int) ([]plan.Wanted, string, error) {
	if number != 0 {
		var err error
		if d, err = at(d, number); err != nil {
			return nil, "", err
		}
	}
	x, err := d.load()
	if err != nil {
		return nil, "", err
	}
	defer x.fleet.Close()
	if err := x.credentials.Issue(nil); err != nil {
		return nil, "", err
	}
	wanted, err := x.desired.Render(nil)
	return wanted, x.Manifest.Deployment.Name, err
}

// History lists the runs that changed a deployment.
type History struct {
	Entries []HistoryEntry `json:"entries"`
	// Revisions are those that can be returned to, oldest first.
	Revisions []Revision `json:"revisions"`
}

// HistoryEntry is one run.
type HistoryEntry struct {
	At       time.Time     `json:"at"`
	Epoch    uint64        `json:"epoch,omitempty"`
	Who      string        `json:"who,omitempty"`
	What     string        `json:"what"`
	Result   string        `json:"result"` // "done", "interrupted", "failed: ...", "" while it runs or if it was ended
	Revision int           `json:"revision,omitempty"`
	Took     time.Duration `json:"took_ns,omitempty"`
	// Kept: its revision can be returned to.
	Kept bool `json:"kept,omitempty"`
}

// History reads the journal and the revisions, oldest first.
func (d *Deployer) History() (*History, error) {
	store, err := d.source.Store()
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
	entries, err := store.History()
	if err != nil {
		return nil, err
	}
	out := &History{Entries: []HistoryEntry{}, Revisions: st.Revisions}
	if out.Revisions == nil {
		out.Revisions = []Revision{}
	}
	seen := map[int]bool{}
	for _, e := range entries {
		if n := len(out.Entries); e.Result != "" && n > 0 {
			for i := n - 1; i >= 0; i-- { // the beginning of the same run
				if x := &out.Entries[i]; x.Epoch == e.Epoch && x.What == e.What {
					x.Result, x.Revision, x.Took = e.Result, e.Revision, e.Took
					break
				}
			}
			seen[e.Revision] = true
			continue
		}
		out.Entries = append(out.Entries, HistoryEntry{At: e.At, Epoch: e.Epoch, Who: e.Who, What: e.What, Result: e.Result, Revision: e.Revision, Took: e.Took})
	}
	for _, v := range st.Revisions { // without a journal, what the state knows
		if !seen[v.Number] {
			out.Entries = append(out.Entries, HistoryEntry{At: v.At, What: "apply", Result: "done", Revision: v.Number})
		}
	}
	slices.SortStableFunc(out.Entries, func(a, b HistoryEntry) int { return a.At.Compare(b.At) })
	for i := range out.Entries {
		e := &out.Entries[i]
		e.Kept = slices.ContainsFunc(st.Revisions, func(v Revision) bool { return v.Number == e.Revision })
	}
	return out, nil
}
