// Package natstest lets the tests of components run them with the users that they
// have on the deployment's bus: each may do what its job.hcl says, and a test fails
// if it tries anything else.
package natstest

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/jobs"
	"github.com/clusterworks/deploy/jobs/nats"
	"github.com/clusterworks/deploy/manifests"
)

const password = "shared-by-tests"

// Users admits these jobs to a test's bus with what their job.hcl allows, and
// everybody who names no user with everything.
func Users(t testing.TB, names ...string) func(*server.Options) {
	t.Helper()
	return UsersOf(t, jobs.FS, names...)
}

// UsersOf is Users for the jobs in a folder.
func UsersOf(t testing.TB, folder fs.FS, names ...string) func(*server.Options) {
	t.Helper()
	table := make([]nats.User, 0, len(names))
	for _, name := range names {
		table = append(table, user(t, folder, name))
	}
	return func(o *server.Options) {
		o.CustomClientAuthentication = admission{t, table}
	}
}

// URI returns where a job's instance 0 finds the bus.
func URI(s *server.Server, job string) string {
	user := manifests.BusUser(job, 0, job)
	scheme, at, _ := strings.Cut(s.ClientURL(), "://")
	return scheme + "://" + user + ":" + manifests.BusPassword(password, user) + "@" + at
}

// User returns what the job.hcl of a job says of its user, with the defaults of its
// properties, in a group of the job's name.
func User(t testing.TB, name string) nats.User {
	t.Helper()
	return user(t, jobs.FS, name)
}

func user(t testing.TB, folder fs.FS, name string) nats.User {
	t.Helper()
	job, diags := manifests.LoadJob(folder, name)
	if diags.HasErrors() || job.Bus == nil {
		t.Fatalf("job %s has no bus block: %v", name, diags)
	}
	properties := map[string]cty.Value{}
	for _, p := range job.Properties {
		if properties[p.Name] = p.Default; p.Default == cty.NilVal {
			properties[p.Name] = cty.NullVal(p.Type)
		}
	}
	ctx := &hcl.EvalContext{Functions: manifests.Functions(), Variables: map[string]cty.Value{"property": cty.ObjectVal(properties)}}
	value := func(expr hcl.Expression, want cty.Type) cty.Value {
		v, diags := expr.Value(ctx)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		v, err := convert.Convert(v, want)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	user := nats.User{Group: name, Job: name, AnswerSeconds: 120}
	for _, list := range []struct {
		expr hcl.Expression
		into *[]string
	}{{job.Bus.Publish, &user.Publish}, {job.Bus.Subscribe, &user.Subscribe}} {
		if list.expr == nil {
			continue
		}
		for _, v := range value(list.expr, cty.List(cty.String)).AsValueSlice() {
			*list.into = append(*list.into, v.AsString())
		}
	}
	if job.Bus.AnswerSeconds != nil {
		user.AnswerSeconds, _ = value(job.Bus.AnswerSeconds, cty.Number).AsBigFloat().Float64()
	}
	return user
}

// admission is the bus's, for jobs.
type admission struct {
	t     testing.TB
	table []nats.User
}

// Check implements server.Authentication.
func (a admission) Check(client server.ClientAuthentication) bool {
	options := client.GetOpts()
	if options.Username == "" {
		return true
	}
	user, err := nats.Admit(a.table, options.Username, options.Password, options.Name, []byte(password))
	if user == nil || err != nil {
		a.t.Errorf("the bus refuses %q: %v", options.Username, err)
		return false
	}
	client.RegisterUser(user)
	return true
}
