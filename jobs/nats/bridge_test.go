package nats

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/clusterworks/deploy/agent/api"
)

// bridge lets others join a lone server, which joins those at the addresses.
func (b *bus) bridge(t *testing.T, port int, joins ...string) {
	t.Helper()
	b.cfg.Bridge = &Bridge{Port: port, PeerName: testPeerName, JoinsFile: filepath.Join(filepath.Dir(b.cfg.PasswordFile), "joins")}
	b.joins(t, joins...)
}

func (b *bus) joins(t *testing.T, addresses ...string) {
	t.Helper()
	text := ""
	for _, a := range addresses {
		text += a + "\n"
	}
	must(t, os.WriteFile(b.cfg.Bridge.JoinsFile, []byte(text), 0o644))
}

// crossing asks an agent at one server from the other, and has a component there
// hear what one here says.
func crossing(t *testing.T, here, there *bus, instance string) {
	t.Helper()
	agent := there.agent(t, instance)
	_, err := agent.Subscribe(api.Subject(instance, api.MethodInventory), func(m *nats.Msg) {
		if err := m.Respond([]byte("here")); err != nil {
			t.Errorf("cannot respond: %v", err)
		}
	})
	must(t, err)
	must(t, settle(t, agent))
	deployer := here.deployer(t)
	eventually(t, "an agent at the other server does not answer", func() error {
		reply, err := deployer.Request(api.Subject(instance, api.MethodInventory), nil, time.Second)
		if err == nil && string(reply.Data) != "here" {
			err = fmt.Errorf("got %q", reply.Data)
		}
		return err
	})
	other, heard := there.component(t), make(chan *nats.Msg, 100)
	_, err = other.ChanSubscribe("router.start", heard)
	must(t, err)
	must(t, settle(t, other))
	component := here.component(t)
	eventually(t, "a component at the other server hears nothing", func() error {
		if err := component.Publish("router.start", nil); err != nil {
			return err
		}
		select {
		case <-heard:
			return nil
		case <-time.After(100 * time.Millisecond):
			return fmt.Errorf("silence")
		}
	})
	// Each thing said is heard once: there is one way only.
	must(t, settle(t, component))
	must(t, settle(t, other))
	for len(heard) > 0 {
		<-heard
	}
	must(t, component.Publish("router.start", []byte("once")))
	must(t, component.Publish("router.start", []byte("last")))
	for _, want := range []string{"once", "last"} {
		select {
		case m := <-heard:
			if string(m.Data) != want {
				t.Errorf("heard %q, want %q", m.Data, want)
			}
		case <-time.After(testTimeout):
			t.Fatalf("%q is not heard", want)
		}
	}
}

// A lone server's place is taken by another of the same name: as long as both are
// there they are one bus, but for the caches of packages, and the new one goes on
// when the old one is gone.
func TestTakesPlace(t *testing.T) {
	t.Parallel()
	const network = 81
	ca := newAuthority(t)
	port, bridgePort := freeIn(t, network), freeIn(t, network)
	old, next := server(t, ca, port, 0, network, 0), server(t, ca, port, 0, network, 1)
	next.cfg.Name = old.cfg.Name
	old.bridge(t, bridgePort)
	old.start(t)
	old.fill(t, 1)
	next.bridge(t, bridgePort, old.cfg.Address)
	next.start(t)
	crossing(t, old, next, "router/0")
	crossing(t, next, old, "router/1")

	// The packages of one are not the other's, and are made anew there.
	js, err := jetstream.New(next.deployer(t))
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if _, err := js.ObjectStore(ctx, api.PackageBucket); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Errorf("the new server shows the old one's packages: %v", err)
	}
	next.fill(t, 1)
	old.fill(t, 1)

	// Agents hear no more over the bridge than on one server.
	spy := next.agent(t, "router/2")
	refused := make(chan error, 10)
	spy.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err })
	_, err = spy.SubscribeSync(api.Subject("router/1", api.MethodInventory))
	must(t, err)
	select {
	case <-refused:
	case <-time.After(testTimeout):
		t.Error("an agent may listen to what another one is asked")
	}

	component, agent := next.component(t), next.agent(t, "router/3")
	must(t, settle(t, component))
	must(t, settle(t, agent))
	old.stop()
	next.joins(t)
	next.fill(t, 1)
	for _, conn := range []*nats.Conn{component, agent} {
		if err := settle(t, conn); err != nil || conn.Stats().Reconnects != 0 {
			t.Errorf("a connection did not survive: %v", err)
		}
	}

	// Back to the first address: the one that took the place is replaced itself, and
	// does not join what it once was to join.
	old.bridge(t, bridgePort, next.cfg.Address)
	old.start(t)
	crossing(t, next, old, "router/4")
	crossing(t, old, next, "router/5")
}

// A server whose predecessor does not answer serves all the same.
func TestPredecessorIsGone(t *testing.T) {
	t.Parallel()
	const network = 82
	b := server(t, newAuthority(t), freeIn(t, network), 0, network, 0)
	b.bridge(t, freeIn(t, network), "127.82.0.3") // nobody is there
	b.start(t)
	must(t, settle(t, b.component(t)))
	b.fill(t, 1)
}
