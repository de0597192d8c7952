package router

import (
	"container/list"
	"encoding/json"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/wire"
)

// The last requests of apps are remembered in parts, so that requests of different
// apps do not wait for each other. A part has at most recentBytes; then those of the
// app that was not asked for the longest time go.
const (
	recentParts = 16
	recentBytes = 2 << 20
	// requestBytes is about what a request takes beside its texts.
	requestBytes = 160
)

// recent has the last requests to each app.
type recent struct {
	seed  maphash.Seed
	parts [recentParts]recentPart
}

type recentPart struct {
	mu    sync.Mutex
	apps  map[string]*list.Element // of order, by app
	order list.List                // of *appRequests; whose app was asked last is last
	bytes int
}

// appRequests are the last requests to one app: a ring, when there are as many as may
// be.
type appRequests struct {
	app      string
	requests []wire.RoutedRequest
	oldest   int // index
	bytes    int
}

func newRecent() *recent {
	r := &recent{seed: maphash.MakeSeed()}
	for i := range r.parts {
		r.parts[i].apps = map[string]*list.Element{}
	}
	return r
}

func (r *recent) part(app string) *recentPart {
	return &r.parts[maphash.String(r.seed, app)%recentParts]
}

// add remembers a request to an app, and forgets what is too much.
func (r *recent) add(app string, one wire.RoutedRequest) {
	for _, text := range []*string{&one.URI, &one.Client, &one.Host} {
		if len(*text) > wire.MaxRoutedText {
			*text = strings.Clone((*text)[:wire.MaxRoutedText]) // lets go of the rest
		}
	}
	p := r.part(app)
	p.mu.Lock()
	defer p.mu.Unlock()
	element := p.apps[app]
	if element == nil {
		element = p.order.PushBack(&appRequests{app: app})
		p.apps[app] = element
	}
	p.order.MoveToBack(element)
	of := element.Value.(*appRequests)
	if len(of.requests) < wire.MaxRoutedRequests {
		of.requests = append(of.requests, one)
	} else {
		p.count(of, -sizeOf(of.requests[of.oldest]))
		of.requests[of.oldest] = one
		of.oldest = (of.oldest + 1) % len(of.requests)
	}
	p.count(of, sizeOf(one))
	for p.bytes > recentBytes && p.order.Front() != element {
		oldest := p.order.Remove(p.order.Front()).(*appRequests)
		delete(p.apps, oldest.app)
		p.bytes -= oldest.bytes
	}
}

func (p *recentPart) count(of *appRequests, bytes int) {
	of.bytes += bytes
	p.bytes += bytes
}

// sizeOf returns about how many bytes a request takes.
func sizeOf(r wire.RoutedRequest) int {
	return requestBytes + len(r.ID) + len(r.Client) + len(r.Method) + len(r.Host) + len(r.URI)
}

// of returns the last requests to an app, the latest last.
func (r *recent) of(app string) []wire.RoutedRequest {
	p := r.part(app)
	p.mu.Lock()
	defer p.mu.Unlock()
	if element := p.apps[app]; element != nil {
		of := element.Value.(*appRequests)
		return slices.Concat(of.requests[of.oldest:], of.requests[:of.oldest])
	}
	return []wire.RoutedRequest{}
}

// tellRequests answers a cloud controller that asks for the last requests to an app.
func (r *Router) tellRequests(m *nats.Msg) {
	if m.Reply == "" {
		return
	}
	asked, err := wire.ParseRequestsAsked(m.Data)
	if err != nil {
		r.base.Log().Warn("ignoring a message", "subject", m.Subject, "error", err)
		return
	}
	data, err := json.Marshal(wire.RoutedRequests{Router: r.base.UUID(), Requests: r.traffic.recent.of(string(asked.App))})
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		r.base.Log().Warn("cannot tell the requests to an app", "app", asked.App, "error", err)
	}
}

// routed returns what is remembered of an exchange that has ended.
func (x *exchange) routed(method, uri string, took time.Duration) wire.RoutedRequest {
	return wire.RoutedRequest{
		At: x.started, ID: x.id, Client: x.client, Method: method, Host: hostKey(x.host), URI: uri,
		Status: x.status, Bytes: x.sent, Took: float64(took.Microseconds()) / 1000, Index: wire.ID(x.backend.Index),
	}
}
