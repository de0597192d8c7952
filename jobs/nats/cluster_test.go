package nats

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
)

// server is the n-th server of a bus in a network of the test's own: it is not
// running yet.
func server(t *testing.T, ca *authority, port, clusterPort, network, n int) *bus {
	b := newBus(t, ca)
	b.cfg.Name = fmt.Sprintf("nats-%d", n)
	b.cfg.Address = fmt.Sprintf("127.%d.0.%d", network, n+1)
	b.cfg.Port = port
	b.write(t, testPassword)
	if clusterPort != 0 {
		b.cluster(t, clusterPort)
	}
	return b
}

// cluster makes a server one of three.
func (b *bus) cluster(t *testing.T, port int) {
	t.Helper()
	folder := filepath.Dir(b.cfg.PasswordFile)
	b.cfg.Cluster = &Cluster{Port: port, PeerName: testPeerName, PeersFile: filepath.Join(folder, "peers")}
	network := strings.TrimSuffix(b.cfg.Address, b.cfg.Address[strings.LastIndexByte(b.cfg.Address, '.'):])
	must(t, os.WriteFile(b.cfg.Cluster.PeersFile, []byte(network+".1\n"+network+".2\n"+network+".3\n"), 0o644))
}

// freeIn finds a port that is free on the first three addresses of a network.
func freeIn(t *testing.T, network int) int {
	t.Helper()
	for {
		port, free := componenttest.FreePort(t), true
		for n := range 3 {
			l, err := net.Listen("tcp", fmt.Sprintf("127.%d.0.%d:%d", network, n+1, port))
			if err != nil {
				free = false
				continue
			}
			must(t, l.Close())
		}
		if free {
			return port
		}
	}
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.After(testTimeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// A lone server becomes one of three, and lone again. What is said on one is
// heard on the others, one of three may die, and the cache of packages can be
// made anew at each size.
func TestGrowthAndLoss(t *testing.T) {
	t.Parallel()
	const network = 78
	ca := newAuthority(t)
	port, clusterPort := freeIn(t, network), freeIn(t, network)
	first := server(t, ca, port, 0, network, 0)
	first.start(t)
	first.fill(t, 1)

	// Another size: it is started anew, with what it kept as a lone server.
	first.stop()
	first.cluster(t, clusterPort)
	first.start(t)
	second, third := server(t, ca, port, clusterPort, network, 1), server(t, ca, port, clusterPort, network, 2)
	second.start(t)
	third.start(t)
	first.fill(t, 3)

	agent := third.agent(t, "router/0")
	_, err := agent.Subscribe(api.Subject("router/0", api.MethodInventory), func(m *nats.Msg) {
		if err := m.Respond([]byte("here")); err != nil {
			t.Errorf("cannot respond: %v", err)
		}
	})
	must(t, err)
	must(t, settle(t, agent))
	deployer := first.deployer(t)
	ask := func() error {
		reply, err := deployer.Request(api.Subject("router/0", api.MethodInventory), nil, time.Second)
		if err == nil && string(reply.Data) != "here" {
			err = fmt.Errorf("got %q", reply.Data)
		}
		return err
	}
	eventually(t, "an agent at another server does not answer", ask)
	other, heard := second.component(t), make(chan *nats.Msg, 10)
	_, err = other.ChanSubscribe("router.start", heard)
	must(t, err)
	must(t, settle(t, other))
	component := first.component(t)
	eventually(t, "a component at another server hears nothing", func() error {
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

	second.stop()
	eventually(t, "without the second server", ask)
	first.fill(t, 3) // two of three still keep packages
	for _, conn := range []*nats.Conn{agent, deployer, component} {
		if err := settle(t, conn); err != nil || conn.Stats().Reconnects != 0 {
			t.Errorf("a connection to another server did not survive: %v", err)
		}
	}

	third.stop()
	first.stop()
	first.cfg.Cluster = nil
	first.start(t)
	first.fill(t, 1)
}

// fill puts something into the cache of packages, which is made if it is not there,
// and reads it back.
func (b *bus) fill(t *testing.T, replicas int) {
	t.Helper()
	js, err := jetstream.New(b.deployer(t))
	must(t, err)
	eventually(t, "the cache of packages cannot be filled", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		store, err := js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: api.PackageBucket, MaxBytes: 1 << 20, Replicas: replicas})
		if err != nil {
			return err
		}
		if _, err := store.PutString(ctx, "one", "package"); err != nil {
			return err
		}
		got, err := store.GetString(ctx, "one")
		if err == nil && got != "package" {
			err = fmt.Errorf("got %q", got)
		}
		return err
	})
}

// Only a certificate of the bus's own name makes a server: that of another job,
// of an agent or of another CA does not.
func TestStrangersMakeNoServer(t *testing.T) {
	t.Parallel()
	t.Run("cluster", func(t *testing.T) {
		const network = 79
		ca, clusterPort := newAuthority(t), freeIn(t, network)
		b := server(t, ca, freeIn(t, network), clusterPort, network, 0)
		b.start(t)
		strangersMakeNoServer(t, b, clusterPort)
	})
	t.Run("bridge", func(t *testing.T) {
		const network = 80
		ca, clusterPort := newAuthority(t), freeIn(t, network)
		b := server(t, ca, freeIn(t, network), 0, network, 0)
		b.bridge(t, clusterPort)
		b.start(t)
		strangersMakeNoServer(t, b, clusterPort)
		// Nor does it let anybody in otherwise.
		_, err := nats.Connect("nats://"+net.JoinHostPort(b.cfg.Address, strconv.Itoa(clusterPort)),
			nats.UserInfo("nats", testPassword), nats.RootCAs(b.cfg.CAFile), nats.TLSHandshakeFirst(), nats.Timeout(testTimeout))
		if err == nil {
			t.Error("a component was let in by the bridge")
		}
	})
}

func strangersMakeNoServer(t *testing.T, b *bus, port int) {
	t.Helper()
	ca := b.ca

	issue := func(ca *authority, names []string, use x509.ExtKeyUsage) []tls.Certificate {
		pair, err := tls.X509KeyPair(ca.issue(t, &x509.Certificate{
			IPAddresses: []net.IP{net.ParseIP(b.cfg.Address)}, DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{use},
		}))
		must(t, err)
		return []tls.Certificate{pair}
	}
	for name, c := range map[string]struct {
		certificates []tls.Certificate
		admitted     bool
	}{
		"a server":         {issue(ca, []string{testPeerName}, x509.ExtKeyUsageServerAuth), true},
		"another job":      {issue(ca, []string{"router.cf.internal"}, x509.ExtKeyUsageServerAuth), false},
		"a job, no name":   {issue(ca, nil, x509.ExtKeyUsageServerAuth), false},
		"an agent":         {issue(ca, []string{testPeerName}, x509.ExtKeyUsageClientAuth), false},
		"another CA":       {issue(newAuthority(t), []string{testPeerName}, x509.ExtKeyUsageServerAuth), false},
		"no certificate":   {nil, false},
		"a wildcard's own": {issue(ca, []string{"*.internal"}, x509.ExtKeyUsageServerAuth), false},
	} {
		conn, err := tls.Dial("tcp", net.JoinHostPort(b.cfg.Address, strconv.Itoa(port)), &tls.Config{
			// What the server thinks of us is the matter, not what we think of it.
			InsecureSkipVerify: true, Certificates: c.certificates,
		})
		must(t, err)
		must(t, conn.SetDeadline(time.Now().Add(testTimeout)))
		// A server that is welcome is greeted, others get an alert (in TLS 1.3 the
		// client's side of the handshake is over by then).
		greeting := make([]byte, 4)
		_, err = io.ReadFull(conn, greeting)
		if admitted := err == nil && string(greeting) == "INFO"; admitted != c.admitted {
			t.Errorf("%s: admitted %v (%v)", name, admitted, err)
		}
		must(t, conn.Close())
	}
}
