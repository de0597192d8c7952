// Package accounts knows who may do what: registration, logins, passwords.
package accounts

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/auth"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// LoginBurst is how many logins may fail for one account before each further one
// has to wait for LoginInterval.
const (
	LoginBurst    = 10
	LoginInterval = 10 * time.Second
)

// ConcurrentHashes bounds the memory that passwords take, see auth.Hasher.
const ConcurrentHashes = 4

// Deps are the parts that accounts work with.
type Deps struct {
	Config *config.Live
	Log    *slog.Logger
	Store  *store.Store
	Hasher *auth.Hasher
	Logins *auth.Limiter
}

// Accounts are the users' accounts.
type Accounts struct{ Deps }

// New returns the accounts.
func New(d Deps) *Accounts { return &Accounts{d} }

func (s *Accounts) account(u store.User) model.Account {
	admin := s.Config.Now().IsAdmin(u.Email)
	return model.Account{User: u, Admin: admin, Capacity: s.Config.Now().Capacity(admin)}
}

// possibleEmail reports whether a text may name an account. The database takes no
// other text, and it bounds what is remembered of failed logins.
func possibleEmail(email string) bool {
	return len(email) <= 254 && utf8.ValidString(email) && !strings.ContainsRune(email, 0)
}

func (s *Accounts) signer() auth.Signer {
	return auth.NewSigner(s.Config.Now().Keys.Derive("tokens"))
}

// Authenticate returns the account that makes the request.
func (s *Accounts) Authenticate(r *http.Request) (model.Account, error) {
	token := r.Header.Get("Authorization")
	email, err := s.signer().Owner(token)
	if err != nil || !possibleEmail(email) {
		return model.Account{}, model.ErrForbidden
	}
	u, err := s.Store.User(r.Context(), email)
	if errors.Is(err, store.ErrNotFound) {
		return model.Account{}, model.ErrForbidden
	}
	if err != nil {
		return model.Account{}, err
	}
	if err := s.signer().Check(token, u.PasswordHash, time.Now()); err != nil {
		return model.Account{}, model.ErrForbidden
	}
	a := s.account(u)
	proxied := r.Header.Get("Proxy-User")
	if proxied == "" {
		return a, nil
	}
	if !a.Admin {
		return model.Account{}, model.ErrForbidden
	}
	u, err = s.Store.User(r.Context(), proxied)
	if errors.Is(err, store.ErrNotFound) {
		return model.Account{}, model.ErrUserNotFound
	}
	return s.account(u), err
}

// Optional authenticates the request if it carries a valid token; known reports
// whether it does.
func (s *Accounts) Optional(r *http.Request) (a model.Account, known bool, err error) {
	a, err = s.Authenticate(r)
	var told *model.Error
	if errors.As(err, &told) {
		return model.Account{}, false, nil
	}
	return a, err == nil, err
}

// checkPassword reports whether a login succeeds, or how long it has to wait after
// others that have failed at any controller. A login that succeeds when none has
// failed writes nothing.
func (s *Accounts) checkPassword(ctx context.Context, email, hash, password string) (ok bool, wait time.Duration, err error) {
	n := s.Logins.Begin(email)
	defer s.Logins.End(email)
	forgotten, err := s.Store.FailedLogins(ctx, email)
	if err != nil {
		return false, 0, err
	}
	if wait := s.Logins.Wait(n, forgotten, time.Now()); wait > 0 {
		return false, wait, nil
	}
	if ok, err = s.Hasher.Check(ctx, hash, password); err != nil {
		return false, 0, err
	}
	switch {
	case !ok:
		err = s.Store.LoginFailed(ctx, email, s.Logins.Interval)
	case !forgotten.IsZero():
		err = s.Store.LoginSucceeded(ctx, email)
	}
	return ok, 0, err
}
