package router

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
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
func TestFronts(t *testing.T) {
	claims := []string{
		"X-Forwarded-For", "192.0.2.7", "X-Forwarded-Host", "shop.example:444", "X-Forwarded-Port", "444", "X-Forwarded-Proto", "https",
		"Forwarded", "for=192.0.2.7", "X-Real-Ip", "192.0.2.7", "X-Forwarded-Client-Cert", "pem", "X-Request-Id", "id-1",
		"Proxy", "http://evil.test", "X_Forwarded_Proto", "https", "X_real_IP", "10.0.0.1", "X_Mine", "1",
	}
	for _, tc := range []struct {
		name, fronts string
		want         map[string]string
	}{
		{"a trusted front", "127.0.0.0/8", map[string]string{
			"X-Forwarded-For": "192.0.2.7, 127.0.0.1", "X-Forwarded-Host": "shop.example:444", "X-Forwarded-Port": "444", "X-Forwarded-Proto": "https",
			"Forwarded": "for=192.0.2.7", "X-Real-Ip": "192.0.2.7", "X-Forwarded-Client-Cert": "pem",
		}},
		{"a stranger", "10.0.0.0/8", map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "a.test", "X-Forwarded-Port": "80", "X-Forwarded-Proto": "http",
			"Forwarded": "", "X-Real-Ip": "127.0.0.1", "X-Forwarded-Client-Cert": "",
		}},
	} {
		c := start(t, "trusted_fronts: [\""+tc.fronts+"\"]\n", nil)
		c.backend(echoHeaders, "a.test")
		got, id := c.seen(claims...)
		maps.Copy(tc.want, map[string]string{"Proxy": "", "X_Forwarded_Proto": "", "X_real_IP": "", "X_real_ip": "", "X_mine": "1", "X-Vcap-Router-Hops": "1"})
		for name, want := range tc.want {
			if have := strings.Join(got[name], "|"); have != want {
				t.Errorf("%s: %s is %q, want %q", tc.name, name, have, want)
			}
		}
		if trusted := strings.HasPrefix(tc.fronts, "127"); (id == "id-1") != trusted || got.Get("X-Request-Id") != id || got.Get("X-Vcap-Request-Id") != id {
			t.Errorf("%s: id %q, the app has %q and %q", tc.name, id, got["X-Request-Id"], got["X-Vcap-Request-Id"])
		}
		_, one := c.seen()
		if _, other := c.seen("X-Request-Id", "not an id"); one == other || len(one) != 32 || len(other) != 32 {
			t.Errorf("ids %q and %q", one, other)
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
		if c.router.known(host) {
			t.Errorf("%s is served", host)
		}
	}
}
