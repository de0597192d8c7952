// Package hosts knows the host names that no app may have: reserved ones, and
// those that components of the platform have registered with the routers.
package hosts

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// reserved are first labels that no app gets, whatever the configuration says:
// users trust what is behind them.
var reserved = []string{"admin", "api", "login", "uaa", "www"}

const (
	// noteAgain is the interval at which a name that is still registered is noted, and
	// keptFor how long it is remembered after it was last noted.
	noteAgain = time.Hour
	keptFor   = 30 * 24 * time.Hour
	// maxQueue bounds names that wait to be noted, and maxKnown those in memory.
	maxQueue = 1024
	maxKnown = 100_000
)

// Deps are the parts that hosts work with.
type Deps struct {
	Config *config.Live
	Log    *slog.Logger
	Bus    *nats.Conn
	Store  *store.Store
}

// Hosts are the names that no app may have.
type Hosts struct {
	Deps
	queue chan string
	mu    sync.Mutex
	known map[string]time.Time // registered by components; when that was noted
}

// New returns hosts that know nothing of components yet.
func New(d Deps) *Hosts {
	return &Hosts{Deps: d, queue: make(chan string, maxQueue), known: map[string]time.Time{}}
}

// Subscribe reads which names components had before, and listens to what they
// register from now on.
func (h *Hosts) Subscribe(ctx context.Context) error {
	list, err := h.Store.PlatformHosts(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	for _, host := range list {
		h.known[host] = time.Time{}
	}
	h.mu.Unlock()
	if _, err := h.Bus.Subscribe(wire.SubjectRouterRegister, h.heard); err != nil {
		return fmt.Errorf("cannot subscribe %s: %w", wire.SubjectRouterRegister, err)
	}
	return nil
}

// heard takes the names of a registration. DEAs say which app theirs is for.
func (h *Hosts) heard(m *nats.Msg) {
	r, err := wire.ParseRegistration(m.Data)
	if err != nil || r.App != "" {
		return // routers report broken ones
	}
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, uri := range r.URIs {
		host := strings.ToLower(uri)
		noted, known := h.known[host]
		if !config.ValidHost(host) || known && now.Sub(noted) < noteAgain || len(h.known) >= maxKnown {
			continue
		}
		h.known[host] = now
		select {
		case h.queue <- host:
		default: // it is registered again soon
			h.known[host] = time.Time{}
		}
	}
}

// Serve notes in the database what is heard, until ctx ends.
func (h *Hosts) Serve(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case host := <-h.queue:
			if err := h.Store.NotePlatformHost(ctx, host, keptFor); err != nil && ctx.Err() == nil {
				h.Log.Warn("cannot note a component's host name", "host", host, "error", err)
			}
		}
	}
}

// Registered reports whether a host name, in lower case, is the API's or one that
// a component has registered.
func (h *Hosts) Registered(host string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, known := h.known[host]
	return known || host == h.Config.Now().ExternalURI
}

// above reports whether a host name, in lower case, is above one of the platform's.
func (h *Hosts) above(host string) bool {
	below := func(name string) bool { return strings.HasSuffix(name, "."+host) }
	settings := h.Config.Now()
	if below(settings.ExternalURI) || slices.ContainsFunc(settings.ReservedHosts, below) {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.known {
		if below(name) {
			return true
		}
	}
	return false
}

// Taken reports whether a host name, in lower case, is the platform's, above one of
// its names, or below one in the apps' domain.
func (h *Hosts) Taken(host string) bool {
	settings := h.Config.Now()
	domain := settings.Domain()
	if h.above(host) {
		return true // its pages could set cookies for the platform's
	}
	for host != domain {
		label, inside := strings.CutSuffix(host, "."+domain)
		if host == settings.ExternalURI || slices.Contains(settings.ReservedHosts, host) ||
			inside && (slices.Contains(reserved, label) || slices.Contains(settings.ReservedHosts, label) || slices.Contains(settings.AppURIs.ReservedList, label)) {
			return true
		}
		h.mu.Lock()
		_, known := h.known[host]
		h.mu.Unlock()
		if known || !inside {
			return known
		}
		_, host, _ = strings.Cut(host, ".")
	}
	// The domain itself, or a name below it of which no part is the platform's.
	return false
}
