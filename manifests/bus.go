package manifests

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/manifests/internal/jobspec"
	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// subjectPattern holds what may stand in a bus block: a token is "*", "{uuid}" or a
// name, the last one may be ">". The first is a name: nothing of the server's own.
var subjectPattern = regexp.MustCompile(`^[A-Za-z0-9_][^\s.*>{}]*(\.([^\s.*>{}$]+|\*|\{uuid\}))*(\.>)?$`)

// BusUser returns the name of a job's user on an instance of a group:
// "router.0.router".
func BusUser(group string, index int, job string) string {
	return group + "." + strconv.Itoa(index) + "." + job
}

// BusPassword returns the password of a user, made from that of the shared user, so
// that it need not be kept and the server can make it too. From it the shared one
// cannot be found.
func BusPassword(shared, user string) string {
	mac := hmac.New(sha256.New, []byte(shared))
	mac.Write([]byte("bus user " + user))
	return hex.EncodeToString(mac.Sum(nil))
}

// ownBusUser returns link.* of a job on an instance: where the job has a bus block,
// user and password of the bus are the instance's own; where it has routes, those of
// its agent for them stand beside.
func ownBusUser(link cty.Value, group string, index int, job *Job) cty.Value {
	consume := job.BusConsume()
	if !job.OwnBusUser() || consume == nil {
		return link
	}
	links := link.AsValueMap()
	bus := links[consume.Name]
	if bus.IsNull() {
		return link
	}
	of := bus.AsValueMap()
	properties := of["property"].AsValueMap()
	shared, ok := properties["password"]
	if _, named := properties["user"]; !ok || !named {
		return link // a bus without users
	}
	shared, marks := shared.Unmark()
	own := func(user string) cty.Value {
		password := cty.UnknownVal(cty.String)
		if shared.IsKnown() && !shared.IsNull() && shared.Type() == cty.String {
			password = cty.StringVal(BusPassword(shared.AsString(), user))
		}
		return password.WithMarks(marks).Mark(Sensitive)
	}
	if job.Bus != nil {
		user := BusUser(group, index, job.Name)
		properties["user"], properties["password"] = cty.StringVal(user), own(user)
	}
	if job.HasRoutes() {
		user := BusUser(group, index, jobspec.RouteBusJob(job.Name))
		properties[jobspec.RouteUser], properties[jobspec.RoutePassword] = cty.StringVal(user), own(user)
	}
	of["property"] = cty.ObjectVal(properties)
	links[consume.Name] = cty.ObjectVal(of)
	return cty.ObjectVal(links)
}

// busUsers returns bus.* of a job that provides the bus: the jobs that have users of
// their own on it and, as GROUP/JOB, those that share one, in the order of the
// manifest. Other jobs have none.
func (e *Evaluator) busUsers(group string, job *GroupJob) (cty.Value, hcl.Diagnostics) {
	if !slices.ContainsFunc(job.Spec.Provides, func(p *Provide) bool { return p.Type == BusLink }) {
		return cty.ObjectVal(map[string]cty.Value{"users": cty.NullVal(cty.List(jobspec.BusUserType)), "shared": cty.NullVal(cty.List(cty.String))}), nil
	}
	var users, shared []cty.Value
	var diags hcl.Diagnostics
	known := true
	for _, g := range e.m.Groups {
		for _, consumer := range g.Jobs {
			consume := consumer.Spec.BusConsume()
			if consume == nil {
				continue
			}
			if p, ok := consumer.links[consume.Name]; !ok || p.job != job || p.group.Name != group {
				continue
			}
			if !consumer.Spec.OwnBusUser() {
				shared = append(shared, cty.StringVal(g.Name+"/"+consumer.Spec.Name))
				continue
			}
			if consumer.Spec.HasRoutes() {
				users = append(users, routesUser(g.Name, consumer.Spec.Name))
			}
			if consumer.Spec.Bus == nil {
				continue
			}
			user, d := e.busUser(g.Name, consumer)
			diags = append(diags, d...)
			known = known && user.IsWhollyKnown()
			users = append(users, user)
		}
	}
	list := cty.ListValEmpty(jobspec.BusUserType)
	switch {
	case !known:
		list = cty.UnknownVal(cty.List(jobspec.BusUserType)).RefineNotNull()
	case len(users) > 0:
		list = cty.ListVal(users)
	}
	sharing := cty.ListValEmpty(cty.String)
	if len(shared) > 0 {
		sharing = cty.ListVal(shared)
	}
	return cty.ObjectVal(map[string]cty.Value{"users": list, "shared": sharing}), diags
}

// inputProperty returns the name of the property that a traversal refers to.
func inputProperty(t hcl.Traversal) string {
	if len(t) > 1 {
		if step, ok := t[1].(hcl.TraverseAttr); ok {
			return step.Name
		}
	}
	return ""
}

// routesUser returns what the agents of a group may do on the bus for the routes of a
// job: to register and unregister them, to hear routers start, and nothing else.
func routesUser(group, job string) cty.Value {
	texts := func(all ...string) cty.Value {
		list := make([]cty.Value, len(all))
		for n, s := range all {
			list[n] = cty.StringVal(s)
		}
		return cty.ListVal(list)
	}
	return cty.ObjectVal(map[string]cty.Value{
		"group": cty.StringVal(group), "job": cty.StringVal(jobspec.RouteBusJob(job)),
		"publish": texts("router.register", "router.unregister"), "subscribe": texts("router.start"),
		"answer_seconds": cty.NumberIntVal(jobspec.DefaultAnswerSeconds), "exact": cty.True,
	})
}

// busUser evaluates the bus block of a job in a group.
func (e *Evaluator) busUser(group string, job *GroupJob) (cty.Value, hcl.Diagnostics) {
	properties := e.properties(group, job, cty.UnknownVal(jobspec.InstanceType))
	ctx := &hcl.EvalContext{
		Functions: e.root.Functions,
		Variables: map[string]cty.Value{"property": cty.ObjectVal(properties.values)},
	}
	var diags hcl.Diagnostics
	value := func(expr hcl.Expression, want cty.Type, otherwise cty.Value) cty.Value {
		if expr == nil {
			return otherwise
		}
		for _, t := range expr.Variables() {
			if attr := job.properties[inputProperty(t)]; attr != nil && syntax.RefersTo(attr.Expr, "instance") {
				diags = append(diags, syntax.Problem("Bus user differs by instance",
					fmt.Sprintf("What job %q may do on the bus is the same for all instances, so its property %q cannot refer to instance.", job.Spec.Name, inputProperty(t)),
					attr.Expr.Range(), attr.Range))
				return cty.UnknownVal(want)
			}
		}
		v, d := Value(expr, ctx)
		diags = append(diags, d...)
		if d.HasErrors() {
			return cty.UnknownVal(want)
		}
		v, _ = v.UnmarkDeep()
		v, err := convert.Convert(v, want)
		if err != nil || v.IsNull() {
			return otherwise // a wrong type was reported when the job was read
		}
		return v
	}
	subjects := func(expr hcl.Expression) cty.Value {
		v := value(expr, cty.List(cty.String), cty.ListValEmpty(cty.String))
		if !v.IsWhollyKnown() {
			return v
		}
		for _, s := range v.AsValueSlice() {
			if s.IsNull() || !subjectPattern.MatchString(s.AsString()) || strings.HasPrefix(s.AsString(), "_INBOX_") {
				diags = append(diags, syntax.Problem("Invalid subject",
					fmt.Sprintf("Job %q in group %q cannot use a subject of its bus block: write names between dots, such as \"dea.heartbeat\", \"dea.*.start\" or \"dea.>\", which begin with a letter or digit.", job.Spec.Name, group),
					expr.Range(), job.Range))
			}
		}
		return v
	}
	bus := job.Spec.Bus
	return cty.ObjectVal(map[string]cty.Value{
		"group":          cty.StringVal(group),
		"job":            cty.StringVal(job.Spec.Name),
		"publish":        subjects(bus.Publish),
		"subscribe":      subjects(bus.Subscribe),
		"answer_seconds": value(bus.AnswerSeconds, cty.Number, cty.NumberIntVal(jobspec.DefaultAnswerSeconds)),
		"exact":          cty.False,
	}), diags
}
