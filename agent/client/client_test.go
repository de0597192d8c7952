package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/client"
)

// over gives a client of whatever the handler answers.
func over(t *testing.T, handler http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return client.Unix(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", s.Listener.Addr().String())
	})
}

var errNoRoute = errors.New("no route")

func unreachable() *client.Client {
	return client.Unix(func(context.Context) (net.Conn, error) { return nil, errNoRoute })
}

func answer(w http.ResponseWriter, status int, body any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client tells
}

func TestFallback(t *testing.T) {
	var asked atomic.Int64
	good := over(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		answer(w, http.StatusOK, api.Inventory{Instance: "web/0"})
	})
	refusing := over(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusConflict, api.Error{Code: api.CodeConflict, Message: "busy"})
	})
	stranger := over(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "I am a web server", http.StatusNotFound)
	})
	for name, primary := range map[string]*client.Client{"unreachable": unreachable(), "not an agent": stranger} {
		inventory, err := client.Fallback(primary, good).Inventory(t.Context())
		if err != nil || inventory.Instance != "web/0" {
			t.Errorf("%s: got %+v, %v", name, inventory, err)
		}
	}
	before := asked.Load()
	var refused *api.Error
	if _, err := client.Fallback(refusing, good).Inventory(t.Context()); !errors.As(err, &refused) || refused.Code != api.CodeConflict || asked.Load() != before {
		t.Errorf("what the agent refused was asked again: %v", err)
	}
	_, err := client.Fallback(unreachable(), stranger).Inventory(t.Context())
	if !errors.Is(err, errNoRoute) || !strings.Contains(err.Error(), "web server") {
		t.Errorf("both reasons are wanted, got %v", err)
	}
}

func TestDoEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := unreachable().Do(ctx, api.Submission{}, nil)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errNoRoute) {
		t.Errorf("got %v", err)
	}
}

func TestDoTellsEachEventOnceAndTheFailure(t *testing.T) {
	// The agent repeats an event, and its connection breaks after every other
	// request; the second submission meets a running operation.
	var requests, submits atomic.Int64
	event := func(n uint64) api.OperationEvent { return api.OperationEvent{Sequence: n, Step: "step"} }
	c := over(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if strings.HasSuffix(r.URL.Path, "/submit") {
			submits.Add(1)
		}
		if requests.Add(1)%2 == 1 {
			panic(http.ErrAbortHandler)
		}
		var wait api.WaitRequest
		if strings.HasSuffix(r.URL.Path, "/submit") {
			answer(w, http.StatusOK, api.Operation{State: api.OperationRunning})
			return
		}
		if err := json.Unmarshal(body, &wait); err != nil {
			t.Error(err)
		}
		p := api.Progress{Operation: api.Operation{State: api.OperationRunning}, Events: []api.OperationEvent{event(wait.Since), event(wait.Since + 1)}}
		if wait.Since == 2 {
			p.Operation.State = api.OperationFailed
			p.Operation.Error = &api.Error{Code: api.CodeFailed, Message: "no luck", Process: &api.ProcessFailure{Job: "a", Name: "b"}}
		}
		answer(w, http.StatusOK, p)
	})
	var told []uint64
	var failed *api.Error
	err := c.Do(t.Context(), api.Submission{Change: api.Change{OpID: "1"}}, func(e api.OperationEvent) { told = append(told, e.Sequence) })
	if !errors.As(err, &failed) || failed.Message != "no luck" || failed.Process == nil {
		t.Errorf("got %v", err)
	}
	if len(told) != 3 || told[0] != 1 || told[2] != 3 || submits.Load() < 2 {
		t.Errorf("told %v after %d submissions", told, submits.Load())
	}
}
