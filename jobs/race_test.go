//go:build race

package jobs_test

import "time"

// neighbourMost is up to what a neighbour's answer is not compared. The race
// detector makes the routers ten times slower, on the processors that an app's
// clients keep busy.
const neighbourMost = 3 * time.Second
