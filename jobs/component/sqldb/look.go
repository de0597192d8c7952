package sqldb

import (
	"database/sql"
	"fmt"
	"net/url"
	"os"
)

// Look opens the SQLite database at path to read it only: the component whose it is may
// be using it, or not run. One that is not there is an error, never an empty one.
func Look(path string) (*sql.DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("cannot tell what lives here: %w", err)
	}
	options := url.Values{"_pragma": {"query_only(1)", "busy_timeout(5000)"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+options.Encode())
	if err != nil {
		return nil, fmt.Errorf("cannot open the database: %w", err)
	}
	return db, nil
}
