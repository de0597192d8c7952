package rest

import (
	"sync"
	"time"
)

// metrics describe what /varz says of requests.
type metrics struct {
	mu       sync.Mutex
	requests int64
	pending  int64
	rate     []rateSecond // of the last rateWindow seconds
}

type rateSecond struct {
	at int64
	n  int64
}

const rateWindow = 10 // seconds

func (m *metrics) begin(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests++
	m.pending++
	second := now.Unix()
	if n := len(m.rate); n > 0 && m.rate[n-1].at == second {
		m.rate[n-1].n++
		return
	}
	for len(m.rate) > 0 && m.rate[0].at <= second-rateWindow {
		m.rate = m.rate[1:]
	}
	m.rate = append(m.rate, rateSecond{at: second, n: 1})
}

func (m *metrics) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending--
}

// Varz returns what /varz says of requests.
func (f *Frame) Varz(now time.Time) map[string]any {
	m := &f.metrics
	m.mu.Lock()
	defer m.mu.Unlock()
	recent := int64(0)
	for _, s := range m.rate {
		// The present second is not over.
		if s.at >= now.Unix()-rateWindow && s.at < now.Unix() {
			recent += s.n
		}
	}
	return map[string]any{"requests": m.requests, "pending_requests": m.pending, "requests_per_sec": float64(recent) / rateWindow}
}
