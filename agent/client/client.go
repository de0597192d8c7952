// Package client speaks the agent's API, over a unix socket that may be at the
// far end of an SSH connection, or over NATS. Errors of the agent are
// *api.Error; any other error is of the transport, and the request may be
// repeated.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

const (
	// requestTimeout bounds one attempt of a request that does not wait.
	requestTimeout = 15 * time.Second
	// driftTimeout allows for the reading of all packages.
	driftTimeout = 60 * time.Second
	// censusTimeout allows for api.CensusLimit, twice: another may be in progress.
	censusTimeout = 2*api.CensusLimit + requestTimeout
	// pollGrace is added to the time that the agent was asked to wait.
	pollGrace = 5 * time.Second
	// pollTime is the time that Do lets the agent wait at once.
	pollTime = 10 * time.Second

	minRetry = 50 * time.Millisecond
	maxRetry = 2 * time.Second
)

// transport sends one request and gives the reply's body. The agent's own
// refusals are *api.Error.
type transport interface {
	call(ctx context.Context, method api.Method, body []byte) ([]byte, error)
}

// Client asks one agent.
type Client struct{ transport transport }

// Fallback asks primary and, when its transport fails, secondary. What the
// agent itself refused is not asked again.
func Fallback(primary, secondary *Client) *Client {
	return &Client{fallback{primary.transport, secondary.transport}}
}

type fallback struct{ primary, secondary transport }

func (f fallback) call(ctx context.Context, method api.Method, body []byte) ([]byte, error) {
	reply, err := f.primary.call(ctx, method, body)
	var refused *api.Error
	if err == nil || errors.As(err, &refused) || ctx.Err() != nil {
		return reply, err
	}
	reply, second := f.secondary.call(ctx, method, body)
	if second == nil || errors.As(second, &refused) {
		return reply, second
	}
	return nil, errors.Join(err, second)
}

// Inventory asks what is there.
func (c *Client) Inventory(ctx context.Context) (api.Inventory, error) {
	return ask[api.Inventory](ctx, c, api.MethodInventory, nil, requestTimeout)
}

// Spec reads a generation, the active one if the request names none.
func (c *Client) Spec(ctx context.Context, r api.SpecRequest) (api.Spec, error) {
	return ask[api.Spec](ctx, c, api.MethodSpec, r, requestTimeout)
}

// Log reads a piece of a log.
func (c *Client) Log(ctx context.Context, r api.LogRequest) (api.LogChunk, error) {
	return ask[api.LogChunk](ctx, c, api.MethodLog, r, requestTimeout+milliseconds(r.WaitMS))
}

// Drift asks what differs from what was installed; every byte is read.
func (c *Client) Drift(ctx context.Context) (api.DriftReport, error) {
	return ask[api.DriftReport](ctx, c, api.MethodDrift, nil, driftTimeout)
}

// Census has the jobs say what lives on the instance.
func (c *Client) Census(ctx context.Context) (api.CensusReport, error) {
	return ask[api.CensusReport](ctx, c, api.MethodCensus, nil, censusTimeout)
}

// Metrics asks for figures for monitoring.
func (c *Client) Metrics(ctx context.Context) (api.Metrics, error) {
	return ask[api.Metrics](ctx, c, api.MethodMetrics, nil, requestTimeout)
}

// Submit asks the agent to accept an operation. After a failure of the
// transport it may have been accepted; the same submission tells.
func (c *Client) Submit(ctx context.Context, s api.Submission) (api.Operation, error) {
	return ask[api.Operation](ctx, c, api.MethodSubmit, s, requestTimeout)
}

// Wait follows an operation.
func (c *Client) Wait(ctx context.Context, r api.WaitRequest) (api.Progress, error) {
	return ask[api.Progress](ctx, c, api.MethodWait, r, pollGrace+milliseconds(r.MaxMS))
}

func milliseconds(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

// ask makes one attempt, bounded by limit.
func ask[Reply any](ctx context.Context, c *Client, method api.Method, request any, limit time.Duration) (Reply, error) {
	var reply Reply
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return reply, fmt.Errorf("cannot ask the agent for %s: %w", method, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	data, err := c.transport.call(ctx, method, body)
	if err != nil {
		var refused *api.Error
		if errors.As(err, &refused) {
			return reply, refused
		}
		return reply, fmt.Errorf("cannot ask the agent for %s: %w", method, err)
	}
	if err := json.Unmarshal(data, &reply); err != nil {
		return reply, fmt.Errorf("cannot read the agent's answer to %s: %w", method, err)
	}
	return reply, nil
}

// Cancel asks for the end of an operation; whoever follows it learns the rest.
func (c *Client) Cancel(ctx context.Context, r api.CancelRequest) (api.Operation, error) {
	return ask[api.Operation](ctx, c, api.MethodCancel, r, requestTimeout)
}

// Do submits an operation and follows it to its end, through any number of
// broken connections, until ctx ends. Each event is told once, in order. The
// error is an *api.Error when the agent refused the operation or the operation
// failed.
func (c *Client) Do(ctx context.Context, s api.Submission, onEvent func(api.OperationEvent)) error {
	return c.Stream(ctx, s, onEvent, nil)
}

// Stream is Do, and tells as well what an errand or post_deploy hooks say, each
// byte once and those of a stream in order.
func (c *Client) Stream(ctx context.Context, s api.Submission, onEvent func(api.OperationEvent), onOutput func(api.Output)) error {
	if err := retry(ctx, func() error {
		_, err := c.Submit(ctx, s)
		return err
	}); err != nil {
		return err
	}
	r := api.WaitRequest{OpID: s.OpID, MaxMS: pollTime.Milliseconds()}
	if onOutput != nil {
		r.Output = new(int64)
	}
	for {
		asked := time.Now()
		var progress api.Progress
		err := retry(ctx, func() error {
			var err error
			progress, err = c.Wait(ctx, r)
			return err
		})
		if err != nil {
			return err
		}
		for _, e := range progress.Events {
			if e.Sequence <= r.Since {
				continue
			}
			r.Since = e.Sequence
			if onEvent != nil {
				onEvent(e)
			}
		}
		if r.Output == nil {
			progress.Output = nil // nobody has asked for it
		}
		for _, piece := range progress.Output {
			onOutput(piece)
		}
		if r.Output != nil {
			r.Output = &progress.OutputNext
		}
		if len(progress.Output) > 0 {
			continue // there may be more, also of an operation that has ended
		}
		switch progress.Operation.State {
		case api.OperationDone:
			return nil
		case api.OperationFailed:
			if progress.Operation.Error == nil {
				return &api.Error{Code: api.CodeInternal, Message: fmt.Sprintf("operation %s failed without a reason", s.OpID)}
			}
			return progress.Operation.Error
		}
		if len(progress.Events) == 0 && time.Since(asked) < minRetry { // it was asked to wait for some
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(minRetry):
			}
		}
	}
}

// retry repeats f while the transport fails, until ctx ends.
func retry(ctx context.Context, f func() error) error {
	for delay := minRetry; ; delay = min(maxRetry, 2*delay) {
		err := f()
		var refused *api.Error
		if err == nil || errors.As(err, &refused) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (last: %w)", context.Cause(ctx), err)
		case <-time.After(delay/2 + rand.N(delay/2)):
		}
	}
}
