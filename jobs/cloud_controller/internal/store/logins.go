package store

import "github.com/clusterworks/deploy/jobs/component/passwords"

// Logins returns what is kept of failed logins.
func (s *UserStore) Logins() passwords.Kept {
	return passwords.Kept{DB: s.db.DB, Table: "failed_logins", Now: s.now}
}
