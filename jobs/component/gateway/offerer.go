package gateway

import (
	"context"
	"fmt"
	"net"
)

// Offerer tells the controllers of a service that has no nodes.
type Offerer struct {
	config     Config
	controller *controller
}

// NewOfferer checks what is offered. Of the configuration it needs the controllers, the
// token and the service.
func NewOfferer(c Config, dialer *net.Dialer) (*Offerer, error) {
	usual := defaults()
	c.NodeTimeout, c.HeartbeatInterval = usual.NodeTimeout, usual.HeartbeatInterval
	c.CheckOrphanInterval, c.DoubleCheckOrphanInterval = usual.CheckOrphanInterval, usual.DoubleCheckOrphanInterval
	s := &c.Service
	s.Timeout, s.SupportedVersions = usual.Service.Timeout, []string{s.Version}
	if len(s.Plans) > 0 {
		s.DefaultPlan = s.Plans[0]
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("cannot offer %s: %w", s.Name, err)
	}
	return &Offerer{c, newController(c, dialer)}, nil
}

// Label is the service's name for the controllers.
func (o *Offerer) Label() string { return o.config.Service.label() }

// Offer tells them where it is asked for, or that it is not there any more.
func (o *Offerer) Offer(ctx context.Context, at string, active bool) error {
	doc, err := o.config.offering(at, active)
	if err != nil {
		return fmt.Errorf("cannot write the offering: %w", err)
	}
	return o.controller.offer(ctx, doc)
}

// Close ends its connections.
func (o *Offerer) Close() { o.controller.close() }
