package dea

import (
	"context"
	"time"
)

// stillHealthy is the interval at which an app that must stay ready for a while is probed.
const stillHealthy = time.Second

// becomeReady waits until the app is ready, and for as long after as the start
// document says that it must stay so.
func (a *attendant) becomeReady(ctx context.Context) error {
	if err := a.probe(ctx); err != nil {
		return err
	}
	a.answered.Store(true)
	for end := time.Now().Add(time.Duration(a.instance.Start.MinHealthy * float64(time.Second))); ; {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		pause := time.NewTimer(min(left, stillHealthy))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		}
		if err := a.probe(ctx); err != nil {
			return err
		}
	}
}
