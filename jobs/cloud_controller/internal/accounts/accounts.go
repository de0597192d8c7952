// Package accounts knows who may do what: registration, logins, passwords.
package accounts

import (
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/auth"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// LoginBurst is how many logins may fail for one account from one address before
// each further one has to wait for LoginInterval, and addressBurst how many from
// one address for all accounts.
const (
	LoginBurst    = 10
	addressBurst  = 100
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
//
// Failures count for the account and the client's address together, so that a
// stranger cannot lock the owner out, and for the address alone, so that nobody
// tries many accounts.
func (s *Accounts) checkPassword(r *http.Request, email, hash, password string) (ok bool, wait time.Duration, err error) {
	ctx, address := r.Context(), s.clientAddress(r)
	counts := []struct {
		name  string
		burst int
	}{{email + " " + address, LoginBurst}, {address, addressBurst}}
	failed := false // before
	for _, c := range counts {
		n := s.Logins.Begin(c.name)
		defer s.Logins.End(c.name)
		forgotten, err := s.Store.FailedLogins(ctx, c.name)
		if err != nil {
			return false, 0, err
		}
		if wait := s.Logins.Wait(n, c.burst, forgotten, time.Now()); wait > 0 {
			return false, wait, nil
		}
		failed = failed || !forgotten.IsZero()
	}
	ok, err = s.Hasher.Check(ctx, hash, password)
	if errors.Is(err, auth.ErrBusy) {
		err = model.ErrBusy
	}
	switch {
	case err != nil:
		return false, 0, err
	case ok && failed:
		err = s.Store.LoginSucceeded(ctx, counts[0].name)
	case !ok:
		for _, c := range counts {
			err = errors.Join(err, s.Store.LoginFailed(ctx, c.name, s.Logins.Interval))
		}
	}
	return ok, 0, err
}

// clientAddress returns where a request comes from: what a router says that shows
// the key which the controllers gave to routers, or that is of a trusted network,
// else the peer's own address. An IPv6 client has a whole network of 64 bits.
func (s *Accounts) clientAddress(r *http.Request) string {
	text, _, _ := net.SplitHostPort(r.RemoteAddr)
	if claimed := r.Header.Get("X-Real-Ip"); claimed != "" && s.fromFront(r, text) {
		text = claimed
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return "unknown"
	}
	if address = address.Unmap(); address.Is6() {
		return netip.PrefixFrom(address, 64).Masked().String()
	}
	return address.String()
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
