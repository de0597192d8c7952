package limits

import (
	"context"
	"time"
)

const (
	watchInterval = time.Second
	retryInterval = 100 * time.Millisecond // while the server does not answer
	sizeInterval  = 5 * time.Second
)

// Keeper is what keeps the users of a server within their plan.
type Keeper struct {
	Begin      func(context.Context) error // once, as soon as the server answers
	Watch      func(context.Context) error // every second: looks at the sessions
	CheckSizes func(context.Context)       // every 5 seconds: measures all databases
	SetReady   func(error)                 // with what the last look found
}

// Run looks at the server until ctx ends.
func (k Keeper) Run(ctx context.Context) {
	var sized time.Time
	begun := false
	for {
		wait := watchInterval
		err := k.Watch(ctx)
		if err == nil && !begun {
			err = k.Begin(ctx)
			begun = err == nil
		}
		if ctx.Err() != nil {
			return
		}
		k.SetReady(err)
		if err != nil {
			wait = retryInterval
		} else if time.Since(sized) >= sizeInterval {
			k.CheckSizes(ctx)
			sized = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
