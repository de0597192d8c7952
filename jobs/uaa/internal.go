package uaa

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/clusterworks/deploy/jobs/component/passwords"
	"github.com/clusterworks/deploy/jobs/uaa/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// maxImport bounds the accounts that come at once.
const maxImport = 4 << 20

// internal returns what the cloud controllers are served: wire.UAA... says what is said.
func (p *parts) internal() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+pathKeys, p.provider)
	mux.HandleFunc("POST "+wire.UAACheck, p.check)
	mux.HandleFunc("GET "+wire.UAAAccounts, p.listAccounts)
	mux.HandleFunc("POST "+wire.UAAAccounts, p.importAccounts)
	mux.HandleFunc("GET "+wire.UAAAccounts+"/{email}", p.getAccount)
	mux.HandleFunc("PUT "+wire.UAAAccounts+"/{email}", p.putAccount)
	mux.HandleFunc("DELETE "+wire.UAAAccounts+"/{email}", p.deleteAccount)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if _, secret, _ := r.BasicAuth(); !same(secret, p.settings().ControllerSecret) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxImport)
		mux.ServeHTTP(w, r)
	})
}

// readJSON reads a body, or answers that it cannot.
func readJSON(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		http.Error(w, "the body is not the JSON that is wanted", http.StatusBadRequest)
		return false
	}
	return true
}

// internalFailed answers what went wrong, if anything did.
func (p *parts) internalFailed(w http.ResponseWriter, err error) bool {
	switch {
	case err == nil:
		return false
	case errors.Is(err, store.ErrNotFound):
		w.WriteHeader(http.StatusNotFound)
	case errors.Is(err, store.ErrExists):
		w.WriteHeader(http.StatusConflict)
	case errors.Is(err, passwords.ErrPassword):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case errors.Is(err, passwords.ErrBusy):
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		p.log.Error("cannot answer a cloud controller", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
	}
	return true
}

// check checks a password for a controller, whose users' addresses it takes.
func (p *parts) check(w http.ResponseWriter, r *http.Request) {
	var asked wire.UAALogin
	if !readJSON(w, r, &asked) {
		return
	}
	a, wait, err := p.login(r.Context(), asked.Email, asked.Password, asked.Address)
	switch {
	case p.internalFailed(w, err):
	case wait > 0:
		w.Header().Set("Retry-After", strconv.Itoa(seconds(wait)))
		w.WriteHeader(http.StatusTooManyRequests)
	case a == nil:
		w.WriteHeader(http.StatusForbidden)
	default:
		writeJSON(w, http.StatusOK, wire.UAAAccount{Email: a.Email, Stamp: a.Stamp()})
	}
}

// listAccounts gives the accounts with their hashes back to a controller.
func (p *parts) listAccounts(w http.ResponseWriter, r *http.Request) {
	accounts, err := p.store.Accounts(r.Context(), r.URL.Query().Get("after"), wire.UAAPage)
	if p.internalFailed(w, err) {
		return
	}
	list := []wire.UAAAccount{}
	for _, a := range accounts {
		list = append(list, wire.UAAAccount{Email: a.Email, Hash: a.PasswordHash, Stamp: a.Stamp()})
	}
	writeJSON(w, http.StatusOK, list)
}

// importAccounts takes accounts with their hashes over from a controller.
func (p *parts) importAccounts(w http.ResponseWriter, r *http.Request) {
	var list []wire.UAAAccount
	if !readJSON(w, r, &list) {
		return
	}
	accounts := make([]store.Account, len(list))
	for i, a := range list {
		if !passwords.PossibleEmail(a.Email) || a.Email == "" || !strings.HasPrefix(a.Hash, "$argon2id$") {
			http.Error(w, "an account has no e-mail address or no hash of a password", http.StatusBadRequest)
			return
		}
		accounts[i] = store.Account{Email: a.Email, PasswordHash: a.Hash}
	}
	if p.internalFailed(w, p.store.SetPasswords(r.Context(), accounts)) {
		return
	}
	for i := range list {
		list[i] = wire.UAAAccount{Email: list[i].Email, Stamp: accounts[i].Stamp()}
	}
	p.log.Info("accounts taken over from the cloud controllers", "count", len(list))
	writeJSON(w, http.StatusOK, list)
}

func (p *parts) getAccount(w http.ResponseWriter, r *http.Request) {
	a, err := p.store.Account(r.Context(), r.PathValue("email"))
	if !p.internalFailed(w, err) {
		writeJSON(w, http.StatusOK, wire.UAAAccount{Email: a.Email, Stamp: a.Stamp()})
	}
}

// putAccount sets a password, and makes the account if it is missing; a request with
// new makes it only.
func (p *parts) putAccount(w http.ResponseWriter, r *http.Request) {
	var asked wire.UAAPassword
	email := r.PathValue("email")
	if !readJSON(w, r, &asked) {
		return
	}
	if !passwords.ValidEmail(email) {
		http.Error(w, "it is no e-mail address", http.StatusBadRequest)
		return
	}
	hash, err := p.guard.Hasher.Hash(r.Context(), asked.Password)
	if p.internalFailed(w, err) {
		return
	}
	a := store.Account{Email: strings.ToLower(email), PasswordHash: hash}
	if asked.New {
		_, err = p.store.CreateAccount(r.Context(), a.Email, hash)
	} else {
		err = p.store.SetPasswords(r.Context(), []store.Account{a})
	}
	if !p.internalFailed(w, err) {
		p.log.Info("password set", "account", a.Email)
		writeJSON(w, http.StatusOK, wire.UAAAccount{Email: a.Email, Stamp: a.Stamp()})
	}
}

func (p *parts) deleteAccount(w http.ResponseWriter, r *http.Request) {
	err := p.store.DeleteAccount(r.Context(), r.PathValue("email"))
	if errors.Is(err, store.ErrNotFound) {
		err = nil // it is gone
	}
	if !p.internalFailed(w, err) {
		p.log.Info("account deleted", "account", r.PathValue("email"))
		w.WriteHeader(http.StatusNoContent)
	}
}
