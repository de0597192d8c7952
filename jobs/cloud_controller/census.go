package cloudcontroller

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// censusLimit bounds the reading of the database.
const censusLimit = 10 * time.Second

// Census says which users, apps and services live in the database of the controller with
// this configuration. Those in a PostgreSQL do not live here.
func Census(ctx context.Context, file string, out io.Writer) error {
	cfg, _, err := config.Load(file)
	if err != nil {
		return err
	}
	uri, err := cfg.DatabaseURI()
	if err != nil {
		return err
	}
	path, own := strings.CutPrefix(uri, "sqlite://")
	if !own {
		return wire.WriteCensus(out, nil)
	}
	ctx, cancel := context.WithTimeout(ctx, censusLimit)
	defer cancel()
	kept, err := store.Census(ctx, path)
	if err != nil {
		return err
	}
	var things []wire.Thing
	for _, k := range kept {
		things = append(things, wire.Thing{Kind: k.Kind, Name: k.Name, Owner: k.Owner})
	}
	return wire.WriteCensus(out, things)
}
