//go:build e2e

package examples

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// helloCluster is a cluster whose hellos are reached through a router: both
// components have to be on the bus for it.
func helloCluster(t *testing.T) *cluster {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bus.hcl")
	const manifest = `deployment "bus" { domain = "bus.localhost" }
infrastructure "local" {}
variable "listen" { default = "" }
variable "greeting" { default = "Hello" }
release "examples" { path = "./jobs" }
secret "nats" { type = "password" }
update {
  max_in_flight    = "100%"
  min_healthy_time = "100ms"
  watch_time       = "0s-20s"
}
group "nats" {
  instances = 1
  job "nats" {
    properties { password = secret.nats.value }
  }
  update { max_in_flight = 1 }
}
group "router" {
  job "router" {}
}
group "hello" {
  instances = 2
  job "hello" {
    properties { greeting = var.greeting }
  }
}
`
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, file)
}

// mustSpeak checks that all agents are reached over the bus, and that the
// router has heard of both hellos.
func (c *cluster) mustSpeak(when string) {
	c.t.Helper()
	c.mustServe(when)
	within(c.t, 30*time.Second, when+": nothing is to be done, and all agents answer on the bus", func() bool {
		r := c.applyJSON()
		return !r.Changed && r.Counts.SSHDials == 0
	})
}

// mustServe checks that the router has heard of both hellos over the bus.
func (c *cluster) mustServe(when string) {
	c.t.Helper()
	router := ""
	for _, in := range c.status().Instances {
		if in.Group == "router" {
			router = in.Address + ":8081"
		}
	}
	seen := map[string]bool{}
	within(c.t, 30*time.Second, when+": the router leads to both hellos", func() bool {
		text, err := page(router, "hello.bus.localhost")
		if err == nil {
			for _, id := range []string{"hello/0", "hello/1"} {
				seen[id] = seen[id] || strings.Contains(text, id)
			}
		}
		return len(seen) == 2 && seen["hello/0"] && seen["hello/1"]
	})
}

// mustKeepProcesses checks that only processes of the group nats have another pid than before.
func (c *cluster) mustKeepProcesses(when string, before map[string]int) map[string]int {
	c.t.Helper()
	after := c.status().pids()
	for name, pid := range before {
		if now, there := after[name]; there && now != pid && !strings.HasPrefix(name, "nats/") {
			c.t.Errorf("%s: %s has pid %d, before %d", when, name, now, pid)
		}
	}
	return after
}

// killVM ends everything of a VM at once.
func (c *cluster) killVM(vm string) {
	c.t.Helper()
	dir := filepath.Join(c.state, "bus", "vms", vm) // its init is called by just that
	within(c.t, 30*time.Second, vm+" is dead", func() bool {
		left := processesUnder(dir)
		for _, p := range left {
			pid, _, _ := strings.Cut(p, " ")
			if n, err := strconv.Atoi(pid); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL) // it may just have ended
			}
		}
		return len(left) == 0
	})
}

// The bus becomes three and one again. Nothing but its own servers restarts, and
// every agent and component follows; each of its servers may die.
func TestBusGrowsAndShrinks(t *testing.T) {
	t.Parallel()
	c := helloCluster(t)
	c.mustApply()
	c.mustSpeak("one server")
	pids := c.status().pids()

	c.edit("instances = 1", "instances = 3")
	c.mustApply()
	c.mustAllRun(6)
	c.mustSpeak("three servers")
	pids = c.mustKeepProcesses("three servers", pids)

	// A dead one is missed by nobody, and comes back with the next apply.
	c.killVM("nats-1")
	c.mustServe("without nats/1")
	c.mustBeOnBus("without nats/1", 5)
	c.mustApply()
	c.mustAllRun(6)
	c.mustSpeak("nats/1 is back")
	pids = c.mustKeepProcesses("nats/1 is back", pids)

	c.edit("instances = 3", "instances = 1")
	c.mustApply()
	c.mustAllRun(4)
	c.mustSpeak("one server again")
	maps.DeleteFunc(pids, func(name string, _ int) bool { return strings.HasPrefix(name, "nats/") })
	c.mustKeepProcesses("one server again", pids)
}

// The only server of the bus is lost with its VM: the next apply needs no bus to
// bring it back, and agents and components return to it.
func TestLostBusIsRepaired(t *testing.T) {
	t.Parallel()
	c := helloCluster(t)
	c.mustApply()
	c.mustSpeak("before")
	pids := c.status().pids()
	c.killVM("nats-0")
	c.mustApply()
	c.mustAllRun(4)
	c.mustSpeak("after")
	c.mustKeepProcesses("after", pids)
	mustBeRefused(t, c)
	loansEnd(t, c)
}

// loansEnd checks that what `deploy bus` lends is worth nothing after it, however it
// ended, and that components and servers are heard in their accounts.
func loansEnd(t *testing.T, c *cluster) {
	t.Helper()
	for account, subject := range map[string]string{"components": "$SYS.REQ.USER.INFO", "system": "$SYS.REQ.SERVER.PING"} {
		l := c.borrow(account)
		nc, err := nats.Connect(l.url, nats.Timeout(30*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := nc.Request(subject, nil, 30*time.Second); err != nil || account == "components" && !strings.Contains(string(answer.Data), "COMPONENTS") {
			t.Errorf("%s: %v, %s", account, err, answer.Data)
		}
		nc.Close()
		l.end()
		if nc, err := nats.Connect(l.url); err == nil {
			nc.Close()
			t.Errorf("account %s can be used after the command", account)
		}
	}
	for _, by := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		l := c.borrow("agents")
		lost := make(chan struct{})
		nc, err := nats.Connect(l.url, nats.MaxReconnects(0), nats.Timeout(30*time.Second), nats.ClosedHandler(func(*nats.Conn) { close(lost) }))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.cmd.Process.Signal(by); err != nil {
			t.Fatal(err)
		}
		state, err := l.cmd.Process.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if status := state.Sys().(syscall.WaitStatus); by == syscall.SIGTERM && status.ExitStatus() != 128+int(by) {
			t.Errorf("after %v it exited with %v", by, state)
		}
		select {
		case <-lost:
		case <-time.After(30 * time.Second):
			t.Errorf("after %v a connection lives on", by)
		}
		nc.Close()
		if nc, err := nats.Connect(l.url); err == nil {
			nc.Close()
			t.Errorf("after %v the credential is good", by)
		}
		_ = l.input.Close() // the command ends with it
	}
	if out, code := c.run("bus", "--ca"); code != 0 || certificateOf(t, []byte(out)).Subject.CommonName == "" {
		t.Errorf("bus --ca: %d, %s", code, out)
	}
}

// credential is a way onto the bus.
func credential(t testing.TB, urls string, ca, certificate, key []byte) (string, []nats.Option) {
	t.Helper()
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatal("no CA certificate")
	}
	return urls, []nats.Option{
		nats.Secure(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}),
		nats.Timeout(10 * time.Second),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // LastError is looked at
	}
}

func connectBus(t testing.TB, url string, options []nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, options...)
	if err != nil {
		t.Fatalf("cannot connect to %s: %v", url, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// asDeployer connects through a `deploy bus` that runs as long as the test.
func (c *cluster) asDeployer() *nats.Conn {
	c.t.Helper()
	loan := c.borrow("agents")
	c.t.Cleanup(loan.end)
	nc, err := nats.Connect(loan.url, nats.Timeout(10*time.Second), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		c.t.Fatalf("cannot connect to what deploy bus lends: %v", err)
	}
	c.t.Cleanup(nc.Close)
	return nc
}

// loan is a `deploy bus` whose command waits for the end of its input.
type loan struct {
	url   string
	cmd   *exec.Cmd
	input io.WriteCloser
	t     testing.TB
}

func (c *cluster) borrow(account string) *loan {
	c.t.Helper()
	cmd := c.command(context.Background(), "bus", "--account="+account)
	cmd.Args = append(cmd.Args, "--", "sh", "-c", `echo "$NATS_URL"; exec cat >/dev/null`)
	input, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	url, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		_ = cmd.Wait()
		c.t.Fatalf("deploy bus: %v\n%s", err, said.String())
	}
	return &loan{url: strings.TrimSpace(url), cmd: cmd, input: input, t: c.t}
}

func (l *loan) end() {
	l.t.Helper()
	_ = l.input.Close()
	if err := l.cmd.Wait(); err != nil {
		l.t.Errorf("deploy bus: %v", err)
	}
}

// agentCredential returns what an agent connects to the bus with.
func (c *cluster) agentCredential(dir string) (string, []nats.Option) {
	c.t.Helper()
	var agent struct {
		Bus struct {
			URLs        []string
			CA          []byte
			Certificate []byte
		}
	}
	if err := json.Unmarshal(mustRead(c.t, filepath.Join(dir, "agent.json")), &agent); err != nil {
		c.t.Fatal(err)
	}
	return credential(c.t, strings.Join(agent.Bus.URLs, ","), agent.Bus.CA, agent.Bus.Certificate, mustRead(c.t, filepath.Join(dir, "key.pem")))
}

// mustBeOnBus counts the agents that answer there.
func (c *cluster) mustBeOnBus(when string, want int) {
	c.t.Helper()
	nc := c.asDeployer()
	defer nc.Close()
	var answers []string
	defer func() {
		if c.t.Failed() {
			c.t.Logf("answers: %q", answers)
		}
	}()
	within(c.t, 30*time.Second, fmt.Sprintf("%s: %d agents answer on the bus", when, want), func() bool {
		inbox := nc.NewRespInbox()
		sub, err := nc.SubscribeSync(inbox)
		if err != nil {
			c.t.Fatal(err)
		}
		if err := nc.PublishRequest("$SRV.PING.agent", inbox, nil); err != nil {
			c.t.Fatal(err)
		}
		for answers = nil; ; {
			msg, err := sub.NextMsg(500 * time.Millisecond)
			if err != nil {
				break
			}
			answers = append(answers, string(msg.Data))
		}
		_ = sub.Unsubscribe() // fails only without a connection
		return len(answers) == want
	})
}

// mustBeRefused takes the credential of hello/0's agent and tries what is not
// the agent's to do. (The whole table is in jobs/nats.)
func mustBeRefused(t *testing.T, c *cluster) {
	t.Helper()
	url, options := c.agentCredential(filepath.Join(c.state, "bus", "vms", "hello-0", "agent"))
	publish := func(subject string) func(*nats.Conn) error {
		return func(nc *nats.Conn) error { return nc.Publish(subject, []byte("{}")) }
	}
	subscribe := func(subject string) func(*nats.Conn) error {
		return func(nc *nats.Conn) error {
			_, err := nc.SubscribeSync(subject)
			return err
		}
	}
	for name, c := range map[string]struct {
		try     func(*nats.Conn) error
		allowed bool
	}{
		"its own heartbeat":                {publish("heartbeat.hello.0"), true},
		"its own requests":                 {subscribe("agent.hello.0.*"), true},
		"another's heartbeat":              {publish("heartbeat.router.0"), false},
		"a change to another":              {publish("agent.router.0.submit"), false},
		"another's requests":               {subscribe("agent.router.0.submit"), false},
		"another's inbox":                  {subscribe("_INBOX_agent.router.0.>"), false},
		"everything":                       {subscribe(">"), false},
		"a consumer that delivers as told": {publish("$JS.API.CONSUMER.CREATE.OBJ_packages"), false},
		"the end of the packages":          {publish("$JS.API.STREAM.DELETE.OBJ_packages"), false},
		"the server's own subjects":        {subscribe("$SYS.>"), false},
		"a question to the server":         {publish("$SYS.REQ.SERVER.PING"), false},
		"a component's subject":            {publish("router.register"), false},
	} {
		nc := connectBus(t, url, options)
		err := c.try(nc)
		if err == nil {
			if err = nc.FlushTimeout(10 * time.Second); err == nil {
				err = nc.LastError()
			}
		}
		if refused := errors.Is(err, nats.ErrPermissionViolation); refused == c.allowed || err != nil && !refused {
			t.Errorf("%s: %v", name, err)
		}
		nc.Close()
	}
}

// ends is when the bus certificate that an instance's agent holds ends.
func (c *cluster) ends(instance string) time.Time {
	c.t.Helper()
	var agent struct {
		Bus struct {
			Certificate []byte `json:"certificate"`
		} `json:"bus"`
	}
	dir := strings.ReplaceAll(instance, "/", "-")
	if err := json.Unmarshal(mustRead(c.t, filepath.Join(c.state, "bus", "vms", dir, "agent", "agent.json")), &agent); err != nil {
		c.t.Fatal(err)
	}
	return certificateOf(c.t, agent.Bus.Certificate).NotAfter
}

func certificateOf(t testing.TB, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no certificate")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// serves is the certificate that a server of the bus shows.
func (c *cluster) serves(address string) *x509.Certificate {
	c.t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		c.t.Fatal(err)
	}
	defer nc.Close()
	if _, err := bufio.NewReader(io.LimitReader(nc, 1<<16)).ReadString('\n'); err != nil { // INFO comes in the clear
		c.t.Fatal(err)
	}
	conn := tls.Client(nc, &tls.Config{InsecureSkipVerify: true}) // it is only looked at
	if err := conn.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	return conn.ConnectionState().PeerCertificates[0]
}

// Certificates of a short life are renewed by an apply, and taken without a
// restart of anything; when the first ones have ended, everybody is still there.
func TestCertificatesAreRenewed(t *testing.T) {
	t.Parallel()
	c := helloCluster(t)
	c.edit(`secret "nats"`, "pki { certificate_life = \"20s\" }\nsecret \"nats\"")
	c.mustApply()
	pids := c.mustAllRun(4).pids()
	first := c.ends("hello/0")
	address := c.addressOf("nats/0") + ":4222"
	// A third of their lives, which began 20 s before they were issued, is left.
	within(t, 30*time.Second, "certificates are due", func() bool { return time.Until(first) < 13*time.Second })
	within(t, 30*time.Second, "apply renews them", func() bool {
		c.mustApply()
		return c.ends("hello/0").After(first) && c.serves(address).NotAfter.After(first)
	})
	within(t, 30*time.Second, "the first ones have ended", func() bool { return time.Now().After(first) })
	c.mustServe("with new certificates")
	if now := time.Now(); c.ends("hello/0").Before(now) {
		c.mustApply() // on a slow machine they may be due again
	}
	c.mustBeOnBus("with new certificates", 4)
	c.mustKeepEveryProcess("renewal", pids)
}

// addressOf returns where an instance is.
func (c *cluster) addressOf(instance string) string {
	c.t.Helper()
	for _, in := range c.status().Instances {
		if in.ID == instance {
			return in.Address
		}
	}
	c.t.Fatalf("there is no instance %s", instance)
	return ""
}

func (c *cluster) mustKeepEveryProcess(when string, before map[string]int) {
	c.t.Helper()
	if after := c.status().pids(); !maps.Equal(before, after) {
		c.t.Errorf("%s restarted processes: %v, before %v", when, after, before)
	}
}

// The CA is replaced without the restart of a process: afterwards everything is
// of the new one, and nothing of the old is trusted. A rotation that was not
// finished is continued.
func TestRotateCA(t *testing.T) {
	t.Parallel()
	c := helloCluster(t)
	c.mustApply()
	pids := c.mustAllRun(4).pids()
	address := c.addressOf("nats/0") + ":4222"
	dir := filepath.Join(c.state, "bus", "vms", "hello-0", "agent")
	old := c.serves(address)
	_, stale := c.agentCredential(filepath.Join(c.state, "bus", "vms", "hello-0", "agent"))

	// Nobody is asked, so that it ends before its first pass.
	out, code := c.run("rotate-ca")
	mustTell(t, out, code, 1, "--auto-approve")
	out, code = c.run("status")
	mustTell(t, out, code, 0, "rotate-ca")
	c.mustApply() // the same pass, by another name
	if trusted := mustRead(t, filepath.Join(dir, "jobs", "hello", "bus-ca.pem")); bytes.Count(trusted, []byte("BEGIN")) != 2 {
		t.Errorf("hello trusts\n%s", trusted)
	}

	out, code = c.run("rotate-ca", "--auto-approve")
	mustTell(t, out, code, 0, "The CA was replaced")
	c.mustAllRun(4)
	c.mustSpeak("with a new CA")
	c.mustKeepEveryProcess("the rotation", pids)

	trusted := mustRead(t, filepath.Join(dir, "jobs", "hello", "bus-ca.pem"))
	if bytes.Count(trusted, []byte("BEGIN")) != 1 {
		t.Errorf("hello trusts\n%s", trusted)
	}
	ca := certificateOf(t, trusted)
	if now := c.serves(address); now.CheckSignatureFrom(ca) != nil || old.CheckSignatureFrom(ca) == nil {
		t.Errorf("the bus serves a certificate of %s", now.Issuer)
	}
	if nc, err := nats.Connect("tls://"+address, stale...); err == nil {
		nc.Close()
		t.Error("a credential of the old CA is admitted")
	}
}

// On a bus of three servers, with the deployer killed inside each pass, when the
// first server has taken it and the others have not: every next run goes on, no
// process restarts, and everybody stays on the bus.
func TestRotateCAOfThree(t *testing.T) {
	t.Parallel()
	c := helloCluster(t)
	c.edit("instances = 1", "instances = 3")
	c.mustApply()
	pids := c.mustAllRun(6).pids()
	c.mustSpeak("before")
	address := func(server int) string { return c.addressOf(fmt.Sprintf("nats/%d", server)) + ":4222" }
	servers := []string{address(0), address(1), address(2)}
	old := c.serves(servers[0])
	_, stale := c.agentCredential(filepath.Join(c.state, "bus", "vms", "hello-0", "agent"))
	file := func(vm string, path ...string) []byte {
		return mustRead(t, filepath.Join(append([]string{c.state, "bus", "vms", vm, "agent", "jobs"}, path...)...))
	}
	trusted := func() int { return bytes.Count(file("nats-0", "nats", "ca.pem"), []byte("BEGIN")) }
	first := file("nats-0", "nats", "server.pem")

	// killAt runs a rotation until it has come to a point.
	killAt := func(when string, reached func() bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		cmd := c.command(ctx, "rotate-ca", "--auto-approve")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait() // it is killed
		}()
		within(t, 2*time.Minute, when, func() bool {
			select {
			case <-ended:
				t.Fatalf("%s: it has ended before:\n%s", when, out.String())
			default:
			}
			return reached()
		})
		_ = cmd.Process.Kill()
		<-ended
		c.mustServe(when)
		c.mustBeOnBus(when, 6)
		c.mustKeepEveryProcess(when, pids)
	}
	killAt("the new CA is trusted by one server", func() bool { return trusted() == 2 })
	killAt("one server has a certificate of the new CA", func() bool { return !bytes.Equal(first, file("nats-0", "nats", "server.pem")) })
	killAt("one server trusts the old CA no more", func() bool { return trusted() == 1 })
	c.mustApply() // what is left of the last pass is owed like any change

	c.mustAllRun(6)
	c.mustSpeak("with a new CA")
	c.mustKeepEveryProcess("the rotation", pids)
	ca := certificateOf(t, file("hello-1", "hello", "bus-ca.pem"))
	if old.CheckSignatureFrom(ca) == nil {
		t.Error("the CA is the old one")
	}
	for i, server := range servers {
		if now := c.serves(server); now.CheckSignatureFrom(ca) != nil {
			t.Errorf("nats/%d serves a certificate of %s", i, now.Issuer)
		}
		if trusted := file(fmt.Sprintf("nats-%d", i), "nats", "ca.pem"); bytes.Count(trusted, []byte("BEGIN")) != 1 {
			t.Errorf("nats/%d trusts\n%s", i, trusted)
		}
		if nc, err := nats.Connect("tls://"+server, stale...); err == nil {
			nc.Close()
			t.Errorf("nats/%d admits a credential of the old CA", i)
		}
	}
	// The servers have kept each other: what is said to one is heard on another.
	c.mustBeOnBus("at the end", 6)
	out, code := c.run("rotate-ca", "--auto-approve")
	mustTell(t, out, code, 0, "The CA was replaced")
	c.mustKeepEveryProcess("another rotation", pids)
	c.mustSpeak("after another rotation")
}
