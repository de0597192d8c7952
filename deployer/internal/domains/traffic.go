package domains

import (
	"encoding/json"
	"strings"
	"time"
)

// Minute is the time over which requests are counted.
const Minute = time.Minute

// Rates returns the requests a second by host that a load balancer's access log tells
// of, in either format of job nginx: over the last minute, or over what there is of it
// if the log is cut at its beginning.
func Rates(lines []string, cut bool, now time.Time) map[string]float64 {
	begin := now.Add(-Minute)
	counts := map[string]float64{}
	for _, line := range lines {
		at, host, ok := entry(line)
		if !ok {
			continue
		}
		// The log's times are whole seconds, and of its first one lines may be missing.
		if cut && at.After(begin) {
			begin = at.Add(time.Second)
		}
		cut = false
		if !at.Before(begin) {
			counts[host]++
		}
	}
	seconds := max(1, now.Sub(begin).Seconds())
	for host := range counts {
		counts[host] /= seconds
	}
	return counts
}

// entry reads the time and the host of a line of an access log.
func entry(line string) (at time.Time, host string, ok bool) {
	var e struct{ Time, Host string }
	if strings.HasPrefix(line, "{") {
		if json.Unmarshal([]byte(line), &e) != nil {
			return at, "", false
		}
	} else if words := strings.SplitN(line, " ", 6); len(words) == 6 {
		e.Time, e.Host = words[0], strings.Trim(words[4], `"`)
	}
	at, err := time.Parse(time.RFC3339, e.Time)
	return at, strings.ToLower(e.Host), err == nil && e.Host != ""
}

// Attribute adds the rates of hosts to the domains that serve them: the host's own, or
// the longest "*." that covers it.
func (r *Report) Attribute(rates map[string]float64) {
	byName := map[string]*Status{}
	for i := range r.Domains {
		s := &r.Domains[i]
		if s.RequestsPerSecond == nil {
			s.RequestsPerSecond = new(float64)
		}
		byName[s.Name] = s
	}
	for host, rate := range rates {
		s := byName[host]
		for rest, found := host, true; s == nil && found; {
			if _, rest, found = strings.Cut(rest, "."); found {
				s = byName["*."+rest]
			}
		}
		if s != nil {
			*s.RequestsPerSecond += rate
		}
	}
}
