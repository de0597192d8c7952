package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/bus"
	"github.com/clusterworks/deploy/agent/internal/names"
	"github.com/clusterworks/deploy/agent/internal/server"
)

// busTrial is the time that a new bus may take to answer before it is refused.
const busTrial = 10 * time.Second

// configure gives the agent its identity and its bus. A new bus takes the
// place of the old only after it has answered.
func (a *Agent) configure(ctx context.Context, s api.Submission, r report) error {
	c := s.Configure
	if err := r.Proceed(); err != nil {
		return err
	}
	if err := a.useDisk(c.Disk); err != nil {
		return err
	}
	if c.Syslog != "" {
		if _, _, err := parseSyslog(c.Syslog); err != nil {
			return &api.Error{Code: api.CodeBadRequest, Message: err.Error()}
		}
	}
	if _, err := names.Block(c.Deployment, c.Names); err != nil {
		return &api.Error{Code: api.CodeBadRequest, Message: err.Error()}
	}
	a.mu.Lock()
	before := a.identity
	err := a.changeIdentity(func(id *identity) {
		id.DeploymentID, id.Instance = s.DeploymentID, s.Instance
		id.Deployment, id.VMID, id.Address = c.Deployment, c.VMID, c.Address
		id.MetricsPort, id.Syslog, id.Names = c.MetricsPort, c.Syslog, c.Names
		id.damaged = nil
	})
	now, current := a.identity, a.bus
	a.mu.Unlock()
	if err != nil {
		return err
	}
	r.Event("identity", fmt.Sprintf("%s of deployment %s", s.Instance, c.Deployment))

	if err := a.configureMetrics(); err != nil {
		return err
	}
	a.configureSyslog()
	if now.Names != nil || before.Names != nil {
		if err := now.nameHosts(a.config.Root); err != nil {
			return err
		}
	}
	// Those whose addresses it learned may come before it goes to them.
	if err := a.firewall.again(ctx); err != nil {
		return err
	}
	same := current != nil && c.Bus != nil && before.Bus != nil && before.Bus.Digest == c.Bus.Digest &&
		before.Address == now.Address
	if same || current == nil && c.Bus == nil {
		return nil
	}
	if err := r.Proceed(); err != nil {
		return err
	}
	var next *bus.Bus
	if c.Bus != nil {
		trial, cancel := context.WithTimeout(ctx, busTrial)
		defer cancel()
		next, err = bus.Connect(trial, a.busConfig(now, *c.Bus))
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(err, cause)
		}
		if err != nil {
			if next != nil {
				next.Close()
			}
			return err
		}
		r.Event("bus", "connected to the bus")
	}
	a.mu.Lock()
	err = a.changeIdentity(func(id *identity) { id.Bus = c.Bus })
	if err == nil {
		current, a.bus = a.bus, next
		a.busError = ""
	}
	a.mu.Unlock()
	if err != nil {
		if next != nil {
			next.Close()
		}
		return err
	}
	if current != nil {
		current.Close()
	}
	a.rerouteSoon()
	return nil
}

// nameHosts gives the VM whose /etc is in root the names that the identity has; with none it removes those
// that it once had.
func (id identity) nameHosts(root string) error {
	return names.Machine{Root: root}.Apply(id.Deployment, id.Instance, id.Names)
}

// namesDigest returns the digest of the names that the VM has, "" if they are not as
// the identity has them.
func (id identity) namesDigest(root string) string {
	if len(id.Names) == 0 || !(names.Machine{Root: root}).InPlace(id.Deployment, id.Instance, id.Names) {
		return ""
	}
	return api.NamesDigest(id.Instance, id.Names)
}

func (a *Agent) busConfig(id identity, settings api.Bus) bus.Config {
	return bus.Config{
		Settings: settings, KeyPEM: a.key.pem, Handlers: a.handlers, Connected: a.beatNow, Log: a.config.Log,
		Identity: server.Identity{DeploymentID: id.DeploymentID, Instance: id.Instance, Address: id.Address, Version: a.config.Version},
	}
}

// resumeBus connects in the background to the bus that was configured. Its
// settings cannot stop the agent: the socket must answer.
func (a *Agent) resumeBus() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.identity.Bus == nil || a.bus != nil { // it was configured meanwhile
		return
	}
	b, err := bus.Open(a.busConfig(a.identity, *a.identity.Bus))
	if err != nil {
		a.busError = err.Error()
		a.config.Log.Error("cannot use the bus", "err", err)
		return
	}
	a.bus = b
}

// busStatus is asked with a.mu held.
func (a *Agent) busStatus() api.BusStatus {
	if a.bus != nil {
		return a.bus.Status()
	}
	return api.BusStatus{Error: a.busError}
}

// fetch reads a package from the bus.
func (a *Agent) fetch(ctx context.Context, digest string, w io.Writer) error {
	a.mu.Lock()
	b := a.bus
	a.mu.Unlock()
	if b == nil {
		return errors.New("not uploaded, and the agent has no bus")
	}
	return b.Fetch(ctx, digest, w)
}
