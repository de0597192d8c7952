package router

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Rates are measured over sweeps, as the original does.
const sweep = 2 * time.Second

const (
	topURLs    = 10
	topClients = 10
	// maxURLs and maxClients bound what is told apart in a sweep: the URLs, which
	// are many where a wildcard is registered, and the clients of each.
	maxURLs    = 10_000
	maxClients = 1000
)

// traffic counts who asks for what: by URL and client in the current sweep and
// the one before, and which apps were asked for at all.
type traffic struct {
	mu          sync.Mutex
	begin       time.Time // of current
	current     map[string]*demand
	last        map[string]*demand // the sweep before, complete
	active      map[wire.ID]bool   // since they were taken
	countActive bool
	recent      *recent // has a lock of its own
}

// demand describes what one URL was asked for in a sweep.
type demand struct {
	requests int
	clients  map[string]int
}

// newTraffic returns a count of nothing. countActive says whether activeApps
// will be called.
func newTraffic(countActive bool) *traffic {
	return &traffic{current: map[string]*demand{}, active: map[wire.ID]bool{}, countActive: countActive, recent: newRecent()}
}

// add counts a request for a URL that an app, or something else (""), serves.
func (t *traffic) add(url string, app wire.ID, client string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn(now)
	if t.countActive && app != "" {
		t.active[app] = true
	}
	d := t.current[url]
	if d == nil {
		if len(t.current) == maxURLs {
			return
		}
		d = &demand{clients: map[string]int{}}
		t.current[url] = d
	}
	d.requests++
	if _, known := d.clients[client]; known || len(d.clients) < maxClients {
		d.clients[client]++
	}
}

// turn begins another sweep if it is time to.
func (t *traffic) turn(now time.Time) {
	passed := now.Sub(t.begin)
	if passed < sweep {
		return
	}
	t.last = t.current
	if passed >= 2*sweep {
		t.last = nil // nothing came for a whole sweep
	}
	t.current, t.begin = map[string]*demand{}, now
}

// activeApps returns the apps that were asked for since the last call, sorted.
func (t *traffic) activeApps() []wire.ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	apps := slices.Sorted(maps.Keys(t.active))
	clear(t.active)
	return apps
}

// rate is one URL of varz's top_app_requests, with the clients that ask most.
type rate struct {
	URL     string       `json:"url"`
	RPS     float64      `json:"rps"`
	Clients []clientRate `json:"clients"`
}

type clientRate struct {
	IP  string  `json:"ip"`
	RPS float64 `json:"rps"`
}

// rates are those of the last sweep, the highest first.
func (t *traffic) rates(now time.Time) []rate {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn(now)
	rates := []rate{}
	for url, d := range t.last {
		r := rate{URL: url, RPS: perSecond(d.requests), Clients: []clientRate{}}
		for ip, n := range d.clients {
			r.Clients = append(r.Clients, clientRate{IP: ip, RPS: perSecond(n)})
		}
		slices.SortFunc(r.Clients, func(a, b clientRate) int {
			return cmp.Or(cmp.Compare(b.RPS, a.RPS), strings.Compare(a.IP, b.IP))
		})
		r.Clients = r.Clients[:min(len(r.Clients), topClients)]
		rates = append(rates, r)
	}
	slices.SortFunc(rates, func(a, b rate) int {
		return cmp.Or(cmp.Compare(b.RPS, a.RPS), strings.Compare(a.URL, b.URL))
	})
	return rates
}

func perSecond(n int) float64 { return float64(n) / sweep.Seconds() }
