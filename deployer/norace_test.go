//go:build !race

package deployer

const (
	distortions = 1000
	everyDamage = 1
)
