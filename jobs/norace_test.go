//go:build !race

package jobs_test

import "time"

// neighbourMost is up to what a neighbour's answer is not compared: below it, it is
// the machine that is measured.
const neighbourMost = 20 * time.Millisecond
