package router

import (
	"strconv"
	"sync"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// window says how far back the latency looks, in one-second steps.
const window = 60

// metrics counts requests, in all and by tag, as varz shows them.
type metrics struct {
	mu          sync.Mutex
	badRequests int
	total       counter
	tags        map[string]map[string]*counter
}

// counter counts requests, and times those that were answered.
type counter struct {
	requests  int
	responses [6]int // by the status's first digit; 0: any other
	latency   rolling
}

// rolling is a mean over the last window seconds, kept by second.
type rolling struct {
	sums    [window]time.Duration
	samples [window]int
	second  int64
}

// bad counts a request that found no backend by its host.
func (m *metrics) bad() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total.requests++
	m.badRequests++
}

// done counts an answered request. tags are those of its backend, if any.
func (m *metrics) done(status int, tags wire.Tags, took time.Duration, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total.add(status, took, now)
	for key, value := range tags {
		if m.tags == nil {
			m.tags = map[string]map[string]*counter{}
		}
		if m.tags[key] == nil {
			m.tags[key] = map[string]*counter{}
		}
		if m.tags[key][value] == nil {
			m.tags[key][value] = &counter{}
		}
		m.tags[key][value].add(status, took, now)
	}
}

func (r *rolling) add(took time.Duration, now time.Time) {
	r.advance(now)
	slot := now.Unix() % window
	r.sums[slot] += took
	r.samples[slot]++
}

// advance empties the slots of the seconds since the last call.
func (r *rolling) advance(now time.Time) {
	second := now.Unix()
	for s := max(r.second+1, second-window+1); s <= second; s++ {
		r.sums[s%window], r.samples[s%window] = 0, 0
	}
	r.second = max(r.second, second)
}

// mean is in milliseconds, of so many samples.
func (r *rolling) mean(now time.Time) (mean float64, samples int) {
	r.advance(now)
	var sum time.Duration
	for i := range window {
		sum += r.sums[i]
		samples += r.samples[i]
	}
	if samples > 0 {
		mean = float64(sum) / float64(samples) / float64(time.Millisecond)
	}
	return mean, samples
}

// varz is the router's part of /varz.
func (m *metrics) varz(now time.Time) map[string]any {
	m.mu.Lock()
	defer m.mu.Unlock()
	tags := map[string]any{}
	for key, values := range m.tags {
		byValue := map[string]any{}
		for value, c := range values {
			byValue[value] = c.varz(now)
		}
		tags[key] = byValue
	}
	doc := m.total.varz(now)
	_, samples := m.total.latency.mean(now)
	doc["bad_requests"] = m.badRequests
	doc["requests_per_sec"] = float64(samples) / window
	doc["tags"] = tags
	return doc
}

func (c *counter) add(status int, took time.Duration, now time.Time) {
	c.requests++
	c.latency.add(took, now)
	if class := status / 100; class >= 1 && class <= 5 {
		c.responses[class]++
	} else {
		c.responses[0]++
	}
}

func (c *counter) varz(now time.Time) map[string]any {
	mean, samples := c.latency.mean(now)
	doc := map[string]any{
		"requests": c.requests, "responses_xxx": c.responses[0] + c.responses[1],
		"latency": map[string]any{"value": mean, "samples": samples},
	}
	for class := 2; class <= 5; class++ {
		doc["responses_"+strconv.Itoa(class)+"xx"] = c.responses[class]
	}
	return doc
}
