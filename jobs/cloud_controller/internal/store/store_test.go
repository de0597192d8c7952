package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/component/sqldb/postgrestest"
)

var update = flag.Bool("update", false, "write what the scenario asks of the database into testdata")

var server *postgrestest.Server

func TestMain(m *testing.M) {
	flag.Parse()
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

func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func fixed(uri string) func() (string, error) { return func() (string, error) { return uri, nil } }

// each runs a test on both databases.
func each(t *testing.T, test func(t *testing.T, uri string)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, "sqlite://"+filepath.Join(t.TempDir(), "a b%c?.db"))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		_, uri := server.Database(t)
		test(t, uri)
	})
}

func open(t testing.TB, uri string) *Store {
	t.Helper()
	s, err := Open(t.Context(), fixed(uri), nil)
	must(t, err)
	t.Cleanup(s.Close)
	s.now = func() time.Time { return time.Unix(1343815200, 0) }
	return s
}

func newApp(owner User, name string, hosts ...string) App {
	return App{
		Identity: Identity{OwnerID: owner.ID, Name: name}, State: Stopped,
		Spec: Spec{
			Framework: "node", Runtime: "node", Instances: 2, Memory: 64, Disk: 2048, FDs: 256,
			Environment: []string{"A=b"}, Command: "run", URIs: hosts,
		},
	}
}

// TestScenario goes through what the controllers do with users and apps.
func TestScenario(t *testing.T) {
	each(t, func(t *testing.T, uri string) { scenario(t, open(t, uri)) })
}

// overlapping claims names above and below others'.
func overlapping(t testing.TB, s *Store, dev, ops User) {
	ctx := t.Context()
	before := newApp(ops, "before", "x.hello.cf") // when nothing was compared
	must(t, s.CreateApp(ctx, &before, nil))
	s.ClaimWithin(func(host string) string { return host[strings.LastIndexByte(host, '.')+1:] })
	defer s.ClaimWithin(func(host string) string { return host })
	must(t, s.UpdateApp(ctx, &before, nil))
	var taken *HostTakenError
	for _, host := range []string{"a.www.hello.cf", "b.a.www.hello.cf", "y.hello.cf"} {
		before.URIs = []string{"x.hello.cf", host}
		if err := s.UpdateApp(ctx, &before, nil); !errors.As(err, &taken) || taken.Host != host || !taken.Overlaps {
			t.Errorf("%s, below another user's: %v", host, err)
		}
	}
	above := newApp(ops, "above", "cf")
	must(t, s.CreateApp(ctx, &above, nil)) // the domain itself: claimed in nothing
	must(t, s.DeleteApp(ctx, above))
	must(t, s.DeleteApp(ctx, before))
}

// TestOverlappingClaims: of two claims at once that overlap, one is refused.
func TestOverlappingClaims(t *testing.T) {
	each(t, func(t *testing.T, uri string) {
		ctx := t.Context()
		stores := []*Store{open(t, uri), nil}
		stores[1] = stores[0]
		if stores[0].db.Postgres {
			stores[1] = open(t, uri)
		}
		users := make([]User, 2)
		for i, s := range stores {
			s.ClaimWithin(func(string) string { return "cf" })
			var err error
			users[i], err = s.CreateUser(ctx, fmt.Sprintf("u%d@example.com", i), "hash")
			must(t, err)
		}
		for n := range 8 {
			claims := []App{newApp(users[0], "one", fmt.Sprintf("race%d.cf", n)), newApp(users[1], "two", fmt.Sprintf("x.race%d.cf", n))}
			errs := make([]error, len(claims))
			var all sync.WaitGroup
			for i := range claims {
				all.Go(func() { errs[i] = stores[i].CreateApp(ctx, &claims[i], nil) })
			}
			all.Wait()
			if (errs[0] == nil) == (errs[1] == nil) {
				t.Errorf("two claims at once that overlap: %v", errs)
			}
			for i := range claims {
				if errs[i] == nil {
					must(t, stores[i].DeleteApp(ctx, claims[i]))
				}
			}
		}
	})
}

func scenario(t testing.TB, s *Store) {
	ctx := t.Context()
	must(t, s.Ping(ctx))
	dev, err := s.CreateUser(ctx, "Dev@example.com", "hash")
	must(t, err)
	_, err = s.CreateUser(ctx, "dev@EXAMPLE.com", "hash")
	wantError(t, err, ErrExists)
	ops, err := s.CreateUser(ctx, "ops@example.com", "hash")
	must(t, err)
	must(t, s.SetPassword(ctx, dev.ID, "other"))
	wantError(t, s.SetPassword(ctx, 999, "other"), ErrNotFound)
	found, err := s.User(ctx, "DEV@example.com")
	must(t, err)
	if found != (User{dev.ID, "dev@example.com", "other"}) {
		t.Errorf("user is %+v", found)
	}
	_, err = s.User(ctx, "nobody@example.com")
	wantError(t, err, ErrNotFound)
	_, err = s.UserByID(ctx, ops.ID)
	must(t, err)
	users, err := s.Users(ctx)
	must(t, err)
	if n, err := s.CountUsers(ctx); err != nil || n != 2 || len(users) != 2 || users[1].Email != "ops@example.com" {
		t.Errorf("%d users, %v, %v", n, users, err)
	}

	failedLogins(t, s)
	startsOfAccounts(t, s, ops.ID)
	platformHosts(t, s)
	accountsMove(t, s)

	hello := newApp(dev, "hello", "hello.cf", "www.hello.cf")
	must(t, s.CreateApp(ctx, &hello, nil))
	again := newApp(dev, "hello")
	wantError(t, s.CreateApp(ctx, &again, nil), ErrExists)
	other := newApp(ops, "hello", "hello.cf")
	var taken *HostTakenError
	if err := s.CreateApp(ctx, &other, nil); !errors.As(err, &taken) || taken.Host != "hello.cf" {
		t.Errorf("another user's host: %v", err)
	}
	overlapping(t, s, dev, ops)
	// One user's apps may share a host: the new version beside the old one.
	blue := newApp(dev, "blue", "hello.cf")
	must(t, s.CreateApp(ctx, &blue, nil))

	tooMany := errors.New("too many")
	limit := func(before, after Usage) error {
		if after.Memory > 128 && after.Memory > before.Memory {
			return tooMany
		}
		return nil
	}
	hello.State, hello.RunCount, hello.Debug, hello.Console = Started, 1, "run", true
	must(t, s.UpdateApp(ctx, &hello, limit))
	blue.State = Started
	wantError(t, s.UpdateApp(ctx, &blue, limit), tooMany)
	if usage, err := s.Usage(ctx, dev.ID); err != nil || usage.Apps != 2 || usage.Memory != 128 {
		t.Errorf("usage %+v, %v", usage, err)
	}
	stale := hello
	stale.LockVersion--
	wantError(t, s.UpdateApp(ctx, &stale, nil), ErrStale)

	must(t, s.SetPackage(ctx, hello.ID, "aaaa"))
	wantError(t, s.SetPackage(ctx, 999, "aaaa"), ErrNotFound)
	hello, err = s.App(ctx, dev.ID, "hello")
	must(t, err)
	hello.DropletHash, hello.PackageState = "dddd", Staged
	must(t, s.UpdateApp(ctx, &hello, nil))
	must(t, s.SetPackage(ctx, hello.ID, "aaaa"))
	if same, err := s.AppByID(ctx, hello.ID); err != nil || same.PackageState != Staged || same.LockVersion != hello.LockVersion+1 ||
		same.OwnerEmail != "dev@example.com" || !slices.Equal(same.URIs, []string{"hello.cf", "www.hello.cf"}) || same.Environment[0] != "A=b" ||
		same.Debug != "run" || !same.Console || same.Command != "run" || same.CreatedAt != 1343815200 {
		t.Errorf("the same package: %+v, %v", same, err)
	}
	must(t, s.SetPackage(ctx, hello.ID, "bbbb"))
	wantError(t, s.SetStagingFailed(ctx, hello.ID, "aaaa"), ErrStale)
	must(t, s.SetStagingFailed(ctx, hello.ID, "bbbb"))
	for _, log := range []string{"first", "second"} {
		must(t, s.SetStagingLog(ctx, hello.ID, log))
	}
	if log, err := s.StagingLog(ctx, hello.ID); err != nil || log != "second" {
		t.Errorf("log %q, %v", log, err)
	}
	_, err = s.StagingLog(ctx, blue.ID)
	wantError(t, err, ErrNotFound)

	apps, err := s.Apps(ctx, dev.ID)
	must(t, err)
	if len(apps) != 2 || apps[0].Name != "blue" || apps[1].PackageState != Failed || apps[0].URIs[0] != "hello.cf" {
		t.Errorf("apps: %+v", apps)
	}
	batch, err := s.AppsAfter(ctx, hello.ID, 10)
	must(t, err)
	if len(batch) != 1 || batch[0].Name != "blue" || len(batch[0].URIs) != 1 {
		t.Errorf("after the first: %+v", batch)
	}
	blobs, err := s.Blobs(ctx)
	must(t, err)
	if len(blobs) != 2 || blobs[0] != (AppBlobs{hello.ID, "bbbb", "dddd"}) {
		t.Errorf("blobs: %+v", blobs)
	}

	// A name is free when its app has another, and taken while it has it.
	hello.LockVersion = apps[1].LockVersion
	hello.Name, hello.Health = "blue", Health{Type: "http", Endpoint: "/up", Timeout: 90}
	wantError(t, s.UpdateApp(ctx, &hello, nil), ErrExists)
	hello.Name = "red"
	must(t, s.UpdateApp(ctx, &hello, nil))
	if red, err := s.App(ctx, dev.ID, "red"); err != nil || red.ID != hello.ID || red.Health != hello.Health {
		t.Errorf("with another name and a health check: %+v, %v", red, err)
	}
	hello.Name = "hello"
	must(t, s.UpdateApp(ctx, &hello, nil))
	must(t, s.NoteEvent(ctx, hello.ID, "dev@example.com", "renamed"))
	if events, err := s.Events(ctx, hello.ID); err != nil || !slices.Equal(events, []Event{{1343815200, "dev@example.com", "renamed"}}) {
		t.Errorf("events %+v, %v", events, err)
	}

	services(t, s, hello, blue)
	releasesAndUpdates(t, s, dev)

	// A host is free when the last app with it is gone.
	must(t, s.DeleteApp(ctx, blue))
	wantError(t, s.DeleteApp(ctx, blue), ErrNotFound)
	if err := s.CreateApp(ctx, &other, nil); !errors.As(err, &taken) {
		t.Errorf("a host that one app still has: %v", err)
	}
	hello, err = s.AppByID(ctx, hello.ID)
	must(t, err)
	hello.URIs = []string{"www.hello.cf"}
	must(t, s.UpdateApp(ctx, &hello, nil))
	must(t, s.CreateApp(ctx, &other, nil))
	must(t, s.DeleteUser(ctx, dev.ID))
	wantError(t, s.DeleteUser(ctx, dev.ID), ErrNotFound)
	if n, err := s.CountApps(ctx); err != nil || n != 1 {
		t.Errorf("%d apps, %v", n, err)
	}
	wantError(t, s.CreateApp(ctx, &again, nil), ErrNotFound)
}

// failedLogins goes through what the controllers remember of logins.
// accountsMove: passwords are in one place, and nothing is kept of them that does not
// belong there.
func accountsMove(t testing.TB, s *Store) {
	ctx := t.Context()
	before, err := s.Users(ctx)
	must(t, err)
	broken := errors.New("the user component is away")
	_, err = s.MoveHome(ctx, HomeUAA, func([]User) (map[string]string, error) { return nil, broken })
	wantError(t, err, broken)
	moved, err := s.MoveHome(ctx, HomeUAA, func(users []User) (map[string]string, error) {
		kept := map[string]string{}
		for _, u := range users {
			kept[u.Email] = Stamped("of " + u.PasswordHash)
		}
		return kept, nil
	})
	must(t, err)
	if home, err := s.Home(ctx); !moved || home != HomeUAA || err != nil {
		t.Errorf("moved %v to %s, %v", moved, home, err)
	}
	wantError(t, s.SetPassword(ctx, before[0].ID, "a hash"), ErrMoved)
	_, err = s.CreateUser(ctx, "late@example.com", "a hash")
	wantError(t, err, ErrMoved)
	must(t, s.SetPassword(ctx, before[0].ID, Stamped("new")))
	moved, err = s.MoveHome(ctx, HomeUAA, func([]User) (map[string]string, error) { return nil, broken })
	if moved || err != nil {
		t.Errorf("they move where they are: %v, %v", moved, err)
	}
	_, err = s.MoveHome(ctx, HomeController, func(users []User) (map[string]string, error) {
		if users[0].PasswordHash != "uaa:new" {
			t.Errorf("users are %+v", users)
		}
		kept := map[string]string{"back@example.com": "hash of back"}
		for _, u := range before {
			kept[u.Email] = u.PasswordHash
		}
		return kept, nil
	})
	must(t, err)
	back, err := s.User(ctx, "back@example.com")
	must(t, err)
	if back.PasswordHash != "hash of back" {
		t.Errorf("an account that comes back is %+v", back)
	}
	must(t, s.DeleteUser(ctx, back.ID))
	wantError(t, s.SetPassword(ctx, before[0].ID, Stamped("late")), ErrMoved)
	after, err := s.Users(ctx)
	must(t, err)
	if !slices.Equal(before, after) {
		t.Errorf("%+v became %+v", before, after)
	}
}

func failedLogins(t testing.TB, s *Store) {
	ctx := t.Context()
	want := func(email string, unix int64) {
		t.Helper()
		at, err := s.Logins().FailedLogins(ctx, email)
		must(t, err)
		if unix == 0 && !at.IsZero() || unix != 0 && at.Unix() != unix {
			t.Errorf("failed logins of %s are forgotten at %v", email, at)
		}
	}
	now := s.now().Unix()
	want("dev@example.com", 0)
	for n := range int64(3) {
		must(t, s.Logins().LoginFailed(ctx, "dev@example.com", 10*time.Second))
		want("dev@example.com", now+10*(n+1))
	}
	must(t, s.Logins().LoginFailed(ctx, "nobody@example.com", -5*time.Second)) // five seconds ago
	must(t, s.Logins().LoginFailed(ctx, "nobody@example.com", 10*time.Second)) // which no longer counts
	want("nobody@example.com", now+10)
	must(t, s.Logins().LoginFailed(ctx, "gone@example.com", -5*time.Second))
	must(t, s.Logins().DropFailedLogins(ctx))
	want("gone@example.com", 0)
	want("nobody@example.com", now+10)
	must(t, s.Logins().LoginSucceeded(ctx, "dev@example.com"))
	must(t, s.Logins().LoginSucceeded(ctx, "dev@example.com"))
	want("dev@example.com", 0)
}

// startsOfAccounts goes through how starts are bounded: 60 a minute are one a second.
func startsOfAccounts(t testing.TB, s *Store, user int64) {
	for _, test := range []struct {
		n    int
		wait time.Duration
	}{{50, 0}, {10, 0}, {1, time.Second}, {60, time.Minute}, {1000, time.Minute}} {
		if wait, err := s.CountStarts(t.Context(), user, test.n, 60); wait != test.wait || err != nil {
			t.Errorf("%d starts: wait %v, want %v, %v", test.n, wait, test.wait, err)
		}
	}
	if _, err := s.CountStarts(t.Context(), 1<<40, 1, 60); err == nil {
		t.Error("nobody's starts are counted")
	}
}

// platformHosts goes through what the controllers remember of components' names.
func platformHosts(t testing.TB, s *Store) {
	ctx := t.Context()
	want := func(hosts ...string) {
		t.Helper()
		if got, err := s.PlatformHosts(ctx); err != nil || !slices.Equal(got, hosts) {
			t.Errorf("the components' names are %q, %v; want %q", got, err, hosts)
		}
	}
	want()
	must(t, s.NotePlatformHost(ctx, "old.cf", time.Hour))
	then := s.now
	defer func() { s.now = then }()
	s.now = func() time.Time { return then().Add(30 * time.Minute) }
	must(t, s.NotePlatformHost(ctx, "hello.cf", time.Hour))
	must(t, s.NotePlatformHost(ctx, "hello.cf", time.Hour))
	want("hello.cf", "old.cf")
	s.now = func() time.Time { return then().Add(time.Hour) }
	must(t, s.NotePlatformHost(ctx, "other.cf", time.Hour))
	want("hello.cf", "other.cf")
}

// services goes through what the controllers do with services; both apps are one
// user's.
func services(t testing.TB, s *Store, hello, blue App) {
	ctx := t.Context()
	mysql := Offering{Label: "mysql-5.1", Document: json.RawMessage(`{"url":"http://a"}`), Active: true}
	must(t, s.PutOffering(ctx, mysql))
	mysql.Document = json.RawMessage(`{"url":"http://b","n":"\u0000"}`)
	must(t, s.PutOffering(ctx, mysql))
	must(t, s.PutOffering(ctx, Offering{Label: "mysql-5.1", Provider: "other", Document: json.RawMessage(`{}`)}))
	offerings, err := s.Offerings(ctx)
	must(t, err)
	if len(offerings) != 2 || string(offerings[0].Document) != string(mysql.Document) || !offerings[0].Active || offerings[1].Active {
		t.Errorf("offerings: %+v", offerings)
	}
	mysql, err = s.Offering(ctx, "mysql-5.1", "")
	must(t, err)
	_, err = s.Offering(ctx, "redis-2.2", "")
	wantError(t, err, ErrNotFound)

	db := ServiceInstance{OwnerID: hello.OwnerID, Offering: mysql, Alias: "db", Plan: "free", Version: "5.1"}
	tooMany := errors.New("too many")
	wantError(t, s.CreateServiceInstance(ctx, &db, func(_, after Usage) error {
		if after.Services > 0 {
			return tooMany
		}
		return nil
	}), tooMany)
	must(t, s.CreateServiceInstance(ctx, &db, nil))
	again := db
	wantError(t, s.CreateServiceInstance(ctx, &again, nil), ErrExists)
	if pending, err := s.ServiceInstancesOf(ctx, mysql.ID); err != nil || len(pending) != 0 {
		t.Errorf("being provisioned: %+v, %v", pending, err)
	}
	db.GatewayID, db.Configuration, db.Credentials = "d1", json.RawMessage(`{"plan":"free"}`), json.RawMessage(`{"password":"p"}`)
	must(t, s.SetProvisioned(ctx, db))
	wantError(t, s.SetProvisioned(ctx, ServiceInstance{ID: 999}), ErrNotFound)
	wantError(t, s.DeleteOffering(ctx, mysql.ID), ErrExists)
	found, err := s.ServiceInstance(ctx, hello.OwnerID, "db")
	must(t, err)
	if found.GatewayID != "d1" || found.Offering.Label != "mysql-5.1" || string(found.Credentials) != `{"password":"p"}` || found.CreatedAt != 1343815200 {
		t.Errorf("instance: %+v", found)
	}
	_, err = s.ServiceInstance(ctx, hello.OwnerID, "other")
	wantError(t, err, ErrNotFound)
	if list, err := s.ServiceInstances(ctx, hello.OwnerID); err != nil || len(list) != 1 {
		t.Errorf("instances: %+v, %v", list, err)
	}

	binding := Binding{AppID: hello.ID, Instance: found, GatewayID: "b1", Token: "t1", Options: json.RawMessage(`{}`), Credentials: json.RawMessage(`{"user":"u"}`)}
	must(t, s.CreateBinding(ctx, binding))
	wantError(t, s.CreateBinding(ctx, binding), ErrExists)
	must(t, s.CreateBinding(ctx, Binding{AppID: blue.ID, Instance: found, GatewayID: "b2", Token: "t2"}))
	if bound, err := s.AppByID(ctx, hello.ID); err != nil || bound.PackageState != Pending || bound.LockVersion <= hello.LockVersion {
		t.Errorf("bound app: %+v, %v", bound, err)
	}
	bindings, err := s.Bindings(ctx, hello.ID)
	must(t, err)
	if len(bindings) != 1 || bindings[0].Instance.Alias != "db" || string(bindings[0].Credentials) != `{"user":"u"}` || bindings[0].GatewayID != "b1" {
		t.Errorf("bindings: %+v", bindings)
	}
	aliases, err := s.BoundAliases(ctx, hello.OwnerID)
	must(t, err)
	if len(aliases) != 2 || aliases[blue.ID][0] != "db" {
		t.Errorf("aliases: %v", aliases)
	}
	for _, id := range []string{"d1", "b2"} {
		must(t, s.UpdateHandle(ctx, mysql.ID, id, json.RawMessage(`{}`), json.RawMessage(`{"new":true}`)))
	}
	wantError(t, s.UpdateHandle(ctx, mysql.ID, "b9", nil, nil), ErrNotFound)
	second, err := s.Binding(ctx, "t2")
	must(t, err)
	if string(second.Credentials) != `{"new":true}` || string(second.Instance.Credentials) != `{"new":true}` {
		t.Errorf("after the handles: %+v", second)
	}
	must(t, s.DeleteBinding(ctx, second))
	wantError(t, s.DeleteBinding(ctx, second), ErrNotFound)
	if list, err := s.BindingsTo(ctx, found.ID); err != nil || len(list) != 1 {
		t.Errorf("bindings to db: %+v, %v", list, err)
	}
	if list, err := s.BindingsOf(ctx, mysql.ID); err != nil || len(list) != 1 || list[0].Token != "t1" {
		t.Errorf("bindings of mysql: %+v, %v", list, err)
	}
	must(t, s.CreateBindingToken(ctx, BindingToken{Token: "open", Instance: found, Options: json.RawMessage(`{"ro":true}`)}))
	token, err := s.BindingToken(ctx, "open")
	must(t, err)
	if string(token.Options) != `{"ro":true}` || token.Instance.ID != found.ID {
		t.Errorf("binding token: %+v", token)
	}
	must(t, s.DeleteBindingToken(ctx, "open"))
	_, err = s.BindingToken(ctx, "open")
	wantError(t, err, ErrNotFound)
	if usage, err := s.Usage(ctx, hello.OwnerID); err != nil || usage.Services != 1 {
		t.Errorf("usage: %+v, %v", usage, err)
	}
	must(t, s.DeleteServiceInstance(ctx, found.ID))
	wantError(t, s.DeleteServiceInstance(ctx, found.ID), ErrNotFound)
	_, err = s.Binding(ctx, "t1")
	wantError(t, err, ErrNotFound)
	must(t, s.DeleteOffering(ctx, mysql.ID))
	left := ServiceInstance{OwnerID: hello.OwnerID, Offering: offerings[1], Alias: "left", Plan: "free", Version: "5.1"}
	must(t, s.CreateServiceInstance(ctx, &left, nil))
}

// TestRaces: of changes at the same moment, made through two connections, each
// name and host goes to one, each app's version to one, and limits hold.
func TestRaces(t *testing.T) {
	each(t, func(t *testing.T, uri string) {
		ctx := t.Context()
		first := open(t, uri)
		stores := []*Store{first, first}
		if first.db.Postgres {
			stores[1] = open(t, uri)
		}
		dev, err := first.CreateUser(ctx, "dev@example.com", "hash")
		must(t, err)
		ops, err := first.CreateUser(ctx, "ops@example.com", "hash")
		must(t, err)
		const n = 8
		race := func(f func(s *Store, i int) error) (succeeded int) {
			var mu sync.Mutex
			var group sync.WaitGroup
			for i := range n {
				group.Go(func() {
					if err := f(stores[i%2], i); err == nil {
						mu.Lock()
						succeeded++
						mu.Unlock()
					}
				})
			}
			group.Wait()
			return succeeded
		}
		if got := race(func(s *Store, i int) error {
			a := newApp([]User{dev, ops}[i%2], fmt.Sprint("app", i), fmt.Sprint(i, ".cf"), "z.cf", "a.cf")
			return s.CreateApp(ctx, &a, nil)
		}); got != n/2 {
			t.Errorf("%d apps got another's host, want those of one user: %d", got, n/2)
		}
		if got := race(func(s *Store, _ int) error { a := newApp(dev, "one"); return s.CreateApp(ctx, &a, nil) }); got != 1 {
			t.Errorf("%d apps have one name", got)
		}
		one, err := first.App(ctx, dev.ID, "one")
		must(t, err)
		if got := race(func(s *Store, i int) error { a := one; a.Memory = i + 1; return s.UpdateApp(ctx, &a, nil) }); got != 1 {
			t.Errorf("%d changes were made of one version", got)
		}
		before, err := first.Usage(ctx, ops.ID)
		must(t, err)
		if got := race(func(s *Store, i int) error {
			a := newApp(ops, fmt.Sprint("limited", i))
			return s.CreateApp(ctx, &a, func(_, after Usage) error {
				if after.Apps > before.Apps+3 {
					return errors.New("too many apps")
				}
				return nil
			})
		}); got != 3 {
			t.Errorf("%d apps were made within a limit of 3", got)
		}
	})
}

// TestMigrateTogether: several controllers start at once on an empty database.
func TestMigrateTogether(t *testing.T) {
	t.Parallel()
	_, uri := server.Database(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			s, err := Open(context.Background(), fixed(uri), nil)
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	group.Wait()
	open(t, uri)
}

func TestBadURIs(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{"", "mysql://x", "sqlite://relative", "postgres://u:secretword@h:notaport/d"} {
		_, err := Open(t.Context(), fixed(uri), nil)
		if err == nil {
			t.Errorf("%q is opened", uri)
		} else if strings.Contains(err.Error(), "secretword") {
			t.Errorf("the password is in %q", err)
		}
	}
}

// A damaged file is named, with what to do, and stays as it is.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "cc.db")
	s := open(t, "sqlite://"+file)
	s.Close()
	whole, err := os.ReadFile(file)
	must(t, err)
	for name, data := range map[string][]byte{
		"foreign":          bytes.Repeat([]byte("not a database. "), 4096),
		"with a bad page":  slices.Concat(whole[:100], bytes.Repeat([]byte{0xff}, 4000), whole[4100:]),
		"with a bad start": slices.Concat(bytes.Repeat([]byte{0x5a}, 100), whole[100:]),
	} {
		for _, suffix := range []string{"-wal", "-shm"} {
			_ = os.Remove(file + suffix)
		}
		must(t, os.WriteFile(file, data, 0o600))
		opened, err := Open(t.Context(), fixed("sqlite://"+file), nil)
		if err == nil {
			opened.Close()
			t.Errorf("%s: it is opened", name)
			continue
		}
		if text := err.Error(); !strings.Contains(text, "the database "+file+" is damaged") || !strings.Contains(text, "put a copy of the file back") {
			t.Errorf("%s: %v", name, err)
		}
		if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, data) {
			t.Errorf("%s: the file was changed (%v)", name, err)
		}
	}
}

// releasesAndUpdates goes through the life of an app that is updated.
func releasesAndUpdates(t testing.TB, s *Store, owner User) {
	ctx := t.Context()
	app := newApp(owner, "rolling")
	must(t, s.CreateApp(ctx, &app, nil))
	must(t, s.SetPackage(ctx, app.ID, "p1"))
	reread := func() {
		t.Helper()
		var err error
		app, err = s.AppByID(ctx, app.ID)
		must(t, err)
	}
	reread()
	app.DropletHash, app.PackageState = "d1", Staged
	_, _, err := s.Begin(ctx, app, Beginning{PackageHash: "p1"}, nil)
	wantError(t, err, ErrNotFound) // it is stopped
	must(t, s.StartApp(ctx, &app, "push", nil))
	if app.State != Started || app.RunCount != 1 {
		t.Errorf("a started app: %+v", app)
	}
	stale := app
	stale.LockVersion--
	wantError(t, s.StartApp(ctx, &stale, "push", nil), ErrStale)

	begin := func(b Beginning) Update {
		t.Helper()
		b.Holder = "cc0"
		b.State = func(_ App, previous, next Release, others []Update) (string, error) {
			return fmt.Sprintf("%s-%d to %s-%d, %d others", previous.DropletHash, previous.RunCount, next.DropletHash, next.RunCount, len(others)), nil
		}
		var u Update
		app, u, err = s.Begin(ctx, app, b, nil)
		must(t, err)
		return u
	}
	numbers := func(want string) {
		t.Helper()
		list, err := s.Releases(ctx, app.ID)
		must(t, err)
		var got []string
		for _, r := range list {
			got = append(got, fmt.Sprintf("v%d=%s-%d", r.Number, r.DropletHash, r.RunCount))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("the releases are %q, want %q", got, want)
		}
	}

	// A restart is the same release under another version; its record names the old
	// one until it is done.
	u := begin(Beginning{Cause: "restart", DropletHash: "d1", PackageHash: "p1"})
	if u.State != "d1-1 to d1-2, 0 others" || u.Claim != 1 || u.Holder != "cc0" || app.RunCount != 1 {
		t.Errorf("the update is %+v of %+v", u, app)
	}
	numbers("v1=d1-2 v1=d1-1")
	u.State = "half"
	must(t, s.SaveUpdate(ctx, u))
	wantError(t, s.ClaimUpdate(ctx, &u, "cc1"), ErrStale) // the holder has saved since
	u, err = s.Updating(ctx, app.ID)
	must(t, err)
	first := u
	must(t, s.ClaimUpdate(ctx, &u, "cc1"))
	wantError(t, s.ClaimUpdate(ctx, &first, "cc2"), ErrStale) // one of two
	wantError(t, s.SaveUpdate(ctx, first), ErrStale)          // the former holder
	must(t, s.ReleaseUpdate(ctx, first))
	if all, err := s.AllUpdating(ctx); err != nil || len(all) != 1 || all[0].Holder != "cc1" || all[0].State != "half" {
		t.Errorf("under way: %+v, %v", all, err)
	}
	must(t, s.ReleaseUpdate(ctx, u))
	u.Status, u.State = Updated, "whole"
	_, err = s.FinishUpdate(ctx, first)
	wantError(t, err, ErrStale)
	done, err := s.FinishUpdate(ctx, u)
	must(t, err)
	if done.RunCount != 2 || done.DropletHash != "d1" || done.PackageState != Staged {
		t.Errorf("after a restart: %+v", done)
	}
	_, err = s.FinishUpdate(ctx, u)
	wantError(t, err, ErrStale)
	numbers("v1=d1-2")

	// A failed update gives its settings back, except for what was changed since.
	must(t, s.SetPackage(ctx, app.ID, "p2"))
	reread()
	app.Environment, app.Memory = []string{"A=broken"}, 128
	must(t, s.UpdateApp(ctx, &app, nil))
	_, _, err = s.Begin(ctx, app, Beginning{PackageHash: "p1"}, nil)
	wantError(t, err, ErrStale) // other files came meanwhile
	u = begin(Beginning{Cause: "push", DropletHash: "d2", PackageHash: "p2", Hold: 1})
	if u.Hold != 1 {
		t.Errorf("an update with a canary: %+v", u)
	}
	must(t, s.PromoteUpdate(ctx, u))
	if u, err = s.Updating(ctx, app.ID); err != nil || u.Hold != 0 {
		t.Errorf("after it was promoted: %+v, %v", u, err)
	}
	wantError(t, s.PromoteUpdate(ctx, first), ErrStale)
	if present, err := s.Present(ctx, app); err != nil || present.RunCount != 2 || present.Of(app).Environment[0] != "A=b" || present.Of(app).Memory != 64 {
		t.Errorf("the present release: %+v, %v", present, err)
	}
	reread()
	app.Memory, app.Instances = 256, 5
	must(t, s.UpdateApp(ctx, &app, nil))
	if blobs, err := s.Blobs(ctx); err != nil || !slices.Contains(blobs, AppBlobs{app.ID, "p1", "d1"}) || !slices.Contains(blobs, AppBlobs{app.ID, "p2", "d2"}) {
		t.Errorf("blobs: %+v, %v", blobs, err)
	}
	u.Status, u.Reason = Undone, "it crashed"
	app, err = s.FinishUpdate(ctx, u)
	must(t, err)
	if app.DropletHash != "d1" || app.PackageHash != "p1" || app.PackageState != Staged || app.Environment[0] != "A=b" || app.Memory != 256 || app.Instances != 5 || app.RunCount != 2 {
		t.Errorf("after a failed update: %+v", app)
	}
	if u, err = s.Update(ctx, app.ID, u.RunCount); err != nil || u.Status != Undone || u.Reason != "it crashed" {
		t.Errorf("the failed update: %+v, %v", u, err)
	}
	numbers("v1=d1-2")

	// The later one wins; no version is ever used again; five releases are kept.
	u = begin(Beginning{Cause: "push", DropletHash: "d3", PackageHash: "p1"})
	if u.RunCount != 4 {
		t.Errorf("a version was used again: %+v", u)
	}
	later := begin(Beginning{Cause: "push", DropletHash: "d4", PackageHash: "p1"})
	if later.State != "d1-2 to d4-5, 1 others" {
		t.Errorf("the later update is %+v", later)
	}
	wantError(t, s.SaveUpdate(ctx, u), ErrStale)
	for n := range 6 {
		later.Status = Updated
		app, err = s.FinishUpdate(ctx, later)
		must(t, err)
		later = begin(Beginning{Cause: "push", DropletHash: fmt.Sprint("e", n), PackageHash: "p1"})
	}
	must(t, s.CancelUpdates(ctx, app.ID, "it was stopped"))
	numbers("v7=e4-10 v6=e3-9 v5=e2-8 v4=e1-7 v3=e0-6")
	old, err := s.ReleaseOfDroplet(ctx, app.ID, "e1")
	must(t, err)
	_, err = s.ReleaseOfDroplet(ctx, app.ID, "d4")
	wantError(t, err, ErrNotFound)
	u = begin(Beginning{Cause: "rollback", Back: &old})
	if u.State != "e4-10 to e1-12, 0 others" || app.DropletHash != "e4" || app.PackageState != Pending {
		t.Errorf("a rollback is %+v of %+v", u, app)
	}
	u.Status = Updated
	app, err = s.FinishUpdate(ctx, u)
	must(t, err)
	if app.DropletHash != "e1" || app.PackageState != Staged || app.RunCount != 12 {
		t.Errorf("after a rollback: %+v", app)
	}
	if list, err := s.Updates(ctx, app.ID); err != nil || len(list) != 11 || list[0].Status != Updated || list[1].Status != Cancelled {
		t.Errorf("updates: %+v, %v", list, err)
	}

	// A version that is watched is taken back once, while it is; files that came
	// meanwhile stay.
	must(t, s.SetPackage(ctx, app.ID, "p3"))
	reread()
	bad := begin(Beginning{Cause: "push", DropletHash: "g1", PackageHash: "p3"})
	bad.Status, bad.Watching = Updated, 1
	app, err = s.FinishUpdate(ctx, bad)
	must(t, err)
	if list, err := s.AllDriven(ctx); err != nil || len(list) != 1 || list[0].RunCount != bad.RunCount || list[0].Watching != 1 {
		t.Errorf("watched: %+v, %v", list, err)
	}
	must(t, s.ClaimUpdate(ctx, &bad, "cc1"))
	must(t, s.SaveUpdate(ctx, bad))
	must(t, s.SetPackage(ctx, app.ID, "p4"))
	reread()
	bad.Reason = "it crashed"
	other := bad
	other.Claim--
	_, _, err = s.Begin(ctx, app, Beginning{Back: &old, TakesBack: &other}, nil)
	wantError(t, err, ErrStale)
	u = begin(Beginning{Cause: "back", Back: &old, TakesBack: &bad})
	if app.PackageHash != "p4" || app.DropletHash != "g1" {
		t.Errorf("while a version is taken back: %+v", app)
	}
	_, _, err = s.Begin(ctx, app, Beginning{Back: &old, TakesBack: &bad}, nil)
	wantError(t, err, ErrStale)
	u.Status, u.Watching = Updated, 1
	app, err = s.FinishUpdate(ctx, u)
	must(t, err)
	if bad, err = s.Update(ctx, app.ID, bad.RunCount); err != nil || bad.Status != Undone || bad.Reason != "it crashed" || bad.Watching != 0 || app.DropletHash != "e1" {
		t.Errorf("what was taken back is %+v, %v, of %+v", bad, err, app)
	}
	must(t, s.EndWatch(ctx, u))
	wantError(t, s.EndWatch(ctx, u), ErrStale)
	wantError(t, s.SaveUpdate(ctx, u), ErrStale)

	// What a former version has started has no release on record.
	app.RunCount, app.DropletHash = 1, "f1"
	must(t, s.UpdateApp(ctx, &app, nil))
	u = begin(Beginning{Cause: "restart", DropletHash: "f1", PackageHash: app.PackageHash})
	if u.State != "f1-1 to f1-15, 0 others" {
		t.Errorf("the update of a former version's app is %+v", u)
	}
	must(t, s.StartApp(ctx, &app, "start", nil))
	if u, err = s.Update(ctx, app.ID, u.RunCount); err != nil || u.Status != Cancelled {
		t.Errorf("the update of an app that was started anew: %+v, %v", u, err)
	}

	// A rebalance brings in what runs, whatever has come since, and its turn is one
	// controller's.
	turn, err := s.Turn(ctx)
	must(t, err)
	must(t, s.SetPackage(ctx, app.ID, "p5"))
	reread()
	ran := app.Memory
	app.Memory++
	must(t, s.UpdateApp(ctx, &app, nil))
	another := app
	another.RunCount--
	_, _, err = s.Begin(ctx, another, Beginning{Rebalance: &turn}, nil)
	wantError(t, err, ErrStale) // another version runs by now
	u = begin(Beginning{Cause: "rebalance", Rebalance: &turn})
	if u.State != "f1-16 to f1-17, 0 others" {
		t.Errorf("a rebalance is %+v", u)
	}
	_, _, err = s.Begin(ctx, app, Beginning{Rebalance: &turn}, nil)
	wantError(t, err, ErrStale)
	next, err := s.Turn(ctx)
	if must(t, err); next != (Turn{turn.Number + 1, app.ID}) {
		t.Errorf("after the turn %+v comes %+v", turn, next)
	}
	_, _, err = s.Begin(ctx, app, Beginning{Rebalance: &next}, nil)
	wantError(t, err, ErrStale) // an update is under way
	u.Status = Updated
	app, err = s.FinishUpdate(ctx, u)
	must(t, err)
	present, err := s.Present(ctx, app)
	must(t, err)
	if app.PackageHash != "p5" || app.PackageState != Pending || app.Memory != ran+1 || app.RunCount != 17 || present.RunCount != 17 || present.Spec.Memory != ran {
		t.Errorf("after a rebalance: %+v, of which runs %+v", app, present)
	}
}

// TestEventsAreBounded: of an app the latest are kept, and no others.
func TestEventsAreBounded(t *testing.T) {
	each(t, func(t *testing.T, uri string) {
		s, ctx := open(t, uri), t.Context()
		dev, err := s.CreateUser(ctx, "dev@example.com", "hash")
		must(t, err)
		one, two := newApp(dev, "one"), newApp(dev, "two")
		must(t, s.CreateApp(ctx, &one, nil))
		must(t, s.CreateApp(ctx, &two, nil))
		must(t, s.NoteEvent(ctx, two.ID, "dev@example.com", "other"))
		for i := range keptEvents + 2 {
			must(t, s.NoteEvent(ctx, one.ID, "dev@example.com", fmt.Sprint("event ", i)))
		}
		events, err := s.Events(ctx, one.ID)
		if err != nil || len(events) != keptEvents || events[0].Text != "event 2" {
			t.Errorf("%d events, %v", len(events), err)
		}
		if others, err := s.Events(ctx, two.ID); err != nil || len(others) != 1 {
			t.Errorf("the other app has %+v, %v", others, err)
		}
	})
}
