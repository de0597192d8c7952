package cloudcontroller

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
	"github.com/clusterworks/deploy/jobs/uaa"
	"github.com/clusterworks/deploy/jobs/wire"
)

const uaaSecret = "what both of them know"

// userComponent is a real one beside the controllers.
type userComponent struct {
	w                      *world
	file, public, internal string
	stop                   func()
}

// newUAAWorld is a bus with a user component, which does not run yet.
func newUAAWorld(t *testing.T) (*world, *userComponent) {
	t.Helper()
	s := componenttest.Bus(t, natstest.Users(t, "cloud_controller", "uaa"))
	conn, err := nats.Connect(s.ClientURL())
	must(t, err)
	t.Cleanup(conn.Close)
	w := &world{t: t, bus: s, conn: conn}
	folder := t.TempDir()
	u := &userComponent{w: w, file: filepath.Join(folder, "uaa.yml")}
	public, internal := componenttest.FreePort(t), componenttest.FreePort(t)
	u.public, u.internal = fmt.Sprintf("http://127.0.0.1:%d", public), fmt.Sprintf("127.0.0.1:%d", internal)
	must(t, os.WriteFile(u.file, fmt.Appendf(nil, `mbus: %s
local_route: 127.0.0.1
url: %s
port: %d
internal_port: %d
internal_plaintext: true
secret: a secret of sixteen
controller_secret: %s
peer_keepalive: 100ms
database: {adapter: sqlite3, database: %s/uaa.db}
clients:
  robot: {secret: secret of the robot, grants: [client_credentials], scopes: [cloud_controller]}
`, natstest.URI(s, "uaa"), u.public, public, internal, uaaSecret, folder), 0o600))
	return w, u
}

func (u *userComponent) run() {
	t := u.w.t
	t.Helper()
	c, err := uaa.New(component.Process{ConfigFile: u.file, Output: t.Output()})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stopped := false
	u.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the user component ends with %v", err)
		}
	}
	t.Cleanup(u.stop)
	eventually(t, "the user component serves", func() bool {
		response, err := http.Get(u.public + "/info")
		if err != nil {
			return false
		}
		response.Body.Close()
		return true
	})
}

// settings tells a controller where the user component is, and where accounts are.
func (u *userComponent) settings(home string) string {
	return fmt.Sprintf("accounts_in: %s\nuaa: {url: %q, addresses: [%q], secret: %s}\n", home, u.public, u.internal, uaaSecret)
}

// tokens asks for them as vmc does.
func (u *userComponent) tokens(form url.Values) (status int, doc map[string]any) {
	u.w.t.Helper()
	response, err := http.PostForm(u.public+"/oauth/token", form)
	must(u.w.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(u.w.t, err)
	must(u.w.t, json.Unmarshal(body, &doc))
	return response.StatusCode, doc
}

func (u *userComponent) login(email, password string) (status int, token, idToken string) {
	u.w.t.Helper()
	status, doc := u.tokens(url.Values{"grant_type": {"password"}, "client_id": {"vmc"}, "username": {email}, "password": {password}})
	token, _ = doc["access_token"].(string)
	idToken, _ = doc["id_token"].(string)
	return status, token, idToken
}

// ask returns what a controller asks of the user component.
func (u *userComponent) ask(method, path string) (int, string) {
	u.w.t.Helper()
	request, err := http.NewRequest(method, "http://"+u.internal+path, nil)
	must(u.w.t, err)
	request.SetBasicAuth("", uaaSecret)
	response, err := http.DefaultClient.Do(request)
	must(u.w.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(u.w.t, err)
	return response.StatusCode, string(body)
}

// TestAccountsMoveToUAAAndBack: by one property accounts move with their passwords, both
// ways; the original's way to log in goes on, tokens of the user component are taken as
// long as they are there and the password is the same, admins are those who are named.
func TestAccountsMoveToUAAAndBack(t *testing.T) {
	t.Parallel()
	w, u := newUAAWorld(t)
	c := w.start("")
	dev := c.register("dev@example.com")
	dev.create("hello")
	before := dev.token
	c.moveTo("accounts_in: controller\n")
	dev.call("GET", "/apps/hello", nil).want(200)

	// The user component is not there yet: nothing happens, and the reason is told.
	must(t, c.stop())
	c.configure(u.settings("uaa"))
	c.begin()
	eventually(t, "the controller says why it waits", func() bool {
		err := c.base.Ready()
		return err != nil && strings.Contains(err.Error(), "cannot move the accounts to uaa")
	})
	u.run()
	eventually(t, "the accounts have moved", func() bool { return c.Address() != "" && c.base.Ready() == nil })

	dev.call("GET", "/apps/hello", nil).fails(403, 200) // everybody logs in once more
	dev.login("dev@example.com")                        // as the original vmc does
	dev.call("GET", "/apps/hello", nil).want(200)
	(&client{c: c, token: before}).call("GET", "/apps", nil).fails(403, 200)
	var info struct {
		At   string `json:"authorization_endpoint"`
		User string
	}
	dev.call("GET", "/info", nil).want(200).json(&info)
	if info.At != u.public || info.User != "dev@example.com" {
		t.Errorf("/info says %+v", info)
	}
	status, token, idToken := u.login("dev@example.com", "secret of dev@example.com")
	if status != 200 {
		t.Fatalf("the password did not move: %d", status)
	}
	for _, text := range []string{"bearer " + token, "Bearer " + token, token} {
		(&client{c: c, token: text}).call("GET", "/apps/hello", nil).want(200)
	}
	// Admins are those who are named, by either way in.
	_, rootToken, _ := u.login("root@example.com", "secret of root@example.com")
	root := &client{c: c, token: "bearer " + rootToken}
	root.call("GET", "/users", nil).want(200)
	(&client{c: c, token: "bearer " + rootToken, as: "dev@example.com"}).call("GET", "/apps/hello", nil).want(200)
	(&client{c: c, token: "bearer " + token, as: "root@example.com"}).call("GET", "/apps", nil).fails(403, 200)

	// What is no token for controllers is none.
	_, robot := u.tokens(url.Values{"grant_type": {"client_credentials"}, "client_id": {"robot"}, "client_secret": {"secret of the robot"}})
	_, narrow := u.tokens(url.Values{"grant_type": {"password"}, "client_id": {"vmc"}, "username": {"dev@example.com"}, "password": {"secret of dev@example.com"}, "scope": {"openid email"}})
	for name, other := range map[string]string{"an ID token": idToken, "a robot's": fmt.Sprint(robot["access_token"]), "without the scope": fmt.Sprint(narrow["access_token"]), "tampered with": token[:len(token)-6] + "AAAAAA"} {
		if len(other) < 100 {
			t.Fatalf("%s is %q", name, other)
		}
		(&client{c: c, token: "bearer " + other}).call("GET", "/apps", nil).fails(403, 200)
	}

	// A new password ends every token at once.
	dev.call("PUT", "/users/dev@example.com", map[string]string{"email": "dev@example.com", "password": "quite another"}).want(204)
	dev.call("GET", "/apps", nil).fails(403, 200)
	(&client{c: c, token: "bearer " + token}).call("GET", "/apps", nil).fails(403, 200)
	if status, _, _ := u.login("dev@example.com", "secret of dev@example.com"); status != 400 {
		t.Errorf("the former password: %d", status)
	}
	_, token, _ = u.login("dev@example.com", "quite another")
	(&client{c: c, token: "bearer " + token}).call("GET", "/apps/hello", nil).want(200)
	dev.call("POST", "/users/dev@example.com/tokens", map[string]string{"password": "secret of dev@example.com"}).fails(403, 200)

	// New accounts, and accounts that go.
	late := c.register("late@example.com")
	late.call("POST", "/users", map[string]string{"email": "late@example.com", "password": "secret of a thief"}).fails(400, 100)
	late.call("POST", "/users", map[string]string{"email": "short@example.com", "password": "short"}).fails(400, 100)
	if status, _, _ := u.login("late@example.com", "secret of late@example.com"); status != 200 {
		t.Errorf("a new account: %d", status)
	}
	gone := c.register("gone@example.com")
	_, goneToken, _ := u.login("gone@example.com", "secret of gone@example.com")
	root.call("DELETE", "/users/gone@example.com", nil).want(204)
	gone.call("GET", "/apps", nil).fails(403, 200)
	(&client{c: c, token: "bearer " + goneToken}).call("GET", "/apps", nil).fails(403, 200)
	if status, _ := u.ask("GET", wire.UAAAccounts+"/gone@example.com"); status != 404 {
		t.Errorf("a deleted account stays: %d", status)
	}

	// While it is away, who is logged in stays so, and nobody logs in.
	u.stop()
	(&client{c: c, token: "bearer " + token}).call("GET", "/apps/hello", nil).want(200)
	late.call("GET", "/apps", nil).want(200)
	late.call("POST", "/users/late@example.com/tokens", map[string]string{"password": "secret of late@example.com"}).fails(503, 111)
	late.call("POST", "/users", map[string]string{"email": "other@example.com", "password": "secret of other@example.com"}).fails(503, 111)
	u.run()
	c.register("other@example.com") // it was not half made

	// Back: with the passwords as they are now.
	c.moveTo(u.settings("controller"))
	dev.call("POST", "/users/dev@example.com/tokens", map[string]string{"password": "secret of dev@example.com"}).fails(403, 200)
	var doc struct{ Token string }
	dev.call("POST", "/users/dev@example.com/tokens", map[string]string{"password": "quite another"}).want(200).json(&doc)
	dev.token = doc.Token
	dev.call("GET", "/apps/hello", nil).want(200)
	late.login("late@example.com")
	(&client{c: c, token: "bearer " + token}).call("GET", "/apps", nil).fails(403, 200)
	info.At = ""
	dev.call("GET", "/info", nil).want(200).json(&info)
	if info.At != "" {
		t.Errorf("/info names %s", info.At)
	}
	if _, list := u.ask("GET", wire.UAAAccounts); list != "[]" {
		t.Errorf("accounts are in two places: %s", list)
	}

	// Accounts that got lost there are no reason to lose them here.
	c.moveTo(u.settings("uaa"))
	if status, _ := u.ask("DELETE", wire.UAAAccounts+"/late@example.com"); status != 204 {
		t.Errorf("status %d", status)
	}
	must(t, c.stop())
	c.configure(u.settings("controller"))
	c.begin()
	eventually(t, "the controller says that an account is missing", func() bool {
		err := c.base.Ready()
		return err != nil && strings.Contains(err.Error(), "lacks 1 accounts of 4, such as late@example.com")
	})
}

// moveTo starts a controller again with other settings.
func (c *cc) moveTo(settings string) {
	c.w.t.Helper()
	must(c.w.t, c.stop())
	c.configure(settings)
	c.run()
}
