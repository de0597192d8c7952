package vmc

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	cloudcontroller "github.com/clusterworks/deploy/jobs/cloud_controller"
	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
	"github.com/clusterworks/deploy/jobs/router"
	"github.com/clusterworks/deploy/jobs/uaa"
)

// newAccounts is a platform without apps: bus, router, cloud controller, and the user
// component that has its accounts.
func newAccounts(t *testing.T) *platform {
	t.Helper()
	p := &platform{t: t}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, name := range []string{"VMC_TARGET", "VMC_TOKEN", "VMC_PASSWORD"} {
		t.Setenv(name, "")
	}
	ca := componenttest.NewAuthority(t)
	bus := componenttest.Bus(t, natstest.Users(t, "router", "cloud_controller", "uaa"), ca.Bus(t))
	common := func(job string) string {
		certificate, key := ca.Issue(t, "127.0.0.1")
		return fmt.Sprintf("mbus: %s\nlocal_route: 127.0.0.1\nindex: 0\npeer_keepalive: 100ms\nca: %s\ninternal_tls: {certificate: %s, key: %s}\n", natstest.URI(bus, job), ca.File, certificate, key)
	}
	var front *router.Router
	p.run("router", common("router")+"inet: 127.0.0.1\nport: 0\n", func(process component.Process) (_ runnable, err error) {
		front, err = router.New(process)
		return front, err
	})
	eventually(t, "the router listens", func() bool { return front.Address() != "" })
	_, port, _ := strings.Cut(front.Address(), ":")
	p.target = "api.cf.localhost:" + port
	dir, internal := t.TempDir(), componenttest.FreePort(t)
	const known = "what both of them know"
	p.run("uaa", common("uaa")+fmt.Sprintf("url: http://uaa.cf.localhost:%s\nport: 0\ninternal_port: %d\nsecret: a secret of sixteen\ncontroller_secret: %s\ndatabase: {adapter: sqlite3, database: %s/uaa.db}\n", port, internal, known, dir),
		func(process component.Process) (runnable, error) { return uaa.New(process) })
	p.run("cloud_controller", common("cloud_controller")+fmt.Sprintf(`
external_uri: api.cf.localhost
external_port: 0
internal_port: 0
internal_plaintext: false
internal_tls_port: %[2]d
keys: {token: a-long-secret}
allow_registration: true
accounts_in: uaa
uaa: {url: "http://uaa.cf.localhost:%[3]s", addresses: ["127.0.0.1:%[4]d"], secret: %[5]s}
database_environment: {production: {adapter: sqlite3, database: %[1]s/cc.db}}
directories: {droplets: %[1]s/droplets, resources: %[1]s/resources, tmpdir: %[1]s/tmp}
`, dir, componenttest.FreePort(t), port, internal, known), func(process component.Process) (runnable, error) { return cloudcontroller.New(process) })
	eventually(t, "the API answers by way of the router", func() bool {
		status, _, _ := p.vmc("target", p.target)
		return status == 0
	})
	eventually(t, "the user component answers by way of the router", func() bool {
		_, err := p.page("http://uaa.cf.localhost:" + port + "/info")
		return err == nil
	})
	return p
}

// expire has the next command get the next token.
func (p *platform) expire() loginAt {
	p.t.Helper()
	var at loginAt
	must(p.t, changeSettings(func(s *settings) {
		at = s.Logins["http://"+p.target]
		at.Renew = time.Time{}
		s.Logins["http://"+p.target] = at
	}))
	return at
}

// TestLoginAtUserComponent: where the cloud names a user component, vmc logs in there,
// gets the next token before one expires, alone among many at once, and ends the login.
func TestLoginAtUserComponent(t *testing.T) {
	p := newAccounts(t)
	p.ok("register", "me@example.com")
	saved, err := loadSettings()
	must(t, err)
	first := saved.Tokens["http://"+p.target]
	at := saved.Logins["http://"+p.target]
	if !strings.HasPrefix(first, "bearer ") || !strings.HasPrefix(at.URL, "http://uaa.cf.localhost:") || at.Refresh == "" || !at.Renew.After(time.Now()) {
		t.Fatalf("settings: %+v", saved)
	}
	p.ok("apps")
	if again, err := loadSettings(); err != nil || again.Logins["http://"+p.target] != at {
		t.Errorf("a token that is valid is renewed: %v", err)
	}
	p.expire()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if status, _, errOut := p.vmc("apps"); status != 0 {
				t.Errorf("vmc apps: %s", errOut)
			}
		})
	}
	all.Wait()
	saved, err = loadSettings()
	must(t, err)
	if next := saved.Logins["http://"+p.target]; saved.Tokens["http://"+p.target] == first || next.Refresh == at.Refresh {
		t.Error("the token was not renewed")
	}
	p.expire()
	p.ok("apps") // the login was not taken for stolen

	p.ok("passwd")
	p.ok("apps")
	p.ends(exitLogin, "the password is wrong, or there is no such account", "login", "nobody@example.com")
	p.ok("login", "me@example.com")
	ended := p.expire()
	p.ok("logout")
	p.ends(exitLogin, "You are not logged in", "apps")
	c, err := client.New("http://"+p.target, "")
	must(t, err)
	defer c.Close()
	component, err := c.UAA(ended.URL)
	must(t, err)
	if _, err := component.Refresh(t.Context(), ended.Refresh); !errors.Is(err, client.ErrLoginEnded) {
		t.Errorf("after the logout: %v", err)
	}
	// A login that has ended elsewhere says what to do.
	p.ok("login", "me@example.com")
	ended = p.expire()
	must(t, component.Logout(t.Context(), ended.Refresh))
	must(t, changeSettings(func(s *settings) { s.Tokens["http://"+p.target] = "bearer x.y.z" }))
	p.ends(exitLogin, "your login has expired, or only administrators may do this: use vmc login", "apps")
}

// TestEndpointIsNoWorse: a cloud that is reached over TLS cannot have the password sent
// in plain text, nor where no user component can be.
func TestEndpointIsNoWorse(t *testing.T) {
	t.Parallel()
	for _, try := range []struct {
		target, endpoint string
		fine             bool
	}{
		{"https://api.example.com", "https://uaa.example.com", true},
		{"http://api.example.com", "http://uaa.example.com:8080", true},
		{"http://api.example.com", "https://uaa.example.com/", true},
		{"https://api.example.com", "http://uaa.example.com", false},
		{"http://api.example.com", "ftp://uaa.example.com", false},
		{"http://api.example.com", "https://api.example.com@evil.example", false},
		{"http://api.example.com", "https://uaa.example.com/path", false},
		{"http://api.example.com", "https://uaa.example.com/?x", false},
		{"http://api.example.com", "nonsense", false},
	} {
		c, err := client.New(try.target, "")
		must(t, err)
		if _, err := c.UAA(try.endpoint); (err == nil) != try.fine {
			t.Errorf("%s names %s: %v", try.target, try.endpoint, err)
		}
	}
}

// TestPasswordStaysWithTLS: vmc login sends nothing where it must not.
func TestPasswordStaysWithTLS(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("VMC_TARGET", "")
	asked := make(chan string, 10)
	cloud := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/info" {
			asked <- r.Method + " " + r.URL.Path
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"name": "vcap", "authorization_endpoint": "http://user:x@evil.example"})
	}))
	t.Cleanup(cloud.Close)
	p := &platform{t: t}
	p.ok("target", cloud.URL)
	p.fails("is no address of a user component", "login", "me@example.com")
	select {
	case request := <-asked:
		t.Errorf("the cloud hears %s", request)
	default:
	}
}
