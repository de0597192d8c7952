//go:build race

package placement

// The race detector makes the pool, which one goroutine has, ten times slower.
const (
	instancesPlaced   = 5_000
	decisionsAreTimed = false
)
