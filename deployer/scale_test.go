package deployer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/agent/agenttest"
	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// What plans and applies of many instances may take.
const (
	planLimit = 2 * time.Second // of 1,000
	noopLimit = 3 * time.Second // of 1,000
	planRatio = 2.2             // of 2,000 to 1,000
)

// cluster is a deployment that has been applied, as far as it can tell: its VMs
// exist in the state only, and its agents are simulated, on a real bus.
type cluster struct {
	manifest, stateDir, programs string
	vars                         map[string]string
	agents                       map[string]*agenttest.Simulated
}

const scaleManifest = `deployment "scale" { domain = "scale.localhost" }
infrastructure "local" {}
variable "port" { type = number }
variable "greeting" { default = "Hello" }
release "examples" { path = %q }
secret "nats" { type = "password" }
vm "small" { memory_mb = 128 }
update {
  max_in_flight = "5%%"
}
group "nats" {
  instances = 1
  vm        = vm.small
  job "nats" {
    properties {
      port     = var.port
      password = secret.nats.value
    }
  }
}
group "lb" {
  instances = 1
  vm        = vm.small
  job "nginx" {
    properties {
      domains = ["*.scale.localhost"]
      routers = group.router.instances[*].address
    }
  }
}
group "router" {
  instances = %d
  vm        = vm.small
  azs       = ["z1", "z2", "z3"]
  job "router" {}
}
group "hello" {
  instances = %d
  vm        = vm.small
  azs       = ["z1", "z2", "z3"]
  job "hello" {
    properties { greeting = var.greeting }
  }
}
`

// deployer is a new one, as each run of the program has.
func (c *cluster) deployer(tb testing.TB) *Deployer {
	tb.Helper()
	d, err := c.scale().deployer()
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// newCluster makes a cluster of n instances, one bus server among them.
func newCluster(tb testing.TB, n int) *cluster {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	jobs, err := filepath.Abs("../examples/jobs")
	must(err)
	dir := tb.TempDir()
	c := &cluster{
		manifest: filepath.Join(dir, "scale.hcl"), stateDir: filepath.Join(dir, "state"),
		programs: ProgramFolder(tb, "agent", "nats", "router", "hello", "lb_check"), vars: map[string]string{"port": "1"},
		agents: map[string]*agenttest.Simulated{},
	}
	routers := (n - 2) / 2
	must(os.WriteFile(c.manifest, fmt.Appendf(nil, scaleManifest, jobs, routers, n-2-routers), 0o600))

	// The bus needs the deployment's CA, and the deployment the bus's port.
	r, err := c.deployer(tb).load()
	must(err)
	must(r.Store.Begin(r.State, r.Secrets, 1))
	ca, err := r.credentials.CA()
	must(err)
	bus := startBus(tb, ca)
	c.vars["port"] = strconv.Itoa(bus.Addr().(*net.TCPAddr).Port)

	r, err = c.deployer(tb).load()
	must(err)
	r.State.VMs = map[string]state.VM{}
	in, err := r.infra.Inputs()
	must(err)
	for i, id := range r.IDs() {
		address := netip.AddrFrom4([4]byte{127, 77, byte(i / 250), byte(i%250 + 1)}).String()
		if id == "nats/0" {
			address = "127.0.0.1"
		}
		input, err := json.Marshal(map[string]any{"vm": in.Instances[id]})
		must(err)
		r.State.VMs[id] = state.VM{
			ID: "vm-" + strconv.Itoa(i), Address: address, SSHHost: address, SSHPort: 1, SSHUser: "nobody", HostKey: "none",
			AgentDir: "/nowhere/" + id, OS: runtime.GOOS, Arch: runtime.GOARCH, Running: true, Input: input,
		}
	}
	engine, err := terraform.Open(terraform.Options{
		Dir: r.Store.Terraform(), Templates: os.DirFS("../templates"), Template: "local", BaseDir: dir, VMs: r.Store.VMs(),
	})
	must(err)
	digest, err := engine.Write(in)
	must(err)
	applied, err := json.Marshal(terraform.Applied{Digest: digest})
	must(err)
	must(os.WriteFile(filepath.Join(r.Store.Terraform(), "applied.json"), applied, 0o600))
	must(os.WriteFile(filepath.Join(r.Store.Terraform(), terraform.StateFile), []byte(`{"version":4,"serial":1,"lineage":"scale"}`), 0o600))
	infra.NoteEngine(r.Store, r.State)
	engine.Close()

	must(r.credentials.Issue(nil))
	r.State.Bus = r.credentials.BusURLs(nil)
	agent, err := r.packages.Agent()
	must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	must(err)
	wanted, err := r.desired.Render(nil)
	must(err)
	var connections []*nats.Conn
	for range 16 {
		nc, err := nats.Connect("", nats.InProcessServer(bus))
		must(err)
		tb.Cleanup(nc.Close)
		connections = append(connections, nc)
	}
	for i, w := range wanted {
		id := w.Spec.Instance
		inventory := api.Inventory{
			Agent:        api.AgentInfo{Version: "0.0.0", API: api.Version, Digest: agent.Digest, OS: runtime.GOOS, Arch: runtime.GOARCH, Dir: r.State.VMs[id].AgentDir},
			DeploymentID: r.State.DeploymentID, Instance: id, VMID: r.State.VMs[id].ID, BootID: "boot", PublicKey: public, Epoch: 1,
		}
		settings := r.credentials.BusFor(r.State.Bus, id, &inventory)
		if settings == nil {
			tb.Fatalf("no bus settings for %s", id)
		}
		inventory.Bus = api.BusStatus{URLs: r.State.Bus, Connected: true, Digest: settings.Digest}
		c.agents[id] = agenttest.Simulate(tb, connections[i%len(connections)], inventory, w.Spec)
	}
	for _, nc := range connections {
		must(nc.Flush())
	}
	memory := map[string]any{"groups": []any{
		map[string]any{"name": "hello", "served": true}, map[string]any{"name": "lb", "served": true},
		map[string]any{"name": "nats", "served": true}, map[string]any{"name": "router", "served": true},
	}}
	r.State.Memory, err = json.Marshal(memory)
	must(err)
	_, err = r.Store.Save(r.State, r.Secrets)
	must(err)
	return c
}

// startBus is a NATS server that admits whom the CA has signed, and this process.
func startBus(tb testing.TB, ca *pki.CA) *server.Server {
	tb.Helper()
	pair, err := ca.IssueServer(rand.Reader, "nats", nil, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, time.Now(), time.Hour)
	if err != nil {
		tb.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(pair.Certificate, pair.PrivateKey)
	if err != nil {
		tb.Fatal(err)
	}
	own, err := ca.Pair()
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(own.Certificate)
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		TLSConfig:  &tls.Config{Certificates: []tls.Certificate{certificate}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12},
		TLSTimeout: 30, AllowNonTLS: true, JetStream: true, StoreDir: tb.TempDir(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	go s.Start()
	tb.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(30 * time.Second) {
		tb.Fatal("the bus does not start")
	}
	return s
}

// plan is Plan without the engine, which has its own pace.
func (c *cluster) plan(tb testing.TB) *plan.Plan {
	tb.Helper()
	p, err := planWithoutEngine(tb.Context(), c.deployer(tb))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// planWithoutEngine is Plan without the engine. All agents must answer.
func planWithoutEngine(ctx context.Context, d *Deployer) (*plan.Plan, error) {
	r, err := d.load()
	if err != nil {
		return nil, err
	}
	defer r.fleet.Close()
	comparison, err := r.compare(ctx, infra.Plan{}, fleet.Quick)
	if err != nil {
		return nil, err
	}
	for id := range r.State.VMs {
		if r.fleet.Inventory(id) == nil {
			return nil, fmt.Errorf("the agent of %s has not answered: %s", id, r.fleet.Reason(id))
		}
	}
	return comparison.plan, nil
}

// ScaleCluster describes what another process needs to plan a cluster of the benchmarks.
type ScaleCluster struct {
	Manifest, StateDir, Programs string
	Vars                         map[string]string
}

// NewScaleCluster makes a cluster of n instances whose manifest has changed for
// half of them.
func NewScaleCluster(tb testing.TB, n int) ScaleCluster {
	tb.Helper()
	c := newCluster(tb, n)
	c.vars["greeting"] = "Welcome"
	return c.scale()
}

func (c *cluster) scale() ScaleCluster {
	return ScaleCluster{Manifest: c.manifest, StateDir: c.stateDir, Programs: c.programs, Vars: c.vars}
}

func (c ScaleCluster) deployer() (*Deployer, error) {
	return New(Config{
		Manifest: c.Manifest, StateDir: c.StateDir, Vars: c.Vars,
		Jobs: os.DirFS("../jobs"), Templates: os.DirFS("../templates"), Packages: c.Programs,
	})
}

// Plan plans without the engine.
func (c ScaleCluster) Plan(ctx context.Context) (*plan.Plan, error) {
	d, err := c.deployer()
	if err != nil {
		return nil, err
	}
	return planWithoutEngine(ctx, d)
}

// noop is an apply that finds nothing to do.
func (c *cluster) noop(tb testing.TB) {
	tb.Helper()
	result, err := c.deployer(tb).Apply(tb.Context(), ApplyRequest{Approve: func(p *plan.Plan) (bool, error) {
		tb.Fatalf("there is something to do: %+v", p.Changes()[:min(3, len(p.Changes()))])
		return false, nil
	}})
	if err != nil {
		tb.Fatal(err)
	}
	if result.Changed || result.Counts != (Counts{}) {
		tb.Fatalf("nothing to do took %+v", result)
	}
}

// The benchmarks' cluster behaves as a real one.
func TestManySimulatedAgents(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 42)
	if p := c.plan(t); !p.Empty() {
		t.Fatalf("as applied, there is something to do: %+v", p.Changes()[0])
	}
	c.noop(t)
	c.vars["greeting"] = "Welcome"
	p := c.plan(t)
	if n := len(p.Changes()); n != 20 || p.Changes()[0].Action != plan.Reload || p.Changes()[0].Causes[0] != "property greeting" {
		t.Fatalf("%d changes, the first %+v", n, p.Changes()[0])
	}
	result, err := c.deployer(t).Apply(t.Context(), ApplyRequest{Approve: func(*plan.Plan) (bool, error) { return true, nil }})
	if err != nil || !result.Changed {
		t.Fatalf("%+v, %v", result, err)
	}
	c.noop(t)
}

// BenchmarkPlan prints what a plan of a change to half of the instances takes,
// without the engine: manifest, survey of all agents, rendering, comparison.
func BenchmarkPlan(b *testing.B) {
	took := map[int]time.Duration{}
	for _, n := range []int{1000, 2000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			c := newCluster(b, n)
			c.vars["greeting"] = "Welcome"
			b.ResetTimer()
			for b.Loop() {
				if p := c.plan(b); len(p.Changes()) < n/2-1 {
					b.Fatalf("%d changes", len(p.Changes()))
				}
			}
			took[n] = b.Elapsed() / time.Duration(b.N)
			b.ReportMetric(took[n].Seconds(), "s/plan")
			switch {
			case n == 1000:
				b.ReportMetric(took[n].Seconds()/planLimit.Seconds(), "of-limit")
			case took[1000] > 0:
				b.ReportMetric(took[n].Seconds()/took[1000].Seconds()/planRatio, "of-limit")
			}
		})
	}
}

// BenchmarkNothingToDo prints what an apply takes that finds nothing to do.
func BenchmarkNothingToDo(b *testing.B) {
	for _, n := range []int{1000, 2000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			c := newCluster(b, n)
			b.ResetTimer()
			for b.Loop() {
				c.noop(b)
			}
			each := b.Elapsed() / time.Duration(b.N)
			b.ReportMetric(each.Seconds(), "s/apply")
			if n == 1000 {
				b.ReportMetric(each.Seconds()/noopLimit.Seconds(), "of-limit")
			}
		})
	}
}
