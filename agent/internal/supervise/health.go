package supervise

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// failureLines is the number of a log's last lines that an error carries.
const failureLines = 30

// judgement is the health rule's answer now. s.mu is held.
func (s *Supervisor) judgement() (api.InstanceState, []string) {
	facts := make(map[key]fact, len(s.views))
	for k, v := range s.views {
		facts[k] = v.fact()
	}
	return judge(s.expected, facts)
}

func (v view) fact() fact {
	return fact{
		state: v.status.State, digest: v.status.Digest, reloadDigest: v.status.ReloadDigest,
		crashed: v.crashed, reason: v.status.Reason, reloadError: v.reloadError,
	}
}

// assess keeps since when the instance is healthy. It is called at every
// change, so no break is missed. s.mu is held.
func (s *Supervisor) assess(now time.Time) {
	state, _ := s.judgement()
	switch {
	case state != api.InstanceRunning:
		s.healthy = time.Time{}
	case s.healthy.IsZero():
		s.healthy = now
	}
}

// Health tells whether the instance runs as expected, why not, and since when
// it does without a break (nil if it does not).
func (s *Supervisor) Health() (api.InstanceState, []string, *time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, reasons := s.judgement()
	if s.healthy.IsZero() {
		return state, reasons, nil
	}
	since := s.healthy
	return state, reasons, &since
}

// WaitHealthy returns when the instance has been healthy for minHealthy without
// a break, by the monotonic clock; at once if nothing is expected. An
// unexpected end of an expected process since Expect ends the wait, except one
// that lies before the call and long enough back to be over. That and the end
// of ctx give an *api.Error that names the process at fault.
func (s *Supervisor) WaitHealthy(ctx context.Context, minHealthy time.Duration) error {
	began := time.Now()
	timer := time.NewTimer(minHealthy)
	defer timer.Stop()
	for {
		now := time.Now()
		s.mu.Lock()
		state, _ := s.judgement()
		at, crashed := s.crash(began, now)
		healthy, wake := s.healthy, s.wake
		s.mu.Unlock()
		switch {
		case crashed:
			return s.failure(at, "has ended by itself")
		case state == api.InstanceStopped, state == api.InstanceRunning && now.Sub(healthy) >= minHealthy:
			return nil
		}
		if state == api.InstanceRunning {
			timer.Reset(minHealthy - now.Sub(healthy))
		} else {
			timer.Stop()
		}
		select {
		case <-wake:
		case <-timer.C:
		case <-s.ctx.Done():
			return errClosed
		case <-ctx.Done():
			return s.late(ctx)
		}
	}
}

// crash finds an expected process that has ended by itself. s.mu is held.
func (s *Supervisor) crash(began, now time.Time) (key, bool) {
	for _, e := range s.expected {
		c := s.views[e.key].crashes
		if c.last.After(s.expectAt) && (c.last.After(began) || now.Sub(c.last) < c.stable) {
			return e.key, true
		}
	}
	return key{}, false
}

// late is the error of a wait that has ended without health.
func (s *Supervisor) late(ctx context.Context) error {
	cause := context.Cause(ctx)
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("cannot wait for health: %w", cause)
	}
	state, reasons, _ := s.Health() // reasons change without a wake
	if state == api.InstanceRunning {
		return &api.Error{Code: api.CodeFailed, Message: "the instance is healthy, but not for long enough yet"}
	}
	s.mu.Lock()
	at, found := key{}, false
	for _, e := range s.expected {
		one := api.InstanceStarting
		if v, there := s.views[e.key]; there {
			one, _ = judgeOne(e, v.fact())
		}
		if one == api.InstanceFailing || one != api.InstanceRunning && !found {
			at, found = e.key, true
		}
		if one == api.InstanceFailing {
			break
		}
	}
	s.mu.Unlock()
	if !found {
		return &api.Error{Code: api.CodeFailed, Message: "the instance is not healthy in time: " + strings.Join(reasons, "; ")}
	}
	return s.failure(at, "is not healthy in time: "+strings.Join(reasons, "; "))
}

// failure is the error that a process is the cause of.
func (s *Supervisor) failure(k key, what string) error {
	v := s.view(k)
	failure := &api.ProcessFailure{Job: k.job, Name: k.name, Log: s.LogTail(k.job, k.name, failureLines)}
	s.mu.Lock()
	now := v.crashes.last.After(s.expectAt) // an earlier end has nothing to do with it
	s.mu.Unlock()
	if v.status.LastExit != nil && !v.status.LastExit.Expected && now {
		failure.Exit = v.status.LastExit
	}
	return &api.Error{Code: api.CodeFailed, Message: k.String() + " " + what, Process: failure}
}
