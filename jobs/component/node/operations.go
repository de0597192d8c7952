package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/wire"
)

// operation answers the messages of one subject. Each runs by itself and within
// op_time_limit.
func operation[T any](n *Node, parse func([]byte) (T, error), work func(context.Context, T) (any, error)) nats.MsgHandler {
	return within(n, slog.LevelInfo, func() time.Duration { return n.current().OpTimeLimit.Duration() }, parse, work)
}

// quietly is operation for pieces of files, of which there are many.
func quietly[T any](n *Node, parse func([]byte) (T, error), work func(context.Context, T) (any, error)) nats.MsgHandler {
	return within(n, slog.LevelDebug, func() time.Duration { return n.current().OpTimeLimit.Duration() }, parse, work)
}

// move is operation for the steps of a move, which have their own limit.
func move(n *Node, work func(context.Context, wire.Migration) (any, error)) nats.MsgHandler {
	return within(n, slog.LevelInfo, func() time.Duration { return wire.ServiceMoveLimit }, wire.ParseMigration, work)
}

// within answers the messages of one subject; success is logged at a level.
func within[T any](n *Node, success slog.Level, allowed func() time.Duration, parse func([]byte) (T, error), work func(context.Context, T) (any, error)) nats.MsgHandler {
	return func(m *nats.Msg) {
		began := time.Now()
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.leaving {
			return // the gateway's time-out is the answer
		}
		n.tasks.Go(func() {
			ctx, cancel := context.WithDeadline(n.working, began.Add(allowed()))
			defer cancel()
			log := n.base.Log().With("subject", m.Subject)
			request, err := parse(m.Data)
			var answer any
			if err != nil {
				log.Warn("refusing a request", "error", err)
				err = wire.Failure(wire.ServiceMalformed, "Malformed request")
			} else {
				answer, err = work(ctx, request)
			}
			var failure *wire.ServiceFailure
			switch {
			case errors.As(err, &failure):
				log.Warn("an operation failed", "error", err, "took", time.Since(began))
			case err != nil:
				log.Error("an operation failed", "error", err, "took", time.Since(began))
			default:
				log.Log(ctx, success, "operation done", "took", time.Since(began))
			}
			n.count(err)
			if err != nil {
				answer = wire.ServiceAnswer{Error: failureOf(err)}
			}
			if m.Reply != "" {
				n.publish(m.Reply, answer)
			}
		})
	}
}

func (n *Node) count(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		n.counts["operations_failed"]++
	} else {
		n.counts["operations_done"]++
	}
}

var (
	errNotFound = wire.Failure(wire.ServiceNotFound, "there is no such instance on this node")
	errBusy     = wire.Failure(wire.ServiceNodeTimeout, "Node operation timeout")
	errRolling  = wire.Failure(wire.ServiceUnavailable, "the service is being rolled back to a snapshot; try again later")
	errMoving   = wire.Failure(wire.ServiceUnavailable, "the instance is on its way to another node; try again later")
)

// judged is the verdict on an operation that began with ctx, as judge says: it is late
// if the deadline of ctx is over, whatever its limit was.
func (n *Node) judged(ctx context.Context, err error) verdict {
	limit := n.current().OpTimeLimit.Duration()
	end, _ := ctx.Deadline()
	return judge(err, limit-time.Until(end), limit)
}

// afterwards is a context for what must be done although the operation has ended.
func (n *Node) afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), n.current().OpTimeLimit.Duration())
}

// take waits for an instance and returns its record if it is one to work with.
func (n *Node) take(ctx context.Context, name string) (i Instance, release func(), err error) {
	if n.keeper.RollingBack(name) {
		return Instance{}, nil, errRolling
	}
	release, ok := n.ledger.hold(ctx.Done(), name)
	if !ok {
		return Instance{}, nil, errBusy
	}
	i, there := n.ledger.get(name)
	if !there || i.State != Whole {
		release()
		return Instance{}, nil, errNotFound
	}
	return i, release, nil
}

// provision makes an instance, or makes sure of the one that the credentials name.
func (n *Node) provision(ctx context.Context, r wire.ProvisionRequest) (any, error) {
	cfg := n.current()
	switch {
	case r.Plan != cfg.Plan:
		return nil, wire.Failure(wire.ServiceUnknownPlan, "this node has the plan %s", cfg.Plan)
	case n.service.Ready() != nil:
		return nil, fmt.Errorf("the service is not ready: %w", n.service.Ready())
	}
	return n.make(ctx, cfg, instanceFor(r, cfg.DefaultVersion), r.Credentials != nil)
}

// said is a text of a user for the record, at most maxSaid bytes of it.
func said(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxSaid)], "") }

const maxSaid = 200

func instanceFor(r wire.ProvisionRequest, version string) Instance {
	i := Instance{
		Name: "d" + randomHex(16), User: "u" + randomHex(12), Password: "p" + randomHex(16), Secret: randomHex(16),
		Plan: r.Plan, Version: r.Version, State: Making, Owner: said(r.Owner), Called: said(r.Called),
	}
	if i.Version == "" {
		i.Version = version
	}
	i.Name = cmp.Or(r.Credentials.Name(), i.Name)
	i.User = cmp.Or(r.Credentials.User(), i.User)
	i.Password = cmp.Or(r.Credentials.Text("password"), i.Password)
	return i
}

// make makes an instance. known says that it may be there: then it is made sure of
// and never removed.
func (n *Node) make(ctx context.Context, cfg Config, wanted Instance, known bool) (any, error) {
	release, ok := n.ledger.hold(ctx.Done(), wanted.Name)
	if !ok {
		return nil, errBusy
	}
	defer release()
	if present, there := n.ledger.get(wanted.Name); there {
		if !known || present.State != Whole || present.User != wanted.User || present.Password != wanted.Password {
			return nil, fmt.Errorf("cannot make %s: %w", wanted.Name, errExists)
		}
		credentials, err := n.service.Provision(ctx, present)
		if v := n.judged(ctx, err); !v.keep {
			return nil, errors.Join(v.failure, err)
		}
		return n.granted(present.Name, credentials), nil
	}
	if cfg.disabled() {
		return nil, wire.Failure(wire.ServiceUnavailable, "the node is disabled")
	}
	i, err := n.ledger.add(wanted, cfg.Capacity, cfg.Ports)
	if err != nil {
		return nil, err
	}
	credentials, err := n.service.Provision(ctx, i)
	v := n.judged(ctx, err)
	if v.keep {
		i.State = Whole
		if err = n.ledger.put(i); err == nil {
			return n.granted(i.Name, credentials), nil
		}
		v.failure = failureOf(err)
	}
	return nil, errors.Join(v.failure, err, n.discard(ctx, i))
}

// granted is the answer that gives credentials away.
func (n *Node) granted(name string, c wire.Credentials) wire.ServiceAnswer {
	c = c.Without()
	c["name"], c["node_id"] = name, n.current().NodeID
	return wire.ServiceAnswer{Success: true, Credentials: c}
}

// discard removes an instance. What fails is tried again by keepTidy.
func (n *Node) discard(ctx context.Context, i Instance) error {
	ctx, cancel := n.afterwards(ctx)
	defer cancel()
	return n.finishRemoval(ctx, i)
}

// finishRemoval takes an instance that is held out of the record once nothing is
// left of it.
func (n *Node) finishRemoval(ctx context.Context, i Instance) error {
	i.State = Removing
	if err := n.ledger.put(i); err != nil {
		return err
	}
	if err := n.keeper.Forget(ctx, i.Name); err != nil {
		return fmt.Errorf("cannot remove the snapshots of %s, which is tried again: %w", i.Name, err)
	}
	if err := n.service.Unprovision(ctx, i); err != nil {
		return fmt.Errorf("cannot remove %s, which is tried again: %w", i.Name, err)
	}
	return n.ledger.remove(i.Name)
}

// unprovision removes an instance. One that is unknown is gone already.
func (n *Node) unprovision(ctx context.Context, r wire.UnprovisionRequest) (any, error) {
	if err := n.keeper.Forget(ctx, r.Name); err != nil {
		return nil, err
	}
	release, ok := n.ledger.hold(ctx.Done(), r.Name)
	if !ok {
		return nil, errBusy
	}
	defer release()
	if i, there := n.ledger.get(r.Name); there {
		if err := n.finishRemoval(ctx, i); err != nil {
			return nil, errors.Join(n.judged(ctx, err).failure, err)
		}
		// A node that was full can be chosen again at once.
		n.announce(wire.ServiceSubject(n.prefix, wire.ServiceAnnounced), wire.ServiceDiscovery{})
	}
	return wire.ServiceAnswer{Success: true}, nil
}

// bind makes a user of an instance, or makes sure of the one that the credentials
// name.
func (n *Node) bind(ctx context.Context, r wire.BindRequest) (any, error) {
	i, release, err := n.take(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	defer release()
	if i.Disabled {
		return nil, errMoving
	}
	b := Binding{User: "u" + randomHex(12), Password: "p" + randomHex(16), State: Making, App: said(r.App)}
	if user := r.Credentials.User(); user != "" {
		b.User, b.Password = user, r.Credentials.Text("password")
	}
	return n.addBinding(ctx, i, b)
}

func (n *Node) addBinding(ctx context.Context, i Instance, b Binding) (any, error) {
	at := i.binding(b.User)
	if at >= 0 {
		if present := i.Bindings[at]; present.State != Whole || present.Password != b.Password {
			return nil, fmt.Errorf("cannot bind to %s: it has another user of that name", i.Name)
		}
		credentials, err := n.service.Bind(ctx, i, i.Bindings[at])
		if v := n.judged(ctx, err); !v.keep {
			return nil, errors.Join(v.failure, err)
		}
		return n.granted(i.Name, credentials), nil
	}
	at = len(i.Bindings)
	i.Bindings = append(i.Bindings, b)
	if err := n.ledger.put(i); err != nil {
		return nil, err
	}
	credentials, err := n.service.Bind(ctx, i, b)
	v := n.judged(ctx, err)
	if v.keep {
		i.Bindings[at].State = Whole
		if err = n.ledger.put(i); err == nil {
			return n.granted(i.Name, credentials), nil
		}
		v.failure = failureOf(err)
	}
	after, cancel := n.afterwards(ctx)
	defer cancel()
	return nil, errors.Join(v.failure, err, n.removeBinding(after, i, at))
}

// removeBinding takes a user out of an instance that is held.
func (n *Node) removeBinding(ctx context.Context, i Instance, at int) error {
	i = i.clone()
	i.Bindings[at].State = Removing
	if err := n.ledger.put(i); err != nil {
		return err
	}
	if err := n.service.Unbind(ctx, i, i.Bindings[at]); err != nil {
		return fmt.Errorf("cannot remove a user of %s, which is tried again: %w", i.Name, err)
	}
	i.Bindings = append(i.Bindings[:at], i.Bindings[at+1:]...)
	return n.ledger.put(i)
}

// unbind removes a user. One that is unknown is gone already.
func (n *Node) unbind(ctx context.Context, r wire.UnbindRequest) (any, error) {
	i, release, err := n.take(ctx, r.Credentials.Name())
	if errors.Is(err, error(errRolling)) {
		// The user is kept out already, and removed when the rollback has ended.
		return wire.ServiceAnswer{Success: true}, n.ledger.retire(r.Credentials.Name(), r.Credentials.User())
	}
	if errors.Is(err, error(errNotFound)) {
		return wire.ServiceAnswer{Success: true}, nil
	}
	if err != nil {
		return nil, err
	}
	defer release()
	if at := i.binding(r.Credentials.User()); at >= 0 {
		if err := n.removeBinding(ctx, i, at); err != nil {
			return nil, errors.Join(n.judged(ctx, err).failure, err)
		}
	}
	return wire.ServiceAnswer{Success: true}, nil
}

// purge removes orphans. Nobody waits for it.
func (n *Node) purge(ctx context.Context, r wire.PurgeOrphans) (any, error) {
	var problems []error
	for _, name := range r.Instances {
		after, cancel := n.afterwards(ctx)
		_, err := n.unprovision(after, wire.UnprovisionRequest{Name: name})
		cancel()
		n.base.Log().Info("orphan purged", "instance", name, "error", err)
		problems = append(problems, err)
	}
	for _, c := range r.Bindings {
		after, cancel := n.afterwards(ctx)
		_, err := n.unbind(after, wire.UnbindRequest{Credentials: c})
		cancel()
		n.base.Log().Info("orphan purged", "binding", c.Binding(), "error", err)
		problems = append(problems, err)
	}
	return wire.ServiceAnswer{Success: true}, errors.Join(problems...)
}

func (n *Node) restore(ctx context.Context, r wire.RestoreRequest) (any, error) {
	restorer, is := n.service.(Restorer)
	if !is {
		return nil, wire.Failure(wire.ServiceExtension, "%s has no restore", n.define.Name)
	}
	i, release, err := n.take(ctx, r.InstanceID)
	if err != nil {
		return nil, err
	}
	defer release()
	return wire.ServiceAnswer{Success: true}, restorer.Restore(ctx, i, r.BackupPath)
}

// keepTidy removes what operations have left half-made: those of this node's last
// life, and those whose end failed.
func (n *Node) keepTidy(ctx context.Context) error {
	first := true
	for {
		wait := n.current().AnnounceInterval.Duration()
		if n.service.Ready() != nil {
			wait = 200 * time.Millisecond
		} else {
			n.tidy(ctx, first)
			first = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (n *Node) tidy(ctx context.Context, first bool) {
	for _, i := range leftovers(n.ledger.list(), n.ledger.held) {
		ctx, cancel := n.afterwards(ctx)
		if err := n.tidyOne(ctx, i.Name); err != nil {
			n.base.Log().Error("cannot remove the files that an operation left", "instance", i.Name, "error", err)
		} else {
			n.base.Log().Info("removed the files that an operation left", "instance", i.Name, "at_start", first)
		}
		cancel()
	}
}

func (n *Node) tidyOne(ctx context.Context, name string) error {
	release, ok := n.ledger.hold(ctx.Done(), name)
	if !ok {
		return nil // somebody is at it
	}
	defer release()
	i, there := n.ledger.get(name)
	if !there {
		return nil
	}
	if i.State != Whole {
		return n.finishRemoval(ctx, i)
	}
	for at := len(i.Bindings) - 1; at >= 0; at-- {
		if i.Bindings[at].State == Whole {
			continue
		}
		if err := n.removeBinding(ctx, i, at); err != nil {
			return err
		}
		i, _ = n.ledger.get(name)
	}
	return nil
}

// randomHex returns n random bytes in hexadecimal.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
