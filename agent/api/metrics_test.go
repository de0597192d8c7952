package api

import (
	"strings"
	"testing"
)

func TestMetricsText(t *testing.T) {
	m := Metrics{Families: []MetricFamily{
		{Name: "up", Help: "two\nlines \\ \"quoted\"", Type: MetricGauge, Samples: []MetricSample{
			{Value: 1},
			{Labels: []MetricLabel{{"job", `a"b\c` + "\nd"}, {"n", "1"}}, Value: 1.5e12},
		}},
		{Name: "ends_total", Help: "ends", Type: MetricCounter, Samples: []MetricSample{{Labels: []MetricLabel{{"x", "y"}}}}},
	}}
	const want = `# HELP up two\nlines \\ "quoted"
# TYPE up gauge
up 1
up{job="a\"b\\c\nd",n="1"} 1.5e+12
# HELP ends_total ends
# TYPE ends_total counter
ends_total{x="y"} 0
`
	var out strings.Builder
	if err := m.WriteText(&out); err != nil || out.String() != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, &out, want)
	}
}
