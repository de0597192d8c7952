package manifests

import (
	"io/fs"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"

	"github.com/clusterworks/deploy/manifests/internal/jobspec"
	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// The types of a job: see internal/jobspec.
type (
	Job         = jobspec.Job
	Property    = jobspec.Property
	Provide     = jobspec.Provide
	Consume     = jobspec.Consume
	JobPackage  = jobspec.JobPackage
	Certificate = jobspec.Certificate
	Template    = jobspec.Template
	Process     = jobspec.Process
	Check       = jobspec.Check
	Reload      = jobspec.Reload
	Route       = jobspec.Route
	Hook        = jobspec.Hook
	Listen      = jobspec.Listen
	Mbus        = jobspec.Mbus
	Bus         = jobspec.Bus
	Validation  = syntax.Validation
)

// BusLink is the link type of the message bus: agents connect to the group whose
// job provides it.
const BusLink = jobspec.BusLink

// LoadJob reads the job in the folder name of fsys: its job.hcl, and the
// templates as far as their references go.
//
// All problems are reported at once. The job is never nil: with errors it is
// not fit for use, but its Files hold the sources for the printer.
func LoadJob(fsys fs.FS, name string) (*Job, hcl.Diagnostics) {
	return jobspec.Load(fsys, name, "")
}

// FindPackage finds a program for a job among packages by name: one of the
// job's own release, "<release>/<program>", comes before what is built in.
func FindPackage[P any](j *Job, program string, packages map[string]P) (P, bool) {
	return jobspec.FindPackage(j, program, packages)
}

// Mark is the type of the marks that this package puts on values.
type Mark = syntax.Mark

// Sensitive marks values that must not be shown.
const Sensitive = syntax.Sensitive

// Functions returns all functions of the manifest language by name.
func Functions() map[string]function.Function { return syntax.Functions() }

// Value evaluates an expression. Unlike its own method, the diagnostics say
// nothing of sensitive values.
func Value(expr hcl.Expression, ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	return syntax.Value(expr, ctx)
}
