package fleet

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/credentials"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/ssh/sshtest"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// fleetTestLimit bounds what these tests wait for.
const fleetTestLimit = 60 * time.Second

// fleetOf has one instance, web/0, whose VM is a host.
func fleetOf(t *testing.T, address net.Addr, keys sshtest.Keys) *Fleet {
	t.Helper()
	at := address.(*net.TCPAddr)
	s := &session.Session{Options: session.Options{Counters: &session.Counters{}}, Secrets: &state.Secrets{}, State: &state.State{VMs: map[string]state.VM{
		"web/0": {ID: "vm-0", SSHHost: at.IP.String(), SSHPort: at.Port, SSHUser: sshtest.User, HostKey: keys.HostKey},
	}}}
	s.Secrets.SSH.PrivateKey = string(keys.PrivateKey)
	f := New(s, credentials.Of(s), nil, Options{})
	f.setPatience(fleetTestLimit)
	t.Cleanup(f.Close)
	return f
}

// A network that fails for a moment must not cost an instance: what is asked of
// its agent is asked again, over another connection.
func TestALostConnectionIsMadeAnew(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), fleetTestLimit)
	defer cancel()
	host := sshtest.Start(t)
	f := fleetOf(t, host.Address, host.Keys)
	first, err := f.Connect(ctx, state.Own("web/0"))
	if err != nil {
		t.Fatal(err)
	}
	host.Cut()
	for {
		c, err := f.Connect(ctx, state.Own("web/0"))
		if err != nil {
			t.Fatalf("after the connection was lost: %v", err)
		}
		if c != first {
			if _, err := c.Run(ctx, "true", nil); err != nil {
				t.Errorf("the new connection: %v", err)
			}
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal("the connection that was lost is still used")
		case <-time.After(time.Millisecond):
		}
	}
}

// Who waits for a machine that boots is not to fail because somebody who waits
// less long, as the watcher of a rollout does, has dialled before.
func TestADialEndsOnlyForWhoGivesUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), fleetTestLimit)
	defer cancel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // nobody answers yet
	if err != nil {
		t.Fatal(err)
	}
	keys := sshtest.NewKeys(t)
	f := fleetOf(t, listener.Addr(), keys)

	hasty, giveUp := context.WithCancel(ctx)
	defer giveUp()
	var work sync.WaitGroup
	var hastyErr, patientErr error
	dials := f.s.Counters.SSH.Load()
	work.Go(func() { _, hastyErr = f.Connect(hasty, state.Own("web/0")) })
	for f.s.Counters.SSH.Load() == dials && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(time.Millisecond):
		}
	}
	waiting := &toldOfWait{Context: ctx, waits: make(chan struct{})}
	work.Go(func() { _, patientErr = f.Connect(waiting, state.Own("web/0")) })
	select {
	case <-waiting.waits:
	case <-ctx.Done():
		t.Error("the second one does not wait")
	}
	giveUp()
	sshtest.StartOn(t, listener, keys)
	work.Wait()
	if !errors.Is(hastyErr, context.Canceled) {
		t.Errorf("who gave up got %v", hastyErr)
	}
	if patientErr != nil {
		t.Errorf("who waited got %v", patientErr)
	}
}

// toldOfWait is a context that tells when somebody waits for it.
type toldOfWait struct {
	context.Context
	once  sync.Once
	waits chan struct{}
}

func (c *toldOfWait) Done() <-chan struct{} {
	c.once.Do(func() { close(c.waits) })
	return c.Context.Done()
}
