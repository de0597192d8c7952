package domains

import (
	"fmt"
	"math"
	"testing"
	"time"
)

// TestRates: requests of the last minute count for the domain that serves their host,
// in both formats of the log; a log that is cut tells of a shorter time.
func TestRates(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	json := func(ago time.Duration, host string) string {
		return fmt.Sprintf(`{"time":%q,"request_id":"a","host":%q,"status":200}`, now.Add(-ago).Format(time.RFC3339), host)
	}
	text := func(ago time.Duration, host string) string {
		return fmt.Sprintf(`%s id 192.0.2.1 https %q "GET / HTTP/1.1" 200 5 0.001 - - "curl" ""`, now.Add(-ago).Format(time.RFC3339), host)
	}
	var lines []string
	add := func(n int, line string) {
		for range n {
			lines = append(lines, line)
		}
	}
	add(500, json(2*time.Minute, "www.shop.example"))
	add(60, json(30*time.Second, "www.shop.example"))
	add(30, text(20*time.Second, "a.b.cf.example"))
	add(120, text(10*time.Second, "B.cf.example"))
	add(6, json(5*time.Second, "nobody.example"))
	lines = append(lines, "2026/01/02 03:04:00 [warn] 7#7: a word of nginx itself", "{broken", "")
	for name, tc := range map[string]struct {
		lines []string
		cut   bool
		want  map[string]float64
	}{
		"a whole log":                     {lines, false, map[string]float64{"www.shop.example": 1, "*.cf.example": 2, "*.b.cf.example": 0.5, "quiet.example": 0}},
		"a cut log that has the minute":   {lines, true, map[string]float64{"www.shop.example": 1, "*.cf.example": 2, "*.b.cf.example": 0.5, "quiet.example": 0}},
		"a log of the last ten seconds":   {lines[590:], true, map[string]float64{"*.cf.example": 0}},
		"a log of the last twenty":        {lines[560:], true, map[string]float64{"*.cf.example": 120. / 19, "*.b.cf.example": 0}},
		"all of it in the present second": {[]string{json(0, "quiet.example"), json(0, "quiet.example")}, true, map[string]float64{"quiet.example": 0}},
	} {
		r := &Report{}
		for _, n := range []string{"www.shop.example", "*.cf.example", "*.b.cf.example", "quiet.example"} {
			r.Domains = append(r.Domains, Status{Name: n})
		}
		r.Attribute(Rates(tc.lines, tc.cut, now))
		r.Attribute(nil) // of a load balancer that was asked for nothing
		for _, s := range r.Domains {
			if want, asked := tc.want[s.Name]; asked && math.Abs(*s.RequestsPerSecond-want) > 0.001 {
				t.Errorf("%s: %s has %.3f requests a second, want %.3f", name, s.Name, *s.RequestsPerSecond, want)
			}
		}
	}
}
