// Package accounts knows who may do what: registration, logins, passwords.
package accounts

import (
	"context"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/auth"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/uaa"
	"github.com/clusterworks/deploy/jobs/component/passwords"
)

// Deps are the parts that accounts work with.
type Deps struct {
	Config *config.Live
	Log    *slog.Logger
	Store  *store.Store
	Guard  passwords.Guard
	UAA    *uaa.Client
}

// Accounts are the users' accounts. home.go is about those whose passwords are in the
// user component.
type Accounts struct {
	Deps
	home atomic.Value // string: where the passwords were when it was last looked
}

// New returns the accounts.
func New(d Deps) *Accounts { return &Accounts{Deps: d} }

func (s *Accounts) account(u store.User) model.Account {
	admin := s.Config.Now().IsAdmin(u.Email)
	return model.Account{User: u, Admin: admin, Capacity: s.Config.Now().Capacity(admin)}
}

func (s *Accounts) signer() auth.Signer {
	return auth.NewSigner(s.Config.Now().Keys.Derive("tokens"))
}

// Authenticate returns the account that makes the request.
func (s *Accounts) Authenticate(r *http.Request) (model.Account, error) {
	u, err := s.owner(r)
	if err != nil {
		return model.Account{}, err
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
	by := a.User
	a = s.account(u)
	a.By = &by
	return a, err
}

// Stands returns an error if an account that was authenticated does not exist any more
// or has another password, with which its tokens end, or the admin who acts for it, who
// may be none any more. A token that only expires meanwhile is no reason to cut what was
// begun with it.
func (s *Accounts) Stands(ctx context.Context, a model.Account) error {
	users := []store.User{a.User}
	if a.By != nil {
		users = append(users, *a.By)
	}
	for _, was := range users {
		u, err := s.Store.UserByID(ctx, was.ID)
		if errors.Is(err, store.ErrNotFound) || err == nil && u.PasswordHash != was.PasswordHash {
			return model.Because(model.ErrForbidden, "the login has ended")
		}
		if err != nil {
			return err
		}
	}
	if a.By != nil && !s.Config.Now().IsAdmin(a.By.Email) {
		return model.Because(model.ErrForbidden, "the login has ended")
	}
	return nil
}

// owner returns the user whose token a request carries.
func (s *Accounts) owner(r *http.Request) (store.User, error) {
	token := r.Header.Get("Authorization")
	if bare, is := uaa.IsToken(token); is {
		return s.ownerAtUAA(r.Context(), bare)
	}
	email, err := s.signer().Owner(token)
	if err != nil || !passwords.PossibleEmail(email) {
		return store.User{}, model.ErrForbidden
	}
	u, err := s.Store.User(r.Context(), email)
	if errors.Is(err, store.ErrNotFound) {
		return store.User{}, model.ErrForbidden
	}
	if err != nil {
		return store.User{}, err
	}
	if err := s.signer().Check(token, u.PasswordHash, time.Now()); err != nil {
		return store.User{}, model.ErrForbidden
	}
	return u, nil
}

// Optional authenticates the request if it carries a valid token; known reports
// whether it does.
func (s *Accounts) Optional(r *http.Request) (a model.Account, known bool, err error) {
	a, err = s.Authenticate(r)
	var told *model.Error
	if errors.As(err, &told) && told.Status != http.StatusServiceUnavailable {
		return model.Account{}, false, nil
	}
	return a, err == nil, err
}

// clientAddress returns where a request comes from: what a router says that shows
// the key which the controllers gave to routers, or that is of a trusted network,
// else the peer's own address.
func (s *Accounts) clientAddress(r *http.Request) string {
	return passwords.ClientAddress(r, func(peer string) bool { return s.fromFront(r, peer) })
}

// fromFront reports whether a request's claims about its client count; peer is the
// address that it came from.
func (s *Accounts) fromFront(r *http.Request, peer string) bool {
	settings := s.Config.Now()
	// The routers' key is that of the start, as is what they were told.
	if subtle.ConstantTimeCompare([]byte(r.Header.Get(config.FrontKeyHeader)), []byte(s.Config.Start.FrontKey())) == 1 {
		return true
	}
	address, err := netip.ParseAddr(peer)
	return err == nil && slices.ContainsFunc(settings.TrustedFronts, func(n netip.Prefix) bool { return n.Contains(address.Unmap()) })
}
