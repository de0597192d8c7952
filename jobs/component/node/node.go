package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/node/lifecycle"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Node is a running service node.
type Node struct {
	file    string
	define  Definition
	base    *component.Component
	prefix  string
	ledger  *ledger
	service Service
	keeper  *lifecycle.Keeper

	tasks   sync.WaitGroup
	working context.Context // of operations; ends when the node does
	cut     context.CancelFunc

	mu      sync.Mutex // guards the rest
	config  Config
	subs    []*nats.Subscription
	leaving bool
	counts  map[string]int // operations, by what became of them
}

// recordsFolder is the folder of the instances' records, in BaseDir.
const recordsFolder = "instances"

// Main is the main function of a node's program. "census -c FILE" says what lives on
// the node, "leave -c FILE" has it moved away.
func Main(d Definition) int {
	if status, is := errand(d, os.Args); is {
		return status
	}
	return component.Main(d.Name+"_node", func(ctx context.Context, p component.Process) error { return Run(ctx, p, d) })
}

// Run is a service's node until ctx ends.
func Run(ctx context.Context, p component.Process, d Definition) error {
	n, err := open(p, d)
	if err != nil {
		return err
	}
	defer n.base.Close()
	return n.run(ctx)
}

func open(p component.Process, d Definition) (_ *Node, err error) {
	cfg, raw, err := load(p.ConfigFile, d.Settings)
	if err != nil {
		return nil, err
	}
	n := &Node{file: p.ConfigFile, define: d, prefix: wire.ServicePrefix(d.Name), config: cfg, counts: map[string]int{}}
	n.working, n.cut = context.WithCancel(context.Background())
	var notes []string
	if n.ledger, notes, err = openLedger(filepath.Join(cfg.BaseDir, recordsFolder)); err != nil {
		return nil, err
	}
	n.base, err = component.Open(component.Options{
		Type:    n.prefix + "-Node",
		Process: p,
		Config:  cfg.Config,
		Raw:     raw,
		Varz:    n.varz,
		Ready:   func() error { return n.service.Ready() },
		Drain:   n.drain,
		Reload:  n.reload,
	})
	if err != nil {
		return nil, err
	}
	for _, note := range notes {
		n.base.Log().Error("cannot read an instance's record; keeping its data and its place", "note", note)
	}
	keeper, serve, err := openKeeper(cfg, d.Name, n.ledger, n.base.Log())
	if err != nil {
		n.base.Close()
		return nil, err
	}
	n.keeper = keeper
	n.service, err = d.Open(n.working, Host{cfg, n.base.Log(), n.base.Address(), n.whole})
	if err != nil {
		n.base.Close()
		return nil, fmt.Errorf("cannot begin the service %s: %w", d.Name, err)
	}
	serve(n.service)
	return n, nil
}

func (n *Node) run(ctx context.Context) error {
	defer n.tasks.Wait()
	defer n.cut()
	cfg, m := n.current(), mover{n}
	for operation, handle := range map[string]nats.MsgHandler{
		wire.ServiceProvision:   operation(n, wire.ParseProvisionRequest, n.provision),
		wire.ServiceUnprovision: operation(n, wire.ParseUnprovisionRequest, n.unprovision),
		wire.ServiceBind:        operation(n, wire.ParseBindRequest, n.bind),
		wire.ServiceUnbind:      operation(n, wire.ParseUnbindRequest, n.unbind),
		wire.ServiceRestore:     operation(n, wire.ParseRestoreRequest, n.restore),
		wire.ServiceDisable:     move(n, m.stepping(wire.ServiceDisable, m.disable)),
		wire.ServiceEnable:      move(n, m.stepping(wire.ServiceEnable, m.enable)),
		wire.ServiceImport:      move(n, m.stepping(wire.ServiceImport, m.importInstance)),
		wire.ServiceUpdate:      move(n, m.stepping(wire.ServiceUpdate, m.update)),
		wire.ServiceCleanUp:     move(n, m.stepping(wire.ServiceCleanUp, m.cleanUp)),
		wire.ServicePurge:       operation(n, wire.ParsePurgeOrphans, n.purge),

		wire.ServiceListSnapshots:    operation(n, wire.ParseSnapshotRequest, listSnapshots(n.keeper)),
		wire.ServiceCreateSnapshot:   operation(n, wire.ParseSnapshotRequest, createSnapshot(n.keeper)),
		wire.ServiceRollbackSnapshot: operation(n, wire.ParseSnapshotRequest, rollBack(n.keeper)),
		wire.ServiceDeleteSnapshot:   operation(n, wire.ParseSnapshotRequest, deleteSnapshot(n.keeper)),
		wire.ServiceJobDetails:       operation(n, wire.ParseSnapshotRequest, jobDetails(n.keeper)),

		wire.ServiceSerialize:   operation(n, wire.ParseSerializedRequest, serialize(n.keeper)),
		wire.ServiceReadPiece:   quietly(n, wire.ParseSerializedRequest, readPiece(n.keeper)),
		wire.ServiceBeginUpload: operation(n, wire.ParseSerializedRequest, beginUpload(n.keeper)),
		wire.ServiceWritePiece:  quietly(n, wire.ParseSerializedRequest, writePiece(n.keeper)),
		wire.ServiceImportFile:  operation(n, wire.ParseSerializedRequest, importUpload(n.keeper)),
	} {
		if err := n.subscribe(wire.ServiceNodeSubject(n.prefix, operation, cfg.NodeID), handle); err != nil {
			return err
		}
	}
	if err := n.subscribe(wire.ServiceSubject(n.prefix, wire.ServiceDiscover), n.discovered); err != nil {
		return err
	}
	if err := n.subscribe(wire.ServiceSubject(n.prefix, wire.ServiceCheckOrphan), func(*nats.Msg) { n.report() }); err != nil {
		return err
	}
	if err := n.subscribe(wire.ServiceNodeSubject(n.prefix, wire.ServiceLeaveNode, cfg.NodeID), n.leave); err != nil {
		return err
	}
	n.base.OnConnect(func() { n.announce(wire.ServiceSubject(n.prefix, wire.ServiceAnnounced), wire.ServiceDiscovery{}) })
	parts := []func(context.Context) error{n.keepAnnouncing, n.keepTidy, n.keeper.Run}
	if r, is := n.service.(Runner); is {
		parts = append(parts, r.Run)
	}
	return n.base.Run(ctx, parts...)
}

func (n *Node) subscribe(subject string, handle nats.MsgHandler) error {
	sub, err := n.base.Bus().Subscribe(subject, handle)
	if err != nil {
		return fmt.Errorf("cannot subscribe %s: %w", subject, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subs = append(n.subs, sub)
	return nil
}

// drain takes no further operation and waits for those in progress. Each of them is
// bounded.
func (n *Node) drain(ctx context.Context) error {
	n.mu.Lock()
	n.leaving = true
	subs := n.subs
	n.subs = nil
	n.mu.Unlock()
	for _, sub := range subs {
		_ = sub.Unsubscribe() // fails with the connection only
	}
	ended := make(chan struct{})
	go func() { n.tasks.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("operations are in progress: %w", context.Cause(ctx))
	}
}

// reload takes whether the node is disabled, and its capacity.
func (n *Node) reload() error {
	cfg, _, err := load(n.file, nil)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.config.Disabled, n.config.DisabledFile, n.config.Capacity = cfg.Disabled, cfg.DisabledFile, cfg.Capacity
	n.mu.Unlock()
	n.announce(wire.ServiceSubject(n.prefix, wire.ServiceAnnounced), wire.ServiceDiscovery{})
	return nil
}

func (n *Node) current() Config {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.config
}

// disabled reports whether the node takes no new instances.
func (c Config) disabled() bool {
	if c.Disabled || c.DisabledFile == "" {
		return c.Disabled
	}
	_, err := os.Lstat(c.DisabledFile)
	return !errors.Is(err, os.ErrNotExist)
}

// versions are those that the node announces.
func (n *Node) versions(cfg Config) []string {
	if len(cfg.SupportedVersions) > 0 {
		return cfg.SupportedVersions
	}
	if v, is := n.service.(Versioned); is && v.Version() != "" {
		return []string{v.Version()}
	}
	return []string{}
}

func (n *Node) about() wire.ServiceAnnounce {
	cfg := n.current()
	return wire.ServiceAnnounce{
		ID: cfg.NodeID, Plan: cfg.Plan, SupportedVersions: n.versions(cfg), AvailableCapacity: n.ledger.available(cfg.Capacity), CapacityUnit: 1,
	}
}

func (n *Node) discovered(m *nats.Msg) {
	d, err := wire.ParseServiceDiscovery(m.Data)
	if err != nil {
		n.base.Log().Warn("ignoring a message", "subject", m.Subject, "error", err)
		return
	}
	to := m.Reply
	if to == "" {
		to = wire.ServiceSubject(n.prefix, wire.ServiceAnnounced)
	}
	n.announce(to, d)
}

// announce says what the node can take, if it is one to say so.
func (n *Node) announce(subject string, d wire.ServiceDiscovery) {
	cfg := n.current()
	if announces(d, cfg.Plan, cfg.disabled(), n.service.Ready()) {
		n.publish(subject, n.about())
	}
}

func (n *Node) keepAnnouncing(ctx context.Context) error {
	announced := false
	for {
		// A service that becomes ready says so at once.
		wait := n.current().AnnounceInterval.Duration()
		if ready := n.service.Ready() == nil; !ready || !announced {
			wait, announced = 200*time.Millisecond, ready
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
			if n.base.Connected() {
				n.announce(wire.ServiceSubject(n.prefix, wire.ServiceAnnounced), wire.ServiceDiscovery{})
			}
		}
	}
}

// report says what the node has, for the check of orphans.
func (n *Node) report() {
	limit := wire.MaxServiceReport
	if most := int(n.base.Bus().MaxPayload()) - 200; most > 0 && most < limit {
		limit = most
	}
	for _, r := range reports(n.ledger.list(), n.current().NodeID, limit) {
		n.publish(wire.ServiceSubject(n.prefix, wire.ServiceNodeHandles), r)
	}
}

// whole returns the instances that are whole. One that is being rolled back counts as
// disabled: the node itself is at work there, as its owner.
func (n *Node) whole() []Instance {
	var list []Instance
	for _, i := range n.ledger.list() {
		if i.State == Whole {
			i.Disabled = i.Disabled || n.keeper.RollingBack(i.Name)
			list = append(list, i)
		}
	}
	return list
}

func (n *Node) publish(subject string, message any) {
	data, err := json.Marshal(message)
	if err == nil {
		err = n.base.Bus().Publish(subject, data)
	}
	if err != nil {
		n.base.Log().Warn("cannot publish", "subject", subject, "error", err)
	}
}

func (n *Node) varz() map[string]any {
	about := n.about()
	doc := map[string]any{
		"node_id": about.ID, "plan": about.Plan, "supported_versions": about.SupportedVersions, "available_capacity": about.AvailableCapacity,
		"capacity_unit": about.CapacityUnit, "instances": len(n.whole()), "disabled": n.current().disabled(),
		"snapshots": n.keeper.Counts(),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for what, count := range n.counts {
		doc[what] = count
	}
	return doc
}
