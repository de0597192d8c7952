// Package server carries the agent's API over its two transports. Every method
// is one handler from bytes to bytes; http.go and nats.go only move them.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/clusterworks/deploy/agent/api"
)

// Agent answers the methods. An error that is not an *api.Error reaches the
// caller as CodeInternal.
type Agent interface {
	Inventory(context.Context) (api.Inventory, error)
	Spec(context.Context, api.SpecRequest) (api.Spec, error)
	Log(context.Context, api.LogRequest) (api.LogChunk, error)
	Drift(context.Context) (api.DriftReport, error)
	Census(context.Context) (api.CensusReport, error)
	Metrics(context.Context) (api.Metrics, error)
	Submit(context.Context, api.Submission) (api.Operation, error)
	Wait(context.Context, api.WaitRequest) (api.Progress, error)
	Cancel(context.Context, api.CancelRequest) (api.Operation, error)
}

// Handler answers one method.
type Handler func(ctx context.Context, request []byte) (reply []byte, err *api.Error)

// Handlers lists the handler of every method.
func Handlers(a Agent) map[api.Method]Handler {
	return map[api.Method]Handler{
		api.MethodInventory: handler(func(ctx context.Context, _ struct{}) (api.Inventory, error) { return a.Inventory(ctx) }),
		api.MethodSpec:      handler(a.Spec),
		api.MethodLog:       handler(a.Log),
		api.MethodDrift:     handler(func(ctx context.Context, _ struct{}) (api.DriftReport, error) { return a.Drift(ctx) }),
		api.MethodCensus:    handler(func(ctx context.Context, _ struct{}) (api.CensusReport, error) { return a.Census(ctx) }),
		api.MethodMetrics:   handler(func(ctx context.Context, _ struct{}) (api.Metrics, error) { return a.Metrics(ctx) }),
		api.MethodSubmit:    handler(a.Submit),
		api.MethodWait:      handler(a.Wait),
		api.MethodCancel:    handler(a.Cancel),
	}
}

func handler[Request, Reply any](answer func(context.Context, Request) (Reply, error)) Handler {
	return func(ctx context.Context, body []byte) ([]byte, *api.Error) {
		var request Request
		if len(body) > 0 {
			// Unknown fields are let through: a newer deployer may say more.
			if err := json.Unmarshal(body, &request); err != nil {
				return nil, &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf("cannot read the request: %v", err)}
			}
		}
		reply, err := answer(ctx, request)
		if err != nil {
			return nil, AsError(err)
		}
		data, err := json.Marshal(reply)
		if err != nil {
			return nil, &api.Error{Code: api.CodeInternal, Message: fmt.Sprintf("cannot write the reply: %v", err)}
		}
		return data, nil
	}
}

// AsError gives the api.Error in err's chain, or makes one of CodeInternal.
func AsError(err error) *api.Error {
	var known *api.Error
	if errors.As(err, &known) {
		return known
	}
	return &api.Error{Code: api.CodeInternal, Message: err.Error()}
}
