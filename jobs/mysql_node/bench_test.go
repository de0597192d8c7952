package mysqlnode

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/nodetest"
)

// BenchmarkProvision compares the node with making a database and a user of it at the same
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
	f := nodetest.New(b, definition, fmt.Sprintf("capacity: 100\nmysql: {port: %d}\n", componenttest.FreePort(b)))
	nodetest.Bench(b, f, func(n int) error {
		own := fmt.Sprint("bench", n)
		return errors.Join(
			running.do(b.Context(), "CREATE DATABASE "+name(own)), running.do(b.Context(), "CREATE USER "+account(own)+" IDENTIFIED BY 'p'"),
			running.do(b.Context(), "GRANT ALL ON "+pattern(own)+".* TO "+account(own)),
		)
	})
}
