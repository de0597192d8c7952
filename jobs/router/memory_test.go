package router

import "testing"

// TestHeadroom: about as much garbage gathers whatever is in use, until a collection
// takes long for all that is.
func TestHeadroom(t *testing.T) {
	const mb = 1 << 20
	for used, want := range map[uint64]int{0: mostPercent, 1: mostPercent, 4 * mb: 600, 24 * mb: 100, 40 * mb: 60, 45 * mb: 53, 1 << 40: leastPercent} {
		if got := gcPercent(used); got != want {
			t.Errorf("with %d bytes in use %d%%, want %d%%", used, got, want)
		}
	}
}
