package execute

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// rollLimit is the time that the engine itself may take to roll 2,000 instances.
const rollLimit = 30 * time.Second

// instant answers every command at once.
type instant struct{}

func (instant) Execute(context.Context, rollout.Command) error { return nil }

// bigRun is a run on a deployment of that many instances, in four groups, with
// a state as it is after a first apply.
func bigRun(tb testing.TB, instances int) (*session.Session, rollout.Plan) {
	tb.Helper()
	store := state.Store{Dir: tb.TempDir()}
	r := &session.Session{Options: session.Options{Counters: &session.Counters{}}, Store: store, State: state.New("big"), Secrets: &state.Secrets{Agents: map[string]state.AgentCertificate{}}}
	r.State.VMs, r.State.Groups = map[string]state.VM{}, map[string][]state.Slot{}
	p := rollout.Plan{ID: "bench"}
	update := manifests.DefaultUpdate()
	update.MaxInFlight = manifests.Amount{Number: 5, Percent: true}
	for g := range 4 {
		n := instances / 4
		group := rollout.Group{Name: fmt.Sprintf("group-%d", g), Policy: rollout.PolicyFor(update, n)}
		for i := range n {
			id := api.InstanceID(group.Name, i)
			digest := fmt.Sprintf("%064d", g*n+i)
			group.Instances = append(group.Instances, rollout.Instance{
				ID: id, AZ: fmt.Sprint("z", i%3), Action: rollout.ActionUpdate, Generation: digest, Previous: "before", Healthy: true,
			})
			r.State.Groups[group.Name] = append(r.State.Groups[group.Name], state.Slot{Index: i, AZ: fmt.Sprint("z", i%3)})
			r.State.VMs[id] = state.VM{
				ID: digest[:16], Address: "10.0.0.1", SSHHost: "10.0.0.1", SSHPort: 22, SSHUser: "deploy", AgentDir: "/var/lib/deploy",
				HostKey: "ssh-ed25519 " + digest, OS: "linux", Arch: "amd64", Running: true, Input: json.RawMessage(`{"vm":{"group":"` + group.Name + `"}}`),
			}
			r.Secrets.Agents[id] = state.AgentCertificate{Certificate: strings.Repeat("c", 800), PublicKey: []byte(digest)}
		}
		p.Groups = append(p.Groups, group)
	}
	if err := store.Begin(r.State, r.Secrets, 1); err != nil {
		tb.Fatal(err)
	}
	return r, p
}

// BenchmarkRoll2000 is the engine's own time to roll 2,000 instances: machine,
// driver and what is written to the state before commands go out, with agents
// that answer at once.
func BenchmarkRoll2000(b *testing.B) {
	r, p := bigRun(b, 2000)
	for b.Loop() {
		initial, err := rollout.New(p, rollout.Memory{})
		if err != nil {
			b.Fatal(err)
		}
		commands := 0
		final, err := rollout.Driver{
			Executor: instant{}, Save: func(s rollout.State) error { return SaveMemory(r, s) },
			Report: func(_ rollout.Event, issued []rollout.Command, _ rollout.State) { commands += len(issued) },
		}.Run(b.Context(), initial)
		if err != nil || final.Outcome != rollout.OutcomeDone || commands < 4000 {
			b.Fatalf("%s after %d commands: %v", final.Outcome, commands, err)
		}
	}
	each := b.Elapsed() / time.Duration(b.N)
	b.ReportMetric(each.Seconds(), "s/roll")
	b.ReportMetric(each.Seconds()/rollLimit.Seconds(), "of-limit")
}
