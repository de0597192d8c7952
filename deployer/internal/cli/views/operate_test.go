package views

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// greeting is a reload of an instance for one line; what stays around it differs.
func greeting(id string) plan.InstanceChange {
	return plan.InstanceChange{
		Instance: id, Group: "hello", Action: plan.Reload, Causes: []string{"property greeting"},
		Files: []plan.FileChange{{Job: "hello", Path: "hello.yml", Diff: "--- hello/hello.yml\n+++ hello/hello.yml\n@@ -1,2 +1,2 @@\n-greeting: Hello\n+greeting: Hi\n instance: " + id + "\n"}},
	}
}

func TestPlanWithExceptions(t *testing.T) {
	p := &plan.Plan{Deployment: "cf", Instances: []plan.InstanceChange{
		greeting("hello/0"), greeting("hello/1"), greeting("hello/2"), greeting("hello/3"), greeting("hello/4"), greeting("hello/6"),
		{Instance: "hello/7", Group: "hello", Action: plan.Update, Held: true, Causes: []string{"property greeting"}},
		{Instance: "router/0", Group: "router", Action: plan.None, Exempt: plan.ExemptIgnored, Owed: plan.Update, Causes: []string{"package router"}},
		{Instance: "router/1", Group: "router", Action: plan.None, Exempt: plan.ExemptTarget, Owed: plan.Update, Causes: []string{"package router"}},
		{Instance: "lb/0", Group: "lb", Action: plan.Move, Causes: []string{`VM: az "z1" -> "z2"`}},
	}}
	var b bytes.Buffer
	Plan(&b, p, false)
	golden(t, "plan-exceptions.txt", b.Bytes())
	b.Reset()
	Plan(&b, &plan.Plan{Deployment: "cf", Instances: p.Instances[7:9]}, false)
	golden(t, "plan-left.txt", b.Bytes())
	b.Reset()
	Diff(&b, &deployer.Diff{From: "revision 3", To: "the manifest", Plan: &plan.Plan{Deployment: "cf", Instances: p.Instances[:2]}}, false)
	Diff(&b, &deployer.Diff{From: "revision 3", To: "revision 4", Plan: &plan.Plan{Deployment: "cf"}}, false)
	golden(t, "diff.txt", b.Bytes())
}

func TestHistory(t *testing.T) {
	at := time.Date(2026, 11, 26, 1, 2, 3, 0, time.Local)
	var b bytes.Buffer
	History(&b, &deployer.History{
		Entries: []deployer.HistoryEntry{
			{At: at, Who: "ops@desk", What: "apply", Result: "done", Revision: 3, Took: 8643 * time.Millisecond, Kept: true},
			{At: at, Who: "ops@desk", What: "restart router", Result: "failed: " + strings.Repeat("long ", 40), Took: time.Minute},
			{At: at, Who: "ops@desk", What: "apply"},
		},
		Revisions: []deployer.Revision{{Number: 3}},
	})
	golden(t, "history.txt", b.Bytes())
}

func TestErrandOutput(t *testing.T) {
	pieces := []struct {
		instance string
		piece    api.Output
	}{
		{"db/0", api.Output{Stream: api.Stdout, Data: []byte("one\ntw")}},
		{"db/1", api.Output{Stream: api.Stderr, Data: []byte("beside\n")}},
		{"db/0", api.Output{Stream: api.Stdout, Data: []byte("o\nrest")}},
	}
	for name, test := range map[string]struct {
		json, several bool
		out, errOut   string
	}{
		"one":      {false, false, "one\ntwo\nrest", "beside\n"},
		"several":  {false, true, "db/0 | one\ndb/0 | two\ndb/0 | rest\n", "db/1 | beside\n"},
		"machines": {true, true, `{"instance":"db/0","stream":"stdout","text":"one\ntw"}` + "\n" + `{"instance":"db/1","stream":"stderr","text":"beside\n"}` + "\n" + `{"instance":"db/0","stream":"stdout","text":"o\nrest"}` + "\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			o := NewErrandOutput(&out, &errOut, test.json, test.several, false)
			for _, p := range pieces {
				o.Write(p.instance, p.piece)
			}
			o.Close()
			if out.String() != test.out || errOut.String() != test.errOut {
				t.Errorf("got %q and %q", out.String(), errOut.String())
			}
		})
	}
}
