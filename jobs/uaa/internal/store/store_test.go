package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/component/sqldb/postgrestest"
)

var server *postgrestest.Server

func TestMain(m *testing.M) {
	var err error
	if server, err = postgrestest.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	server.Stop()
	os.Exit(status)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// each runs a test on both databases, with two instances at PostgreSQL.
func each(t *testing.T, test func(t *testing.T, stores []*Store)) {
	t.Parallel()
	run := func(name, uri string, instances int) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stores []*Store
			for range instances {
				s, err := Open(t.Context(), func() (string, error) { return uri, nil }, nil)
				must(t, err)
				t.Cleanup(s.Close)
				stores = append(stores, s)
			}
			test(t, stores)
		})
	}
	run("sqlite", "sqlite://"+filepath.Join(t.TempDir(), "uaa.db"), 1)
	_, uri := server.Database(t)
	run("postgres", uri, 2)
}

// TestOnceAtAllInstances: of many that use a code or a refresh token at the same time, at
// any instance, at most one has it, and then nothing of the login is left.
func TestOnceAtAllInstances(t *testing.T) {
	each(t, func(t *testing.T, stores []*Store) {
		ctx, first := t.Context(), stores[0]
		a, err := first.CreateAccount(ctx, "dev@example.com", "hash")
		must(t, err)
		soon := time.Now().Add(time.Hour)
		for round := range 10 {
			family, token := fmt.Sprint("family", round), fmt.Sprint("token", round)
			row := Refresh{Family: family, AccountID: a.ID, ClientID: "vmc", Scopes: "openid", Authenticated: time.Now(), Expires: soon}
			must(t, first.AddRefresh(ctx, token, row))
			must(t, first.SaveCode(ctx, "code"+token, Code{Family: family, AccountID: a.ID, Request: "{}", Expires: soon}))
			var mu sync.Mutex
			codes, tokens := 0, 0
			var all sync.WaitGroup
			for i := range 6 {
				s := stores[i%len(stores)]
				all.Go(func() {
					_, err1 := s.UseCode(ctx, "code"+token)
					err2 := s.Rotate(ctx, token, fmt.Sprint(token, "next", i), row)
					mu.Lock()
					defer mu.Unlock()
					if err1 == nil {
						codes++
					} else if !errors.Is(err1, ErrReused) {
						t.Error(err1)
					}
					if err2 == nil {
						tokens++
					} else if !errors.Is(err2, ErrReused) {
						t.Error(err2)
					}
				})
			}
			all.Wait()
			if codes != 1 || tokens > 1 {
				t.Errorf("%d had the code, %d the token", codes, tokens)
			}
			for i := range 6 {
				if _, err := first.Refresh(ctx, fmt.Sprint(token, "next", i)); !errors.Is(err, ErrNotFound) {
					t.Errorf("a token of a login that was stolen is left: %v", err)
				}
			}
			if err := first.AddRefresh(ctx, token+"late", row); !errors.Is(err, ErrReused) {
				t.Errorf("a token is added to it: %v", err)
			}
		}
	})
}

// TestNewPasswordEndsAllLogins: those too whose tokens are renewed meanwhile, at any
// instance.
func TestNewPasswordEndsAllLogins(t *testing.T) {
	each(t, func(t *testing.T, stores []*Store) {
		ctx, first, last := t.Context(), stores[0], stores[len(stores)-1]
		a, err := first.CreateAccount(ctx, "dev@example.com", "hash")
		must(t, err)
		for round := range 20 {
			row := Refresh{Family: fmt.Sprint("family", round), AccountID: a.ID, ClientID: "vmc", Authenticated: time.Now(), Expires: time.Now().Add(time.Hour)}
			token := fmt.Sprint("token", round)
			must(t, first.AddRefresh(ctx, token, row))
			var all sync.WaitGroup
			all.Go(func() {
				if err := first.Rotate(ctx, token, token+"next", row); err != nil && !errors.Is(err, ErrReused) {
					t.Error(err)
				}
			})
			all.Go(func() {
				if err := last.SetPasswords(ctx, []Account{{Email: a.Email, PasswordHash: token}}); err != nil {
					t.Error(err)
				}
			})
			all.Wait()
			for _, left := range []string{token, token + "next"} {
				if _, err := first.Refresh(ctx, left); !errors.Is(err, ErrNotFound) {
					t.Errorf("a login outlives the password: %v", err)
				}
			}
		}
	})
}

// TestWhatHasExpired: it is of no use, and it is removed.
func TestWhatHasExpired(t *testing.T) {
	each(t, func(t *testing.T, stores []*Store) {
		ctx, s := t.Context(), stores[0]
		a, err := s.CreateAccount(ctx, "dev@example.com", "hash")
		must(t, err)
		ago := time.Now().Add(-time.Minute)
		must(t, s.SaveCode(ctx, "code", Code{Family: "f", AccountID: a.ID, Request: "{}", Expires: ago}))
		must(t, s.AddRefresh(ctx, "token", Refresh{Family: "f", AccountID: a.ID, Authenticated: ago, Expires: ago}))
		must(t, s.RevokeAccess(ctx, "access", ago))
		for range 2 {
			if _, err := s.UseCode(ctx, "code"); !errors.Is(err, ErrNotFound) {
				t.Errorf("an old code: %v", err)
			}
			if _, err := s.Refresh(ctx, "token"); !errors.Is(err, ErrNotFound) {
				t.Errorf("an old token: %v", err)
			}
			must(t, s.DropOld(ctx))
		}
		for _, table := range []string{"uaa_codes", "uaa_refresh_tokens", "uaa_revoked"} {
			var n int
			must(t, s.db.QueryRowContext(ctx, `SELECT count(*) FROM `+table).Scan(&n))
			if n != 0 {
				t.Errorf("%d rows stay in %s", n, table)
			}
		}
		// A key's generation is made once.
		must(t, s.AddKey(ctx, Key{Generation: 1, ID: "a", Sealed: "x", Created: ago}))
		if err := s.AddKey(ctx, Key{Generation: 1, ID: "b", Sealed: "x", Created: ago}); !errors.Is(err, ErrExists) {
			t.Errorf("the same generation: %v", err)
		}
	})
}
