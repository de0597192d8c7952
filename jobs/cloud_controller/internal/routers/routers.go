// Package routers asks the routers for the last requests to an app.
package routers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/wire"
)

// A router says that it is here every wire.RouterStartInterval; one that has missed
// two times is not waited for. patience is how long the others have to answer.
const (
	hereFor  = 2*wire.RouterStartInterval + wire.RouterStartInterval/2
	patience = time.Second
)

// Routers are those that have said that they are here.
type Routers struct {
	bus *nats.Conn
	log *slog.Logger

	mu   sync.Mutex
	seen map[string]time.Time // by id
}

// New returns routers of which none is known yet.
func New(bus *nats.Conn, log *slog.Logger) *Routers {
	return &Routers{bus: bus, log: log, seen: map[string]time.Time{}}
}

// Subscribe hears from now on which routers there are.
func (r *Routers) Subscribe() error {
	_, err := r.bus.Subscribe(wire.SubjectRouterStart, func(m *nats.Msg) {
		start, err := wire.ParseRouterStart(m.Data)
		if err != nil {
			r.log.Warn("ignoring a message", "subject", m.Subject, "error", err)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.seen[start.ID] = time.Now()
	})
	if err != nil {
		return fmt.Errorf("cannot subscribe %s: %w", wire.SubjectRouterStart, err)
	}
	return nil
}

// known returns the routers that are here.
func (r *Routers) known(now time.Time) map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	here := map[string]bool{}
	for id, at := range r.seen {
		if now.Sub(at) > hereFor {
			delete(r.seen, id)
			continue
		}
		here[id] = true
	}
	return here
}

// Requests returns the last requests to an app through all routers, the latest last.
// silent is how many routers have not answered in time: what went through them is
// missing.
func (r *Routers) Requests(ctx context.Context, app wire.ID) (requests []wire.RoutedRequest, silent int, err error) {
	question, err := json.Marshal(wire.RequestsAsked{App: app})
	if err != nil {
		return nil, 0, fmt.Errorf("cannot ask the routers: %w", err)
	}
	inbox := r.bus.NewRespInbox()
	sub, err := r.bus.SubscribeSync(inbox)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot ask the routers: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only with the connection
	if err := r.bus.PublishRequest(wire.SubjectRouterRequests, inbox, question); err != nil {
		return nil, 0, fmt.Errorf("cannot ask the routers: %w", err)
	}
	requests = []wire.RoutedRequest{}
	waited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	here := r.known(time.Now())
	// Where none is known, all the time is for those that answer.
	for none := len(here) == 0; none || len(here) > 0; {
		m, err := sub.NextMsgWithContext(waited)
		switch {
		case errors.Is(err, nats.ErrNoResponders), err != nil && ctx.Err() == nil && waited.Err() != nil:
			return inOrder(requests), len(here), nil
		case err != nil:
			return nil, 0, fmt.Errorf("cannot wait for the routers' answers: %w", err)
		}
		told, err := wire.ParseRoutedRequests(m.Data)
		if err != nil {
			r.log.Warn("ignoring a message", "subject", wire.SubjectRouterRequests, "error", err)
			continue
		}
		delete(here, told.Router)
		requests = append(requests, told.Requests...)
	}
	return inOrder(requests), 0, nil
}

func inOrder(requests []wire.RoutedRequest) []wire.RoutedRequest {
	slices.SortStableFunc(requests, func(a, b wire.RoutedRequest) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID))
	})
	return requests
}
