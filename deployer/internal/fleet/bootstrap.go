package fleet

import (
	"context"
	"fmt"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/bootstrap"
	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Bootstrap puts the agent on the instances' VMs that do not run the wanted one,
// and asks it who it is.
func (f *Fleet) Bootstrap(ctx context.Context, of []string) error {
	agent, err := f.packages.Agent()
	if err != nil {
		return err
	}
	var ids []string
	for _, id := range of {
		inv := f.Inventory(id)
		if f.s.Touches(id) && (inv == nil || inv.Agent.Digest != agent.Digest || inv.Agent.Unkept || len(inv.Agent.Damaged) > 0) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	f.setPatience(bootPatience)
	return f.s.Each(ctx, len(ids), func(ctx context.Context, i int) error {
		id := ids[i]
		f.s.Event(session.Event{Phase: session.PhaseBootstrap, Instance: id, Step: "bootstrap"})
		err := f.bootstrapOne(ctx, id, agent)
		e := session.Event{Phase: session.PhaseBootstrap, Instance: id, Step: "bootstrap", Done: err == nil}
		if err != nil {
			e.Error = err.Error()
		}
		f.s.Event(e)
		return err
	})
}

func (f *Fleet) bootstrapOne(ctx context.Context, id string, agent packages.Blob) error {
	vm := f.s.VM(state.Own(id))
	conn, err := f.Connect(ctx, state.Own(id))
	if err != nil {
		return fmt.Errorf("cannot reach the VM of %s: %w; %s%s", id, err, unreached(f.s, id), lastOfConsole(vm.Console))
	}
	if vm.HostKey == "" {
		if err := pin(f.s, id, conn.HostKey()); err != nil {
			return err
		}
	}
	// Whose machine is it? Another deployment's agent is not even upgraded. A
	// machine without one answers with an error at once.
	var there api.Inventory
	if Within(ctx, AskTime(vm), func(ctx context.Context) (err error) { there, err = f.Client(state.Own(id)).Inventory(ctx); return err }) == nil {
		if err := f.Refuse(id, &there); err != nil {
			return err
		}
	}
	_, inv, err := bootstrap.Agent(ctx, conn, bootstrap.Machine{AgentDir: vm.AgentDir, OS: vm.OS, Arch: vm.Arch, Boot: bootTime(vm)}, agent, func(s bootstrap.Step) {
		f.s.Event(session.Event{Phase: session.PhaseBootstrap, Instance: id, Step: "bootstrap", Message: string(s)})
	}, func(note string) {
		f.s.Event(session.Event{Phase: session.PhaseBootstrap, Message: id + ": " + note})
	})
	if err != nil {
		return fmt.Errorf("cannot put the agent on %s: %w", id, err)
	}
	if inv.Agent.API != api.Version {
		return fmt.Errorf("cannot use the agent that was put on %s: it speaks version %d of the agents' API, this deploy version %d; the built packages in %s are not this deploy's, type `make build`",
			id, inv.Agent.API, api.Version, f.packages.Dir())
	}
	f.setInventory(id, &inv)
	return nil
}

// unreached says what to do about a VM that has not let us in.
func unreached(s *session.Session, id string) string {
	image := "its image"
	name, index, err := api.SplitInstance(id)
	if g := s.Manifest.Group(name); err == nil && g != nil {
		switch vm := g.VMFor(index); {
		case vm == nil:
		case vm.Stemcell != nil:
			image = fmt.Sprintf("stemcell of vm %q", vm.Name)
		case vm.Image != "":
			image = fmt.Sprintf("image of vm %q", vm.Name)
		}
	}
	return fmt.Sprintf("if it is only slow, apply again, or set boot_seconds of the infrastructure block where the template has it; if its boot has failed, correct %s and type: deploy recreate %s", image, id)
}

// pin keeps the first host key that is seen of a VM whose infrastructure cannot
// tell it. It is saved before anything is sent to the VM: if what follows fails,
// the next run must not trust whoever answers then.
func pin(s *session.Session, id, hostKey string) error {
	s.Event(session.Event{Phase: session.PhaseBootstrap, Message: fmt.Sprintf("%s: trusting host key %s at first contact", id, hostKey)})
	err := s.UpdateAndSave(func() error {
		vm := s.State.VMs[id]
		vm.HostKey = hostKey
		s.State.VMs[id] = vm
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot keep the host key of %s: %w", id, err)
	}
	return nil
}
