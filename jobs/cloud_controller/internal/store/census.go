package store

import (
	"context"
	"fmt"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// Kept is something of a user in the database.
type Kept struct {
	Kind  string // "app", "service instance", "user"
	Name  string
	Owner string // an email; "" for a user
}

// Census returns what users have in the SQLite database at path, which it only reads:
// the controller may be using it, or not run.
func Census(ctx context.Context, path string) ([]Kept, error) {
	db, err := sqldb.Look(path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, `
		SELECT 'app', apps.name, users.email FROM apps JOIN users ON users.id = apps.owner_id
		UNION ALL SELECT 'service instance', service_instances.alias, users.email FROM service_instances JOIN users ON users.id = service_instances.owner_id
		UNION ALL SELECT 'user', email, '' FROM users`)
	if err != nil {
		return nil, fmt.Errorf("cannot read the database: %w", err)
	}
	defer rows.Close()
	var all []Kept
	for rows.Next() {
		var k Kept
		if err := rows.Scan(&k.Kind, &k.Name, &k.Owner); err != nil {
			return nil, fmt.Errorf("cannot read the database: %w", err)
		}
		all = append(all, k)
	}
	return all, rows.Err()
}
