package dea

import (
	"testing"
	"time"
)

// TestPercent (S3-5): clients of 2012 print what they get, so it has one decimal.
func TestPercent(t *testing.T) {
	for _, tc := range []struct {
		used time.Duration
		want float64
	}{{0, 0}, {4997180, 0.5}, {333 * time.Millisecond, 33.3}, {2 * time.Second, 200}, {-time.Second, 0}} {
		if got := percent(tc.used, time.Second); got != tc.want {
			t.Errorf("%v in a second: %v, want %v", tc.used, got, tc.want)
		}
	}
}
