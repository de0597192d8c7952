package deployer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/memfs"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/render"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// A revision's sources are the manifest with all that it was read from: its
// files below manifest/, the job folders below jobs/ (built in) and
// releases/<release>/, and revision.json. Loaded in place of today's, they lead to
// the same specifications, but for what has its own life: addresses, secrets,
// certificates.
const (
	revisionIndex = "revision.json"
	manifestPart  = "manifest"
	jobsPart      = "jobs"
	releasesPart  = "releases"
)

// revisionContent is revision.json.
type revisionContent struct {
	// Manifest is the file below manifest/, "" if it is a folder.
	Manifest  string                     `json:"manifest,omitempty"`
	Variables map[string]json.RawMessage `json:"variables"`
	// Sensitive variables are in the secrets.
	Sensitive []string                  `json:"sensitive,omitempty"`
	Programs  map[string]render.Package `json:"programs"`
}

// revisionSources is a revision that stands in for the manifest.
type revisionSources struct {
	revision state.Revision
	files    map[string][]byte
	content  revisionContent
}

// sources collects what the run was read from.
func (r *run) sources() (map[string][]byte, error) {
	if r.revision != nil {
		return r.revision.files, nil
	}
	files := map[string][]byte{}
	content := revisionContent{Variables: map[string]json.RawMessage{}, Programs: map[string]render.Package{}}
	// As they were read: they may have been edited since.
	for name, source := range r.manifest.Sources {
		files[path.Join(manifestPart, name)] = source
	}
	if _, name, _ := manifestFiles(r.config.Manifest); name != "." {
		content.Manifest = name
	}
	var err error
	for name, v := range r.manifest.Variables() {
		if v.Sensitive {
			content.Sensitive = append(content.Sensitive, name)
			continue
		}
		if content.Variables[name], err = ctyjson.Marshal(v.Value, cty.DynamicPseudoType); err != nil {
			return nil, fmt.Errorf("cannot keep the variable %q for rollback: %w", name, err)
		}
	}
	slices.Sort(content.Sensitive)
	built, err := r.builtPackages()
	if err != nil {
		return nil, err
	}
	for _, g := range r.manifest.Groups {
		for _, j := range g.Jobs {
			folder := path.Join(jobsPart, j.Spec.Name)
			if j.Spec.Release != "" {
				folder = path.Join(releasesPart, j.Spec.Release, j.Spec.Name)
			}
			if err := keepJob(files, folder, j.Spec); err != nil {
				return nil, err
			}
			for _, p := range j.Spec.Packages {
				for _, name := range []string{p.Program, j.Spec.Release + "/" + p.Program} {
					if b, ok := built[name]; ok {
						content.Programs[name] = b
					}
				}
			}
		}
	}
	data, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot encode a revision: %w", err)
	}
	files[revisionIndex] = append(data, '\n')
	return files, nil
}

// keepJob adds what is read of a job.
func keepJob(files map[string][]byte, folder string, job *manifests.Job) error {
	if _, done := files[path.Join(folder, "job.hcl")]; done {
		return nil
	}
	names := []string{"job.hcl"}
	for _, t := range job.Templates {
		names = append(names, path.Join("templates", t.Source))
	}
	for _, name := range names {
		f := job.Files[path.Join(path.Dir(job.Range.Filename), name)]
		if f == nil {
			return fmt.Errorf("cannot keep the job %s for rollback: its %s is not among what was read", job.Name, name)
		}
		files[path.Join(folder, name)] = f.Bytes
	}
	return nil
}

// sensitiveVariables are the values that a revision must find again.
func (r *run) sensitiveVariables(number int) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	for name, v := range r.manifest.Variables() {
		if !v.Sensitive {
			continue
		}
		data, err := ctyjson.Marshal(v.Value, cty.DynamicPseudoType)
		if err != nil {
			return nil, fmt.Errorf("cannot keep the variable %q for rollback: %w", name, err)
		}
		out[variableKey(number, name)] = data
	}
	return out, nil
}

func variableKey(number int, name string) string { return strconv.Itoa(number) + "/" + name }

// vmsDigest covers what all VMs are made of.
func (r *run) vmsDigest() (string, error) {
	in, err := r.vmInput(nil)
	if err != nil {
		return "", err
	}
	data, err := json.Marshal(struct{ Instances, Disks any }{in.Instances, in.Disks})
	if err != nil {
		return "", fmt.Errorf("cannot encode the inputs of VMs: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// keepRevision notes what an apply has made of the deployment, if that differs
// from the last one, and keeps its sources and packages, so that it can be
// returned to. Part of a deployment is nothing to return to.
func (r *run) keepRevision() error {
	if len(r.targets) > 0 {
		return nil
	}
	wanted, err := r.wanted()
	if err != nil {
		return err
	}
	next := state.Revision{Number: 1, At: r.now.UTC().Truncate(time.Second), Manifest: r.manifestDigest(), Generations: map[string]string{}, Packages: []string{}}
	for _, w := range wanted {
		if r.exempt(w.Spec.Instance) != "" {
			continue
		}
		next.Generations[w.Spec.Instance] = w.Spec.Generation
		for _, p := range w.Spec.Packages {
			next.Packages = append(next.Packages, p.Digest)
		}
	}
	slices.Sort(next.Packages)
	next.Packages = slices.Compact(next.Packages)
	if next.VMs, err = r.vmsDigest(); err != nil {
		return err
	}
	if n := len(r.state.Revisions); n > 0 {
		last := r.state.Revisions[n-1]
		if maps.Equal(last.Generations, next.Generations) && slices.Equal(last.Packages, next.Packages) && (last.VMs == "" || last.VMs == next.VMs) {
			return nil
		}
		next.Number = last.Number + 1
	}
	if err := os.MkdirAll(r.store.Packages(), 0o700); err != nil {
		return fmt.Errorf("cannot make the folder for packages: %w", err)
	}
	for _, digest := range next.Packages {
		if err := r.keepPackage(digest); err != nil {
			return err
		}
	}
	files, err := r.sources()
	if err != nil {
		return err
	}
	// Another run may have made a revision of this number.
	if err := r.store.Check(r.state); err != nil {
		return err
	}
	if err := r.store.KeepSources(next.Number, files); err != nil {
		return err
	}
	variables, err := r.sensitiveVariables(next.Number)
	if err != nil {
		return err
	}
	r.state.Revisions = append(r.state.Revisions, next)
	if n := len(r.state.Revisions); n > state.KeptRevisions {
		r.state.Revisions = slices.Clone(r.state.Revisions[n-state.KeptRevisions:])
	}
	for key, value := range r.secrets.Variables {
		number, _, _ := strings.Cut(key, "/")
		if slices.ContainsFunc(r.state.Revisions, func(v state.Revision) bool { return strconv.Itoa(v.Number) == number }) {
			variables[key] = value
		}
	}
	if r.secrets.Variables = variables; len(variables) == 0 {
		r.secrets.Variables = nil
	}
	r.madeRevision = next.Number
	// What no revision needs goes only when the state says so too.
	if err := r.save(); err != nil {
		return err
	}
	return errors.Join(r.dropPackages(), r.store.DropSources(r.state.Revisions))
}

// at is a deployer to which a kept revision is the manifest.
func (d *Deployer) at(number int) (*Deployer, error) {
	store, err := d.findStore()
	if err != nil {
		return nil, err
	}
	st, err := store.LoadState()
	if err != nil {
		return nil, err
	}
	if st == nil {
		return nil, errNoState
	}
	i := slices.IndexFunc(st.Revisions, func(r state.Revision) bool { return r.Number == number })
	if i < 0 {
		var kept []string
		for _, r := range st.Revisions {
			kept = append(kept, strconv.Itoa(r.Number))
		}
		if len(kept) == 0 {
			kept = []string{"none"}
		}
		return nil, fmt.Errorf("cannot find revision %d: kept are %s; see deploy history", number, strings.Join(kept, ", "))
	}
	sources := &revisionSources{revision: st.Revisions[i]}
	if sources.files, err = store.Sources(number); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(sources.files[revisionIndex], &sources.content); err != nil {
		return nil, fmt.Errorf("cannot read revision %d: %w", number, err)
	}
	other, err := New(d.config)
	if err != nil {
		return nil, err
	}
	other.keys, other.revision, other.deployment = d.keys, sources, st.Deployment
	return other, nil
}

// findStore is where the state is, also of a manifest that is wrong but for its
// name.
func (d *Deployer) findStore() (state.Store, error) {
	r, err := d.locate()
	if r == nil {
		return state.Store{}, err
	}
	return r.store, nil
}

// options returns what a revision's manifest is loaded with.
func (s *revisionSources) options(secrets *state.Secrets) (manifests.Options, error) {
	o := manifests.Options{Values: map[string]cty.Value{}}
	values := maps.Clone(s.content.Variables)
	for _, name := range s.content.Sensitive {
		if secrets == nil || secrets.Variables[variableKey(s.revision.Number, name)] == nil {
			return o, fmt.Errorf("cannot return to revision %d: its sensitive variable %q is not in the state's secrets any more", s.revision.Number, name)
		}
		values[name] = secrets.Variables[variableKey(s.revision.Number, name)]
	}
	for name, data := range values {
		v, err := ctyjson.Unmarshal(data, cty.DynamicPseudoType)
		if err != nil {
			return o, fmt.Errorf("cannot read the variable %q of revision %d: %w", name, s.revision.Number, err)
		}
		o.Values[name] = v
	}
	jobs := memfs.FS{}
	releases := map[string]memfs.FS{}
	for name, data := range s.files {
		part, rest, _ := strings.Cut(name, "/")
		switch part {
		case jobsPart:
			jobs[rest] = data
		case releasesPart:
			release, rest, _ := strings.Cut(rest, "/")
			if releases[release] == nil {
				releases[release] = memfs.FS{}
			}
			releases[release][rest] = data
		}
	}
	o.Jobs = jobs
	// A release that is not among the sources is one that no job came from.
	o.OpenRelease = func(r manifests.Release) (fs.FS, error) { return releases[r.Name], nil }
	return o, nil
}

// load reads the revision's manifest.
func (s *revisionSources) load(secrets *state.Secrets) (*manifests.Manifest, error) {
	o, err := s.options(secrets)
	if err != nil {
		return nil, err
	}
	files := memfs.FS{}
	for name, data := range s.files {
		if rest, ok := strings.CutPrefix(name, manifestPart+"/"); ok {
			files[rest] = data
		}
	}
	m, diags := manifests.Load(files, cmp.Or(s.content.Manifest, "."), o)
	if diags.HasErrors() {
		return nil, fmt.Errorf("cannot use the manifest of revision %d with this deploy: %w", s.revision.Number, manifestError(m, diags))
	}
	return m, nil
}

// RollbackRequest is to what to return.
type RollbackRequest struct {
	// Revision is its number; 0: the last one that is not what runs.
	Revision int
	Approve  Approve
}

// Rollback applies the manifest, jobs and programs of an earlier revision, at the
// pace of its own policies. Data, secrets and addresses are today's. The manifest
// file stays as it is.
func (d *Deployer) Rollback(ctx context.Context, q RollbackRequest) (*Result, error) {
	if q.Revision == 0 {
		var err error
		if q.Revision, err = d.lastGood(ctx); err != nil {
			return nil, err
		}
	}
	other, err := d.at(q.Revision)
	if err != nil {
		return nil, err
	}
	result, err := other.Apply(ctx, ApplyRequest{Approve: q.Approve})
	if result != nil && err == nil {
		if result.Changed {
			result.Summary = fmt.Sprintf("Rolled back to revision %d", q.Revision)
		} else {
			result.Summary = fmt.Sprintf("nothing to do, this is revision %d already", q.Revision)
		}
	}
	return result, err
}

// lastGood is the last revision if something else runs (an apply has failed or
// was interrupted), else the one before.
func (d *Deployer) lastGood(ctx context.Context) (int, error) {
	store, err := d.findStore()
	if err != nil {
		return 0, err
	}
	st, err := store.LoadState()
	if err != nil {
		return 0, err
	}
	if st == nil {
		return 0, errNoState
	}
	n := len(st.Revisions)
	if n == 0 {
		return 0, errors.New("cannot roll back: no apply has succeeded yet, so there is nothing to return to")
	}
	last := st.Revisions[n-1]
	other, err := d.at(last.Number)
	if err != nil {
		return 0, err
	}
	r, err := other.load()
	if err != nil {
		return 0, err
	}
	defer r.close()
	inventories := r.fleet.survey(ctx, patient)
	for id, generation := range last.Generations {
		if inv := inventories[id]; inv == nil || inv.Active != generation {
			return last.Number, nil
		}
	}
	if len(r.parted) > 0 { // more than it had
		return last.Number, nil
	}
	if n == 1 {
		return 0, fmt.Errorf("cannot roll back: what runs is revision %d, and no earlier one is kept", last.Number)
	}
	return st.Revisions[n-2].Number, nil
}

// Diff is what lies between two states of a deployment, as a plan from one to the other.
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
	before, _, err := d.rendered(from)
	if err != nil {
		return nil, err
	}
	if to != 0 {
		out.To = fmt.Sprintf("revision %d", to)
	}
	after, name, err := d.rendered(to)
	if err != nil {
		return nil, err
	}
	existing := map[string]plan.Existing{}
	for i := range before {
		w := &before[i]
		inv := &api.Inventory{Active: w.Spec.Generation}
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

// rendered is everything of a revision, or of the manifest (0).
func (d *Deployer) rendered(number int) ([]plan.Wanted, string, error) {
	if number != 0 {
		var err error
		if d, err = d.at(number); err != nil {
			return nil, "", err
		}
	}
	r, err := d.load()
	if err != nil {
		return nil, "", err
	}
	defer r.close()
	if err := r.issueCertificates(); err != nil {
		return nil, "", err
	}
	wanted, err := r.wanted()
	return wanted, r.manifest.Deployment.Name, err
}

// History is what was done to a deployment.
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
	store, err := d.findStore()
	if err != nil {
		return nil, err
	}
	st, err := store.LoadState()
	if err != nil {
		return nil, err
	}
	if st == nil {
		return nil, errNoState
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
