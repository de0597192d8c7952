package servicebroker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
	"github.com/clusterworks/deploy/jobs/router"
	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	token  = "token-of-oracle"
	secret = "tiger-in-the-tank"
)

// static is an offering with credentials.
const static = `oracle: {token: token-of-oracle, version: "11", description: The old one, plans: {free: {host: db.example, port: "1521", user: scott, password: tiger-in-the-tank}, gold: {host: gold.example}}}`

// world is a bus with a router, and the controller's part: it hears offerings.
type world struct {
	*testing.T
	bus        *server.Server
	controller *httptest.Server
	routes     string // host:port of the router

	mu     sync.Mutex
	offers []map[string]any
	log    bytes.Buffer // of the brokers
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, bus: componenttest.Bus(t, natstest.Users(t, "service_broker"))}
	w.controller = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var doc map[string]any
		if err := json.Unmarshal(body, &doc); err != nil || r.URL.Path != "/services/v1/offerings" || r.Header.Get("X-VCAP-Service-Token") != token {
			t.Errorf("the controller hears %s %s %s", r.Method, r.URL, body)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.offers = append(w.offers, doc)
		_, _ = io.WriteString(rw, "{}")
	}))
	t.Cleanup(w.controller.Close)
	file := filepath.Join(t.TempDir(), "router.yml")
	w.must(os.WriteFile(file, []byte("mbus: "+w.bus.ClientURL()+"\nlocal_route: 127.0.0.1\nport: 0\nlogging: {level: \"off\"}\n"), 0o600))
	r, err := router.New(component.Process{ConfigFile: file, Output: t.Output()})
	w.must(err)
	w.run(r.Run)
	componenttest.Eventually(t, "the router listens", func() bool { return r.Address() != "" })
	w.routes = r.Address()
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// Write keeps what brokers log.
func (w *world) Write(text []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(text)
}

func (w *world) run(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.Error(err)
		}
	})
	w.Cleanup(stop)
	return stop
}

// broker runs one with these offerings and returns its address.
func (w *world) broker(offerings string) (address string, stop func()) {
	w.Helper()
	port := componenttest.FreePort(w)
	file := filepath.Join(w.TempDir(), "broker.yml")
	text := fmt.Sprintf("mbus: %s\nlocal_route: 127.0.0.1\nport: %d\nexternal_uri: service_broker.cf.localhost\ncloud_controller_uri: http://api.cf.localhost\ncloud_controllers: [%q]\nlogging: {level: debug}\nofferings:\n  %s\n",
		natstest.URI(w.bus, "service_broker"), port, strings.TrimPrefix(w.controller.URL, "http://"), offerings)
	w.must(os.WriteFile(file, []byte(text), 0o600))
	before := len(w.offered())
	stop = w.run(func(ctx context.Context) error {
		return Run(ctx, component.Process{ConfigFile: file, Output: w})
	})
	componenttest.Eventually(w, "the service is offered", func() bool { return len(w.offered()) > before })
	return fmt.Sprintf("127.0.0.1:%d", port), stop
}

func (w *world) offered() []map[string]any {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]map[string]any{}, w.offers...)
}

// answer describes what somebody hears: a handle, or an error.
type answer struct {
	wire.ServiceHandle
	Code   int `json:"code"`
	status int
}

func (w *world) ask(address, host, key, method, path, body string) answer {
	w.Helper()
	request, err := http.NewRequest(method, "http://"+address+path, strings.NewReader(body))
	w.must(err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-VCAP-Service-Token", key)
	if host != "" {
		request.Host = host
	}
	response, err := http.DefaultClient.Do(request)
	w.must(err)
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	w.must(err)
	a := answer{status: response.StatusCode}
	_ = json.Unmarshal(data, &a) // routers answer in text
	return a
}

const (
	configurations = "/oracle/gateway/v1/configurations"
	wanted         = `{"label": "oracle-11", "name": "mine", "plan": "free"}`
)

// TestStatic: an instance of a plan gives its credentials, by the broker's own address
// and by its host name behind the routers, to who has the token only; nobody's log has
// them.
func TestStatic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at, stop := w.broker(static)
	offer := w.offered()[0]
	if offer["label"] != "oracle-11" || offer["url"] != "http://"+at+"/oracle" || offer["active"] != true || fmt.Sprint(offer["plans"]) != "[free gold]" {
		t.Errorf("offered: %v", offer)
	}
	componenttest.Eventually(t, "the broker has its URL", func() bool {
		return w.ask(w.routes, "service_broker.cf.localhost", token, "POST", configurations, wanted).status == http.StatusOK
	})
	for address, host := range map[string]string{at: "", w.routes: "service_broker.cf.localhost"} {
		instance := w.ask(address, host, token, "POST", configurations, wanted)
		if instance.status != http.StatusOK || !instance.IsInstance() || instance.Configuration["plan"] != "free" || instance.Credentials.Text("password") != "" {
			t.Fatalf("provision: %+v", instance)
		}
		binding := w.ask(address, host, token, "POST", configurations+"/"+instance.ServiceID+"/handles", `{"binding_options": {}}`)
		c := binding.Credentials
		if binding.status != http.StatusOK || c.Text("password") != secret || c.Number("port") != 1521 || c.Name() != instance.ServiceID || binding.ServiceID == instance.ServiceID {
			t.Errorf("bind: %+v", binding)
		}
		for _, path := range []string{configurations + "/" + instance.ServiceID + "/handles/" + binding.ServiceID, configurations + "/" + instance.ServiceID} {
			if a := w.ask(address, host, token, "DELETE", path, "{}"); a.status != http.StatusOK {
				t.Errorf("DELETE %s: %+v", path, a)
			}
		}
		for name, try := range map[string]struct {
			key, path, body string
			code            int
		}{
			"no token":         {"", configurations, wanted, wire.ServiceUnauthorized},
			"another token":    {"token-of-nobody", configurations, wanted, wire.ServiceUnauthorized},
			"no such service":  {"", "/nothing/gateway/v1/configurations", wanted, wire.ServiceUnauthorized},
			"no service":       {"", "/", wanted, wire.ServiceUnauthorized},
			"another label":    {token, configurations, `{"label": "mysql-5", "plan": "free"}`, wire.ServiceMalformed},
			"no such plan":     {token, configurations, `{"label": "oracle-11", "plan": "lead"}`, wire.ServiceUnknownPlan},
			"no JSON":          {token, configurations, `{`, wire.ServiceMalformed},
			"no instance":      {token, configurations + "/x/handles", `{}`, wire.ServiceNotFound},
			"no plan any more": {token, configurations + "/bX-lead/handles", `{}`, wire.ServiceNotFound},
			"snapshots":        {token, configurations + "/" + instance.ServiceID + "/snapshots", `{}`, wire.ServiceExtension},
			"too much":         {token, configurations, strings.Repeat(" ", maxBody+1), wire.ServiceMalformed},
		} {
			if a := w.ask(address, host, try.key, "POST", try.path, try.body); a.Code != try.code || a.Credentials != nil {
				t.Errorf("%s: %+v, want code %d", name, a, try.code)
			}
		}
	}
	stop()
	offers := w.offered()
	if last := offers[len(offers)-1]; last["active"] != false {
		t.Errorf("the last offer is %v", last)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if text := w.log.String(); text == "" || strings.Contains(text, secret) || strings.Contains(text, token) {
		t.Errorf("the log:\n%s", text)
	}
}

// TestForward: a broker asks another one, which is real, with the token that it knows;
// what the other one refuses is told as it is.
func TestForward(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	there, stop := w.broker(static)
	here, _ := w.broker(`oracle: {token: token-of-oracle, version: "11", url: "http://` + there + `/oracle", url_token: token-of-oracle, url_plans: [free, gold]}`)
	instance := w.ask(here, "", token, "POST", configurations, wanted)
	binding := w.ask(here, "", token, "POST", configurations+"/"+instance.ServiceID+"/handles", `{}`)
	if instance.status != http.StatusOK || binding.Credentials.Text("password") != secret {
		t.Errorf("%+v, %+v", instance, binding)
	}
	if a := w.ask(here, "", token, "DELETE", configurations+"/"+instance.ServiceID+"/handles/"+binding.ServiceID, "{}"); a.status != http.StatusOK {
		t.Errorf("unbind: %+v", a)
	}
	if a := w.ask(here, "", token, "POST", configurations, `{"label": "oracle-11", "plan": "lead"}`); a.Code != wire.ServiceUnknownPlan {
		t.Errorf("no such plan: %+v", a)
	}
	if a := w.ask(here, "", "token-of-nobody", "POST", configurations, wanted); a.Code != wire.ServiceUnauthorized {
		t.Errorf("another token: %+v", a)
	}
	other, _ := w.broker(`oracle: {token: token-of-oracle, version: "11", url: "http://` + there + `/oracle", url_token: token-of-nobody, url_plans: [free]}`)
	if a := w.ask(other, "", token, "POST", configurations, wanted); a.Code != wire.ServiceUnavailable {
		t.Errorf("a token that the other broker refuses: %+v", a)
	}
	stop()
	if a := w.ask(here, "", token, "POST", configurations, wanted); a.Code != wire.ServiceGatewayTimeout {
		t.Errorf("a broker that is gone: %+v", a)
	}
}

// TestStrangeBrokers: whatever another broker answers, the controller hears a handle or
// an error, and the token goes nowhere else.
func TestStrangeBrokers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect is followed") }))
	t.Cleanup(elsewhere.Close)
	for name, answers := range map[string]http.HandlerFunc{
		"a page":    func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"no handle": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") },
		"a bad name": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"service_id": "../x", "credentials": {}}`)
		},
		"an error":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); _, _ = io.WriteString(w, "<html>") },
		"an endless": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte(" "), maxAnswer+10)) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
		"a bad status": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(299)
			_, _ = io.WriteString(w, `{"code": 30300}`)
		},
	} {
		strange := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			answers(rw, r)
		}))
		t.Cleanup(strange.Close)
		at, stop := w.broker(`oracle: {token: token-of-oracle, version: "11", url: "` + strange.URL + `", url_token: theirs, url_plans: [free]}`)
		if a := w.ask(at, "", token, "POST", configurations, wanted); a.Code != wire.ServiceUnavailable || a.status != 503 {
			t.Errorf("%s: %+v", name, a)
		}
		stop()
	}
}

func TestConfiguration(t *testing.T) {
	for text, want := range map[string]string{
		`{token: short, version: "1", plans: {free: {}}}`:                                                          "fewer than 8",
		`{token: long-enough, version: "1"}`:                                                                       "either plans",
		`{token: long-enough, version: "1", plans: {free: {}}, url: "http://x"}`:                                   "either plans",
		`{token: long-enough, version: "1", plans: {"a/b": {}}}`:                                                   "lower-case",
		`{token: long-enough, version: "1", url: "ftp://x", url_plans: [free]}`:                                    "its url",
		`{token: long-enough, version: "1", url: "http://user:pass@x", url_plans: [free]}`:                         "its url",
		`{token: long-enough, version: "1", url: "http://x"}`:                                                      "url_plans",
		`{token: long-enough, version: "1", url: "http://x", url_plans: [free]}`:                                   "",
		`{token: long-enough, version: "1", plans: {free: {password: "` + secret + `"}, Gold: {password: other}}}`: "lower-case",
	} {
		file := filepath.Join(t.TempDir(), "broker.yml")
		if err := os.WriteFile(file, []byte("external_uri: x\nofferings: {one: "+text+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, raw, err := load(file)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		if raw["offerings"] != nil {
			t.Error("varz has the offerings")
		}
	}
}

// FuzzJudge: of no answer the controller hears more than a handle or an error.
func FuzzJudge(f *testing.F) {
	f.Add("POST", 200, []byte(`{"service_id": "a", "credentials": {"name": "a"}}`))
	f.Add("DELETE", 404, []byte(`{"code": 30300}`))
	f.Fuzz(func(t *testing.T, method string, status int, answer []byte) {
		made, err := judge(method, status, answer)
		h, is := made.(wire.ServiceHandle)
		if (made == nil) == (err == nil) || is && !wire.ValidServiceInstance(h.ServiceID) {
			t.Errorf("%s %d %q: %v, %v", method, status, answer, made, err)
		}
	})
}
