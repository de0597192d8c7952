package render

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"
)

// routeHost is a host name as routers know them: in lower case, without port and
// path, with at least two labels, the first of which may be "*".
var routeHost = regexp.MustCompile(`^(\*|[a-z0-9]([a-z0-9-]*[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$`)

// routes renders the route blocks of a process. One whose host is null is none.
func (r *jobRenderer) routes(p *manifests.Process) []api.Route {
	var out []api.Route
	for _, t := range p.Routes {
		wrong := func(expr hcl.Expression, format string, args ...any) {
			r.diags = append(r.diags, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Invalid route",
				Detail:  fmt.Sprintf("Process %q of job %q: ", p.Name, r.spec.Name) + fmt.Sprintf(format, args...),
				Subject: expr.Range().Ptr(),
			})
		}
		host, ok := r.eval(t.Host, cty.String)
		if !ok {
			continue
		}
		port, given := r.eval(t.Port, cty.String)
		user, admitted := r.eval(t.User, cty.String)
		password, _ := r.eval(t.Password, cty.String)
		name := strings.ToLower(host.AsString())
		if !routeHost.MatchString(name) || len(name) > 253 {
			wrong(t.Host, "%q is not the name of a host, such as \"shop.cf.example.com\"; write it without \"http://\", port and path.", host.AsString())
		}
		number := 0
		if given {
			var err error
			if number, err = strconv.Atoi(port.AsString()); err != nil || number < 1 || number > 65535 {
				wrong(t.Port, "port %s is not within 1 and 65535.", port.AsString())
			}
		} else if port != cty.NilVal {
			wrong(t.Port, "a route needs a port.")
		}
		if user != cty.NilVal && !admitted {
			wrong(t.Host, "the route is made known over the message bus, and the deployment has none. Add a group with job nats and one with job router, or give the domain a target: domain \"%s\" { group = ... }.", name)
		}
		if !given || !admitted || password == cty.NilVal {
			continue
		}
		out = append(out, api.Route{
			Host: name, Port: number, DrainMS: t.Drain.Milliseconds(),
			User: user.AsString(), Password: password.AsString(),
		})
	}
	return out
}
