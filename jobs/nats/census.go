package nats

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/clusterworks/deploy/jobs/wire"
)

// cacheStream is the stream of the deployer's cache of packages, which it fills again.
const cacheStream = "OBJ_packages"

// Census says which streams live in the files of the server with this configuration.
func Census(config string, out io.Writer) error {
	cfg, err := ReadConfig(config)
	if err != nil {
		return err
	}
	// Not by cfg.Cluster: the files are those of the server that ran last.
	root := filepath.Join(cfg.Store, natsserver.JetStreamStoreDir)
	clustered := filepath.Join(cfg.Store, clusterStore, natsserver.JetStreamStoreDir)
	if _, err := os.Stat(clustered); err == nil {
		root = clustered
	}
	if _, err := os.Stat(root); err != nil {
		return fmt.Errorf("cannot tell what lives here: the server's files are not there: %w", err)
	}
	folders, err := filepath.Glob(filepath.Join(root, "*", "streams", "*"))
	if err != nil {
		return fmt.Errorf("cannot tell what lives here: %w", err)
	}
	var things []wire.Thing
	for _, folder := range folders {
		name := filepath.Base(folder)
		if name == cacheStream {
			continue
		}
		account := filepath.Base(filepath.Dir(filepath.Dir(folder)))
		things = append(things, wire.Thing{Kind: "stream", Name: name, Owner: "account " + account})
	}
	return wire.WriteCensus(out, things)
}
