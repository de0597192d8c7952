package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// Databases says which database is used.
type Databases struct {
	DatabaseEnvironment map[string]sqldb.Config `yaml:"database_environment"`
	RailsEnvironment    string                  `yaml:"rails_environment"` // the entry to use
}

// DatabaseURI returns the URI of the database, for internal/store.
func (c *Config) DatabaseURI() (string, error) {
	db, ok := c.DatabaseEnvironment[c.RailsEnvironment]
	if !ok {
		return "", fmt.Errorf("database_environment has no entry %q", c.RailsEnvironment)
	}
	uri, err := db.URI()
	if err == nil && strings.HasPrefix(uri, "sqlite:") && len(c.Peers) > 0 {
		return "", errors.New("several controllers need PostgreSQL: SQLite serves a single one")
	}
	return uri, err
}
