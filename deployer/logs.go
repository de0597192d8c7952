package deployer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// LogsRequest says whose logs.
type LogsRequest struct {
	Target  string // "router/0", "router", "" for all
	Process string // "" for all
	Lines   int    // the last of each process
	Follow  bool   // until the context ends or the run is interrupted
}

// LogLine is one line of a process's log.
type LogLine struct {
	Instance string `json:"instance"`
	Job      string `json:"job"`
	Process  string `json:"process"`
	Text     string `json:"text"`
}

// Logs delivers log lines to out, which may be called concurrently.
func (d *Deployer) Logs(ctx context.Context, q LogsRequest, out func(LogLine) error) error {
	x, err := loadTold(d)
	if err != nil {
		return err
	}
	defer x.fleet.Close()
	ids, err := x.withVM(q.Target)
	if err != nil {
		return err
	}
	inventories := x.fleet.Survey(ctx, fleet.Patient)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-x.Interrupt:
			cancel()
		case <-ctx.Done():
		}
	}()
	var group errgroup.Group
	var silent []error
	streams := 0
	for _, id := range ids {
		inv := inventories[id]
		if inv == nil {
			silent = append(silent, fmt.Errorf("cannot read the logs of %s: %w", id, x.fleet.Unheard(id)))
			continue
		}
		for _, p := range inv.Processes {
			if q.Process != "" && q.Process != p.Name && q.Process != p.Job+"/"+p.Name {
				continue
			}
			streams++
			group.Go(func() error { return x.stream(ctx, id, p.Job, p.Name, q, out) })
		}
	}
	err = group.Wait()
	if errors.Is(err, context.Canceled) && x.Interrupted() {
		err = nil
	}
	if streams == 0 && len(silent) == 0 {
		err = fmt.Errorf("cannot find a process %q on %s: see deploy status", q.Process, strings.Join(ids, ", "))
	}
	return errors.Join(append(silent, err)...)
}

// withVM returns the instances with a VM that "router/0", "router" or "" names.
func (x *deployment) withVM(target string) ([]string, error) {
	ids := x.VMIDs()
	if target == "" {
		return ids, nil
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return !session.Matches(target, id) })
	if len(ids) == 0 {
		return nil, fmt.Errorf("cannot find %q: there is no such instance or group with a VM; see deploy status", target)
	}
	return ids, nil
}

// stream reads one log to its end, or without end.
func (x *deployment) stream(ctx context.Context, id, job, process string, q LogsRequest, out func(LogLine) error) error {
	request := api.LogRequest{Job: job, Process: process, Offset: -1, Lines: q.Lines, Max: 256 << 10}
	var rest []byte // an unfinished line
	for {
		var chunk api.LogChunk
		err := fleet.Within(ctx, 45*time.Second, func(ctx context.Context) (err error) {
			chunk, err = x.fleet.Client(state.Own(id)).Log(ctx, request)
			return err
		})
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("cannot read the log of %s on %s: %w", process, id, err)
		}
		rest = append(rest, chunk.Data...)
		for {
			i := bytes.IndexByte(rest, '\n')
			if i < 0 {
				break
			}
			if err := out(LogLine{Instance: id, Job: job, Process: process, Text: string(rest[:i])}); err != nil {
				return err
			}
			rest = rest[i+1:]
		}
		if len(chunk.Data) == 0 && !q.Follow {
			if len(rest) > 0 {
				return out(LogLine{Instance: id, Job: job, Process: process, Text: string(rest)})
			}
			return nil
		}
		request.File, request.Offset = chunk.File, chunk.Next
		if q.Follow {
			request.WaitMS = 20_000
		}
	}
}
