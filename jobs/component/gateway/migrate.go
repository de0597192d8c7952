package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/clusterworks/deploy/jobs/wire"
)

// migrationActions are the steps in which an instance moves, by their names in HTTP.
var migrationActions = map[string]string{
	"disable": wire.ServiceDisable, "enable": wire.ServiceEnable, "import": wire.ServiceImport, "update": wire.ServiceUpdate, "cleanupnfs": wire.ServiceCleanUp,
}

// migrate asks a node for one step of an instance's move. After update the
// controller has the handles as they are on that node.
func (g *Gateway) migrate(ctx context.Context, node, name, action string) error {
	operation, known := migrationActions[action]
	if !known {
		return wire.Failure(wire.ServiceMalformed, "there is no action %q: disable, import, update, enable and cleanupnfs are the steps", action)
	}
	all, err := g.refresh(ctx)
	if err != nil {
		return err
	}
	h, known := all.instance(name)
	if !known {
		return errNotFound("instance")
	}
	request := wire.Migration{Instance: h, Bindings: all.bindingsOf(name)}
	if operation != wire.ServiceUpdate {
		_, err := g.ask(ctx, node, operation, request)
		return err
	}
	data, err := g.askRaw(ctx, node, operation, request)
	if err != nil {
		return err
	}
	var updated []wire.ServiceHandle
	if json.Unmarshal(data, &updated) != nil {
		answer, err := wire.ParseServiceAnswer(data)
		if err == nil && answer.Error != nil {
			err = answer.Error
		}
		return cmpErr(err, errors.New("the node has answered update_instance without handles"))
	}
	for _, one := range updated {
		if err := g.update(ctx, one); err != nil {
			return fmt.Errorf("the handle %s is not updated: %w", one.ServiceID, err)
		}
	}
	return nil
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}
