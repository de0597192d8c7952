package agent_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/clusterworks/deploy/agent/agenttest"
	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/client"
)

// heartbeats hands over what an agent publishes.
func (f *fixture) heartbeats(nc *nats.Conn) <-chan api.Heartbeat {
	f.Helper()
	beats := make(chan api.Heartbeat, 256)
	_, err := nc.Subscribe(api.HeartbeatWildcard, func(m *nats.Msg) {
		var b api.Heartbeat
		if m.Subject == api.HeartbeatSubject(instance) && json.Unmarshal(m.Data, &b) == nil {
			beats <- b
		}
	})
	f.must(err)
	f.must(nc.Flush())
	return beats
}

// awaitBeat waits for a heartbeat that fulfils the condition.
func (f *fixture) awaitBeat(beats <-chan api.Heartbeat, what string, condition func(api.Heartbeat) bool) api.Heartbeat {
	f.Helper()
	timeout := time.After(patience)
	for {
		select {
		case b := <-beats:
			if condition(b) {
				return b
			}
		case <-timeout:
			f.Fatalf("no heartbeat within %s: %s", patience, what)
		}
	}
}

func TestHeartbeatsTellTransitionsAtOnce(t *testing.T) {
	t.Parallel()
	f := startOnBus(t)
	beats := f.heartbeats(f.bus.Connect(""))
	f.apply(specOf("g1", jobOf("app", sleeper("main", "d1"))))
	first := f.awaitBeat(beats, "running", func(b api.Heartbeat) bool { return b.State == api.InstanceRunning && b.Generation == "g1" })
	if len(first.Processes) != 1 || first.Processes[0].PID == 0 || first.BootID == "" || first.DeploymentID != deployment ||
		first.Vitals.MemoryBytes == 0 || first.Vitals.DiskBytes == 0 || first.Vitals.MemoryUsedBytes <= 0 {
		t.Errorf("got %+v", first)
	}
	f.must(f.do(api.Stop{}))
	stopped := f.awaitBeat(beats, "stopped", func(b api.Heartbeat) bool { return b.State == api.InstanceStopped })
	if stopped.Sequence <= first.Sequence {
		t.Errorf("sequence %d after %d", stopped.Sequence, first.Sequence)
	}
	f.awaitBeat(beats, "the regular one", func(b api.Heartbeat) bool { return b.At.Sub(stopped.At) > 8*time.Second })
}

func TestAgentIsListedAsMicroService(t *testing.T) {
	t.Parallel()
	f := startOnBus(t)
	reply, err := f.bus.Connect("").Request("$SRV.INFO."+api.ServiceName, nil, patience)
	f.must(err)
	var info micro.Info
	f.must(json.Unmarshal(reply.Data, &info))
	if info.Name != api.ServiceName || info.Version != "0.0.0-test" || info.Metadata["instance"] != instance ||
		info.Metadata["deployment_id"] != deployment || info.Metadata["address"] != "127.0.0.1" || len(info.Endpoints) != len(api.Methods()) {
		t.Errorf("got %+v", info)
	}
	for _, e := range info.Endpoints {
		if e.Subject != api.Subject(instance, api.Method(e.Name)) {
			t.Errorf("endpoint %+v", e)
		}
	}
}

// The bus may go away for a while, the agent may start without it, and its
// socket answers all the time.
func TestBusGoesAndComesBack(t *testing.T) {
	t.Parallel()
	f := startOnBus(t)
	_, port, err := net.SplitHostPort(f.bus.Address)
	f.must(err)
	var number int
	_, err = fmt.Sscan(port, &number)
	f.must(err)
	f.bus.Stop()
	f.until("the agent sees it", func() bool {
		inventory, err := f.agent.Inventory(f.context())
		f.must(err)
		return !inventory.Bus.Connected
	})
	f.agent.Kill()
	f.agent.Run()
	inventory, err := f.agent.Inventory(f.context())
	f.must(err)
	if inventory.Bus.Connected || inventory.Bus.Digest == "" || inventory.Bus.CertificateEnds == nil {
		t.Errorf("got %+v", inventory.Bus)
	}
	f.until("the reason is told", func() bool {
		inventory, err := f.agent.Inventory(f.context())
		f.must(err)
		return inventory.Bus.Error != ""
	})
	f.bus.Run(number)
	f.until("the agent is back", func() bool { _, err := f.c.Inventory(f.context()); return err == nil })
	if b := f.inventory().Bus; !b.Connected || b.Error != "" {
		t.Errorf("got %+v", b)
	}
}

func TestNewBusReplacesOldOnlyWhenItAnswers(t *testing.T) {
	t.Parallel()
	f := startOnBus(t)
	good := f.inventory().Bus

	bad := f.busSettings()
	bad.Certificate = f.bus.Issue(api.AgentIdentity(deployment, "web/1"), strangersKey(t))
	bad.Digest = "bad"
	f.refused(f.configure(bad), api.CodeFailed, "key")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	f.must(err)
	closed := taken.Addr().String()
	f.must(taken.Close())
	silent := f.busSettings()
	silent.URLs, silent.Digest = []string{"tls://" + closed}, "silent"
	plain := f.busSettings()
	plain.URLs, plain.Digest = []string{"nats://" + f.bus.Address}, "plain"
	f.refused(f.configure(plain), api.CodeFailed, "tls")
	f.refused(f.configure(silent), api.CodeFailed, closed)
	if now := f.inventory().Bus; !now.Connected || now.Digest != good.Digest {
		t.Errorf("got %+v", now)
	}

	other := agenttest.StartBus(t, deployment)
	inventory := f.inventory()
	settings := other.Settings(instance, inventory.PublicKey)
	// The answer comes over the new bus or the socket: the old one is left.
	f.c = client.Fallback(client.NATS(f.bus.Connect(""), instance), f.agent.Client)
	f.must(f.configure(settings))
	f.c = client.NATS(other.Connect(""), instance)
	if now := f.inventory().Bus; now.Digest != settings.Digest || !slices.Equal(now.URLs, settings.URLs) {
		t.Errorf("got %+v", now)
	}
	events := 0
	f.must(f.c.Do(f.context(), f.submission(api.Configure{Deployment: "cf", VMID: "vm-1", Address: "127.0.0.1", Bus: settings}),
		func(e api.OperationEvent) { events++ }))
	if events != 1 {
		t.Errorf("the same settings took %d steps", events)
	}
	if _, err := client.NATS(f.bus.Connect(""), instance).Inventory(f.context()); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("the old bus still answers: %v", err)
	}
}

// The agent's own connection is cut again and again while it fetches and works.
func TestAgentsConnectionIsCut(t *testing.T) {
	t.Parallel()
	f := startOnBus(t)
	p := startProxy(t, func() (net.Conn, error) { return net.Dial("tcp", f.bus.Address) }, 0)
	settings := f.busSettings()
	settings.URLs, settings.Digest = []string{"tls://" + p.address()}, "through the proxy"
	f.must(f.configure(settings))
	archive, digest := pack(f, "serve", "#!/bin/sh\necho served; exec sleep 1000\n"+noise(2<<20))
	f.bus.Publish(archive)
	done := make(chan struct{})
	cuts := make(chan int)
	go func() {
		n := 0
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if n < 10 {
					p.cutAll()
					n++
				}
			case <-done:
				cuts <- n
				return
			}
		}
	}()
	// Replies of a cut agent are lost, so the socket answers for the bus.
	f.c = client.Fallback(f.agent.Client, f.c)
	f.apply(f.withPackage("g1", archive, digest))
	close(done)
	t.Logf("%d cuts", <-cuts)
	f.c = client.NATS(f.bus.Connect(""), instance)
	f.until("the bus answers again", func() bool { _, err := f.c.Inventory(f.context()); return err == nil })
}

// noise is text that does not compress well.
func noise(n int) string {
	var b strings.Builder
	x := uint64(1)
	for b.Len() < n {
		x = x*6364136223846793005 + 1442695040888963407
		fmt.Fprintf(&b, "# %x\n", x)
	}
	return b.String()
}

func TestStandbyWaitsForTheFolder(t *testing.T) {
	t.Parallel()
	f := &fixture{T: t, agent: agenttest.Start(t), epoch: 1}
	f.c = f.agent.Client
	f.must(f.configure(nil))
	f.apply(specOf("g1", jobOf("app", sleeper("main", "d1"))))
	pids, first := f.pids(), f.inventory().Agent.PID
	standby := f.agent.Standby()
	f.agent.Kill()
	f.until("the standby answers", func() bool {
		inventory, err := f.c.Inventory(f.context())
		return err == nil && inventory.Agent.PID == standby
	})
	if again := f.pids(); first == standby || fmt.Sprint(again) != fmt.Sprint(pids) {
		t.Errorf("pids %v, then %v", pids, again)
	}
}

func TestOldOperationsAreForgotten(t *testing.T) {
	t.Parallel()
	f := &fixture{T: t, agent: agenttest.Start(t), epoch: 1}
	f.c = f.agent.Client
	for range 60 {
		f.must(f.configure(nil))
	}
	names, err := filepath.Glob(filepath.Join(f.agent.Dir, "ops", "*"))
	f.must(err)
	if len(names) != 50 {
		t.Errorf("%d operations are kept", len(names))
	}
	_, err = f.c.Wait(f.context(), api.WaitRequest{OpID: "op-1"})
	f.refused(err, api.CodeNotFound)
	_, err = f.c.Wait(f.context(), api.WaitRequest{OpID: "op-60"})
	f.must(err)
}
