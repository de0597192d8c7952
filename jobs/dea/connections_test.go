package dea

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// However many instances drain, the tables are read once in the age that each
// asks for, and when reading is slow, in no more than a tenth of the time.
func TestConnectionsAreReadForAll(t *testing.T) {
	for _, tc := range []struct {
		name  string
		takes time.Duration
		want  int // readings in a second
	}{
		{"quick", time.Millisecond, 13},
		{"slow", 30 * time.Millisecond, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reads := 0
				c := connections{read: func() (map[int]int, error) {
					reads++
					time.Sleep(tc.takes) // of the bubble's own clock
					return map[int]int{61001: reads}, nil
				}}
				for start := time.Now(); time.Since(start) < time.Second; time.Sleep(10 * time.Millisecond) {
					for port := range 50 {
						if n, err := c.of(61001+port, 80*time.Millisecond); err != nil || (n > 0) != (port == 0) {
							t.Fatalf("port %d: got %d, %v", 61001+port, n, err)
						}
					}
				}
				if reads != tc.want {
					t.Errorf("%d readings in a second, want %d", reads, tc.want)
				}
			})
		})
	}
}

// What could not be read is not answered from an earlier reading.
func TestConnectionsThatCannotBeRead(t *testing.T) {
	broken := errors.New("no table")
	c := connections{read: func() (map[int]int, error) { return nil, broken }, count: map[int]int{61001: 1}}
	for range 2 {
		if n, err := c.of(61001, time.Second); n != 0 || !errors.Is(err, broken) {
			t.Errorf("got %d, %v", n, err)
		}
	}
}
