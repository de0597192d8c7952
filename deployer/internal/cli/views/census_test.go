package views

import (
	"bytes"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// A plan names what lives where something is taken away, and whose it is; what agents
// say cannot rewrite the screen.
func TestPlanNamesWhatLivesThere(t *testing.T) {
	t.Parallel()
	databases := api.JobCensus{Job: "mysql_node", Total: 4, Things: []api.Thing{
		{Kind: "database", Name: "orders", Owner: "ann@example.com", Apps: []string{"shop", "mail"}},
		{Kind: "database", Name: "d2\n\x1b[2J"}, {Kind: "file", Name: "f"},
	}}
	change := func(id string, e plan.Effect, jobs ...api.JobCensus) plan.InstanceChange {
		return plan.InstanceChange{Instance: id, Group: "n", Action: plan.Delete, Census: &plan.Census{Effect: e, Jobs: jobs}}
	}
	p := &plan.Plan{Deployment: "cf", Instances: []plan.InstanceChange{
		change("n/0", plan.Gone, databases),
		change("n/1", plan.Stranded, api.JobCensus{Job: "redis_node", Error: "it cannot be asked:\nno answer"}),
		change("n/2", plan.Away, databases, api.JobCensus{Job: "nats"}),
		change("n/3", plan.Gone, api.JobCensus{Job: "nats"}),
	}}
	var out bytes.Buffer
	Plan(&out, p, false)
	for _, want := range []string{
		"\n      mysql_node holds 2 databases: orders (of ann@example.com, apps shop and mail), d2\\n\\x1b[2J; 1 file: f; 1 more; WHICH WILL BE LOST\n",
		"\n      redis_node does not say what lives there: it cannot be asked:; no answer; taken as full: WHAT IS THERE MAY BE LOST\n",
		"; away until it runs again\n", "\n      nats holds nothing of anybody\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if n := strings.Count(out.String(), "holds nothing"); n != 1 {
		t.Errorf("%d times nothing in\n%s", n, &out)
	}
	if got, want := DataLoss(p, false), "WHAT LIVES ON 2 INSTANCE(S) WILL BE LOST: n/0 (4), n/1 (it is not known what). To confirm"; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	out.Reset()
	Status(&out, &deployer.Status{Instances: []deployer.InstanceStatus{{ID: "n/0", Census: []api.JobCensus{databases, {Job: "kv", Error: "no"}}}}}, false, 200)
	for _, want := range []string{"  n/0: mysql_node holds 2 databases: orders", "! n/0: kv does not say what lives there: no\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}
