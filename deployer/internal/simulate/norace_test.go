//go:build !race

package simulate

const (
	checks    = 4000 // of each property
	everyStep = 1
)
