package router

import (
	"strconv"
	"sync"
	"time"

	"deploy/jobs/wire"
)

// window is how far back the latency looks, in one-second steps.
const window = 60

// metrics counts requests, in all and by tag, as varz shows them.
type metrics struct {
	mu          sync.Mutex
	badRequests int
	total       counter
	tags        map[string]map[string]*counter
	// latency of the last window seconds, by second.
	sums    [window]time.Duration
	samples [window]int
	second  int64
}

type counter struct {
	requests  int
	responses [6]int // by the status's first digit; 0: any other
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
	m.total.add(status)
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
		m.tags[key][value].add(status)
	}
	m.advance(now)
	slot := now.Unix() % window
	m.sums[slot] += took
	m.samples[slot]++
}

// advance empties the slots of the seconds since the last call.
func (m *metrics) advance(now time.Time) {
	second := now.Unix()
	for s := max(m.second+1, second-window+1); s <= second; s++ {
		m.sums[s%window], m.samples[s%window] = 0, 0
	}
	m.second = max(m.second, second)
}

// varz is the router's part of /varz. Latency is the mean in milliseconds.
func (m *metrics) varz(now time.Time) map[string]any {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advance(now)
	var sum time.Duration
	samples := 0
	for i := range window {
		sum += m.sums[i]
		samples += m.samples[i]
	}
	mean := 0.0
	if samples > 0 {
		mean = float64(sum) / float64(samples) / float64(time.Millisecond)
	}
	tags := map[string]any{}
	for key, values := range m.tags {
		byValue := map[string]any{}
		for value, c := range values {
			byValue[value] = c.varz()
		}
		tags[key] = byValue
	}
	doc := m.total.varz()
	doc["bad_requests"] = m.badRequests
	doc["requests_per_sec"] = float64(samples) / window
	doc["latency"] = map[string]any{"value": mean, "samples": samples}
	doc["tags"] = tags
	return doc
}

func (c *counter) add(status int) {
	c.requests++
	if class := status / 100; class >= 1 && class <= 5 {
		c.responses[class]++
	} else {
		c.responses[0]++
	}
}

func (c *counter) varz() map[string]any {
	doc := map[string]any{"requests": c.requests, "responses_xxx": c.responses[0] + c.responses[1]}
	for class := 2; class <= 5; class++ {
		doc["responses_"+strconv.Itoa(class)+"xx"] = c.responses[class]
	}
	return doc
}
