// Package deployer makes a cluster what its manifest says: it plans, drives the
// engine that makes VMs, puts agents on them, and rolls changes out. It prints
// nothing; it reports Events.
package deployer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/render"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
	"github.com/clusterworks/deploy/manifests"
)

// Config is what a Deployer needs; all fields are required unless it says otherwise.
type Config struct {
	Manifest string            // file or folder
	StateDir string            // default: .deploy beside the manifest
	Vars     map[string]string // values of variables by name
	VarFiles []string
	// Values are values of variables that come last of all, before the defaults.
	Values    map[string]cty.Value
	Environ   []string // where DEPLOY_VAR_name is looked up
	Jobs      fs.FS    // built-in jobs
	Templates fs.FS    // built-in templates
	Packages  string   // folder of built packages
	// Executable is the deploy program: local VMs run it as their init.
	Executable string
	// Parallel is how many VMs are worked on side by side; default 16.
	Parallel int
	// Report receives events, concurrently; default: nobody.
	Report func(Event)
	// Passphrase asks for the passphrase of an encrypted state, a new one if
	// confirm; nil: there is nobody to ask.
	Passphrase func(confirm bool) (string, error)
	// Identity is a file of age identities that open an encrypted state; "" is none.
	Identity string
	// LockWait is how long to wait for another run on the same deployment;
	// Takeover takes over from one that goes on.
	LockWait time.Duration
	Takeover bool
	// Interrupt, once closed, ends a run gracefully: what is in flight finishes.
	Interrupt <-chan struct{}
	Log       *slog.Logger
}

// Deployer works on one deployment.
type Deployer struct {
	config Config
	counts counters
	warn   sync.Once // the manifest is read twice in an apply
	keys   *state.Keys
	// archives are the releases that the manifest pins.
	archives archives
	// revision, if not nil, is the manifest's stand-in, of the deployment named.
	revision   *revisionSources
	deployment string
}

// counters are Counts as they grow.
type counters struct{ engine, ssh, state atomic.Int64 }

func (c *counters) snapshot() Counts {
	return Counts{EngineRuns: int(c.engine.Load()), SSHDials: int(c.ssh.Load()), StateWrites: int(c.state.Load())}
}

// New checks the configuration and fills in defaults.
func New(c Config) (*Deployer, error) {
	if _, err := os.Stat(c.Manifest); err != nil {
		return nil, fmt.Errorf("cannot read the manifest: %w", err)
	}
	if c.StateDir == "" {
		dir := c.Manifest
		if info, err := os.Stat(dir); err == nil && !info.IsDir() {
			dir = filepath.Dir(dir)
		}
		c.StateDir = filepath.Join(dir, ".deploy")
	}
	abs, err := filepath.Abs(c.StateDir)
	if err != nil {
		return nil, fmt.Errorf("cannot find the state folder: %w", err)
	}
	c.StateDir = abs
	if c.Parallel == 0 {
		c.Parallel = 16
	}
	if c.Report == nil {
		c.Report = func(Event) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Deployer{config: c, keys: &state.Keys{Ask: c.Passphrase, IdentityFile: c.Identity}}, nil
}

// Summary is what Validate found.
type Summary struct {
	Deployment string `json:"deployment"`
	Groups     int    `json:"groups"`
	Instances  int    `json:"instances"`
	Jobs       int    `json:"jobs"`
}

// Validate checks the manifest, its jobs and all templates without a VM:
// everything is rendered with what is not known yet left open.
func (d *Deployer) Validate() (*Summary, error) {
	r, err := d.load()
	if err != nil {
		return nil, err
	}
	if _, err := r.wanted(); err != nil {
		return nil, err
	}
	s := &Summary{Deployment: r.manifest.Deployment.Name, Groups: len(r.manifest.Groups)}
	jobs := map[string]bool{}
	for _, g := range r.manifest.Groups {
		s.Instances += g.Instances
		for _, j := range g.Jobs {
			jobs[j.Spec.Name] = true
		}
	}
	s.Jobs = len(jobs)
	return s, nil
}

// run is one piece of work on a deployment: what was read, and what is being
// made of it.
type run struct {
	*Deployer
	manifest *manifests.Manifest
	store    state.Store
	// vmsMu guards state.VMs, Memory and saving while a rollout's commands run
	// side by side.
	vmsMu   sync.Mutex
	state   *state.State
	secrets *state.Secrets
	// parsedCA is the CA of parsedOf, which is needed for every agent.
	parsedCA *pki.CA
	parsedOf state.KeyPair
	// fresh: there was no state before this run.
	fresh    bool
	packages *packages.Index
	fleet    *fleet
	renderer *render.Renderer // of the last facts; keeps what it has rendered
	// enginePlan is what the engine would do, by the resources' keys; disks apart.
	enginePlan map[string][]terraform.Action
	// owedVMs are the changed inputs of VMs that the rollout brings in batches;
	// movedVMs are those that settings of the infrastructure replace; plannedVMs is
	// what is known beforehand of the VMs that replace others.
	owedVMs  map[string][]string
	movedVMs map[string]bool
	// held are instances that an operator has stopped, whose agent was on a VM that
	// was replaced and can tell it no more.
	held       map[string]bool
	plannedVMs map[string]terraform.Instance
	// beside are the instances whose new VM can be made beside the old one.
	beside map[string]bool
	// lostDisks are the instances whose persistent disk the engine does not find, and
	// would make anew, empty.
	lostDisks map[string]bool
	// deleteDisks: persistent disks that no instance has any more are not kept.
	deleteDisks bool
	// addressesChanged: others than the VMs' own instances have yet to learn it.
	addressesChanged bool
	// movesWait: instances have yet to move elsewhere; holdMoves: none may now.
	// See firstMoves.
	movesWait, holdMoves bool
	// vmsAsWanted: the root module is what was last applied, and every agent
	// answers from the expected VM, so that the engine need not be asked.
	vmsAsWanted bool
	// rolls counts the rollouts of this run: each has operations of its own.
	rolls int
	// targets restrict the run to some groups or instances; empty: all.
	targets []string
	// recreate are the instances that get another VM because an operator asks for
	// it, until they have.
	recreate []string
	// parted are instances with a VM that the manifest no longer has.
	parted []string
	// skipDrain stops what must stop without pre_stop and drain.
	skipDrain bool
	// tookOver: an earlier run may go on one day, so every agent is told the new
	// epoch.
	tookOver bool
	// began is the journal's entry of this run, nil before it has the lease;
	// madeRevision the revision that it made.
	began        *state.Entry
	madeRevision int
	now          time.Time
}

// locate reads the manifest and tells where its state is.
// With a manifest that is wrong, the run is returned too if its state can be told.
func (d *Deployer) locate() (*run, error) {
	r := &run{Deployer: d, now: time.Now(), enginePlan: map[string][]terraform.Action{}}
	if d.revision != nil {
		r.store = state.Store{Dir: filepath.Join(d.config.StateDir, d.deployment), Keys: d.keys}
		_, secrets, err := r.store.Load()
		if err != nil {
			return nil, err
		}
		r.manifest, err = d.revision.load(secrets)
		return r, err
	}
	m, diags := d.config.readManifest(d.openRelease)
	if diags.HasErrors() {
		if m.Deployment.Name == "" {
			return nil, manifestError(m, diags)
		}
		r.store = state.Store{Dir: filepath.Join(d.config.StateDir, m.Deployment.Name), Keys: d.keys}
		return r, manifestError(m, diags)
	}
	if len(diags) > 0 { // warnings
		d.warn.Do(func() { r.event(Event{Phase: PhaseLoad, Message: manifestError(m, diags).Error()}) })
	}
	r.manifest = m
	r.store = state.Store{Dir: filepath.Join(d.config.StateDir, m.Deployment.Name), Keys: d.keys}
	return r, nil
}

// open is locate, and reads the state, which is nil if there is none.
func (d *Deployer) open() (*run, error) {
	r, err := d.locate()
	if err != nil {
		return nil, err
	}
	if r.state, r.secrets, err = r.store.Load(); err != nil {
		return nil, err
	}
	return r, nil
}

// load is open, and brings the state's instances and secrets, in memory, to
// what the manifest wants.
func (d *Deployer) load() (*run, error) {
	r, err := d.open()
	if err != nil {
		return nil, err
	}
	if r.packages, err = packages.Open(d.config.Packages); err != nil {
		return nil, fmt.Errorf("cannot find the packages for VMs: %w", err)
	}
	if r.state == nil {
		r.fresh = true
		r.state = state.New(r.manifest.Deployment.Name)
	}
	if r.secrets == nil {
		r.secrets = &state.Secrets{}
	}
	r.assign()
	if err := r.ensureSecrets(); err != nil {
		return nil, err
	}
	r.fleet = newFleet(r)
	return r, nil
}

// assign gives the manifest's instances their places, and finds those that it no
// longer has.
func (r *run) assign() {
	slots := map[string][]state.Slot{}
	for _, g := range r.manifest.Groups {
		slots[g.Name] = r.state.Assign(g.Name, g.Instances, g.AZs)
	}
	r.state.Groups = slots
	for _, id := range slices.Sorted(maps.Keys(r.state.VMs)) {
		if !r.has(id) {
			r.parted = append(r.parted, id)
		}
	}
}

func manifestError(m *manifests.Manifest, diags hcl.Diagnostics) error {
	e := &ManifestError{Diagnostics: diags}
	if m != nil {
		e.Files = m.Files
	}
	return e
}

// close may be called of a run that could not be loaded.
func (r *run) close() {
	if r != nil {
		r.fleet.close()
	}
}

func (r *run) event(e Event) {
	e.At = time.Now()
	r.config.Report(e)
}

// has tells whether the manifest wants an instance.
func (r *run) has(id string) bool {
	group, index, err := api.SplitInstance(id)
	return err == nil && slices.ContainsFunc(r.state.Groups[group], func(s state.Slot) bool { return s.Index == index })
}

// ids are the wanted instances in rollout order.
func (r *run) ids() []string {
	var out []string
	for _, wave := range r.manifest.Order {
		for _, g := range wave {
			for _, s := range r.state.Groups[g.Name] {
				out = append(out, api.InstanceID(g.Name, s.Index))
			}
		}
	}
	return out
}

// save writes the state; nothing if nothing differs from the disk.
func (r *run) save() error {
	wrote, err := r.store.Save(r.state, r.secrets)
	if wrote {
		r.counts.state.Add(1)
	}
	return err
}

// facts are what is known of the instances, and the secrets' values.
func (r *run) facts() manifests.Facts {
	f := manifests.Facts{
		DeploymentID: r.state.DeploymentID,
		Secrets:      map[string]cty.Value{},
		Instances:    map[string][]manifests.Instance{},
		Leaving:      map[string][]manifests.Instance{},
		Certificates: map[manifests.CertificateKey]cty.Value{},
	}
	for name, attributes := range r.secrets.Values {
		f.Secrets[name] = stringObject(attributes)
	}
	for group, slots := range r.state.Groups {
		f.Instances[group] = []manifests.Instance{}
		for _, s := range slots {
			id := api.InstanceID(group, s.Index)
			vm, made := r.state.VMs[id]
			if !made && r.exempt(id) != "" {
				continue // it does not come in this run
			}
			if p, replaced := r.plannedVMs[id]; replaced {
				vm.Address, vm.AgentDir = p.Address, p.AgentDir
			}
			f.Instances[group] = append(f.Instances[group], manifests.Instance{
				Group: group, Index: s.Index, AZ: s.AZ, Address: vm.Address, AgentDir: vm.AgentDir, ImageDir: vm.ImageDir,
			})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(r.state.Leaving)) {
		vm := r.state.Leaving[id]
		group, index, _ := api.SplitInstance(id)
		f.Leaving[group] = append(f.Leaving[group], manifests.Instance{
			Group: group, Index: index, Address: vm.Address, AgentDir: vm.AgentDir, ImageDir: vm.ImageDir,
		})
	}
	for key, c := range r.secrets.Certificates {
		if k, ok := parseCertificateKey(key); ok {
			f.Certificates[k] = stringObject(map[string]string{
				"ca": r.trusted(), "certificate": c.Certificate, "private_key": c.PrivateKey,
			})
		}
	}
	return f
}

func stringObject(m map[string]string) cty.Value {
	attributes := map[string]cty.Value{}
	for k, v := range m {
		attributes[k] = cty.StringVal(v)
	}
	return cty.ObjectVal(attributes)
}

// wanted renders every instance, in rollout order.
func (r *run) wanted() ([]plan.Wanted, error) {
	built, err := r.builtPackages()
	if err != nil {
		return nil, err
	}
	facts := r.facts()
	if r.renderer == nil {
		r.renderer = render.New(r.manifest, facts, r.secrets.DigestKey, built)
	} else {
		r.renderer = r.renderer.With(facts, built)
	}
	var list []render.Wanted
	for _, wave := range r.manifest.Order {
		for _, g := range wave {
			for _, in := range facts.Instances[g.Name] {
				list = append(list, render.Wanted{Group: g, Instance: in})
			}
		}
	}
	rendered, problems := r.renderer.All(list)
	out := make([]plan.Wanted, 0, len(list))
	var diags hcl.Diagnostics
	failed := map[string]bool{} // the same problem for every instance of a group helps nobody
	for i, x := range rendered {
		g := list[i].Group
		if !failed[g.Name] {
			for _, d := range problems[i] {
				d := *d // the renderer may keep it
				d.Detail += fmt.Sprintf(" This is for instance %s.", api.InstanceID(g.Name, list[i].Instance.Index))
				diags = append(diags, &d)
			}
			failed[g.Name] = problems[i].HasErrors()
		}
		out = append(out, wantedInstance(g, list[i].Instance, x))
	}
	if diags.HasErrors() {
		return nil, manifestError(r.manifest, diags)
	}
	return out, nil
}

// wantedInstance is a rendered instance as plans compare it.
func wantedInstance(g *manifests.Group, in manifests.Instance, x *render.Instance) plan.Wanted {
	w := plan.Wanted{
		Group: g.Name, AZ: in.AZ, Spec: x.Spec, Known: x.Known,
		Shown: make(map[string]string, len(x.Files)), Sources: make(map[plan.Part][]string, len(x.Sources)),
	}
	for key, text := range x.Files {
		w.Shown[key.Job+"/"+key.Path] = text.String()
	}
	for part, names := range x.Sources {
		w.Sources[plan.Part(part)] = names
	}
	return w
}

// memory is what the rollout remembers.
func (r *run) memory() (rollout.Memory, error) {
	var m rollout.Memory
	if len(r.state.Memory) == 0 {
		return m, nil
	}
	if err := json.Unmarshal(r.state.Memory, &m); err != nil {
		return m, fmt.Errorf("cannot read the memory of earlier rollouts in %s: %w", r.store.Dir, err)
	}
	return m, nil
}

// interrupted tells whether the user asked to stop.
func (r *run) interrupted() bool {
	select {
	case <-r.config.Interrupt:
		return true
	default:
		return false
	}
}

// ErrInterrupted ends a run that the user asked to stop: what was in flight has
// finished and is saved.
var ErrInterrupted = errors.New("interrupted: what had begun has finished; the next apply continues from here")

// parseCertificateKey reads "group/index/job/name".
func parseCertificateKey(s string) (manifests.CertificateKey, bool) {
	parts := strings.Split(s, "/")
	if len(parts) != 4 {
		return manifests.CertificateKey{}, false
	}
	_, index, err := api.SplitInstance(parts[0] + "/" + parts[1])
	if err != nil {
		return manifests.CertificateKey{}, false
	}
	return manifests.CertificateKey{Group: parts[0], Index: index, Job: parts[2], Name: parts[3]}, true
}

func certificateKey(k manifests.CertificateKey) string {
	return api.InstanceID(k.Group, k.Index) + "/" + k.Job + "/" + k.Name
}

// within bounds a context for one exchange with one machine.
func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}
