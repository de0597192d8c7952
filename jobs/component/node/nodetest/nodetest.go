// Package nodetest runs a service's node for tests, on a bus of its own, and plays the
// gateway.
package nodetest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/wire"
)

// deadline is far above what a busy machine needs for anything that is awaited.
const deadline = 2 * time.Minute

// Fixture is a node that runs.
type Fixture struct {
	testing.TB
	ID   string
	Base string // its base_dir
	Stop func() // ends it in order; Start begins it again

	moves  atomic.Int32
	define func() node.Definition
	prefix string
	file   string
	conn   *nats.Conn
}

// New runs a node with these settings until the test ends.
func New(t testing.TB, define func() node.Definition, settings string) *Fixture {
	t.Helper()
	bus := componenttest.Bus(t)
	conn, err := nats.Connect(bus.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	name := define().Name
	dir := t.TempDir() // its name is another one for each node of a test
	f := &Fixture{TB: t, ID: name + "_node_free_" + filepath.Base(dir), Base: filepath.Join(dir, "data"), define: define, prefix: wire.ServicePrefix(name), file: filepath.Join(dir, "node.yml"), conn: conn}
	text := fmt.Sprintf("mbus: %s\nlocal_route: 127.0.0.1\nnode_id: %s\nbase_dir: %s\nop_time_limit: 60\n%s", bus.ClientURL(), f.ID, f.Base, settings)
	if err := os.WriteFile(f.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Start()
	t.Cleanup(func() { f.Stop() })
	return f
}

// Start runs the node and returns when it has announced itself.
func (f *Fixture) Start() {
	f.Helper()
	heard := make(chan *nats.Msg, 64)
	sub, err := f.conn.ChanSubscribe(wire.ServiceSubject(f.prefix, wire.ServiceAnnounced), heard)
	if err != nil {
		f.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := f.conn.Flush(); err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- node.Run(ctx, component.Process{ConfigFile: f.file, Output: f.Output()}, f.define()) }()
	f.Stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Error(err)
		}
	})
	select {
	case <-heard:
	case err := <-ended:
		ended <- nil
		f.Fatalf("the node has ended: %v", err)
	case <-time.After(deadline):
		f.Fatal("the node does not announce itself")
	}
}

// Run runs the node, which was stopped and cannot start, and returns why.
func (f *Fixture) Run() error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return node.Run(ctx, component.Process{ConfigFile: f.file, Output: f.Output()}, f.define())
}

// Ask sends an operation and returns the node's answer.
func (f *Fixture) Ask(operation string, request any) wire.ServiceAnswer {
	f.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		f.Fatal(err)
	}
	m, err := f.conn.Request(wire.ServiceNodeSubject(f.prefix, operation, f.ID), body, deadline)
	if err != nil {
		f.Fatal(err)
	}
	a, err := wire.ParseServiceAnswer(m.Data)
	if err != nil {
		f.Fatal(err)
	}
	return a
}

func (f *Fixture) ok(operation string, request any) wire.Credentials {
	f.Helper()
	a := f.Ask(operation, request)
	if !a.Success {
		f.Fatalf("%s: %v", operation, a.Error)
	}
	return a.Credentials
}

// Move moves an instance with its bindings from one node to another, as the gateway
// does, and returns the credentials as they are there. Both share a migration_nfs.
func (f *Fixture) Move(to *Fixture, instance wire.Credentials, bindings ...wire.Credentials) []wire.Credentials {
	f.Helper()
	handle := wire.ServiceHandle{ServiceID: instance.Name(), Credentials: instance}
	number := int(f.moves.Add(1))
	at := func(phase wire.MovePhase) wire.Migration {
		m := wire.Migration{Instance: handle.WithMove(wire.ServiceMove{Number: number, From: f.ID, To: to.ID, Phase: phase})}
		for _, b := range bindings {
			m.Bindings = append(m.Bindings, wire.ServiceHandle{ServiceID: b.User(), Credentials: b})
		}
		return m
	}
	m := at(wire.MoveCopying)
	f.ok(wire.ServiceDisable, m)
	to.ok(wire.ServiceImport, m)
	body, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	answer, err := to.conn.Request(wire.ServiceNodeSubject(to.prefix, wire.ServiceUpdate, to.ID), body, deadline)
	if err != nil {
		f.Fatal(err)
	}
	var handles []wire.ServiceHandle
	if err := json.Unmarshal(answer.Data, &handles); err != nil {
		f.Fatalf("update_instance: %s", answer.Data)
	}
	m = at(wire.MoveSwitched)
	to.ok(wire.ServiceEnable, m)
	f.ok(wire.ServiceCleanUp, m)
	var moved []wire.Credentials
	for _, h := range handles {
		moved = append(moved, h.Credentials)
	}
	return moved
}

// Provision makes an instance.
func (f *Fixture) Provision() wire.Credentials {
	f.Helper()
	return f.ok(wire.ServiceProvision, wire.ProvisionRequest{Plan: "free"})
}

// Bind makes a user of an instance.
func (f *Fixture) Bind(instance wire.Credentials) wire.Credentials {
	f.Helper()
	return f.ok(wire.ServiceBind, wire.BindRequest{Name: instance.Name(), Options: json.RawMessage(`{}`)})
}

// Unbind removes a user.
func (f *Fixture) Unbind(c wire.Credentials) {
	f.Helper()
	f.ok(wire.ServiceUnbind, wire.UnbindRequest{Credentials: c})
}

// Unprovision removes an instance.
func (f *Fixture) Unprovision(c wire.Credentials) {
	f.Helper()
	f.ok(wire.ServiceUnprovision, wire.UnprovisionRequest{Name: c.Name()})
}

// Snapshots asks for an operation that is about snapshots and returns the answer.
func (f *Fixture) Snapshots(operation string, request wire.SnapshotRequest) wire.SnapshotAnswer {
	f.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		f.Fatal(err)
	}
	m, err := f.conn.Request(wire.ServiceNodeSubject(f.prefix, operation, f.ID), body, deadline)
	if err != nil {
		f.Fatal(err)
	}
	a, err := wire.ParseSnapshotAnswer(m.Data)
	if err != nil {
		f.Fatal(err)
	}
	return a
}

// Job asks for a job and returns how it ended.
func (f *Fixture) Job(operation string, request wire.SnapshotRequest) wire.ServiceJob {
	f.Helper()
	a := f.Snapshots(operation, request)
	if !a.Success {
		f.Fatalf("%s: %v", operation, a.Error)
	}
	return f.Ended(request.InstanceID, a.Job.ID)
}

// Ended waits until a job has ended.
func (f *Fixture) Ended(instance, job string) wire.ServiceJob {
	f.Helper()
	var last wire.ServiceJob
	componenttest.Eventually(f, "the job ends", func() bool {
		a := f.Snapshots(wire.ServiceJobDetails, wire.SnapshotRequest{InstanceID: instance, JobID: job})
		if !a.Success {
			f.Fatalf("job %s: %v", job, a.Error)
		}
		last = *a.Job
		return last.CompletedAt != nil
	})
	return last
}

// Snapshot makes a snapshot of an instance and returns its id.
func (f *Fixture) Snapshot(instance wire.Credentials) string {
	f.Helper()
	j := f.Job(wire.ServiceCreateSnapshot, wire.SnapshotRequest{InstanceID: instance.Name()})
	if j.Status != wire.JobCompleted || j.Snapshot == nil || j.Snapshot.Size == 0 {
		f.Fatalf("a snapshot: %+v", j)
	}
	return j.Snapshot.ID
}

// Rollback rolls an instance back to a snapshot.
func (f *Fixture) Rollback(instance wire.Credentials, id string) {
	f.Helper()
	if j := f.Job(wire.ServiceRollbackSnapshot, wire.SnapshotRequest{InstanceID: instance.Name(), SnapshotID: id}); j.Status != wire.JobCompleted {
		f.Fatalf("a rollback: %+v, %+v", j, j.Error)
	}
}

// Tamper changes one byte in the middle of a snapshot's file.
func (f *Fixture) Tamper(folder string, instance wire.Credentials, id string) {
	f.Helper()
	file := filepath.Join(folder, f.ID, instance.Name(), id+".data")
	info, err := os.Stat(file)
	if err != nil {
		f.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		f.Errorf("a snapshot has the mode %v", info.Mode())
	}
	data, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		f.Fatal(err)
	}
}
