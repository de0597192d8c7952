package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/clusterworks/deploy/jobs/component/moves"
	"github.com/clusterworks/deploy/jobs/component/node/lifecycle"
	"github.com/clusterworks/deploy/jobs/wire"
)

// An instance moves in steps that the gateway asks for; package moves says which of them
// a node takes. What is in the instance goes through a folder that all nodes of the
// service share: migration/<service>/<instance>.<number of the move>.

// mover is the part of a node that takes steps of moves.
type mover struct{ *Node }

// through returns the service if its instances move, and the folder through which.
func (n mover) through(name string, move wire.ServiceMove) (Mover, string, error) {
	m := moverOf(n.service)
	if m == nil {
		return nil, "", wire.Failure(wire.ServiceExtension, "instances of %s do not move", n.define.Name)
	}
	shared := n.current().MigrationNFS
	if shared == "" {
		return nil, "", wire.Failure(wire.ServiceExtension, "the node has no migration_nfs, through which instances move")
	}
	return m, filepath.Join(shared, "migration", n.prefix, name+"."+strconv.Itoa(move.Number)), nil
}

// moverOf returns how a service's instances move: its own way, or as a snapshot that is
// made on one node and rolled back to on the other; nil: not at all.
func moverOf(s Service) Mover {
	if m, is := s.(Mover); is {
		return m
	}
	if lacks, is := s.(interface{ NoSnapshots() string }); is && lacks.NoSnapshots() != "" {
		return nil
	}
	if c, is := s.(Snapshotter); is {
		return asSnapshot{c}
	}
	return nil
}

// asSnapshot moves an instance as a snapshot.
type asSnapshot struct{ Snapshotter }

// snapshotFile is the name of the one file of an export.
const snapshotFile = "snapshot"

func (s asSnapshot) Export(ctx context.Context, i Instance, folder string) error {
	out, err := os.OpenFile(filepath.Join(folder, snapshotFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make the export: %w", err)
	}
	defer out.Close()
	if err := s.Dump(ctx, i, out); err != nil {
		return err
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("cannot keep the export: %w", err)
	}
	return nil
}

func (s asSnapshot) Import(ctx context.Context, i Instance, folder string) error {
	in, err := os.Open(filepath.Join(folder, snapshotFile))
	if err != nil {
		return fmt.Errorf("cannot read the export: %w", err)
	}
	defer in.Close()
	return s.Load(ctx, i, in)
}

// step is a step of a move that this node takes: with the instance held, if there is one.
type step struct {
	Mover
	name      string
	move      wire.ServiceMove
	folder    string
	instance  Instance
	there     bool
	admission moves.Admission
}

// stepping has a node take a step of a move.
func (n mover) stepping(operation string, take func(context.Context, wire.Migration, step) (any, error)) func(context.Context, wire.Migration) (any, error) {
	return func(ctx context.Context, m wire.Migration) (any, error) {
		name := m.Instance.Credentials.Name()
		move, err := m.Instance.Move()
		if err != nil {
			return nil, err
		}
		service, folder, err := n.through(name, move)
		if err != nil {
			return nil, err
		}
		if n.keeper.RollingBack(name) {
			return nil, errRolling
		}
		if n.ledger.held(name) {
			return nil, wire.Failure(wire.ServiceUnavailable, wire.ServiceStepBusy)
		}
		release, ok := n.ledger.hold(ctx.Done(), name)
		if !ok {
			return nil, errBusy
		}
		defer release()
		i, there := n.ledger.get(name)
		admission, err := moves.Admit(operation, move, n.current().NodeID, moves.Record{There: there, Whole: i.State == Whole, Closed: i.Disabled, Last: i.Move})
		if err != nil {
			return nil, wire.Failure(wire.ServiceUnavailable, "%v", err)
		}
		return take(ctx, m, step{service, name, move, folder, i, there, admission})
	}
}

// disable keeps users out and exports what is in the instance. An export is there wholly
// or not at all, and is made once for a move.
func (n mover) disable(ctx context.Context, _ wire.Migration, s step) (any, error) {
	i := s.instance
	i.Disabled, i.Move = true, s.move.Number
	if err := n.ledger.put(i); err != nil {
		return nil, err
	}
	if n.keeper.Working(s.name) { // the snapshot that is being made goes along
		return nil, wire.Failure(wire.ServiceUnavailable, wire.ServiceStepBusy)
	}
	if err := s.Disable(ctx, i); err != nil {
		return nil, err
	}
	if _, err := os.Stat(s.folder); err == nil {
		return wire.ServiceAnswer{Success: true}, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot look for the export: %w", err)
	}
	half := s.folder + ".half"
	if err := removeExports(s.folder); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(half, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder of the move: %w", err)
	}
	err := s.Export(ctx, i, half)
	if err == nil {
		err = lifecycle.Pack(ctx, n.keeper, s.name, lifecycle.Packed(half))
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(half))
	}
	err = syncFolder(half)
	if err == nil {
		err = os.Rename(half, s.folder)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(s.folder))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot keep the export: %w", err)
	}
	return wire.ServiceAnswer{Success: true}, nil
}

// removeExports removes the exports of an instance: of this move, and of those before.
func removeExports(folder string) error {
	name, _, _ := strings.Cut(filepath.Base(folder), ".") // no instance's name has a dot
	entries, err := os.ReadDir(filepath.Dir(folder))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if of, _, _ := strings.Cut(e.Name(), "."); of == name {
			err = errors.Join(err, os.RemoveAll(filepath.Join(filepath.Dir(folder), e.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("cannot remove the export: %w", err)
	}
	return nil
}

// enable lets users into an instance: of the node that it has come to, or again of
// the one where it was disabled.
func (n mover) enable(ctx context.Context, _ wire.Migration, s step) (any, error) {
	i := s.instance
	i.Move = s.move.Number // a disable_instance of this move that is still on its way comes too late
	if err := n.ledger.put(i); err != nil {
		return nil, err
	}
	if err := s.Enable(ctx, i); err != nil {
		return nil, err
	}
	i.Disabled, i.Away = false, false
	return wire.ServiceAnswer{Success: true}, n.ledger.put(i)
}

// importInstance makes an instance of what another node has exported, with the same
// users and passwords. It is disabled until enable_instance.
func (n mover) importInstance(ctx context.Context, m wire.Migration, s step) (any, error) {
	cfg, c := n.current(), m.Instance.Credentials
	if s.admission == moves.Done {
		return wire.ServiceAnswer{Success: true}, nil
	}
	if cfg.disabled() {
		return nil, wire.Failure(wire.ServiceUnavailable, "the node is disabled")
	}
	if _, err := os.Stat(s.folder); err != nil {
		return nil, fmt.Errorf("there is no export of %s in migration_nfs: %w", c.Name(), err)
	}
	if s.admission == moves.Replace {
		if err := n.finishRemoval(ctx, s.instance); err != nil {
			return nil, err
		}
	}
	version, _ := m.Instance.Configuration["version"].(string)
	wanted := instanceFor(wire.ProvisionRequest{Plan: cfg.Plan, Version: version, Credentials: c}, cfg.DefaultVersion)
	wanted.Disabled, wanted.Move = true, s.move.Number
	for _, b := range m.Bindings {
		wanted.Bindings = append(wanted.Bindings, bindingOf(b))
	}
	i, err := n.ledger.add(wanted, cfg.Capacity, cfg.Ports)
	if err != nil {
		return nil, err
	}
	err = func() error {
		if _, err := n.service.Provision(ctx, i); err != nil {
			return err
		}
		if err := s.Import(ctx, i, s.folder); err != nil {
			return err
		}
		if err := lifecycle.Unpack(ctx, n.keeper, s.name, sealKey(i), lifecycle.Packed(s.folder)); err != nil {
			return err
		}
		for _, b := range i.Bindings {
			if _, err := n.service.Bind(ctx, i, b); err != nil {
				return err
			}
		}
		return s.Disable(ctx, i)
	}()
	v := n.judged(ctx, err)
	if v.keep {
		i.State = Whole
		if err = n.ledger.put(i); err == nil {
			n.announce(wire.ServiceSubject(n.prefix, wire.ServiceAnnounced), wire.ServiceDiscovery{})
			return wire.ServiceAnswer{Success: true}, nil
		}
		v.failure = failureOf(err)
	}
	return nil, errors.Join(v.failure, err, n.discard(ctx, i))
}

// update returns the handles of an instance as they are on this node. As long as nobody
// is let in, its users become those of the handles: who was bound or unbound while the
// instance was on its way.
func (n mover) update(ctx context.Context, m wire.Migration, s step) (any, error) {
	i := s.instance
	if i.Disabled {
		var err error
		if i, err = n.agree(ctx, i, m.Bindings); err != nil {
			return nil, err
		}
	}
	credentials, err := n.service.Provision(ctx, i)
	if err != nil {
		return nil, err
	}
	handles := []wire.ServiceHandle{m.Instance}
	handles[0].Credentials = n.granted(s.name, credentials).Credentials
	for _, b := range m.Bindings {
		at := i.binding(b.Credentials.User())
		if at < 0 || i.Bindings[at].State != Whole {
			continue // made or removed after the instance came here: its handle says so by itself
		}
		if credentials, err = n.service.Bind(ctx, i, i.Bindings[at]); err != nil {
			return nil, err
		}
		b.Credentials = n.granted(s.name, credentials).Credentials
		handles = append(handles, b)
	}
	if i.Disabled {
		if err := s.Disable(ctx, i); err != nil {
			return nil, err
		}
	}
	return handles, nil
}

// bindingOf returns the record of a binding that another node has made.
func bindingOf(h wire.ServiceHandle) Binding {
	app, _ := h.Configuration[wire.BoundApp].(string)
	return Binding{h.Credentials.User(), h.Credentials.Text("password"), Whole, said(app)}
}

// agree makes the users of a disabled instance those of the handles.
func (n mover) agree(ctx context.Context, i Instance, bindings []wire.ServiceHandle) (Instance, error) {
	wanted := map[string]bool{}
	for _, b := range bindings {
		wanted[b.Credentials.User()] = true
		if i.binding(b.Credentials.User()) < 0 {
			i = i.clone()
			i.Bindings = append(i.Bindings, bindingOf(b))
			if err := n.ledger.put(i); err != nil {
				return i, err
			}
		}
	}
	for at := len(i.Bindings) - 1; at >= 0; at-- {
		if wanted[i.Bindings[at].User] {
			continue
		}
		if err := n.removeBinding(ctx, i, at); err != nil {
			return i, err
		}
		i, _ = n.ledger.get(i.Name)
	}
	return i, nil
}

// cleanUp removes the export. An instance that has moved away is not at home here any
// more, and a copy that its move does not need is removed.
func (n mover) cleanUp(ctx context.Context, _ wire.Migration, s step) (any, error) {
	if err := removeExports(s.folder); err != nil {
		return nil, err
	}
	if s.admission == moves.Replace {
		if err := n.finishRemoval(ctx, s.instance); err != nil {
			return nil, err
		}
	}
	if i := s.instance; s.there && i.State == Whole && s.move.Phase == wire.MoveSwitched && s.move.From == n.current().NodeID {
		i.Away = true
		return wire.ServiceAnswer{Success: true}, n.ledger.put(i)
	}
	return wire.ServiceAnswer{Success: true}, nil
}
