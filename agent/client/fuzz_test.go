package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// parrot answers everything with the same bytes.
type parrot []byte

func (p parrot) call(context.Context, api.Method, []byte) ([]byte, error) {
	if len(p) > 0 && p[0] == '!' {
		return nil, refusal(p[1:], "500")
	}
	return p, nil
}

// Whatever an agent answers: the client neither panics nor goes on for ever, and
// gives only what was asked for.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		`{"operation":{"state":"done"},"output":[{"stream":"stdout","data":"eA=="}],"output_next":-1}`,
		`{"operation":{"state":"failed"},"events":[{"sequence":18446744073709551615}]}`,
		`{"operation":{"state":"running"}}`, `{"epoch":18446744073709551615,"processes":[{}]}`, `![]`, `!{"code":"stale_epoch"}`, `null`, `[`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		c := &Client{parrot(answer)}
		_, inventoryErr := c.Inventory(ctx)
		_, specErr := c.Spec(ctx, api.SpecRequest{})
		_, driftErr := c.Drift(ctx)
		_, logErr := c.Log(ctx, api.LogRequest{})
		_, metricsErr := c.Metrics(ctx)
		events := uint64(0)
		doErr := c.Do(ctx, api.Submission{Change: api.Change{OpID: "op"}}, func(e api.OperationEvent) {
			if e.Sequence <= events {
				t.Errorf("event %d came after %d", e.Sequence, events)
			}
			events = e.Sequence
		})
		for _, err := range []error{inventoryErr, specErr, driftErr, logErr, metricsErr} {
			if errors.Is(err, context.DeadlineExceeded) {
				t.Error("a question did not end with its answer")
			}
		}
		if doErr == nil && len(answer) == 0 {
			t.Error("an empty answer is the end of an operation")
		}
	})
}
