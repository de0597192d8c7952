package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// Wait follows an operation.
func (a *Agent) Wait(ctx context.Context, r api.WaitRequest) (api.Progress, error) {
	op := a.ops.get(r.OpID)
	if op == nil {
		return api.Progress{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("cannot follow operation %q: this agent has not accepted it; submit it", r.OpID)}
	}
	timer := time.NewTimer(pollTime(r.MaxMS))
	defer timer.Stop()
	for {
		p, changed, err := a.ops.progress(op, r.Since, r.Output)
		if err != nil {
			return api.Progress{}, err
		}
		if len(p.Events) > 0 || len(p.Output) > 0 || p.Operation.State != api.OperationRunning {
			return p, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return p, nil
		case <-ctx.Done():
			return p, nil
		}
	}
}

// Submit accepts an operation to disk and starts it.
func (a *Agent) Submit(_ context.Context, s api.Submission) (api.Operation, error) {
	if err := checkSubmission(s); err != nil {
		return api.Operation{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.checkOwner(s); err != nil {
		return api.Operation{}, err
	}
	if op := a.ops.get(s.OpID); op != nil {
		known := a.ops.current(op)
		if known.Kind != s.Kind {
			return api.Operation{}, badRequest("op_id %s belongs to an operation of kind %s", s.OpID, known.Kind)
		}
		return known, nil
	}
	if s.Epoch < a.identity.Epoch {
		return api.Operation{}, staleEpoch(s.Epoch, a.identity.Epoch)
	}
	if s.Epoch > a.identity.Epoch {
		if err := a.changeIdentity(func(id *identity) { id.Epoch = s.Epoch }); err != nil {
			return api.Operation{}, err
		}
	}
	if running := a.ops.runningNow(); running != nil {
		a.ops.breakOff(running, s.Epoch)
		return api.Operation{}, &api.Error{Code: api.CodeConflict,
			Message: fmt.Sprintf("cannot begin %s: operation %s (%s) runs; wait for it", s.Kind, running.OpID, running.Kind)}
	}
	if active := a.installer.Installed().Active; s.Expect != nil && *s.Expect != active {
		return api.Operation{}, &api.Error{Code: api.CodeConflict,
			Message: fmt.Sprintf("cannot begin %s: the active generation is %q where %q was expected; plan again", s.Kind, active, *s.Expect)}
	}
	if err := context.Cause(a.ctx); err != nil {
		return api.Operation{}, fmt.Errorf("cannot begin %s: %w", s.Kind, err)
	}
	ctx, cancel := context.WithCancelCause(a.ctx)
	op, err := a.ops.accept(s, cancel)
	if err != nil {
		cancel(nil)
		return api.Operation{}, err
	}
	accepted := a.ops.current(op)
	a.work.Go(func() { a.run(ctx, op, s) })
	return accepted, nil
}

// errCancelled is the cause of what Cancel ends.
var errCancelled = errors.New("cancelled on request")

// Cancel ends an operation that leaves nothing half done.
func (a *Agent) Cancel(_ context.Context, r api.CancelRequest) (api.Operation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if id := a.identity; id.DeploymentID != r.DeploymentID || id.Instance != r.Instance {
		return api.Operation{}, otherDeployment(id, r.DeploymentID, r.Instance)
	}
	if r.Epoch < a.identity.Epoch {
		return api.Operation{}, staleEpoch(r.Epoch, a.identity.Epoch)
	}
	op := a.ops.get(r.OpID)
	if op == nil {
		return api.Operation{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("cannot cancel operation %q: this agent has not accepted it", r.OpID)}
	}
	current := a.ops.current(op)
	if current.State != api.OperationRunning {
		return current, nil
	}
	if !current.Kind.Cancellable() {
		return api.Operation{}, &api.Error{Code: api.CodeConflict,
			Message: fmt.Sprintf("cannot cancel operation %s: an %s that is broken off leaves the instance half changed; wait for it", r.OpID, current.Kind)}
	}
	op.cancel(errCancelled)
	return current, nil
}

func badRequest(format string, args ...any) *api.Error {
	return &api.Error{Code: api.CodeBadRequest, Message: "cannot accept the operation: " + fmt.Sprintf(format, args...)}
}

// checkSubmission wants just what Kind names.
func checkSubmission(s api.Submission) error {
	if !opIDForm.MatchString(s.OpID) || strings.HasSuffix(s.OpID, ".") {
		return badRequest("op_id %q is not of letters, digits, dots, dashes", s.OpID)
	}
	bodies := map[api.OperationKind]bool{
		api.KindConfigure: s.Configure != nil,
		api.KindPrepare:   s.Prepare != nil,
		api.KindUpdate:    s.Update != nil,
		api.KindWatch:     s.Watch != nil,
		api.KindRollback:  s.Rollback != nil,
		api.KindStop:      s.Stop != nil,

		api.KindStart:      s.Start != nil,
		api.KindRestart:    s.Restart != nil,
		api.KindPostDeploy: s.PostDeploy != nil,
		api.KindErrand:     s.Errand != nil,
	}
	if _, known := bodies[s.Kind]; !known {
		return badRequest("this agent does not know kind %q", s.Kind)
	}
	for kind, present := range bodies {
		if present != (kind == s.Kind) {
			return badRequest("kind %s must come with its own body and no other", s.Kind)
		}
	}
	if s.DeploymentID == "" {
		return badRequest("deployment_id is missing")
	}
	if _, _, err := api.SplitInstance(s.Instance); err != nil {
		return badRequest("%v", err)
	}
	return nil
}

// checkOwner refuses other deployments and instances. Whoever configures an
// agent first owns it. a.mu is held.
func (a *Agent) checkOwner(s api.Submission) error {
	id := a.identity
	if id.DeploymentID == "" {
		if s.Kind == api.KindConfigure {
			return nil
		}
		return &api.Error{Code: api.CodeOtherDeployment, Message: fmt.Sprintf("cannot begin %s: the agent belongs to no deployment yet; configure it", s.Kind)}
	}
	renamed := s.Kind == api.KindConfigure && s.Configure.Renamed != "" && s.Configure.Renamed == id.Instance
	if id.DeploymentID != s.DeploymentID || id.Instance != s.Instance && !renamed {
		return otherDeployment(id, s.DeploymentID, s.Instance)
	}
	return nil
}

func otherDeployment(id identity, deploymentID, instance string) *api.Error {
	return &api.Error{Code: api.CodeOtherDeployment, Message: fmt.Sprintf(
		"refused: this agent is %s of deployment %s (%s), not %s of %s", id.Instance, id.Deployment, id.DeploymentID, instance, deploymentID)}
}

func (a *Agent) run(ctx context.Context, op *operation, s api.Submission) {
	r := report{a, op}
	log := a.config.Log.With("op", s.OpID, "kind", s.Kind)
	log.Info("operation begins", "epoch", s.Epoch)
	err := a.perform(ctx, s, r)
	var failure *api.Error
	if err != nil {
		failure = asFailure(err)
		log.Warn("operation failed", "err", err)
	} else {
		log.Info("operation done")
	}
	if err := a.ops.end(op, failure); err != nil {
		log.Error("cannot note the end of the operation", "err", err)
	}
	a.beatNow()
	freeMemory()
}

func (a *Agent) perform(ctx context.Context, s api.Submission, r report) error {
	switch s.Kind {
	case api.KindConfigure:
		return a.configure(ctx, s, r)
	case api.KindPrepare:
		if s.Prepare.Spec.Instance != s.Instance {
			return badRequest("the spec is for %q", s.Prepare.Spec.Instance)
		}
		return a.installer.Prepare(ctx, s.Prepare.Spec, r)
	case api.KindUpdate:
		return a.installer.Update(ctx, *s.Update, r)
	case api.KindWatch:
		return a.installer.Watch(ctx, *s.Watch, r)
	case api.KindRollback:
		return a.installer.Rollback(ctx, *s.Rollback, r)
	case api.KindStop:
		return a.installer.Stop(ctx, *s.Stop, r)
	case api.KindStart:
		return a.installer.Start(ctx, *s.Start, r)
	case api.KindRestart:
		return a.installer.Restart(ctx, *s.Restart, r)
	case api.KindPostDeploy:
		return a.installer.PostDeploy(ctx, r)
	case api.KindErrand:
		return a.installer.Errand(ctx, *s.Errand, r)
	}
	return badRequest("this agent does not know kind %q", s.Kind)
}

// asFailure returns what the deployer hears of an error.
func asFailure(err error) *api.Error {
	if errors.Is(err, errClosing) {
		return interrupted()
	}
	if errors.Is(err, errCancelled) {
		return &api.Error{Code: api.CodeCancelled, Message: "the operation was " + errCancelled.Error()}
	}
	var known *api.Error
	if errors.As(err, &known) {
		return known
	}
	return &api.Error{Code: api.CodeFailed, Message: err.Error()}
}
