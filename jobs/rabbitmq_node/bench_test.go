package rabbitmqnode

import (
	"context"
	"fmt"
	"testing"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/nodetest"
)

// BenchmarkProvision compares the node with making a vhost and a user of it at the same
// server, without limits and records.
func BenchmarkProvision(b *testing.B) {
	var running *service
	definition := func() node.Definition {
		d := Definition()
		begin := d.Open
		d.Open = func(ctx context.Context, h node.Host) (node.Service, error) {
			s, err := begin(ctx, h)
			running, _ = s.(*service)
			return s, err
		}
		return d
	}
	f := nodetest.New(b, definition, fmt.Sprintf("capacity: 100\nrabbitmq: {port: %d, memory_mb: 1024}\n", componenttest.FreePort(b)))
	nodetest.Bench(b, f, func(n int) error {
		api, err := running.admin()
		if err != nil {
			return err
		}
		name := fmt.Sprint("bench", n)
		for _, step := range []struct {
			body map[string]any
			path []string
		}{
			{map[string]any{}, []string{"vhosts", name}},
			{map[string]any{"password": "p", "tags": ""}, []string{"users", name}},
			{map[string]any{"configure": ".*", "write": ".*", "read": ".*"}, []string{"permissions", name, name}},
		} {
			if err := api.put(b.Context(), step.body, step.path...); err != nil {
				return err
			}
		}
		return nil
	})
}
