package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// Where the passwords of accounts are.
const (
	HomeController = "controller" // here, as hashes
	HomeUAA        = "uaa"        // in the user component; here are stamps
)

// stamped begins what is in the place of a password hash when that is in the user
// component.
const stamped = "uaa:"

// Stamped returns what is kept in the place of a hash.
func Stamped(stamp string) string { return stamped + stamp }

// ErrMoved says that the passwords of accounts have moved to the other place.
var ErrMoved = errors.New("the accounts have moved meanwhile")

const selectHome = `SELECT home FROM account_home`

// Home returns where the passwords of accounts are.
func (s *UserStore) Home(ctx context.Context) (home string, err error) {
	if err := s.db.QueryRowContext(ctx, selectHome).Scan(&home); err != nil {
		return "", fmt.Errorf("cannot read where the accounts are: %w", err)
	}
	return home, nil
}

// lockHome returns where the passwords are, and keeps them there until the transaction
// ends. SQLite's transactions take turns anyway.
func (s *database) lockHome(ctx context.Context, q sqldb.Querier, lock string) (home string, err error) {
	query := selectHome
	if s.db.Postgres {
		query += lock
	}
	if err := q.QueryRowContext(ctx, query).Scan(&home); err != nil {
		return "", fmt.Errorf("cannot read where the accounts are: %w", err)
	}
	return home, nil
}

// fits returns ErrMoved if a hash, or what is in its place, does not belong where the
// passwords are.
func (s *database) fits(ctx context.Context, q sqldb.Querier, hash string) error {
	home, err := s.lockHome(ctx, q, ` FOR SHARE`)
	if err == nil && strings.HasPrefix(hash, stamped) != (home == HomeUAA) {
		err = ErrMoved
	}
	return err
}

// MoveHome moves the passwords of all accounts to another home, unless they are there.
// move gets what is kept of each account and returns, by the e-mail address, what is
// kept from now on; accounts that it names and that are missing are made. No password
// changes meanwhile. moved reports whether there was something to do.
func (s *UserStore) MoveHome(ctx context.Context, to string, move func([]User) (map[string]string, error)) (moved bool, err error) {
	err = s.db.Transact(ctx, func(q sqldb.Querier) error {
		home, err := s.lockHome(ctx, q, ` FOR UPDATE`)
		if err != nil || home == to {
			return err
		}
		users, err := sqldb.Collect(ctx, q, scanUser, selectUsers)
		if err != nil {
			return fmt.Errorf("cannot list the users: %w", err)
		}
		kept, err := move(users)
		if err != nil {
			return err
		}
		for _, u := range users {
			if hash, known := kept[u.Email]; known {
				if _, err := q.ExecContext(ctx, updatePassword, u.ID, hash, s.now().Unix()); err != nil {
					return fmt.Errorf("cannot move an account: %w", err)
				}
				delete(kept, u.Email)
			}
		}
		for email, hash := range kept {
			var id int64
			if err := q.QueryRowContext(ctx, insertUser, email, hash, s.now().Unix()).Scan(&id); err != nil {
				return fmt.Errorf("cannot add an account that comes back: %w", err)
			}
		}
		if _, err := q.ExecContext(ctx, `UPDATE account_home SET home = $1`, to); err != nil {
			return fmt.Errorf("cannot move the accounts: %w", err)
		}
		moved = true
		return nil
	})
	return moved && err == nil, err
}
