//go:build !race

package placement

const (
	instancesPlaced   = 50_000
	decisionsAreTimed = true
)
