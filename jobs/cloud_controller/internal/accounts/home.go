package accounts

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/uaa"
	"github.com/clusterworks/deploy/jobs/component/passwords"
	"github.com/clusterworks/deploy/jobs/wire"
)

// told returns what a user hears of an error that passes.
func told(err error) error {
	switch {
	case errors.Is(err, passwords.ErrBusy):
		return model.ErrBusy
	case errors.Is(err, store.ErrMoved):
		return model.ErrAccountsMove
	case errors.Is(err, uaa.ErrRefused):
		return model.Because(model.ErrBadRequest, "%v", err)
	case errors.Is(err, uaa.ErrNotFound):
		return model.ErrUserNotFound
	}
	return err
}

// away logs why the user component cannot be asked, and returns what a user hears.
func (s *Accounts) away(err error) error {
	if !errors.Is(err, uaa.ErrAway) {
		return told(err)
	}
	s.Log.Warn("cannot ask the user component", "error", err)
	return model.ErrUAAAway
}

// Home returns where the passwords of accounts are.
func (s *Accounts) Home(ctx context.Context) (string, error) {
	home, err := s.Store.Home(ctx)
	if err == nil {
		s.home.Store(home)
	}
	return home, err
}

// Login returns the URL at which users log in, "": at the controllers. It asks nobody.
func (s *Accounts) Login() string {
	if s.home.Load() != store.HomeUAA {
		return ""
	}
	return s.Config.Now().UAA.URL
}

// Settle moves the passwords of accounts where the configuration wants them: as hashes,
// so that nobody needs a new password. An error says why they are where they were.
func (s *Accounts) Settle(ctx context.Context) error {
	if _, err := s.Home(ctx); err != nil {
		return err
	}
	var back []string
	move := s.give
	to := s.Config.Start.AccountsIn
	if to == store.HomeController {
		move = func(ctx context.Context, users []store.User) (kept map[string]string, err error) {
			kept, back, err = s.take(ctx, users)
			return kept, err
		}
	}
	moved, err := s.Store.MoveHome(ctx, to, func(users []store.User) (map[string]string, error) { return move(ctx, users) })
	if err != nil {
		return fmt.Errorf("cannot move the accounts to %s: %w", to, err)
	}
	if !moved {
		return nil
	}
	s.home.Store(to)
	s.Log.Info("the accounts have moved", "to", to)
	for _, email := range back {
		// What stays there would open nothing here, but other clients of the component.
		if err := s.UAA.Delete(ctx, email); err != nil {
			s.Log.Warn("an account stays in the user component, too", "email", email, "error", err)
		}
	}
	return nil
}

// give gives accounts to the user component.
func (s *Accounts) give(ctx context.Context, users []store.User) (map[string]string, error) {
	accounts := make([]wire.UAAAccount, len(users))
	for i, u := range users {
		accounts[i] = wire.UAAAccount{Email: u.Email, Hash: u.PasswordHash}
	}
	kept, err := s.UAA.Import(ctx, accounts)
	for email, stamp := range kept {
		kept[email] = store.Stamped(stamp)
	}
	return kept, err
}

// take takes the accounts back. It refuses if one is missing there: its user could not
// log in any more.
func (s *Accounts) take(ctx context.Context, users []store.User) (kept map[string]string, emails []string, err error) {
	if !s.Config.Now().UAA.Known() {
		return nil, nil, errors.New("they are in the user component, and this controller is not told where that is; keep the job uaa until they are back")
	}
	accounts, err := s.UAA.Export(ctx)
	if err != nil {
		return nil, nil, err
	}
	kept = map[string]string{}
	for _, a := range accounts {
		kept[a.Email] = a.Hash
		emails = append(emails, a.Email)
	}
	var missing []string
	for _, u := range users {
		if _, there := kept[u.Email]; !there && u.PasswordHash != unfinished {
			missing = append(missing, u.Email)
		}
	}
	if len(missing) > 0 {
		return nil, nil, fmt.Errorf("the user component lacks %d accounts of %d, such as %s: restore its database, or delete them", len(missing), len(users), missing[0])
	}
	return kept, emails, nil
}

// unfinished is kept of an account that the user component does not have yet. No token
// fits it.
var unfinished = store.Stamped("")

// addUserAtUAA makes an account: here first, so that of two who want the name one is
// told that it is taken before any password is set.
func (s *Accounts) addUserAtUAA(ctx context.Context, email, password string) error {
	if err := s.longEnough(password); err != nil {
		return err
	}
	u, err := s.Store.CreateUser(ctx, email, unfinished)
	if err != nil {
		return told(err)
	}
	stamp, err := s.UAA.SetPassword(ctx, email, password, true)
	if err == nil {
		return told(s.Store.SetPassword(ctx, u.ID, store.Stamped(stamp)))
	}
	if removing := s.Store.DeleteUser(context.WithoutCancel(ctx), u.ID); removing != nil {
		s.Log.Error("an account without a password stays; delete it or set one as an admin", "email", email, "error", removing)
	}
	if errors.Is(err, uaa.ErrExists) {
		return store.ErrExists
	}
	return s.away(err)
}

func (s *Accounts) setPasswordAtUAA(ctx context.Context, u store.User, password string) error {
	if err := s.longEnough(password); err != nil {
		return err
	}
	stamp, err := s.UAA.SetPassword(ctx, u.Email, password, false)
	if err != nil {
		return s.away(err)
	}
	return told(s.Store.SetPassword(ctx, u.ID, store.Stamped(stamp)))
}

// Forget removes an account from the user component, if accounts are there.
func (s *Accounts) Forget(ctx context.Context, email string) error {
	home, err := s.Home(ctx)
	if err != nil || home != store.HomeUAA {
		return err
	}
	if err := s.UAA.Delete(ctx, email); err != nil {
		return s.away(err)
	}
	return nil
}

func (s *Accounts) checkPasswordAtUAA(r *http.Request, email, password string) (u store.User, ok bool, wait time.Duration, err error) {
	stamp, ok, wait, err := s.UAA.Check(r.Context(), email, password, s.clientAddress(r))
	if err != nil {
		return u, false, 0, s.away(err)
	}
	if !ok {
		return u, false, wait, nil
	}
	u, err = s.stampedUser(r.Context(), email, stamp)
	return u, err == nil, 0, err
}

// stampedUser returns the user with an e-mail address, with what the user component has
// just said of the password. A user who is missing here is made.
func (s *Accounts) stampedUser(ctx context.Context, email, stamp string) (store.User, error) {
	u, err := s.Store.User(ctx, email)
	switch {
	case errors.Is(err, store.ErrNotFound):
		u, err = s.Store.CreateUser(ctx, email, store.Stamped(stamp))
	case err == nil && u.PasswordHash != store.Stamped(stamp):
		u.PasswordHash = store.Stamped(stamp)
		err = s.Store.SetPassword(ctx, u.ID, u.PasswordHash)
	}
	return u, told(err)
}

// ownerAtUAA returns the user whose token of the user component it is. A token holds as
// long as the password is the same.
func (s *Accounts) ownerAtUAA(ctx context.Context, token string) (store.User, error) {
	home, err := s.Home(ctx)
	if err != nil {
		return store.User{}, err
	}
	if home != store.HomeUAA || !s.Config.Now().UAA.Known() {
		return store.User{}, model.ErrForbidden
	}
	claims, err := s.UAA.Verify(ctx, token, time.Now())
	if errors.Is(err, uaa.ErrToken) {
		return store.User{}, model.ErrForbidden
	}
	if err != nil {
		return store.User{}, s.away(err)
	}
	email := strings.ToLower(claims.Email)
	u, err := s.Store.User(ctx, email)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.User{}, err
	}
	if err == nil && u.PasswordHash == store.Stamped(claims.Stamp) {
		return u, nil
	}
	// Either the token or what is here is of another password.
	stamp, err := s.UAA.Stamp(ctx, email)
	if errors.Is(err, uaa.ErrNotFound) || err == nil && stamp != claims.Stamp {
		return store.User{}, model.ErrForbidden
	}
	if err != nil {
		return store.User{}, s.away(err)
	}
	return s.stampedUser(ctx, email, stamp)
}
