//go:build race

package deployer

// With the race detector reading a manifest, which one goroutine does, takes ten
// times as long.
const (
	distortions = 100 // of an agent's inventory
	everyDamage = 3   // of those to a state folder is tried
)
