package store

import (
	"context"
	"fmt"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// Census returns the emails of the accounts in the SQLite database at path, which it
// only reads.
func Census(ctx context.Context, path string) ([]string, error) {
	db, err := sqldb.Look(path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, "SELECT email FROM uaa_accounts ORDER BY email")
	if err != nil {
		return nil, fmt.Errorf("cannot read the database: %w", err)
	}
	defer rows.Close()
	var emails []string
	for rows.Next() {
		var email string
		if err := rows.Scan(&email); err != nil {
			return nil, fmt.Errorf("cannot read the database: %w", err)
		}
		emails = append(emails, email)
	}
	return emails, rows.Err()
}
