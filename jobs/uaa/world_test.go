package uaa

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/passwords"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	controllerSecret = "the controllers' secret"
	pageSecret       = "secret of the web page"
	robotSecret      = "secret of the robot"
	verifier         = "a-verifier-that-is-as-long-as-they-have-to-be-0123456789"
	// webURI is the place where the client page wants its answers.
	webURI = "https://page.example/back"
)

// configuration has clients of every kind.
const configuration = `
clients:
  page: {secret: secret of the web page, redirect_uris: ["https://page.example/back", "https://page.example/back?x=1"], grants: [authorization_code, refresh_token], scopes: [openid, email]}
  other: {secret: secret of the other one, redirect_uris: ["https://other.example/back"], grants: [authorization_code, refresh_token], scopes: [openid, email]}
  robot: {secret: secret of the robot, grants: [client_credentials], scopes: [lamps]}
`

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a user component on a bus.
type world struct {
	*testing.T
	bus  *server.Server
	file string
	url  string // of the component, as browsers see it
	uaa  *UAA
	stop func()

	mu  sync.Mutex
	log strings.Builder
}

// Write keeps what is logged.
func (w *world) Write(text []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(text)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, bus: componenttest.Bus(t, natstest.Users(t, "uaa"))}
	port := componenttest.FreePort(t)
	folder := t.TempDir()
	w.file, w.url = filepath.Join(folder, "uaa.yml"), fmt.Sprintf("http://uaa.localhost:%d", port)
	w.configure(configuration)
	w.start()
	return w
}

func (w *world) configure(settings string) {
	w.Helper()
	u, err := url.Parse(w.url)
	must(w, err)
	text := fmt.Sprintf("mbus: %s\nlocal_route: 127.0.0.1\nurl: %s\nport: %s\ninternal_port: 0\ninternal_plaintext: true\nsecret: a secret of sixteen\ncontroller_secret: %s\npeer_keepalive: 100ms\ndatabase: {adapter: sqlite3, database: %s/uaa.db}\n",
		natstest.URI(w.bus, "uaa"), w.url, u.Port(), controllerSecret, filepath.Dir(w.file))
	must(w, os.WriteFile(w.file, []byte(text+settings), 0o600))
}

func (w *world) start() {
	w.Helper()
	var err error
	w.uaa, err = New(component.Process{ConfigFile: w.file, Output: w})
	must(w, err)
	// Hundreds of logins on a slow machine take their time.
	w.uaa.guard = passwords.Guard{Hasher: passwords.NewHasher(passwords.ConcurrentHashes, passwords.Cost{Passes: 1, Memory: 64}), Logins: passwords.NewLimiter(time.Hour)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.uaa.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.Errorf("the user component ends with %v", err)
		}
	})
	w.Cleanup(w.stop)
	componenttest.Eventually(w, "the user component is ready", func() bool { return w.uaa.ready() == nil })
}

// answer describes what a request got.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) field(name string) string {
	var doc map[string]any
	_ = json.Unmarshal([]byte(a.body), &doc) // pages are none
	text, _ := doc[name].(string)
	return text
}

// browser has cookies of its own, and follows no redirect.
func (w *world) browser() *http.Client {
	jar, err := cookiejar.New(nil)
	must(w, err)
	return &http.Client{Jar: jar, Transport: w.transport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// transport finds *.localhost on this machine.
func (w *world) transport() *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
	}}
}

func (w *world) do(c *http.Client, request *http.Request) answer {
	w.Helper()
	response, err := c.Do(request)
	must(w, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(w, err)
	return answer{response.StatusCode, response.Header, string(body)}
}

func (w *world) get(c *http.Client, at string) answer {
	w.Helper()
	if strings.HasPrefix(at, "/") {
		at = w.url + at
	}
	request, err := http.NewRequest("GET", at, nil)
	must(w, err)
	return w.do(c, request)
}

// post sends a form. Of the headers, user and password are those of a client.
func (w *world) post(path string, form url.Values, client ...string) answer {
	w.Helper()
	request, err := http.NewRequest("POST", w.url+path, strings.NewReader(form.Encode()))
	must(w, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if len(client) == 2 {
		request.SetBasicAuth(url.QueryEscape(client[0]), url.QueryEscape(client[1]))
	}
	return w.do(w.browser(), request)
}

// controller asks what the cloud controllers ask.
func (w *world) controller(method, path string, body any) answer {
	w.Helper()
	data, err := json.Marshal(body)
	must(w, err)
	w.uaa.mu.Lock()
	at := w.uaa.internal.Addr().String()
	w.uaa.mu.Unlock()
	request, err := http.NewRequest(method, "http://"+at+path, strings.NewReader(string(data)))
	must(w, err)
	request.SetBasicAuth("cloud_controller", controllerSecret)
	return w.do(w.browser(), request)
}

func (w *world) account(email string) {
	w.Helper()
	if a := w.controller("PUT", wire.UAAAccounts+"/"+url.PathEscape(email), wire.UAAPassword{Password: "secret of " + email, New: true}); a.status != 200 {
		w.Fatalf("%+v", a)
	}
}

// form makes a form of names and values.
func form(pairs ...string) url.Values {
	f := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		f.Add(pairs[i], pairs[i+1])
	}
	return f
}

func passwordForm(email string) url.Values {
	return form("grant_type", "password", "client_id", "vmc", "username", email, "password", "secret of "+email)
}

func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// asking is an authorization request of the client page, or, with another client_id, of
// vmc.
func asking(changes ...string) url.Values {
	f := form("client_id", "page", "redirect_uri", webURI, "response_type", "code", "scope", "openid email offline_access", "state", "a state", "nonce", "a nonce",
		"code_challenge", challenge(verifier), "code_challenge_method", "S256")
	for i := 0; i < len(changes); i += 2 {
		if f.Set(changes[i], changes[i+1]); changes[i+1] == "" {
			f.Del(changes[i])
		}
	}
	return f
}

var field = regexp.MustCompile(`name="(id|token)" value="([^"]*)"`)

// begin opens the login page and returns its hidden fields.
func (w *world) begin(c *http.Client, asked url.Values) url.Values {
	w.Helper()
	a := w.get(c, pathAuthorize+"?"+asked.Encode())
	if a.status != http.StatusFound || !strings.HasPrefix(a.header.Get("Location"), "/login?id=") {
		w.Fatalf("the login does not begin: %+v", a)
	}
	shown := w.get(c, a.header.Get("Location"))
	fields := url.Values{}
	for _, found := range field.FindAllStringSubmatch(shown.body, -1) {
		fields.Set(found[1], found[2])
	}
	if shown.status != 200 || len(fields) != 2 {
		w.Fatalf("no login page: %+v", shown)
	}
	return fields
}

// submit sends the page's form as a browser does.
func (w *world) submit(c *http.Client, fields url.Values, origin string) answer {
	w.Helper()
	request, err := http.NewRequest("POST", w.url+pathLogin, strings.NewReader(fields.Encode()))
	must(w, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if origin != "" {
		request.Header.Set("Origin", origin)
	}
	return w.do(c, request)
}

// code logs in by the page and returns what the client gets.
func (w *world) code(asked url.Values, email string) url.Values {
	w.Helper()
	c := w.browser()
	fields := w.begin(c, asked)
	fields.Set("email", email)
	fields.Set("password", "secret of "+email)
	a := w.submit(c, fields, w.url)
	back, err := url.Parse(a.header.Get("Location"))
	must(w, err)
	if a.status != http.StatusSeeOther || !strings.HasPrefix(a.header.Get("Location"), asked.Get("redirect_uri")) {
		w.Fatalf("no way back to the client: %+v", a)
	}
	return back.Query()
}

func codeForm(code string, changes ...string) url.Values {
	f := form("grant_type", "authorization_code", "code", code, "redirect_uri", webURI, "code_verifier", verifier)
	for i := 0; i < len(changes); i += 2 {
		if f.Set(changes[i], changes[i+1]); changes[i+1] == "" {
			f.Del(changes[i])
		}
	}
	return f
}
