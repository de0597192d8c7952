// Package infra makes, changes and deletes the VMs of a session's instances: what
// the template gets, what the engine would do, what one run of the engine may do,
// and what the state keeps of it. Persistent disks are a part of it.
//
// A VM plan is a value. The engine runs once at a time: its work folder is not for
// concurrent use, and the state keeps what each run told.
package infra

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/clusterworks/deploy/deployer/internal/credentials"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// Options say where VMs come from.
type Options struct {
	Templates  fs.FS  // built in
	Executable string // the deploy program, which local VMs run as their init
	Dir        string // of the manifest: paths of templates and images start there
	// AskBuild is asked before an engine is built; nil: it is built.
	AskBuild func() (bool, error)
}

// Infra is the infrastructure of a session's deployment.
type Infra struct {
	s           *session.Session
	credentials *credentials.Credentials
	fleet       *fleet.Fleet
	options     Options
	// DeleteDisks: persistent disks without an instance are deleted, not kept.
	DeleteDisks bool

	engine sync.Mutex // held while the engine runs and the state takes up what it told
	// pending are the VMs whose wanted inputs the rollout has yet to bring, by
	// instance, with the inputs. It is guarded by engine.
	pending map[string][]string
}

// New returns the infrastructure of a session's deployment.
func New(s *session.Session, c *credentials.Credentials, f *fleet.Fleet, o Options) *Infra {
	return &Infra{s: s, credentials: c, fleet: f, options: o}
}

// open opens a work folder of the engine.
func (i *Infra) open(dir string) (*terraform.Runner, error) {
	return terraform.Open(terraform.Options{
		Dir: dir, Templates: i.options.Templates, Template: i.s.Manifest.Infrastructure.Template, BaseDir: i.options.Dir,
		VMs: i.s.Store.VMs(), Executable: i.options.Executable,
		Find: terraform.FindOptions{Ask: i.options.AskBuild, Made: i.s.State.Engine.Program},
		Report: func(line string) {
			i.s.Event(session.Event{Phase: session.PhaseVMs, Step: "engine", Message: line})
		},
	})
}

// Ready returns an error if there is no engine and none can be built.
func Ready(ctx context.Context, i *Infra) error {
	_, err := terraform.Find(ctx, terraform.FindOptions{
		Ask: i.options.AskBuild, Made: i.s.State.Engine.Program,
		Report: func(line string) {
			i.s.Event(session.Event{Phase: session.PhaseVMs, Step: "engine", Message: line})
		},
	})
	return err
}

// apply runs the engine within a scope and keeps what it tells. begun is false if
// nothing was changed. The caller holds i.engine.
func (i *Infra) apply(ctx context.Context, in input, s scope) (begun bool, err error) {
	engine, err := i.open(i.s.Store.Terraform())
	if err != nil {
		return false, err
	}
	defer engine.Close()
	if _, err := engine.Write(in.forEngine()); err != nil {
		return false, err
	}
	var recreate []string
	for _, id := range i.s.Recreate() {
		if slices.Contains(s.replace, state.Own(id)) {
			recreate = append(recreate, in.key(state.Own(id)))
		}
	}
	i.s.Counters.Engine.Add(1)
	p, err := engine.Plan(ctx, recreate...)
	if err != nil {
		return false, explain(err, i.s.Manifest)
	}
	instances := p.Instances
	if p.Pending {
		// The engine knows no epochs: this is the last moment to see that another
		// run has begun.
		if err := i.s.Check(); err != nil {
			return false, err
		}
		if err := s.check(p.Changes, in, i.s.VMs(), i.s.State.Orphans); err != nil {
			return false, err
		}
		if !s.uninstalled {
			var deleted []state.VMID
			for _, c := range p.Changes {
				if vm := in.vm(c.Key); (c.Action == terraform.Delete || c.Action == terraform.Replace) && !slices.Contains(deleted, vm) {
					deleted = append(deleted, vm)
				}
			}
			if err := i.fleet.Uninstall(ctx, deleted, false); err != nil {
				return true, err
			}
		}
		i.s.Counters.Engine.Add(1)
		i.s.Update(func() { i.s.State.Engine.Program = engine.Engine().String() })
		if instances, err = engine.Apply(ctx); err != nil {
			return true, explain(err, i.s.Manifest)
		}
	}
	return true, i.keep(in, instances)
}

// keep puts what the engine told of the VMs, by key, into the state.
func (i *Infra) keep(in input, instances map[string]terraform.Instance) error {
	own, previous := i.s.VMs(), i.s.Previous()
	vms, beside := map[string]state.VM{}, map[string]state.VM{}
	var replaced []string
	for key, x := range instances {
		id := in.vm(key)
		if id.Previous {
			vm, known := previous[id.Instance]
			if !known {
				vm = own[id.Instance] // another one was just made beside it
			}
			vm.Running = x.Running
			beside[id.Instance] = vm
			continue
		}
		vm, err := vmOf(x, in.of(id.Instance))
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		if key != id.Instance {
			vm.Key = key
		}
		if had, ok := own[id.Instance]; ok && had.ID == vm.ID && vm.HostKey == "" {
			vm.HostKey = had.HostKey // kept since the first contact
		} else if ok && had.ID != vm.ID {
			replaced = append(replaced, id.Instance)
		}
		vms[id.Instance] = vm
	}
	for id := range own {
		if _, there := vms[id]; !there {
			replaced = append(replaced, id)
		}
	}
	orphans, err := i.orphans(in)
	if err != nil {
		return err
	}
	err = i.s.UpdateAndSave(func() error {
		for _, id := range replaced {
			delete(i.s.Secrets.Agents, id)
		}
		i.s.State.VMs, i.s.State.Previous, i.s.State.Orphans = vms, beside, orphans
		NoteEngine(i.s.Store, i.s.State)
		return nil
	})
	// Now, since a connection that is made meanwhile must be to the new VM.
	for _, id := range replaced {
		i.fleet.Forget(state.Own(id))
	}
	return err
}
