//go:build race

package simulate

// The race detector makes the machine, which is one goroutine, ten times slower.
const (
	checks    = 300
	everyStep = 5 // of a run is where the deployer is killed
)
