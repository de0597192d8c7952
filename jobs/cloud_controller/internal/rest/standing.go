package rest

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
)

// WhileAllowed asks again and again whether who opened a connection may still have it,
// until ctx ends; a connection may live longer than a password or an account. When the
// answer is no it calls end with the reason and returns. An answer that cannot be had
// now is none.
func WhileAllowed(ctx context.Context, every time.Duration, allowed func(context.Context) error, end func(reason string)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var refused *model.Error
		if err := allowed(ctx); errors.As(err, &refused) && refused.Status < http.StatusInternalServerError {
			end(refused.Description)
			return
		}
	}
}
