package bus

import (
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// accountsByName admits as the job nats does: the deployer's certificate, and the
// account that the user's name asks for.
type accountsByName struct {
	server func() *natsserver.Server
	deaf   bool // as servers of earlier versions, which know the agents' account only
}

func (a accountsByName) Check(client natsserver.ClientAuthentication) bool {
	name := map[string]string{"": "AGENTS", "components": "COMPONENTS", "system": "$SYS"}[client.GetOpts().Username]
	if a.deaf {
		name = "AGENTS"
	}
	account, err := a.server().LookupAccount(name)
	if err != nil || client.GetTLSConnectionState() == nil {
		return false
	}
	client.RegisterUser(&natsserver.User{Username: "deployer", Account: account})
	return true
}

func startAccounts(t *testing.T, deaf bool) *testServer {
	t.Helper()
	s := newServer(t, 1<<20)
	s.options.Accounts, s.options.Users, s.options.NoAuthUser = nil, nil, ""
	must(t, s.options.ProcessConfigString("accounts { AGENTS {}, COMPONENTS {} }"))
	s.options.JetStream = false
	s.options.CustomClientAuthentication = accountsByName{func() *natsserver.Server { return s.Server }, deaf}
	s.start(t)
	t.Cleanup(s.stop)
	return s
}

func lend(t *testing.T, s *testServer, account Account) *Loan {
	t.Helper()
	l, err := Lend(t.Context(), account, func() (Settings, error) { return s.settings(t), nil }, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(l.Close)
	return l
}

// A borrower sees the account that it asked for, and no other.
func TestLoansHaveTheirAccount(t *testing.T) {
	t.Parallel()
	s := startAccounts(t, false)
	conns := map[Account]*nats.Conn{}
	for _, account := range []Account{Agents, Components} {
		nc, err := nats.Connect(lend(t, s, account).URL)
		must(t, err)
		t.Cleanup(nc.Close)
		conns[account] = nc
	}
	for heard, other := range map[Account]Account{Agents: Components, Components: Agents} {
		sub, err := conns[heard].SubscribeSync(">")
		must(t, err)
		must(t, conns[heard].Flush())
		must(t, conns[other].Publish("from.another", nil))
		must(t, conns[other].Flush())
		must(t, conns[heard].Publish("from.the.same", []byte(strings.Repeat("x", 100_000))))
		msg, err := sub.NextMsg(testTimeout)
		must(t, err)
		if msg.Subject != "from.the.same" || len(msg.Data) != 100_000 {
			t.Errorf("%s hears %s, %d bytes", heard, msg.Subject, len(msg.Data))
		}
	}
	// Of the servers themselves only the system account can ask.
	system, err := nats.Connect(lend(t, s, System).URL)
	must(t, err)
	t.Cleanup(system.Close)
	if answer, err := system.Request("$SYS.REQ.SERVER.PING", nil, testTimeout); err != nil || !strings.Contains(string(answer.Data), s.ID()) {
		t.Errorf("system: %v", err)
	}
}

// What a borrower has is worth nothing after the loan, and nothing to others.
func TestLoansEnd(t *testing.T) {
	t.Parallel()
	s := startAccounts(t, false)
	l := lend(t, s, Components)
	closed := make(chan struct{})
	nc, err := nats.Connect(l.URL, nats.MaxReconnects(0), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	must(t, err)
	defer nc.Close()
	address := l.listener.Addr().String()
	for _, url := range []string{"nats://" + address, "nats://deploy:wrong@" + address, "nats://components@" + address} {
		if nc, err := nats.Connect(url, nats.Timeout(testTimeout)); err == nil {
			nc.Close()
			t.Errorf("%s is admitted", url)
		} else if !strings.Contains(err.Error(), "Authorization Violation") {
			t.Errorf("%s: %v", url, err)
		}
	}
	// The password is the loan's and not the bus's.
	if nc, err := nats.Connect("nats://deploy:"+l.password+"@"+s.Addr().String(), nats.Secure(), nats.Timeout(testTimeout)); err == nil {
		nc.Close()
		t.Error("the loan's password is good at the bus itself")
	}
	l.Close()
	select {
	case <-closed:
	case <-time.After(testTimeout):
		t.Error("a connection outlives its loan")
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		_ = conn.Close()
		t.Error("somebody listens after the loan")
	}
}

// Servers that know one account only, and none at all, are told from each other.
func TestLoansOfEarlierServers(t *testing.T) {
	t.Parallel()
	s := startAccounts(t, true)
	settings := func() (Settings, error) { return s.settings(t), nil }
	for account, want := range map[Account]string{Components: "deploy apply updates them", System: "deploy apply updates them", "nobody": "there are agents, components and system"} {
		if l, err := Lend(t.Context(), account, settings, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", account, l, err)
		}
	}
	lend(t, s, Agents).Close()
	last := s.settings(t)
	settings = func() (Settings, error) { return last, nil }
	s.stop()
	if _, err := Lend(t.Context(), Agents, settings, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("no bus: %v", err)
	}
}
