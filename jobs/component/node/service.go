package node

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Service makes and removes what a node offers. For one instance its methods are
// called one after the other, for several side by side. Each may be called again
// for what it has done already or has done in part, after a crash for example, and
// succeeds then: what is there stays, what is gone is no error.
//
// An error that is a *wire.ServiceFailure goes to the gateway as it is; of any
// other one only the log has the text.
type Service interface {
	// Ready says why the service cannot work, or nil. It returns at once.
	Ready() error
	// Provision makes an instance with its name, user and password, and returns what
	// an app needs to use it. Name and node are added to that.
	Provision(ctx context.Context, i Instance) (wire.Credentials, error)
	// Unprovision removes an instance with its users and all that is in it.
	Unprovision(ctx context.Context, i Instance) error
	// Bind makes a user of an instance and returns what its app needs.
	Bind(ctx context.Context, i Instance, b Binding) (wire.Credentials, error)
	// Unbind removes a user and ends its connections.
	Unbind(ctx context.Context, i Instance, b Binding) error
}

// Runner is a Service that works beside the operations.
type Runner interface {
	// Run works until ctx ends. An error ends the node.
	Run(ctx context.Context) error
}

// Versioned is a Service that knows the version of its server.
type Versioned interface {
	// Version returns what is announced where the configuration names no versions.
	Version() string
}

// Mover is a Service whose instances can move to another node: disabled and
// exported here, imported and enabled there. A Snapshotter need not be one: its
// instances move as snapshots.
type Mover interface {
	// Disable keeps users out of an instance and ends their connections.
	Disable(ctx context.Context, i Instance) error
	// Enable lets them in again.
	Enable(ctx context.Context, i Instance) error
	// Export writes what is in a disabled instance into an empty folder.
	Export(ctx context.Context, i Instance, folder string) error
	// Import puts what Export wrote into an instance that Provision has just made.
	Import(ctx context.Context, i Instance, folder string) error
}

// Snapshotter is a Service whose instances can be copied into a file, and go back to it.
type Snapshotter interface {
	// Disable keeps users out of an instance and ends their connections.
	Disable(ctx context.Context, i Instance) error
	// Enable lets them in again.
	Enable(ctx context.Context, i Instance) error
	// Size returns about how many bytes are in an instance.
	Size(ctx context.Context, i Instance) (int64, error)
	// Dump writes what is in an instance as it is at one moment, while its users work.
	// Other methods may be called for the instance meanwhile.
	Dump(ctx context.Context, i Instance, to io.Writer) error
	// Load replaces all that is in a disabled instance by what Dump wrote; users and
	// passwords stay. from can be read again from its beginning. If it ends with an error, Load fails. What was in the instance is
	// still in it then, unless the error is an ErrHalfLoaded.
	Load(ctx context.Context, i Instance, from io.ReadSeeker) error
}

// Porter is a Snapshotter whose instances can be made into files, and filled from them.
type Porter interface {
	// Serialize writes what Dump wrote as a file for Deserialize.
	Serialize(ctx context.Context, i Instance, from io.Reader, to io.Writer) error
	// Deserialize is Load for a file that anybody may have written, who may mean harm: it
	// does with it what the instance's own users may do, and never more. What the file
	// may not do is a failure that says so. ctx ends if the disk is full.
	Deserialize(ctx context.Context, i Instance, from io.ReadSeeker) error
}

// ErrHalfLoaded says that what was in an instance is gone, and what was to replace it is
// not there. Its users are kept out until a rollback or an import succeeds.
var ErrHalfLoaded = wire.Failure(wire.ServiceInternal, "it failed half-way, and the service lets nobody in: roll back to a snapshot, or import again")

// Restorer is a Service that can go back to a backup.
type Restorer interface {
	Restore(ctx context.Context, i Instance, backup string) error
}

// Host describes what a node gives its service.
type Host struct {
	Config Config
	Log    *slog.Logger
	// Address is the place where apps reach the node.
	Address string
	// Instances returns those that are whole, by name.
	Instances func() []Instance
}

// startsAtOnce bounds how many servers start side by side.
const startsAtOnce = 8

// StartAll starts the servers of all instances, for services with one for each. One
// that does not start within a minute is logged; who runs it tries again.
func (h Host) StartAll(ctx context.Context, start func(context.Context, Instance) error) {
	var g errgroup.Group
	g.SetLimit(startsAtOnce)
	for _, i := range h.Instances() {
		g.Go(func() error {
			within, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			if err := start(within, i); err != nil && ctx.Err() == nil {
				h.Log.Error("the server of an instance does not start; trying again", "instance", i.Name, "error", err)
			}
			return nil
		})
	}
	_ = g.Wait() // its functions return nil
}

// Definition is a service's name and how it begins.
type Definition struct {
	Name string // "redis"
	// Settings is a pointer to a struct that takes the service's own keys of the
	// configuration file; nil: there are none.
	Settings any
	// Open begins the service. What it starts ends with Runner's context.
	Open func(ctx context.Context, h Host) (Service, error)
}

// State describes how far an instance or a binding is.
type State string

// What is Making when the node starts, or Removing at any time, is removed.
const (
	Making   State = "making"
	Whole    State = "whole"
	Removing State = "removing"
)

// Instance is a node's record of one instance. Its file is the node's alone.
type Instance struct {
	Name     string `json:"name"`
	Plan     string `json:"plan"`
	Version  string `json:"version"`
	State    State  `json:"state"`
	User     string `json:"user"`
	Password string `json:"password"`
	Port     int    `json:"port,omitempty"` // of Config.Ports; 0: the service has none for each
	Secret   string `json:"secret"`         // for the service's own access; nobody is told
	Disabled bool   `json:"disabled"`       // on its way to another node
	// Move is the number of the last move in which the node took part, 0 for none. Away
	// says that the instance has moved to another node: what is here is a former copy.
	Move int  `json:"move,omitempty"`
	Away bool `json:"away,omitempty"`
	// Owner says whose it is and Called how that user calls it; "" if nobody has said.
	Owner  string `json:"owner,omitempty"`
	Called string `json:"called,omitempty"`

	Bindings []Binding `json:"bindings"` // by the time of their making
}

// Binding is a node's record of one user of an instance.
type Binding struct {
	User     string `json:"user"`
	Password string `json:"password"`
	State    State  `json:"state"`
	App      string `json:"app,omitempty"` // the name of its app when it was bound; "" if nobody has said
}

// clone returns a copy that shares nothing.
func (i Instance) clone() Instance {
	i.Bindings = slices.Clone(i.Bindings)
	return i
}

// binding returns the index of a user, -1 if there is none.
func (i Instance) binding(user string) int {
	return slices.IndexFunc(i.Bindings, func(b Binding) bool { return b.User == user })
}

// Users returns the users of bindings that are whole.
func (i Instance) Users() []Binding {
	return slices.DeleteFunc(slices.Clone(i.Bindings), func(b Binding) bool { return b.State != Whole })
}
