package router

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/wire"
)

// echoHeaders answers with the request's headers as JSON.
func echoHeaders(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Request-Id", "the app's")
	_ = json.NewEncoder(w).Encode(r.Header)
}

// seen are the headers that an app gets of a request with these.
func (c *cluster) seen(headers ...string) (got http.Header, id string) {
	c.t.Helper()
	res, body := c.get("a.test", headers...)
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		c.t.Fatalf("%v: %s", err, body)
	}
	if ids := res.Header["X-Request-Id"]; len(ids) != 1 {
		c.t.Errorf("the answer has the ids %v", ids)
	}
	return got, res.Header.Get("X-Request-Id")
}

// TestFronts: what a request says of its client is believed from a trusted front
// only, and an app gets all of it, always, in all the spellings that it may read.
// TestWhoseAnswer: the access log names the app and its instance, and a front that is
// believed is told them when it asks; nobody else is, and apps cannot say it.
func TestWhoseAnswer(t *testing.T) {
	c := start(t, "access_log: true\nfront_key: k\n", nil)
	serve := func(r wire.Registration) {
		s := c.backend(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(wire.HeaderApp) != "" {
				t.Error("the app got the front's question")
			}
			w.Header().Set(wire.HeaderApp, "forged/0")
		})
		route := registration(s.Listener.Addr(), r.URIs...)
		route.App, route.AppName, route.PrivateInstanceIndex = r.App, r.AppName, r.PrivateInstanceIndex
		c.register(route)
	}
	serve(wire.Registration{URIs: []string{"named.test"}, App: "7", AppName: "w\u00e4rme\n1", PrivateInstanceIndex: "3"})
	serve(wire.Registration{URIs: []string{"nameless.test"}, App: "8", PrivateInstanceIndex: "0"})
	serve(wire.Registration{URIs: []string{"daemon.test"}})
	for host, want := range map[string]string{"named.test": "w%C3%A4rme%0A1/3", "nameless.test": "8/0", "daemon.test": ""} {
		for _, front := range []struct {
			headers []string
			want    string
		}{
			{[]string{wire.HeaderFrontKey, "k", wire.HeaderApp, "asked"}, want},
			{[]string{wire.HeaderFrontKey, "k"}, ""},
			{[]string{wire.HeaderFrontKey, "wrong", wire.HeaderApp, "asked"}, ""},
			{[]string{wire.HeaderApp, "asked"}, ""},
		} {
			if res, _ := c.get(host, front.headers...); res.Header.Get(wire.HeaderApp) != front.want {
				t.Errorf("%s, asked with %q: the answer is of %q, want %q", host, front.headers, res.Header.Get(wire.HeaderApp), front.want)
			}
		}
		eventually(t, "the access log names "+host, func() bool {
			log, err := os.ReadFile(c.log)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(log)) {
				if strings.Contains(line, "host="+host) && strings.Contains(line, "msg=request ") {
					return strings.Contains(line, " instance="+cmp.Or(want, `""`)+" ")
				}
			}
			return false
		})
	}
}

func TestFronts(t *testing.T) {
	const frontKey = "the_key_of_the_fronts"
	claims := []string{
		"X-Forwarded-For", "192.0.2.7", "X-Forwarded-Host", "shop.example:444", "X-Forwarded-Port", "444", "X-Forwarded-Proto", "https",
		"Forwarded", "for=192.0.2.7", "X-Real-Ip", "192.0.2.7", "X-Forwarded-Client-Cert", "pem", "X-Request-Id", "id-1",
		wire.HeaderFrontKey, frontKey, "X_Deploy_Front_Key", frontKey, "Proxy", "http://evil.test", "X_Forwarded_Proto", "https", "X_real_IP", "10.0.0.1", "X_Mine", "1",
	}
	believed := map[string]string{
		"X-Forwarded-For": "192.0.2.7, 127.0.0.1", "X-Forwarded-Host": "shop.example:444", "X-Forwarded-Port": "444", "X-Forwarded-Proto": "https",
		"Forwarded": "for=192.0.2.7", "X-Real-Ip": "192.0.2.7", "X-Forwarded-Client-Cert": "pem",
	}
	replaced := map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "a.test", "X-Forwarded-Port": "80", "X-Forwarded-Proto": "http",
		"Forwarded": "", "X-Real-Ip": "127.0.0.1", "X-Forwarded-Client-Cert": "",
	}
	for _, tc := range []struct {
		name, settings string
		trusted        bool
	}{
		{"a trusted front", "trusted_fronts: [127.0.0.0/8]", true},
		{"a stranger", "trusted_fronts: [10.0.0.0/8]", false},
		{"a list without anybody", "trusted_fronts: []", false},
		{"no rule", "trusted_fronts: null", false},
		{"no rule, as earlier deployments have it", "trusted_fronts: null\ntrust_everyone: true", true},
		{"a list without anybody, as earlier deployments have it", "trusted_fronts: []\ntrust_everyone: true", false},
		{"no key, as earlier deployments have it", "front_key: " + frontKey + "2\ntrust_everyone: true", false},
		{"the key", "front_key: " + frontKey, true},
		{"the key, from elsewhere", "front_key: " + frontKey + "\ntrusted_fronts: [10.0.0.0/8]", true},
		{"a wrong key", "front_key: " + frontKey + "2", false},
		{"a wrong key, from a trusted front", "front_key: " + frontKey + "2\ntrusted_fronts: [127.0.0.0/8]", true},
	} {
		want := maps.Clone(replaced)
		if tc.trusted {
			want = maps.Clone(believed)
		}
		c := start(t, tc.settings+"\n", nil)
		c.backend(echoHeaders, "a.test")
		got, id := c.seen(claims...)
		maps.Copy(want, map[string]string{wire.HeaderFrontKey: "", "X_Deploy_Front_Key": "", "X_deploy_Front_Key": "", "Proxy": "", "X_Forwarded_Proto": "", "X_real_IP": "", "X_real_ip": "", "X_mine": "1", "X-Vcap-Router-Hops": "1"})
		for name, want := range want {
			if have := strings.Join(got[name], "|"); have != want {
				t.Errorf("%s: %s is %q, want %q", tc.name, name, have, want)
			}
		}
		if (id == "id-1") != tc.trusted || got.Get("X-Request-Id") != id || got.Get("X-Vcap-Request-Id") != id {
			t.Errorf("%s: id %q, the app has %q and %q", tc.name, id, got["X-Request-Id"], got["X-Vcap-Request-Id"])
		}
		_, one := c.seen()
		if _, other := c.seen("X-Request-Id", "not an id"); one == other || len(one) != 32 || len(other) != 32 {
			t.Errorf("ids %q and %q", one, other)
		}
	}
}

// TestBackendsKnowTheirRouter: a router shows a backend the key that it has named,
// the newest, and nobody else's; a client's claim to know it is dropped.
func TestBackendsKnowTheirRouter(t *testing.T) {
	c := start(t, "", nil)
	s := c.backend(echoHeaders, "a.test")
	r := registration(s.Listener.Addr(), "a.test")
	r.PrivateInstanceID = "session"
	key := func(headers ...string) string {
		got, _ := c.seen(append(headers, wire.HeaderFrontKey, "a guess")...)
		return strings.Join(got[wire.HeaderFrontKey], "|")
	}
	if got := key(); got != "" {
		t.Errorf("a backend without a key sees %q", got)
	}
	for _, want := range []string{"one", "two", ""} {
		r.FrontKey = want
		c.publish(wire.SubjectRouterRegister, r)
		eventually(t, "the backend sees the key "+want, func() bool { return key() == want })
	}
	r.FrontKey = "three"
	c.publish(wire.SubjectRouterRegister, r)
	eventually(t, "an upgrade shows the key", func() bool {
		got, _ := c.seen("Connection", "Upgrade", "Upgrade", "websocket", wire.HeaderFrontKey, "a guess")
		return got.Get(wire.HeaderFrontKey) == "three"
	})

	// The first that is tried is gone: its key does not go to the second.
	gone := registration(s.Listener.Addr(), "b.test")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	gone.FrontKey = "of the one that is gone"
	c.register(gone)
	there := registration(s.Listener.Addr(), "b.test")
	c.register(there)
	for range 8 {
		if _, body := c.get("b.test"); strings.Contains(body, "of the one that is gone") {
			t.Errorf("the second backend sees %s", body)
		}
	}
}

// TestUpgrades: only WebSockets are offered to an app.
func TestUpgrades(t *testing.T) {
	c := start(t, "", nil)
	c.backend(echoHeaders, "a.test")
	for upgrade, want := range map[string]string{"h2c": "", "websocket": "websocket", "WebSocket": "WebSocket", "TLS/1.2, websocket": ""} {
		got, _ := c.seen("Connection", "Upgrade, HTTP2-Settings", "Upgrade", upgrade, "HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA")
		if got.Get("Upgrade") != want || (got.Get("Connection") != "") != (want != "") || got.Get("Http2-Settings") != "" {
			t.Errorf("upgrade %q: the app gets %v", upgrade, got)
		}
	}
}

// TestRefused: what the router does not pass, and what it says of it.
func TestRefused(t *testing.T) {
	c := start(t, "", nil)
	c.backend(func(http.ResponseWriter, *http.Request) {}, "a.test")
	request := func(line, headers string) string { return line + " HTTP/1.1\r\nHost: a.test\r\n" + headers + "\r\n" }
	line := func(n int) string { return "GET /" + strings.Repeat("a", n-len("GET / HTTP/1.1\r\n")) }
	for _, tc := range []struct {
		name, text string
		status     int
		says       string
	}{
		{"the largest line", request(line(maxLine), ""), 200, ""},
		{"too large a line", request(line(maxLine+1), ""), 414, "LARGER THAN 32 KB"},
		{"the largest header", request("GET /", "A: "+strings.Repeat("a", maxLine-5)+"\r\n"), 200, ""},
		{"too large a header", request("GET /", "A: "+strings.Repeat("a", maxLine-4)+"\r\n"), 431, "LARGER THAN 32 KB"},
		{"large headers", request("GET /", strings.Repeat("A: "+strings.Repeat("a", 16000)+"\r\n", 8)), 200, ""},
		{"too large headers", request("GET /", strings.Repeat("A: "+strings.Repeat("a", 16000)+"\r\n", 9)), 431, "128 KB TOGETHER"},
		{"many headers", request("GET /", strings.Repeat("A: a\r\n", maxLines-1)), 200, ""},
		{"too many headers", request("GET /", strings.Repeat("A: a\r\n", maxLines)), 431, "MORE THAN 500 HEADERS"},
		{"a loop", request("GET /", "X-Vcap-Router-Hops: 10\r\n"), 508, "AGAIN AND AGAIN"},
		{"TRACE", request("TRACE /", ""), 405, "TRACE"},
		{"CONNECT", "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n", 405, "CONNECT"},
		{"an absolute target", "GET http://a.test/ HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n", 200, ""},
		{"a target that is no path", "GET a:../../etc/passwd HTTP/1.1\r\nHost: a.test\r\n\r\n", 400, "REQUEST LINE"},
		{"a health page of others", "GET /healthz HTTP/1.1\r\nHost: 127.0.0.8\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n", 404, "404"},
	} {
		if status, body := c.raw(tc.text); status != tc.status || !strings.Contains(body, tc.says) {
			t.Errorf("%s: %d %s, want %d %q", tc.name, status, body, tc.status, tc.says)
		}
	}
}

// TestRefusedRegistrations: routes that would be a loop, unprotected or too many
// are not made.
func TestRefusedRegistrations(t *testing.T) {
	c := start(t, "", nil)
	c.backend(func(http.ResponseWriter, *http.Request) {}, "a.test")
	protected := registration(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4000}, "protected.test")
	c.register(protected)
	protected.RouteServiceURL = "https://login.test/"
	own := registration(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.router.Address())), "loop.test")
	many := registration(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4001})
	for i := range maxURIs + 1 {
		many.URIs = append(many.URIs, fmt.Sprintf("many%d.test", i))
	}
	for _, r := range []wire.Registration{protected, own, many} {
		c.publish(wire.SubjectRouterRegister, r)
	}
	c.register(registration(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4002}, "last.test"))
	for _, host := range []string{"protected.test", "loop.test", "many0.test"} {
		if c.router.table.lookup(host) != nil {
			t.Errorf("%s is served", host)
		}
	}
}
