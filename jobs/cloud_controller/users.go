package cloudcontroller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/mail"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/auth"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// Logins fail this often for one account before each further try has to wait.
const (
	loginBurst    = 10
	loginInterval = 10 * time.Second
)

// concurrentHashes bounds the memory that passwords take, see auth.Hasher.
const concurrentHashes = 4

type credentials struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

func validEmail(email string) bool {
	if len(email) > 254 {
		return false
	}
	address, err := mail.ParseAddress(email)
	return err == nil && address.Address == email
}

// possibleEmail is true of all that may be the name of an account. The database
// takes no other text, and what is remembered of logins is bounded by it.
func possibleEmail(email string) bool {
	return len(email) <= 254 && utf8.ValidString(email) && !strings.ContainsRune(email, 0)
}

// createUser registers an account; admins may even when registration is closed.
func (c *Controller) createUser(w http.ResponseWriter, r *http.Request) error {
	a, known, err := c.optional(r)
	if err != nil {
		return err
	}
	settings := c.settings.Load()
	if !settings.AllowRegistration && !(known && a.admin) {
		return errForbidden
	}
	var body credentials
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	body.Email = strings.ToLower(strings.TrimSpace(body.Email))
	if !validEmail(body.Email) {
		return because(errBadRequest, "%q is no e-mail address", body.Email)
	}
	// With admin_password the admins' accounts are not for whoever is first.
	if settings.isAdmin(body.Email) && settings.AdminPassword != "" && !(known && a.admin) {
		return errForbidden
	}
	if err := c.addUser(r.Context(), body.Email, body.Password); err != nil {
		if errors.Is(err, store.ErrExists) {
			return because(errBadRequest, "%s is registered already", body.Email)
		}
		return err
	}
	c.base.Log().Info("user registered", "email", body.Email)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (c *Controller) addUser(ctx context.Context, email, password string) error {
	hash, err := c.hasher.Hash(ctx, password)
	if errors.Is(err, auth.ErrPassword) {
		return because(errBadRequest, "%v", err)
	}
	if err != nil {
		return err
	}
	_, err = c.store.CreateUser(ctx, email, hash)
	return err
}

// addAdmins makes the accounts of the admins that are missing.
func (c *Controller) addAdmins(ctx context.Context) error {
	settings := c.settings.Load()
	if settings.AdminPassword == "" {
		return nil
	}
	for _, email := range settings.Admins {
		_, err := c.store.User(ctx, email)
		if errors.Is(err, store.ErrNotFound) {
			err = c.addUser(ctx, email, settings.AdminPassword)
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

func (c *Controller) listUsers(w http.ResponseWriter, r *http.Request, a account) error {
	if !a.admin {
		return errForbidden
	}
	users, err := c.store.Users(r.Context())
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
		apps, err := c.store.Apps(r.Context(), u.ID)
		if err != nil {
			return err
		}
		e := entry{Email: u.Email, Admin: c.settings.Load().isAdmin(u.Email), Apps: []app{}}
		for _, a := range apps {
			e.Apps = append(e.Apps, app{a.Name, a.State})
		}
		list = append(list, e)
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// named finds the user of the path: oneself, or anyone for an admin.
func (c *Controller) named(r *http.Request, a account) (store.User, error) {
	email := strings.ToLower(r.PathValue("email"))
	if email == a.Email {
		return a.User, nil
	}
	if !a.admin {
		return store.User{}, errForbidden
	}
	u, err := c.store.User(r.Context(), email)
	if errors.Is(err, store.ErrNotFound) {
		return store.User{}, errUserNotFound
	}
	return u, err
}

func (c *Controller) getUser(w http.ResponseWriter, r *http.Request, a account) error {
	u, err := c.named(r, a)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"email": u.Email, "admin": c.settings.Load().isAdmin(u.Email)})
	return nil
}

// changePassword sets the caller's password, whoever the path names; all tokens
// of the caller end.
func (c *Controller) changePassword(w http.ResponseWriter, r *http.Request, a account) error {
	var body credentials
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	hash, err := c.hasher.Hash(r.Context(), body.Password)
	if errors.Is(err, auth.ErrPassword) {
		return because(errBadRequest, "%v", err)
	}
	if err != nil {
		return err
	}
	if err := c.store.SetPassword(r.Context(), a.ID, hash); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// deleteUser removes an account with its apps and services.
func (c *Controller) deleteUser(w http.ResponseWriter, r *http.Request, a account) error {
	if !a.admin {
		return errForbidden
	}
	u, err := c.named(r, a)
	if err != nil {
		return err
	}
	ctx, cancel := c.detached(r)
	defer cancel()
	apps, err := c.store.Apps(ctx, u.ID)
	if err != nil {
		return err
	}
	for _, app := range apps {
		if err := c.removeApp(ctx, app); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	services, err := c.store.ServiceInstances(ctx, u.ID)
	if err != nil {
		return err
	}
	for _, i := range services {
		if err := c.unprovision(ctx, i); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	if err := c.store.DeleteUser(ctx, u.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	c.base.Log().Info("user deleted", "email", u.Email, "by", a.Email)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// createToken logs in. An admin gets a token for anyone.
func (c *Controller) createToken(w http.ResponseWriter, r *http.Request) error {
	email := strings.ToLower(r.PathValue("email"))
	if !possibleEmail(email) {
		return errForbidden
	}
	a, known, err := c.optional(r)
	if err != nil {
		return err
	}
	byAdmin := known && a.admin
	var body credentials
	if err := readJSON(w, r, &body); err != nil && !byAdmin {
		return err
	}
	u, err := c.store.User(r.Context(), email)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if byAdmin {
		if err != nil {
			return errUserNotFound
		}
	} else {
		ok, wait, err := c.checkPassword(r.Context(), email, u.PasswordHash, body.Password)
		switch {
		case err != nil:
			return err
		case wait > 0:
			return tooManyAttempts(w, wait)
		case !ok:
			return errForbidden
		}
	}
	until := time.Now().Add(time.Duration(c.settings.Load().Keys.TokenExpiration) * time.Second)
	writeJSON(w, http.StatusOK, map[string]string{"token": c.signer().Sign(u.Email, u.PasswordHash, until)})
	return nil
}

// checkPassword says whether a login succeeds, unless it has to wait after others
// that have failed, at whichever controller. One that succeeds after none has
// failed writes nothing.
func (c *Controller) checkPassword(ctx context.Context, email, hash, password string) (ok bool, wait time.Duration, err error) {
	n := c.logins.Begin(email)
	defer c.logins.End(email)
	forgotten, err := c.store.FailedLogins(ctx, email)
	if err != nil {
		return false, 0, err
	}
	if wait := c.logins.Wait(n, forgotten, time.Now()); wait > 0 {
		return false, wait, nil
	}
	if ok, err = c.hasher.Check(ctx, hash, password); err != nil {
		return false, 0, err
	}
	switch {
	case !ok:
		err = c.store.LoginFailed(ctx, email, c.logins.Interval)
	case !forgotten.IsZero():
		err = c.store.LoginSucceeded(ctx, email)
	}
	return ok, 0, err
}
