package router

import (
	"context"
	"runtime/debug"
	gometrics "runtime/metrics"
	"time"
)

// headroom is the amount of garbage, in bytes, that may gather until it is collected. Go's
// default lets as much gather as is in use: with few routes that is so little that
// a collection comes 30 times a second. With many routes a collection takes long, so
// that at least leastPercent of them may gather.
const (
	headroom     = 24 << 20
	leastPercent = 50
	mostPercent  = 1000
)

// gcPercent returns the garbage collector's percentage beside so many bytes in use.
func gcPercent(used uint64) int {
	return int(min(max(headroom*100/max(used, 1), leastPercent), mostPercent))
}

// keepHeadroom sets the garbage collector by what is in use, until ctx ends.
func keepHeadroom(ctx context.Context) error {
	sample := []gometrics.Sample{{Name: "/gc/heap/live:bytes"}} // after the last collection
	percent := gcPercent(0)
	before := debug.SetGCPercent(percent)
	defer debug.SetGCPercent(before)
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		gometrics.Read(sample)
		// Setting it stops everything for a moment: not for a small change.
		if want := gcPercent(sample[0].Value.Uint64()); want > percent+percent/8 || want < percent-percent/8 {
			debug.SetGCPercent(want)
			percent = want
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}
