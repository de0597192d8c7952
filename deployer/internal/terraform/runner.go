package terraform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/terraform-exec/tfexec"
	tfjson "github.com/hashicorp/terraform-json"

	"github.com/clusterworks/deploy/deployer/internal/localvm/provider"
)

const (
	// lockTimeout outlasts the end of an engine whose deployer was killed.
	lockTimeout = "30s"
	// interruptWait is the time that an interrupted engine has to end its operations
	// and write its state.
	interruptWait = 2 * time.Minute
)

// Options describe the work folder of one deployment.
type Options struct {
	Dir       string // work folder, absolute: root module, engine's state
	Templates fs.FS  // the built-in templates, a folder each
	Template  string // as in the manifest: built-in name, path, or module source
	BaseDir   string // what a relative path is relative to
	VMs       string // absolute: folder of the VMs that templates/local makes
	// Executable is deploy's own absolute path, which serves local VMs; "": that
	// of this process.
	Executable string
	Find       FindOptions
	// Report is called with a line for what the engine does; may be nil.
	Report func(line string)
}

// Runner runs the engine for one deployment. It looks for an engine and starts
// the local provider only when one is needed. Not for concurrent use.
type Runner struct {
	options Options
	root    *root

	engine   Engine
	tf       *tfexec.Terraform
	mirror   string // identifies the mirror of public providers; "": none
	reattach tfexec.ReattachInfo
	stop     func()
}

// Open returns a runner; nothing is written or started yet.
func Open(o Options) (*Runner, error) {
	for _, path := range []string{o.Dir, o.VMs} {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("cannot run an engine: the folder %q is not absolute", path)
		}
	}
	if o.Executable == "" {
		var err error
		if o.Executable, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("cannot find the own executable: %w", err)
		}
	}
	if o.Report == nil {
		o.Report = func(string) {}
	}
	if o.Find.Report == nil {
		o.Find.Report = o.Report
	}
	return &Runner{options: o}, nil
}

// Close ends what the runner serves.
func (r *Runner) Close() {
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// Engine returns the engine that the runner uses, zero before it has run.
func (r *Runner) Engine() Engine { return r.engine }

// Write writes the root module for an input, each file only if it differs, and
// returns its digest. Everything else works on what was written last.
func (r *Runner) Write(in Input) (digest string, err error) {
	written, err := r.options.writeRoot(in)
	if err != nil {
		return "", err
	}
	r.root = written
	return written.digest, nil
}

// Applied describes what the last completed apply left.
type Applied struct {
	Digest    string              `json:"digest"` // of the root module, see Write
	Instances map[string]Instance `json:"instances"`
}

// Applied returns what the last completed apply left; nil if there was none,
// or if one was begun since and did not complete. No engine runs.
func (r *Runner) Applied() (*Applied, error) {
	data, err := os.ReadFile(filepath.Join(r.options.Dir, appliedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what was applied last: %w", err)
	}
	var a Applied
	if json.Unmarshal(data, &a) != nil || a.Digest == "" {
		return nil, nil // cut off by a crash: the engine is asked instead
	}
	return &a, nil
}

func (r *Runner) setApplied(instances map[string]Instance) error {
	data, err := json.MarshalIndent(Applied{Digest: r.root.digest, Instances: instances}, "", "  ")
	if err != nil {
		return err
	}
	return writeChanged(filepath.Join(r.options.Dir, appliedFile), append(data, '\n'))
}

func (r *Runner) clearApplied() error {
	err := os.Remove(filepath.Join(r.options.Dir, appliedFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot note that an apply begins: %w", err)
	}
	return nil
}

// Action describes what a plan does to a resource.
type Action string

// The actions.
const (
	Create  Action = "create"
	Update  Action = "update"
	Replace Action = "replace"
	Delete  Action = "delete"
)

// Change is one resource that a plan changes.
type Change struct {
	Address string // "module.vms.localvm_machine.vm[\"router/0\"]"
	Type    string // "localvm_machine"
	Name    string // "vm"
	// Key is the resource's for_each key, "" if it has none. In templates that
	// follow the built-in ones it is a key of Input.
	Key    string
	Action Action
}

// Plan is a saved plan of the engine.
type Plan struct {
	Changes []Change
	// Pending: there is something to apply, be it an output only.
	Pending bool
	// Instances are the VMs as they are, if nothing is pending; else as far as
	// known before an apply: what is not is zero.
	Instances map[string]Instance
}

// Plan compares the written root module with the world and saves what an Apply
// would do. A plan without changes counts as an apply. The VMs with the keys in
// replace are replaced, whatever their inputs; their persistent disks are not.
func (r *Runner) Plan(ctx context.Context, replace ...string) (*Plan, error) {
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	saved := filepath.Join(r.options.Dir, planFile)
	log := newEventLog(r.options.Report)
	options := []tfexec.PlanOption{tfexec.Out(saved), tfexec.LockTimeout(lockTimeout), tfexec.Reattach(r.reattach)}
	addresses, err := r.addresses(ctx, replace)
	if err != nil {
		return nil, err
	}
	for _, address := range addresses {
		options = append(options, tfexec.Replace(address))
	}
	pending, err := r.tf.PlanJSON(ctx, log, options...)
	r.private()
	if err != nil {
		return nil, r.failed(ctx, "plan the VMs", log, err)
	}
	r.tf.SetStdout(io.Discard)
	shown, err := r.tf.ShowPlanFile(ctx, saved, tfexec.Reattach(r.reattach))
	if err != nil {
		return nil, r.failed(ctx, "read the plan of the VMs", nil, err)
	}
	plan := &Plan{Pending: pending}
	for _, change := range shown.ResourceChanges {
		if action, changes := actionOf(change.Change.Actions); changes {
			key, _ := change.Index.(string)
			plan.Changes = append(plan.Changes, Change{Address: change.Address, Type: change.Type, Name: change.Name, Key: key, Action: action})
		}
	}
	if pending {
		plan.Instances = plannedInstances(shown.OutputChanges[outputName])
		return plan, nil
	}
	var output json.RawMessage = []byte("null")
	if o := shown.PlannedValues.Outputs[outputName]; o != nil {
		if output, err = json.Marshal(o.Value); err != nil {
			return nil, err
		}
	}
	if plan.Instances, err = readInstances(output, r.root.input); err != nil {
		return nil, err
	}
	return plan, r.setApplied(plan.Instances)
}

// What a template calls its resources of some kinds, see templates/CONTRACT.md.
const (
	DiskResource    = "disk"    // persistent disks: they outlive VMs
	AddressResource = "address" // of the instances: a VM that is made anew keeps its own
	ImageResource   = "image"   // what VMs are copies of: keyed by what they are, they belong to no instance
)

// addresses returns those of the resources of VMs, by their keys, but for what
// outlives a VM.
func (r *Runner) addresses(ctx context.Context, keys []string) ([]string, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	r.tf.SetStdout(io.Discard)
	shown, err := r.tf.Show(ctx, tfexec.Reattach(r.reattach))
	if err != nil {
		return nil, r.failed(ctx, "read what VMs there are", nil, err)
	}
	var found []string
	var walk func(*tfjson.StateModule)
	walk = func(m *tfjson.StateModule) {
		if m == nil {
			return
		}
		for _, x := range m.Resources {
			if key, _ := x.Index.(string); x.Mode == tfjson.ManagedResourceMode && x.Name != DiskResource && x.Name != AddressResource && slices.Contains(keys, key) {
				found = append(found, x.Address)
			}
		}
		for _, child := range m.ChildModules {
			walk(child)
		}
	}
	if shown.Values != nil {
		walk(shown.Values.RootModule)
	}
	return found, nil
}

// plannedInstances returns what of the VMs is known before an apply.
func plannedInstances(output *tfjson.Change) map[string]Instance {
	instances := map[string]Instance{}
	if output == nil {
		return instances
	}
	// What is not known yet is left out of it, or null.
	data, err := json.Marshal(output.After)
	if err == nil {
		_ = json.Unmarshal(data, &instances) // an output of another form is found out when it is read after the apply
	}
	return instances
}

// actionOf is false for what changes nothing: reading, or nothing at all.
func actionOf(a tfjson.Actions) (Action, bool) {
	switch {
	case a.Replace():
		return Replace, true
	case a.Create():
		return Create, true
	case a.Update():
		return Update, true
	case a.Delete():
		return Delete, true
	}
	return "", false
}

// Apply carries out the plan that Plan saved and returns the VMs. Cancelling
// interrupts the engine and waits until it has written its state.
func (r *Runner) Apply(ctx context.Context) (map[string]Instance, error) {
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	if err := r.clearApplied(); err != nil {
		return nil, err
	}
	log := newEventLog(r.options.Report)
	err := r.tf.ApplyJSON(ctx, log, tfexec.DirOrPlan(filepath.Join(r.options.Dir, planFile)), tfexec.LockTimeout(lockTimeout), tfexec.Reattach(r.reattach))
	r.private()
	if err != nil {
		failure := r.failed(ctx, "make the VMs", log, err)
		failure.Advice = "What was made is kept: when the cause is removed, the next apply continues from there."
		return nil, failure
	}
	instances, err := r.Outputs(ctx)
	if err != nil {
		return nil, err
	}
	return instances, r.setApplied(instances)
}

// Outputs returns the VMs as the engine knows them from its last run.
func (r *Runner) Outputs(ctx context.Context) (map[string]Instance, error) {
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	r.tf.SetStdout(io.Discard)
	outputs, err := r.tf.Output(ctx)
	if err != nil {
		return nil, r.failed(ctx, "read the VMs' addresses", nil, err)
	}
	output := outputs[outputName].Value
	if output == nil {
		output = []byte("null")
	}
	return readInstances(output, r.root.input)
}

// private takes from others the right to read what the engine has written: it uses
// the process's umask, and the rest of the folder is for the owner only.
func (r *Runner) private() {
	for _, name := range []string{StateFile, StateFile + ".backup", planFile, engineLock} {
		_ = os.Chmod(filepath.Join(r.options.Dir, name), 0o600) // it may not be there
	}
}

// Destroy removes everything that the engine has made. The work folder stays.
func (r *Runner) Destroy(ctx context.Context) error {
	if err := r.ready(ctx); err != nil {
		return err
	}
	if err := r.clearApplied(); err != nil {
		return err
	}
	log := newEventLog(r.options.Report)
	err := r.tf.DestroyJSON(ctx, log, tfexec.LockTimeout(lockTimeout), tfexec.Reattach(r.reattach))
	r.private()
	if err != nil {
		failure := r.failed(ctx, "destroy the VMs", log, err)
		failure.Advice = "What is left is known: when the cause is removed, destroy again."
		return failure
	}
	if r.root.local {
		provider.RemoveEmpty(r.options.VMs)
	}
	return nil
}

// ready finds the engine, serves the local provider, and initializes the work
// folder, each if it is needed and was not done yet.
func (r *Runner) ready(ctx context.Context) error {
	if r.root == nil {
		return errors.New("cannot run an engine: no root module was written")
	}
	if r.tf == nil {
		engine, err := Find(ctx, r.options.Find)
		if err != nil {
			return err
		}
		env := engineEnv()
		config, mirror, err := r.options.useMirror(ctx, engine)
		if err != nil {
			return err
		}
		if config != "" {
			env["TF_CLI_CONFIG_FILE"] = config
		}
		r.mirror = mirror
		tf, err := tfexec.NewTerraform(r.options.Dir, engine.Path)
		if err == nil {
			err = tf.SetEnv(tfexec.CleanEnv(env))
		}
		if err == nil {
			err = tf.SetWaitDelay(interruptWait)
		}
		if err != nil {
			return fmt.Errorf("cannot run %s: %w", engine.Path, err)
		}
		r.engine, r.tf = engine, tf
	}
	if r.root.local && r.reattach == nil {
		var err error
		if r.reattach, r.stop, err = provider.Serve(r.options.Executable); err != nil {
			return err
		}
	}
	return r.initialize(ctx)
}
