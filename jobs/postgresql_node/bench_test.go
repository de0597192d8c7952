package postgresqlnode

import (
	"context"
	"fmt"
	"testing"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/nodetest"
)

// BenchmarkProvision compares the node with making a role and a database of it at the same
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
	f := nodetest.New(b, definition, fmt.Sprintf("capacity: 100\npostgresql: {port: %d}\n", componenttest.FreePort(b)))
	nodetest.Bench(b, f, func(n int) error {
		own := name(fmt.Sprint("bench", n))
		return running.administer(b.Context(), "CREATE ROLE "+own+" LOGIN PASSWORD 'p'", "CREATE DATABASE "+own+" OWNER "+own+" TEMPLATE template0 ENCODING 'UTF8'")
	})
}
