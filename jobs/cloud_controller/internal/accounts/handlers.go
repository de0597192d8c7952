package accounts

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/component/passwords"
)

type credentials struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

// CreateUser registers an account; admins may even when registration is closed.
func (s *Accounts) CreateUser(w http.ResponseWriter, r *http.Request) error {
	a, known, err := s.Optional(r)
	if err != nil {
		return err
	}
	settings := s.Config.Now()
	if !settings.AllowRegistration && !(known && a.Admin) {
		return model.ErrForbidden
	}
	var body credentials
	if err := rest.ReadJSON(w, r, &body); err != nil {
		return err
	}
	body.Email = strings.TrimSpace(body.Email)
	if !passwords.NewEmail(body.Email) { // before ToLower, which makes a "k" of the Kelvin sign
		return model.Because(model.ErrBadRequest, "%q is no e-mail address of letters, digits and the usual signs", body.Email)
	}
	body.Email = strings.ToLower(body.Email)
	// The admins' accounts are not for whoever is first.
	if settings.IsAdmin(body.Email) && !(known && a.Admin) {
		return model.ErrForbidden
	}
	if err := s.addUser(r.Context(), body.Email, body.Password); err != nil {
		if errors.Is(err, store.ErrExists) {
			return model.Because(model.ErrBadRequest, "%s is registered already", body.Email)
		}
		return err
	}
	s.Log.Info("user registered", "email", body.Email)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// addUser makes an account with its password, where passwords are.
func (s *Accounts) addUser(ctx context.Context, email, password string) error {
	home, err := s.Home(ctx)
	if err != nil {
		return err
	}
	if home == store.HomeUAA {
		return s.addUserAtUAA(ctx, email, password)
	}
	hash, err := s.hash(ctx, password)
	if err != nil {
		return err
	}
	_, err = s.Store.CreateUser(ctx, email, hash)
	return told(err)
}

// setPassword sets a user's password, where passwords are.
func (s *Accounts) setPassword(ctx context.Context, u store.User, password string) error {
	home, err := s.Home(ctx)
	if err != nil {
		return err
	}
	if home == store.HomeUAA {
		return s.setPasswordAtUAA(ctx, u, password)
	}
	hash, err := s.hash(ctx, password)
	if err != nil {
		return err
	}
	return told(s.Store.SetPassword(ctx, u.ID, hash))
}

// longEnough refuses a new password that is too short.
func (s *Accounts) longEnough(password string) error {
	if least := s.Config.Now().MinPasswordLength; len(password) < least {
		return model.Because(model.ErrBadRequest, "a password has at least %d characters", least)
	}
	return nil
}

func (s *Accounts) hash(ctx context.Context, password string) (string, error) {
	if err := s.longEnough(password); err != nil {
		return "", err
	}
	hash, err := s.Guard.Hasher.Hash(ctx, password)
	if errors.Is(err, passwords.ErrPassword) {
		err = model.Because(model.ErrBadRequest, "%v", err)
	}
	return hash, told(err)
}

// AddAdmins makes the accounts of admins that are missing.
func (s *Accounts) AddAdmins(ctx context.Context) error {
	settings := s.Config.Now()
	if settings.AdminPassword == "" {
		return nil
	}
	for _, email := range settings.Admins {
		_, err := s.Store.User(ctx, email)
		if errors.Is(err, store.ErrNotFound) {
			err = s.addUser(ctx, email, settings.AdminPassword)
			if errors.Is(err, store.ErrExists) { // another controller was faster
				err = nil
			}
		}
		if err != nil {
			return fmt.Errorf("cannot make the account of admin %s: %w", email, err)
		}
	}
	return nil
}

// ListUsers lists all accounts, for admins.
func (s *Accounts) ListUsers(w http.ResponseWriter, r *http.Request, a model.Account) error {
	if !a.Admin {
		return model.ErrForbidden
	}
	users, err := s.Store.Users(r.Context())
	if err != nil {
		return err
	}
	type app struct {
		Name  string `json:"name"`
		State string `json:"state"`
	}
	type entry struct {
		Email string `json:"email"`
		Admin bool   `json:"admin"`
		Apps  []app  `json:"apps"`
	}
	list := []entry{}
	for _, u := range users {
		apps, err := s.Store.Apps(r.Context(), u.ID)
		if err != nil {
			return err
		}
		e := entry{Email: u.Email, Admin: s.Config.Now().IsAdmin(u.Email), Apps: []app{}}
		for _, a := range apps {
			e.Apps = append(e.Apps, app{a.Name, a.State})
		}
		list = append(list, e)
	}
	rest.WriteJSON(w, http.StatusOK, list)
	return nil
}

// Named finds the user of the path: oneself, or anyone for an admin.
func (s *Accounts) Named(r *http.Request, a model.Account) (store.User, error) {
	email := strings.ToLower(r.PathValue("email"))
	if email == a.Email {
		return a.User, nil
	}
	if !a.Admin {
		return store.User{}, model.ErrForbidden
	}
	u, err := s.Store.User(r.Context(), email)
	if errors.Is(err, store.ErrNotFound) {
		return store.User{}, model.ErrUserNotFound
	}
	return u, err
}

// GetUser describes an account.
func (s *Accounts) GetUser(w http.ResponseWriter, r *http.Request, a model.Account) error {
	u, err := s.Named(r, a)
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, map[string]any{"email": u.Email, "admin": s.Config.Now().IsAdmin(u.Email)})
	return nil
}

// ChangePassword sets a user's password: one's own, or anyone's for an admin. All
// tokens of that user end.
func (s *Accounts) ChangePassword(w http.ResponseWriter, r *http.Request, a model.Account) error {
	u, err := s.Named(r, a)
	if err != nil {
		return err
	}
	var body credentials
	if err := rest.ReadJSON(w, r, &body); err != nil {
		return err
	}
	if err := s.setPassword(r.Context(), u, body.Password); err != nil {
		return err
	}
	s.Log.Info("password changed", "email", u.Email, "by", a.Email)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// CreateToken logs in. An admin gets a token for anyone.
func (s *Accounts) CreateToken(w http.ResponseWriter, r *http.Request) error {
	email := strings.ToLower(r.PathValue("email"))
	if !passwords.PossibleEmail(email) {
		return model.ErrForbidden
	}
	a, known, err := s.Optional(r)
	if err != nil {
		return err
	}
	byAdmin := known && a.Admin
	var body credentials
	if err := rest.ReadJSON(w, r, &body); err != nil && !byAdmin {
		return err
	}
	var u store.User
	if byAdmin {
		if u, err = s.Store.User(r.Context(), email); errors.Is(err, store.ErrNotFound) {
			err = model.ErrUserNotFound
		}
		if err != nil {
			return err
		}
	} else {
		var ok bool
		var wait time.Duration
		u, ok, wait, err = s.checkPassword(r, email, body.Password)
		switch {
		case err != nil:
			return err
		case wait > 0:
			return tooManyAttempts(w, wait)
		case !ok:
			return model.ErrForbidden
		}
	}
	until := time.Now().Add(time.Duration(s.Config.Now().Keys.TokenExpiration) * time.Second)
	rest.WriteJSON(w, http.StatusOK, map[string]string{"token": s.signer().Sign(u.Email, u.PasswordHash, until)})
	return nil
}

// checkPassword returns the user who logs in, or how long they have to wait after other
// logins that have failed at any controller.
func (s *Accounts) checkPassword(r *http.Request, email, password string) (u store.User, ok bool, wait time.Duration, err error) {
	home, err := s.Home(r.Context())
	if err != nil {
		return u, false, 0, err
	}
	if home == store.HomeUAA {
		return s.checkPasswordAtUAA(r, email, password)
	}
	u, err = s.Store.User(r.Context(), email)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return u, false, 0, err
	}
	ok, wait, err = s.Guard.Check(r.Context(), s.Store.Logins(), email, s.clientAddress(r), u.PasswordHash, password)
	return u, ok, wait, told(err)
}

// tooManyAttempts refuses a login that comes too soon after failed ones.
func tooManyAttempts(w http.ResponseWriter, wait time.Duration) error {
	seconds := int(wait/time.Second) + 1
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	return &model.Error{Status: http.StatusTooManyRequests, Code: model.ErrForbidden.Code, Description: fmt.Sprintf("%s: too many attempts, try again in %d seconds", model.ErrForbidden.Description, seconds)}
}
