//go:build race

package placement

// instancesPlaced: the race detector makes the pool, which one goroutine has, ten
// times slower.
const instancesPlaced = 5_000
