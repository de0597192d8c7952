package jobs_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// from sends raw bytes to nginx from an address and returns the answer.
func (p *platform) from(address, request string) (status int, header http.Header, body string) {
	p.t.Helper()
	conn, err := p.dial(p.t.Context(), address)
	must(p.t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, request)
	must(p.t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(p.t, err)
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	must(p.t, err)
	return res.StatusCode, res.Header, string(all)
}

// TestTrustedFronts: nginx believes what a front says of a request, replaces what
// others say, and bounds and logs by the client, not the front.
func TestTrustedFronts(t *testing.T) {
	p := newPlatform(t, "", `
trusted_fronts = ["127.0.0.50/32", "127.0.0.51"]
access_log = "json"
client_requests = 3
sites = [{ name = "inner.example", deny = ["192.0.2.9"] }, { name = "secure.example", https_only = true }]
`)
	for _, host := range []string{"a.cf.localhost", "inner.example", "secure.example"} {
		p.app(host, saysHeaders)
	}
	claims := "X-Forwarded-For: 203.0.113.1, 192.0.2.7\r\nX-Forwarded-Host: shop.example\r\nX-Forwarded-Port: 444\r\nX-Forwarded-Proto: https\r\n" +
		"Forwarded: for=192.0.2.7\r\nX-Real-IP: 203.0.113.1\r\nX-Forwarded-Client-Cert: pem\r\nX-Request-Id: id-1\r\nProxy: x\r\n"
	for address, want := range map[string][]string{
		"127.0.0.50": {"X-Forwarded-For: 203.0.113.1, 192.0.2.7, 127.0.0.50, " + p.address, "X-Forwarded-Host: shop.example", "X-Forwarded-Port: 444",
			"X-Forwarded-Proto: https", "Forwarded: for=192.0.2.7", "X-Real-Ip: 192.0.2.7", "X-Forwarded-Client-Cert: pem", "X-Request-Id: id-1"},
		"127.0.0.60": {"X-Forwarded-For: 127.0.0.60, " + p.address, "X-Forwarded-Host: a.cf.localhost:8080", "X-Forwarded-Port: 8080", "X-Forwarded-Proto: http", "X-Real-Ip: 127.0.0.60"},
	} {
		status, header, body := p.from(address, "GET /x HTTP/1.1\r\nHost: a.cf.localhost:8080\r\n"+claims+"\r\n")
		for _, line := range want {
			if !strings.Contains(body, "\r\n"+line+"\r\n") {
				t.Errorf("from %s, %d: the app got\n%s without %q", address, status, body, line)
			}
		}
		if header.Get("X-Deploy-App") != "" || strings.Contains(body, "X-Deploy-App") {
			t.Errorf("from %s: whose the answer is was told to the client or the app: %v\n%s", address, header, body)
		}
		trusted := address == "127.0.0.50"
		if strings.Contains(body, "\r\nProxy:") || !trusted && (strings.Contains(body, "pem") || strings.Contains(body, "192.0.2") || strings.Contains(body, "id-1")) {
			t.Errorf("from %s the app got\n%s", address, body)
		}
		if id := header.Get("X-Request-Id"); (id == "id-1") != trusted || !strings.Contains(body, "X-Request-Id: "+id+"\r\n") {
			t.Errorf("from %s: the answer has the id %q, the app\n%s", address, id, body)
		}
	}
	// Some fronts say "wss", or each of several says what it has seen; who is taken for
	// one of HTTP is redirected for ever.
	for claim, want := range map[string]string{"https": "https", "HTTPS": "https", "https, http": "https", "https,http": "https", "wss": "https", "http, https": "http", "WS": "http", "httpsx": "http", "": "http"} {
		status, _, body := p.from("127.0.0.50", "GET /x HTTP/1.1\r\nHost: a.cf.localhost\r\nX-Forwarded-Proto: "+claim+"\r\n\r\n")
		if line := "\r\nX-Forwarded-Proto: " + want + "\r\n"; !strings.Contains(body, line) {
			t.Errorf("for %q, %d: the app got\n%s without %q", claim, status, body, line)
		}
		status, header, _ := p.from("127.0.0.50", "GET /x HTTP/1.1\r\nHost: secure.example\r\nX-Forwarded-Proto: "+claim+"\r\n\r\n")
		if redirected := header.Get("Location") == "https://secure.example/x"; redirected != (want == "http") {
			t.Errorf("for %q, an https_only domain answers %d, %v", claim, status, header)
		}
	}
	// The routers believe nginx by its key, and none else who reaches them.
	request, err := http.NewRequest("GET", "http://"+p.routers[0].Address()+"/", nil)
	must(t, err)
	request.Host = "a.cf.localhost"
	request.Header.Set("X-Forwarded-For", "192.0.2.9")
	request.Header.Set("X-Real-Ip", "192.0.2.9")
	res, err := http.DefaultClient.Do(request)
	must(t, err)
	defer res.Body.Close()
	if text, err := io.ReadAll(res.Body); err != nil || strings.Contains(string(text), "192.0.2.9") || strings.Contains(string(text), "Front-Key") {
		t.Errorf("past nginx, an app got %v\n%s", err, text)
	}
	for address, want := range map[string]int{"127.0.0.50": 403, "127.0.0.60": 200} {
		if status, _, body := p.from(address, "GET / HTTP/1.1\r\nHost: inner.example\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n"); status != want {
			t.Errorf("for a denied client from %s: %d %s", address, status, body)
		}
	}

	// Three clients wait behind one front: each has its own bound.
	p.app("waits.cf.localhost", then(""))
	ask := func(client string) net.Conn {
		conn, err := p.dial(t.Context(), "127.0.0.51")
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "GET /waits HTTP/1.1\r\nHost: waits.cf.localhost\r\nX-Forwarded-For: %s\r\n\r\n", client)
		return conn
	}
	answers := make(chan string, 4)
	for range cap(answers) {
		conn := ask("192.0.2.1")
		go func() {
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				return // it has waited until the test's end
			}
			defer res.Body.Close()
			text, _ := io.ReadAll(res.Body)
			answers <- fmt.Sprintf("%d %s", res.StatusCode, text)
		}()
	}
	select {
	case got := <-answers:
		if !strings.HasPrefix(got, "429 ") || !strings.Contains(got, "TOO MANY REQUESTS") {
			t.Errorf("of four requests of a client one is answered %q", got)
		}
	case <-time.After(deadline):
		t.Error("a fourth request of a client is not refused")
	}
	if status, _, _ := p.from("127.0.0.51", "GET / HTTP/1.1\r\nHost: a.cf.localhost\r\nX-Forwarded-For: 192.0.2.2\r\n\r\n"); status != 200 {
		t.Errorf("another client of the same front: %d", status)
	}

	p.eventually("the log has the requests", func() bool { return strings.Contains(p.log.String(), `"client":"192.0.2.2"`) })
	for line := range strings.Lines(p.log.String()) {
		if !strings.HasPrefix(line, "{") {
			continue // nginx's own log
		}
		entry := map[string]any{}
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry["time"] == "" || entry["request_id"] == "" || entry["host"] == "" {
			t.Errorf("%v in %s", err, line)
		}
		if entry["status"] == 200.0 && entry["app"] != "an%20app/2" {
			t.Errorf("the log does not name the app and its instance: %s", line)
		}
		if strings.Contains(line, ".deploy") {
			t.Errorf("its own health check is in the log: %s", line)
		}
	}
}

// TestProxyProtocol: a front that passes connections on says whose they are, in both
// versions of the protocol, over HTTP and HTTPS; what requests claim beside it is the
// client's own word. Nobody else is believed, and nobody speaks it at other ports.
func TestProxyProtocol(t *testing.T) {
	ca := newWebCA(t)
	p := newPlatform(t, "", `
trusted_fronts = ["127.0.0.50/32"]
proxy_protocol_port = 8090
proxy_protocol_tls_port = 8091
sites = [{ name = "inner.example", deny = ["192.0.2.9"] },
  { name = "shop.example"
    `+ca.settings(time.Now().Add(time.Hour), "shop.example")+` }]
`)
	for _, host := range []string{"a.cf.localhost", "inner.example", "shop.example"} {
		p.app(host, saysHeaders)
	}
	v1 := func(client string) string { return "PROXY TCP4 " + client + " 198.51.100.1 40000 80\r\n" }
	v2 := func(client string) string {
		return "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + string(net.ParseIP(client).To4()) + string(net.ParseIP("198.51.100.1").To4()) + "\x9c\x40\x00\x50"
	}
	// ask sends a request after a preamble and returns the status and what the app got;
	// 0 if nginx closes the connection.
	ask := func(from string, port int, preamble, host string) (int, string) {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := d.DialContext(t.Context(), "tcp", fmt.Sprintf("%s:%d", p.address, port))
		must(t, err)
		defer conn.Close()
		must(t, conn.SetDeadline(time.Now().Add(deadline)))
		_, err = io.WriteString(conn, preamble)
		must(t, err)
		if port == 8091 {
			roots := x509.NewCertPool()
			roots.AddCert(ca.cert)
			conn = tls.Client(conn, &tls.Config{ServerName: host, RootCAs: roots})
		}
		if _, err := fmt.Fprintf(conn, "GET /x HTTP/1.1\r\nHost: %s\r\nX-Forwarded-For: 203.0.113.1\r\nX-Forwarded-Proto: wss\r\nForwarded: for=203.0.113.1\r\nX-Request-Id: mine\r\n\r\n", host); err != nil {
			return 0, err.Error()
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return 0, err.Error()
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		must(t, err)
		return res.StatusCode, string(body)
	}
	for _, tc := range []struct {
		name, from string
		port       int
		preamble   string
		host       string
		status     int
		client     string // as the app sees it
	}{
		{"version 1", "127.0.0.50", 8090, v1("192.0.2.7"), "a.cf.localhost", 200, "192.0.2.7"},
		{"version 2", "127.0.0.50", 8090, v2("192.0.2.7"), "a.cf.localhost", 200, "192.0.2.7"},
		{"HTTPS", "127.0.0.50", 8091, v2("192.0.2.7"), "shop.example", 200, "192.0.2.7"},
		{"the front's own check", "127.0.0.50", 8090, "PROXY UNKNOWN\r\n", "a.cf.localhost", 200, "127.0.0.50"},
		{"a denied client", "127.0.0.50", 8090, v1("192.0.2.9"), "inner.example", 403, ""},
		{"another client", "127.0.0.50", 8090, v1("192.0.2.8"), "inner.example", 200, "192.0.2.8"},
		{"no front", "127.0.0.60", 8090, v1("192.0.2.7"), "a.cf.localhost", 200, "127.0.0.60"},
		{"no preamble", "127.0.0.50", 8090, "", "a.cf.localhost", 0, ""},
		{"a preamble at the other port", "127.0.0.50", 8080, v1("192.0.2.7"), "a.cf.localhost", 400, ""},
		{"no such host", "127.0.0.50", 8090, v1("192.0.2.7"), "nobody.example", 404, ""},
	} {
		status, body := ask(tc.from, tc.port, tc.preamble, tc.host)
		if status != tc.status {
			t.Errorf("%s: %d %s, want %d", tc.name, status, body, tc.status)
			continue
		}
		if tc.client == "" {
			continue
		}
		proto := "http"
		if tc.port == 8091 {
			proto = "https"
		}
		for _, line := range []string{"X-Forwarded-For: " + tc.client + ", " + p.address, "X-Real-Ip: " + tc.client, "X-Forwarded-Proto: " + proto} {
			if !strings.Contains(body, "\r\n"+line+"\r\n") {
				t.Errorf("%s: the app got\n%s without %q", tc.name, body, line)
			}
		}
		if strings.Contains(body, "203.0.113.1") || strings.Contains(body, "X-Request-Id: mine") {
			t.Errorf("%s: what the client claims was believed:\n%s", tc.name, body)
		}
	}
}
