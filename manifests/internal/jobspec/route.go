package jobspec

import (
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// Route is a route block of a process: the routers send requests for a host to it
// while its checks pass.
type Route struct {
	Host  hcl.Expression // string; null: there is no route
	Port  hcl.Expression // number
	Drain time.Duration  // between the routers' word that it goes and its drain
	// User and Password admit the agent to the bus for its routes; null: the
	// deployment has no bus.
	User, Password hcl.Expression
	Range          hcl.Range
}

// defaultRouteDrain is longer than routers need to hear that a route goes, and
// than most requests take.
const defaultRouteDrain = time.Second

// The properties of a link to the bus that a job with routes has besides.
const (
	RouteUser     = "route_user"
	RoutePassword = "route_password"
)

// RouteBusJob returns what stands in the place of the job's name in the bus user of
// its routes. No job can have this name.
func RouteBusJob(job string) string { return job + "-ROUTES" }

// HasRoutes reports whether a process of the job has a route block.
func (j *Job) HasRoutes() bool {
	for _, p := range j.Processes {
		if len(p.Routes) > 0 {
			return true
		}
	}
	return false
}

// OwnBusUser reports whether the job's link to the bus differs by instance.
func (j *Job) OwnBusUser() bool { return j.Bus != nil || j.HasRoutes() }

// routeSource has the block that a route block stands for.
const routeSource = `consumes "bus" { optional = true }`

// addRoutes lets a job with routes consume the bus, unless it says so itself.
func (l *loader) addRoutes(body *hclsyntax.Body) {
	routed, consumes := false, false
	for _, b := range body.Blocks {
		switch b.Type {
		case "process":
			for _, inner := range b.Body.Blocks {
				routed = routed || inner.Type == "route"
			}
		case "consumes":
			consumes = consumes || len(b.Labels) == 1 && providesBus(b.AsHCLBlock())
		}
	}
	if !routed || consumes {
		return
	}
	_, shared, diags := syntax.ParseConfig([]byte(routeSource), componentFile)
	l.Report(diags...)
	body.Blocks = append(body.Blocks, shared.Blocks...)
}

func (l *loader) route(p *Process, b *hcl.Block) {
	attrs, title := l.Content(b.Body, "host! port! drain").Attributes, "route of process \""+p.Name+"\""
	route := &Route{
		Host:  l.expression(attrs, "host", cty.String, title),
		Port:  l.expression(attrs, "port", cty.Number, title),
		Drain: l.Duration(attrs, "drain", defaultRouteDrain, 0),
		Range: b.DefRange,
	}
	if link := l.job.BusConsume(); link != nil {
		property := "link." + link.Name + ".property."
		route.User = l.linked("try("+property+RouteUser+", null)", title, b)
		route.Password = l.linked("try("+property+RoutePassword+", null)", title, b)
	}
	p.Routes = append(p.Routes, route)
}

// linked returns an expression of ours that stands where a block does not.
func (l *loader) linked(source, title string, b *hcl.Block) hcl.Expression {
	expr, diags := hclsyntax.ParseExpression([]byte(source), b.DefRange.Filename, b.DefRange.Start)
	l.Report(diags...)
	l.job.expressions = append(l.job.expressions, wanted{expr, cty.String, title})
	return expr
}
