package dea

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Answers to a question that everybody may answer are awaited for askMax, and
// after the first no longer when none has come for askQuiet.
const (
	askMax   = 5 * time.Second
	askQuiet = time.Second
)

// askAll publishes a request and collects the answers of all.
func askAll[T any](ctx context.Context, bus *nats.Conn, subject string, parse func([]byte) (T, error)) ([]T, error) {
	fail := func(err error) ([]T, error) { return nil, fmt.Errorf("cannot ask %s: %w", subject, err) }
	inbox := bus.NewInbox()
	sub, err := bus.SubscribeSync(inbox)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := bus.PublishRequest(subject, inbox, []byte("{}")); err != nil {
		return fail(err)
	}
	limited, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	var all []T
	for wait := askMax; ; wait = askQuiet {
		quiet, stop := context.WithTimeout(limited, wait)
		m, err := sub.NextMsgWithContext(quiet)
		stop()
		switch {
		case err != nil && ctx.Err() != nil:
			return fail(context.Cause(ctx)) // not awaited is not unanswered
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			return all, nil
		case errors.Is(err, nats.ErrNoResponders):
			return all, nil
		case err != nil:
			return fail(err)
		}
		if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
			return all, nil // nobody is there to answer
		}
		if answer, err := parse(m.Data); err == nil {
			all = append(all, answer)
		}
	}
}

// placement is one instance that needs room.
type placement struct {
	app string
	mb  int
}

// unplaced finds out which instances have no room elsewhere: the largest first,
// each where most is free. It is the order in which they would find room; where
// the cloud controller really puts them may leave less.
func unplaced(instances []placement, free []int) []placement {
	instances, free = slices.Clone(instances), slices.Clone(free)
	slices.SortFunc(instances, func(a, b placement) int { return cmp.Or(cmp.Compare(b.mb, a.mb), cmp.Compare(a.app, b.app)) })
	var left []placement
	for _, i := range instances {
		if len(free) == 0 {
			left = append(left, i)
			continue
		}
		most := 0
		for n := range free {
			if free[n] > free[most] {
				most = n
			}
		}
		if free[most] < i.mb {
			left = append(left, i)
			continue
		}
		free[most] -= i.mb
	}
	return left
}

// judge says what an update of the DEA at address would do to its apps: "" if
// the others have room for all of them.
func judge(address string, deas []wire.DEAStatus, running []wire.InstanceStats) string {
	var own []placement
	needed := 0
	for _, i := range running {
		if i.Host != address {
			continue
		}
		mb := int(i.MemQuota >> 20)
		own = append(own, placement{i.Name, mb})
		needed += mb
	}
	if len(own) == 0 {
		return ""
	}
	var free []int
	room := 0
	for _, d := range deas {
		if d.IP != address && d.State == "" {
			mb := max(0, d.MaxMemory-d.ReservedMemory)
			free = append(free, mb)
			room += mb
		}
	}
	left := unplaced(own, free)
	if len(left) == 0 {
		return ""
	}
	count := map[string]int{}
	for _, i := range left {
		count[i.app]++
	}
	var apps []string
	for app, n := range count {
		apps = append(apps, fmt.Sprintf("%s (%d)", app, n))
	}
	slices.Sort(apps)
	return fmt.Sprintf("the other DEAs have no room for the apps of the DEA at %s: it runs %d instances that need %d MB, and the others (%d) have %d MB free; "+
		"%d of its instances would be down from its stop until it runs again: %s",
		address, len(own), needed, len(free), room, len(left), strings.Join(apps, ", "))
}

// CheckEvacuation finds out, over the bus, whether the other DEAs have room for
// the apps of the DEA whose configuration this is, which an update of it stops.
// It is what the job's check hook runs, before anything is touched: the error
// says what the update would mean and what to do; where the configuration says
// to warn only, it is written to out.
func CheckEvacuation(ctx context.Context, p component.Process, out io.Writer) error {
	cfg, _, err := load(p.ConfigFile)
	if err != nil {
		return err
	}
	bus, address, err := component.Visit(ctx, cfg.Config, p)
	if err != nil {
		// A bus that is away is seen and judged by others; without it nothing is known.
		fmt.Fprintf(out, "warning: cannot find out whether the other DEAs have room for the apps of this one: %v\n", err)
		return nil
	}
	defer bus.Close()
	var running []wire.InstanceStats
	var deas []wire.DEAStatus
	var both errgroup.Group
	both.Go(func() (err error) {
		running, err = askAll(ctx, bus, wire.SubjectDropletStatus, wire.ParseInstanceStats)
		return err
	})
	both.Go(func() (err error) {
		deas, err = askAll(ctx, bus, wire.SubjectDEAStatus, wire.ParseDEAStatus)
		return err
	})
	if err := both.Wait(); err != nil {
		return err
	}
	meaning := judge(address, deas, running)
	switch {
	case meaning == "":
		return nil
	case cfg.WhenFull == WhenFullWarn:
		fmt.Fprintf(out, "warning: %s\n", meaning)
		return nil
	}
	return fmt.Errorf("%s; give the other DEAs more memory (max_memory_mb), add a DEA, stop apps, or accept it with the property when_others_are_full = %q", meaning, WhenFullWarn)
}
