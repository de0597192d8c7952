package cloudcontroller

import (
	"context"

	"deploy/jobs/cloud_controller/internal/store"
	"deploy/jobs/wire"
)

func (c *Controller) bindTo(ctx context.Context, a account, app store.App, aliases []string) error {
	if len(aliases) > 0 {
		return errServiceNotFound
	}
	return nil
}

func (c *Controller) unbindAll(ctx context.Context, app store.App) error { return nil }

func (c *Controller) boundServices(ctx context.Context, app store.App) ([]wire.BoundService, error) {
	return []wire.BoundService{}, nil
}
