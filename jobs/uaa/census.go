package uaa

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/uaa/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// censusLimit bounds the reading of the database.
const censusLimit = 10 * time.Second

// Census says whose accounts live in the database of the component with this
// configuration. Those in a PostgreSQL do not live here.
func Census(ctx context.Context, file string, out io.Writer) error {
	cfg, _, err := load(file)
	if err != nil {
		return err
	}
	uri, err := cfg.Database.URI()
	if err != nil {
		return err
	}
	path, own := strings.CutPrefix(uri, "sqlite://")
	if !own {
		return wire.WriteCensus(out, nil)
	}
	ctx, cancel := context.WithTimeout(ctx, censusLimit)
	defer cancel()
	emails, err := store.Census(ctx, path)
	if err != nil {
		return err
	}
	var things []wire.Thing
	for _, email := range emails {
		things = append(things, wire.Thing{Kind: "account", Name: email})
	}
	return wire.WriteCensus(out, things)
}
