package rest

import (
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	t.Parallel()
	var f Frame
	now := time.Unix(1343815200, 0)
	for i := range 40 {
		f.metrics.begin(now.Add(time.Duration(i) * time.Second / 2))
		f.metrics.end()
	}
	if got := f.Varz(now.Add(20 * time.Second)); got["requests"] != int64(40) || got["requests_per_sec"] != 2.0 {
		t.Errorf("two requests a second: %v", got)
	}
	if got := f.Varz(now.Add(time.Minute)); got["requests_per_sec"] != 0.0 {
		t.Errorf("a minute later: %v", got)
	}
}
