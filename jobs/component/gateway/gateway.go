package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	fetchHandlesInterval = time.Second      // until they are there once
	pruneInterval        = 60 * time.Second // of nodes that are silent
	retryOffer           = time.Second      // after an announcement that failed
)

// Run is a gateway until ctx ends.
func Run(ctx context.Context, p component.Process) error {
	g, err := open(p)
	if err != nil {
		return err
	}
	defer g.base.Close()
	defer g.controller.close()
	return g.run(ctx)
}

func open(p component.Process) (_ *Gateway, err error) {
	cfg, raw, err := load(p.ConfigFile)
	if err != nil {
		return nil, err
	}
	delete(raw, "token") // varz shows the rest
	g := &Gateway{
		config: cfg, prefix: wire.ServicePrefix(cfg.Service.Name), check: make(chan struct{}, 1), moving: make(chan struct{}, 1), pool: newPool(cfg), reports: newOrphans(), orphans: newOrphans(),
		answers: map[int]int{},
	}
	g.base, err = component.Open(component.Options{
		Type:    g.prefix + "-Provisioner",
		Process: p,
		Config:  cfg.Config,
		Raw:     raw,
		Varz:    g.varz,
		Ready:   g.ready,
		Drain:   g.drain,
	})
	if err != nil {
		return nil, err
	}
	host := cfg.Host
	if host == "" {
		host = g.base.Address()
	}
	g.server, err = component.Listen(net.JoinHostPort(host, strconv.Itoa(cfg.Port)), api{g}.handler(), g.base.Log())
	if err != nil {
		g.base.Close()
		return nil, err
	}
	g.controller = newController(cfg, g.base.Dialer())
	return g, nil
}

func (g *Gateway) run(ctx context.Context) error {
	for subject, handle := range map[string]nats.MsgHandler{
		wire.ServiceAnnounced:        g.announced,
		wire.ServiceNodeHandles:      g.reported,
		wire.ServiceHandles:          g.askedForHandles,
		wire.ServiceUpdateHandle:     g.toldHandle,
		wire.ServiceLeaveNode + ".*": mover{g}.leaving,
	} {
		if _, err := g.base.Bus().Subscribe(wire.ServiceSubject(g.prefix, subject), handle); err != nil {
			g.server.Close()
			return fmt.Errorf("cannot subscribe %s: %w", subject, err)
		}
	}
	g.base.OnConnect(func() { g.publish(wire.ServiceSubject(g.prefix, wire.ServiceDiscover), wire.ServiceDiscovery{}) })
	return g.base.Run(ctx, g.server.Serve, g.keepOffering, g.fetchHandles, g.keepPruning, g.keepChecking, mover{g}.keepMoving)
}

// drain takes the offering back and finishes what is in progress.
func (g *Gateway) drain(ctx context.Context) error {
	doc, err := g.config.offering(g.url(), false)
	if err == nil {
		quick, cancel := context.WithTimeout(ctx, 2*time.Second)
		err = g.controller.offer(quick, doc)
		cancel()
	}
	if err != nil {
		g.base.Log().Warn("cannot tell the cloud controller that the gateway stops", "error", err)
	}
	return g.server.Drain(ctx)
}

func (g *Gateway) url() string { return "http://" + g.server.Addr().String() }

// keepOffering tells the controller again and again that the gateway is there.
func (g *Gateway) keepOffering(ctx context.Context) error {
	doc, err := g.config.offering(g.url(), true)
	if err != nil {
		return fmt.Errorf("cannot write the offering: %w", err)
	}
	told := ""
	for {
		wait := g.config.HeartbeatInterval.Duration()
		if g.server.Draining() {
			return nil
		}
		if err := g.controller.offer(ctx, doc); err != nil {
			wait = min(wait, retryOffer)
			if text := err.Error(); text != told && ctx.Err() == nil {
				g.base.Log().Warn("cannot offer the service; trying again", "error", err)
				told = text
			}
		} else if told = ""; true {
			g.base.Log().Debug("offered the service", "label", g.config.Service.label())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// fetchHandles asks for the handles until they are there.
func (g *Gateway) fetchHandles(ctx context.Context) error {
	told := ""
	for {
		h, err := g.controller.handles(ctx)
		if err == nil {
			g.mu.Lock()
			g.handles = h
			g.mu.Unlock()
			g.base.Log().Info("fetched the handles", "handles", len(h))
			return nil
		}
		if text := err.Error(); text != told && ctx.Err() == nil {
			g.base.Log().Warn("cannot fetch the handles; trying again", "error", err)
			told = text
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(fetchHandlesInterval):
		}
	}
}

func (g *Gateway) keepPruning(ctx context.Context) error {
	tick := time.NewTicker(pruneInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			g.mu.Lock()
			g.pool.prune(now)
			g.mu.Unlock()
		}
	}
}

func (g *Gateway) announced(m *nats.Msg) {
	a, err := wire.ParseServiceAnnounce(m.Data)
	if err != nil {
		g.base.Log().Warn("ignoring a message", "subject", m.Subject, "error", err)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pool.announce(a, time.Now())
}

// askedForHandles answers with an instance's bindings, or with all handles.
func (g *Gateway) askedForHandles(m *nats.Msg) {
	if m.Reply == "" {
		return
	}
	g.mu.Lock()
	var answer any = g.handles
	if name := strings.TrimSpace(string(m.Data)); name != "" {
		answer = g.handles.bindingsOf(name)
	} else if g.handles == nil {
		answer = handles{}
	}
	data, err := json.Marshal(answer)
	g.mu.Unlock()
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		g.base.Log().Warn("cannot answer", "subject", m.Subject, "error", err)
	}
}

// toldHandle passes a handle on to the controller and answers whether that took it.
func (g *Gateway) toldHandle(m *nats.Msg) {
	accepted := false
	h, err := wire.ParseServiceHandle(m.Data)
	if err == nil {
		g.mu.Lock()
		known, there := g.handles.instance(h.ServiceID)
		g.mu.Unlock()
		if move, broken := known.Move(); there && (broken != nil || !move.Over()) {
			err = errors.New("the instance is on its way to another node")
		}
		if err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
			err = g.update(ctx, h)
			cancel()
		}
		accepted = err == nil
	}
	if err != nil {
		g.base.Log().Warn("a handle was refused", "subject", m.Subject, "error", err)
	}
	if m.Reply != "" {
		_ = m.Respond([]byte(strconv.FormatBool(accepted))) // fails with the connection only
	}
}

func (g *Gateway) varz() map[string]any {
	g.mu.Lock()
	defer g.mu.Unlock()
	nodes := map[string]any{}
	for id, m := range g.pool.nodes {
		nodes[id] = map[string]any{
			"plan": m.Plan, "available_capacity": m.AvailableCapacity, "supported_versions": m.SupportedVersions, "pending": m.pending,
			"time": m.heard.Unix(),
		}
	}
	services := map[string]any{}
	for id, h := range g.handles {
		services[id] = map[string]any{"configuration": h.Configuration, "credentials": masked(h.Credentials)}
	}
	plans := []any{}
	for _, plan := range g.config.Service.Plans {
		policy := g.config.PlanManagement.Plans[plan]
		over := 0
		if policy.AllowOverProvisioning {
			over = 1
		}
		plans = append(plans, map[string]any{
			"plan": plan, "score": g.pool.score(plan), "low_water": policy.LowWater, "high_water": policy.HighWater, "allow_over_provisioning": over,
		})
	}
	responses := map[string]int{}
	for hundreds, count := range g.answers {
		responses[fmt.Sprintf("responses_%dxx", hundreds)] = count
	}
	lists := g.orphans.lists()
	return map[string]any{
		"nodes": nodes, "prov_svcs": services, "orphan_instances": lists.Instances, "orphan_bindings": lists.Bindings, "plans": plans,
		"responses_metrics": responses, "orphan_checks": g.checks,
	}
}

// masked returns credentials without what lets in.
func masked(c wire.Credentials) wire.Credentials {
	c = c.Without()
	for field, value := range c {
		if _, is := value.(string); is && (strings.HasPrefix(field, "pass") || strings.Contains(field, "ur")) {
			c[field] = "********" // pass, password, url, uri
		}
	}
	return c
}
