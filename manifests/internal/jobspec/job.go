// Package jobspec reads job.hcl files: the types of a job, their decoding, and the
// values that a job's expressions may refer to. It knows no manifest.
package jobspec

import (
	"io/fs"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// Job is a decoded job.hcl with its folder.
//
// Fields of type hcl.Expression are evaluated per instance with the context
// that JobContext returns; they may use
//
//	property.<name>                      the job's properties, defaults applied
//	instance.{id,group,index,az,address} the instance
//	group.instances[*].{id,index,az,address}
//	                                     the own group's, this instance included:
//	                                     how servers of a cluster find their peers
//	deployment.{name,id,domain}
//	path.{root,config,data,log,run}      absolute folders on the VM; config,
//	                                     data, log and run are this job's own
//	path.image                           where the files of the VM's image are
//	package.<name>.path                  where a package of the job is unpacked;
//	                                     for a system package: its program
//	link.<name>.instances[*].{id,index,az,address}
//	link.<name>.property.<name>          properties that the provider publishes
//	certificate.<name>.{ca,certificate,private_key}
//	bus.users[*].{group,job,publish,subscribe,answer_seconds,exact}
//	                                     who has a user of its own on the bus that
//	                                     this job provides
//
// and all functions of the manifest language.
type Job struct {
	Name string
	// Release is the name of the release block that the job is from; "": it is
	// built in.
	Release      string
	Description  string
	Properties   []*Property
	Provides     []*Provide
	Consumes     []*Consume
	Packages     []*JobPackage
	Certificates []*Certificate
	Templates    []*Template
	Processes    []*Process
	Hooks        []*Hook
	Listens      []*Listen
	Uniques      []*Unique
	Mbus         *Mbus
	Bus          *Bus // nil: the job has the bus's shared user, if it consumes the bus

	FS    fs.FS    // the job's folder: job.hcl, templates/
	Bases []string // their files, from the folder of jobs: "component/node/base.hcl"
	Files map[string]*hcl.File
	Range hcl.Range

	expressions []wanted // every expression and template, with the type it must have
}

// FindPackage finds a program for a job among packages by name: one of the
// job's own release, "<release>/<program>", comes before what is built in.
func FindPackage[P any](j *Job, program string, packages map[string]P) (P, bool) {
	p, ok := packages[j.Release+"/"+program]
	if !ok {
		p, ok = packages[program]
	}
	return p, ok
}

// Property finds a property by name, nil if the job has none such.
func (j *Job) Property(name string) *Property {
	for _, p := range j.Properties {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Property types one property of the job.
type Property struct {
	Name    string
	Type    cty.Type
	Default cty.Value // cty.NilVal: none
	// Earlier is the default in deployments that were first made before Default was
	// there; cty.NilVal: Default.
	Earlier     cty.Value
	Description string
	Required    bool
	Sensitive   bool
	// OnChange is "restart" if a change restarts the job's processes; "": only what
	// the property is used in says what a change asks for.
	OnChange string
	// From holds what the property gets if the manifest says nothing of it: FromDomains,
	// FromInstances, or "".
	From string
	// Levels are the values that the property may have, the weakest first: a fact of
	// the job's process, of the property's name, must be at least its value. nil: the
	// property is not of that kind.
	Levels      []string
	Validations []*syntax.Validation
	Range       hcl.Range

	typed syntax.Typed // Type, with the defaults of optional attributes
}

// FromDomains gives a property the manifest's domain blocks.
const FromDomains = "domains"

// FromInstances gives a property all instances of the deployment, as group.instances
// has those of one group.
const FromInstances = "instances"

// Convert gives a value the property's type; marks are kept.
func (p *Property) Convert(v cty.Value) (cty.Value, error) { return p.typed.Convert(v) }

// Provide publishes properties of this job to the jobs that consume its type.
type Provide struct {
	Name       string
	Type       string
	Properties []string
	Range      hcl.Range
}

// Consume asks for a provider. Exactly one group must provide the type, or the
// manifest names one in the job block's links.
type Consume struct {
	Name     string
	Type     string
	Optional bool
	Range    hcl.Range
}

// BusLink is the link type of the message bus. Agents connect to the group whose
// job provides it.
const BusLink = "bus"

// JobPackage is something the job needs on the VM; exactly one source is set.
type JobPackage struct {
	Name string
	// Program is a prebuilt program of the release, by its name in the package
	// index.
	Program string
	// System: a program of the VM's package manager.
	System string   // name of the executable, "nginx"
	Apt    []string // packages that provide it
	Range  hcl.Range
}

// Certificate asks for one from the deployment's CA, for the instance's
// address and the names given, renewed before it ends.
type Certificate struct {
	Name  string
	Names hcl.Expression // list of DNS names; nil: none
	Range hcl.Range
}

// Template is a file rendered from HCL template syntax.
type Template struct {
	Source      string // below templates/
	Destination string // below path.config
	Mode        uint32
	OnChange    string // "restart", "reload", "none"
	Process     string // whose change it is; "": all processes of the job
	Raw         bool   // copied as it is: nothing in it is an expression
	Range       hcl.Range
}

// Process is a process block.
type Process struct {
	Name       string
	Command    hcl.Expression // list of strings
	Env        hcl.Expression // map of strings; nil: none
	User       hcl.Expression // string; nil: the agent's own
	Dir        hcl.Expression // string; nil: path.data
	OpenFiles  int
	MemoryMB   int
	KillMode   string
	StopSignal string
	StopGrace  time.Duration
	Control    bool
	RestartOn  hcl.Expression // any type: the process restarts when the value changes; nil: none
	Checks     []*Check
	Reload     *Reload
	Routes     []*Route
	Range      hcl.Range
}

// Check is a check block of a process.
type Check struct {
	Kind     string         // label: http, tcp, exec
	Target   hcl.Expression // http, tcp
	Host     hcl.Expression // http; may be nil
	Command  hcl.Expression // exec
	Interval time.Duration
	Timeout  time.Duration
	Failures int
	Range    hcl.Range
}

// Reload is the reload block of a process; one of Signal, Command, Control.
type Reload struct {
	Signal  string
	Command hcl.Expression
	Control bool
	Verify  hcl.Expression
	Timeout time.Duration
	Range   hcl.Range
}

// Hook is a hook block; its label is the kind.
type Hook struct {
	Kind      string
	Name      string // errands
	Command   hcl.Expression
	Env       hcl.Expression
	Timeout   time.Duration
	OnTimeout string
	// RollbackCompatible, of pre_start: what it does to data can be used by what
	// ran before.
	RollbackCompatible bool
	Range              hcl.Range
}

// Listen is a listen block: a port that the job opens on its instance's address.
type Listen struct {
	Name    string
	Network string         // tcp (default), udp
	Port    hcl.Expression // number
	Range   hcl.Range
}

// Unique is a unique block: a name that an instance has and no other instance of the
// deployment may have, because others know the instance by it.
type Unique struct {
	Name  string
	Value hcl.Expression // string
	Range hcl.Range
}

// Bus is the bus block: what the job may say and hear on the message bus. A job that
// has one gets a user of its own for each instance; the expressions may refer to
// properties only, so that they are the same for all instances.
type Bus struct {
	Publish       hcl.Expression // list of subjects, wildcards allowed; nil: none
	Subscribe     hcl.Expression // the same
	AnswerSeconds hcl.Expression // number: how long after a question its answer may be sent; nil: DefaultAnswerSeconds
	Range         hcl.Range
}

// DefaultAnswerSeconds is the time for answers of a job that names none.
const DefaultAnswerSeconds = 120

// Mbus names files of a VM's image in which message-bus URIs are rewritten, and
// their new values. A value that the block does not set comes from the job's link
// to the bus.
type Mbus struct {
	Files    []string       // patterns as of path.Match, relative to path.image or absolute
	Servers  hcl.Expression // list of strings, host:port
	User     hcl.Expression // string; nil: that of the URI stays
	Password hcl.Expression // string; nil: that of the URI stays
	Scheme   hcl.Expression // string; nil: that of the URI stays
	Range    hcl.Range
}
