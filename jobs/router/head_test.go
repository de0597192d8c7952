package router

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// lines returns the lines of a head, those after the first sorted.
func lines(head string) []string {
	all := strings.Split(strings.TrimSuffix(head, "\r\n"), "\r\n")
	slices.Sort(all[1:])
	return all
}

// compareHeads holds a head of appendHead against what net/http writes of the
// request that relay sends otherwise, and reports whether there is one.
func compareHeads(t interface {
	Helper()
	Errorf(string, ...any)
	Fatal(...any)
}, request string, trusted bool) bool {
	t.Helper()
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
	if err != nil || req.ContentLength != 0 {
		return false
	}
	req.RemoteAddr = "10.0.0.9:4711"
	got := &exchange{client: "10.0.0.8", id: "id", trusted: trusted}
	head, ok := appendHead(nil, got, req)
	if !ok {
		return false
	}
	want := &exchange{client: "10.0.0.8", id: "id", trusted: trusted}
	var written bytes.Buffer
	if err := toSend(want, req).Write(&written); err != nil {
		t.Fatal(err)
	}
	if got, want := lines(string(head)), lines(strings.TrimSuffix(written.String(), "\r\n")); !slices.Equal(got, want) {
		t.Errorf("request %q: head\n%q, want\n%q", request, got, want)
	}
	if again, _ := appendHead(nil, got, req); !bytes.Equal(again, head) {
		t.Errorf("request %q: head\n%q, and the next time\n%q", request, head, again)
	}
	if got.secure != want.secure {
		t.Errorf("request %q: secure %v, want %v", request, got.secure, want.secure)
	}
	return true
}

// TestHead: the heads that the router writes itself are those that net/http writes.
func TestHead(t *testing.T) {
	names := []string{
		"Connection", "Keep-Alive", "Te", "Upgrade", "Proxy-Connection", "Trailer", "User-Agent", "X-Hop", "Accept", "Cookie", "Content-Length",
		forwardedFor, forwardedHost, forwardedPort, forwardedProto, forwarded, realIP, clientCert, requestID, vcapRequestID, hopsHeader,
		"Proxy", "X_Forwarded_For", "x-real_ip", "A_B", "Expect",
	}
	values := []string{
		"", "a", "close, X-Hop", "X-Forwarded-For, x-real-ip", "keep-alive,,user-agent", "trailers, gzip", "https", "1.2.3.4", "x:8443", "7", "-3", "0", " padded ", "a=b; c=d",
	}
	written := 0
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		b.WriteString(rapid.SampledFrom([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"}).Draw(t, "method") + " ")
		b.WriteString(rapid.SampledFrom([]string{"/", "//a/b", "/a%2fb?x=%zz;&y", "http://other.test/abs?q", "/a/../b", "/\xc3\xa4", "/?", "/a:b"}).Draw(t, "target") + " HTTP/1.1\r\n")
		b.WriteString("Host: " + rapid.SampledFrom([]string{"app.test", "App.Test:8080", "[::1]:80", "b\xc3\xbccher.test", "a_b.test"}).Draw(t, "host") + "\r\n")
		for range rapid.IntRange(0, 6).Draw(t, "headers") {
			name := rapid.SampledFrom(names).Draw(t, "name")
			b.WriteString(name + ": " + rapid.SampledFrom(values).Draw(t, "value") + "\r\n")
		}
		if compareHeads(t, b.String()+"\r\n", rapid.Bool().Draw(t, "trusted")) {
			written++
		}
	})
	if written == 0 {
		t.Error("no head was compared")
	}
}

// FuzzHead does so for any headers.
func FuzzHead(f *testing.F) {
	f.Add("/path?q", "Connection: close, X-A\r\nX-A: 1\r\n", true)
	f.Add("/", "X-Forwarded-For: 1\r\nX_Real_Ip: 2\r\nTe: trailers\r\n", false)
	f.Fuzz(func(t *testing.T, target, headers string, trusted bool) {
		for line := range strings.Lines(headers) {
			// The server refuses what is no token or has control characters.
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), ":")
			if name == "" || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, c) }) ||
				strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c >= 0x7f }) || !strings.HasSuffix(line, "\r\n") {
				return
			}
		}
		compareHeads(t, "GET "+target+" HTTP/1.1\r\nHost: app.test\r\n"+headers+"\r\n", trusted)
	})
}
