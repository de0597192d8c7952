// Package servicebroker offers services that live elsewhere: a database that the
// company has already, whose credentials the operator writes down, or what another
// broker gives. It has no nodes and remembers nothing: the cloud controller keeps the
// handles. http.go answers the controller, forward.go asks another broker.
package servicebroker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/gateway"
	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	offerEvery = time.Minute
	retryOffer = time.Second // after an offer that failed
	leaveTime  = 2 * time.Second
)

// Broker is a running service broker.
type Broker struct {
	config   Config
	base     *component.Component
	server   *component.Server
	routes   *component.Registrar
	offerers map[string]*gateway.Offerer // by the service's name
	remote   *http.Client
}

// Run is a broker until ctx ends.
func Run(ctx context.Context, p component.Process) error {
	b, err := open(p)
	if err != nil {
		return err
	}
	defer b.close()
	route := wire.Registration{
		Host: b.base.Address(), Port: b.server.Addr().(*net.TCPAddr).Port, URIs: []string{b.config.ExternalURI},
		Tags: wire.Tags{"component": "ServiceBroker"}, PrivateInstanceID: b.base.UUID(),
	}
	if err := b.routes.Register(route); err != nil {
		return errors.Join(err, b.server.Close())
	}
	return b.base.Run(ctx, b.server.Serve, b.routes.Run, b.keepOffering)
}

func open(p component.Process) (_ *Broker, err error) {
	cfg, raw, err := load(p.ConfigFile)
	if err != nil {
		return nil, err
	}
	b := &Broker{config: cfg, offerers: map[string]*gateway.Offerer{}, remote: newRemote()}
	b.base, err = component.Open(component.Options{Type: "ServiceBroker", Process: p, Config: cfg.Config, Raw: raw, Drain: b.drain})
	if err != nil {
		return nil, err
	}
	for name, o := range cfg.Offerings {
		c := gateway.Config{CloudControllerURI: cfg.CloudControllerURI, CloudControllers: cfg.CloudControllers, Token: o.Token}
		c.Service = gateway.Service{Name: name, Version: o.Version, Description: o.Description, Plans: o.planNames()}
		if b.offerers[name], err = gateway.NewOfferer(c, b.base.Dialer()); err != nil {
			b.base.Close()
			return nil, err
		}
	}
	b.server, err = component.Listen(net.JoinHostPort(b.base.Address(), strconv.Itoa(cfg.Port)), b.handler(), b.base.Log())
	if err != nil {
		b.base.Close()
		return nil, err
	}
	b.routes = b.base.NewRegistrar()
	return b, nil
}

func (b *Broker) close() {
	for _, o := range b.offerers {
		o.Close()
	}
	b.remote.CloseIdleConnections()
	b.base.Close()
}

// drain takes the offerings back and finishes what is in progress.
func (b *Broker) drain(ctx context.Context) error {
	quick, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	var group sync.WaitGroup
	for name := range b.offerers {
		group.Go(func() {
			if err := b.offer(quick, name, false); err != nil {
				b.base.Log().Warn("cannot tell the cloud controller that the broker leaves", "service", name, "error", err)
			}
		})
	}
	group.Wait()
	return errors.Join(b.routes.Close(ctx), b.server.Drain(ctx))
}

func (b *Broker) offer(ctx context.Context, name string, active bool) error {
	return b.offerers[name].Offer(ctx, fmt.Sprintf("http://%s/%s", b.server.Addr(), name), active)
}

// keepOffering tells the controllers again and again what there is.
func (b *Broker) keepOffering(ctx context.Context) error {
	var group sync.WaitGroup
	for name := range b.offerers {
		group.Go(func() {
			for told := ""; !b.server.Draining(); {
				wait := offerEvery
				err := b.offer(ctx, name, true)
				if err != nil {
					wait = retryOffer
				}
				if err != nil && err.Error() != told && ctx.Err() == nil {
					told = err.Error()
					b.base.Log().Warn("cannot offer the service; trying again", "service", name, "error", err)
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
				}
			}
		})
	}
	group.Wait()
	<-ctx.Done()
	return nil
}
