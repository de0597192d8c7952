package upstream

import (
	"bufio"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// plainAnswers are heads, and whether readPlain reads them itself.
var plainAnswers = map[string]bool{
	ok: true,
	"HTTP/1.1 200 OK\r\ncontent-LENGTH:  2 \t\r\nSet-Cookie: a\r\nset-cookie: b\r\nConnection: Keep-Alive\r\nKeep-Alive: 5\r\n\r\nok": true,
	"HTTP/1.1 204 No Content\r\n\r\n":                                                        true,
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n":                               true,
	"HTTP/1.1 999 \r\nContent-Length: 0\r\n\r\nmore":                                         true,
	"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok":                                         true,
	"HTTP/1.1 200 \xe4\r\nX: \xe4\r\nContent-Length: 0\r\n\r\n":                              true,
	"HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 40) + "Content-Length: 1\r\n\r\nx":    true,
	"HTTP/1.1 200 OK\r\n\r\nuntil the end":                                                   false,
	"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok":                                         false,
	"HTTP/1.1 103 Hints\r\n\r\n" + ok:                                                        false,
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok":                    false,
	"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok":                                        false,
	"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok":                                      false,
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":    false,
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok":                    false,
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: content-length\r\n\r\nok":           false,
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nPragma: no-cache\r\n\r\nok":                     false,
	"HTTP/1.1 200 OK\nContent-Length: 2\n\nok":                                               false,
	"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\nok":                           false,
	"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 2\r\n\r\nok":                                false,
	"HTTP/1.1 200 OK\r\nA: b\x00\r\nContent-Length: 2\r\n\r\nok":                             false,
	"HTTP/1.1 200 OK\r\nA: b\rContent-Length: 3\r\nContent-Length: 2\r\n\r\nok":              false,
	"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok":                                        false,
	"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999999\r\n\r\nok":                    false,
	"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 5000) + "\r\nContent-Length: 2\r\n\r\nok": false,
	"HTTP/1.1 200 OK\r\nContent-Le":                                                          false,
	"":                                                                                       false,
}

// TestPlainAnswers says which answers readPlain reads, and that it reads them as
// http.ReadResponse does.
func TestPlainAnswers(t *testing.T) {
	for answer, want := range plainAnswers {
		if got := comparePlain(t, answer, http.MethodGet); got != want {
			t.Errorf("%q: read %v, want %v", answer, got, want)
		}
		comparePlain(t, answer, http.MethodHead)
	}
}

// FuzzPlain does so for answers of any kind.
func FuzzPlain(f *testing.F) {
	for answer := range plainAnswers {
		f.Add(answer, false)
		f.Add(answer, true)
	}
	f.Fuzz(func(t *testing.T, answer string, head bool) {
		method := http.MethodGet
		if head {
			method = http.MethodHead
		}
		comparePlain(t, answer, method)
	})
}

// comparePlain reads an answer with readPlain and with http.ReadResponse, and
// reports whether the former did.
func comparePlain(t *testing.T, answer, method string) bool {
	t.Helper()
	req := &http.Request{Method: method}
	in, reference := bufio.NewReader(strings.NewReader(answer)), bufio.NewReader(strings.NewReader(answer))
	got := readPlain(in, req)
	if got == nil {
		if rest, _ := io.ReadAll(in); string(rest) != answer {
			t.Errorf("%q: refused, and yet something was read: left %q", answer, rest)
		}
		return false
	}
	want, err := http.ReadResponse(reference, req)
	if err != nil {
		t.Errorf("%q: http.ReadResponse refuses it: %v", answer, err)
		return true
	}
	gotBody, gotErr := io.ReadAll(got.Body)
	wantBody, wantErr := io.ReadAll(want.Body)
	gotRest, _ := io.ReadAll(in)
	wantRest, _ := io.ReadAll(reference)
	if string(gotBody) != string(wantBody) || !sameError(gotErr, wantErr) || string(gotRest) != string(wantRest) {
		t.Errorf("%q: body %q, %v, rest %q; want %q, %v, %q", answer, gotBody, gotErr, gotRest, wantBody, wantErr, wantRest)
	}
	got.Body, want.Body = nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q: got %+v, want %+v", answer, got, want)
	}
	return true
}

// sameError reports whether two errors say the same; nil is like nil only.
func sameError(a, b error) bool {
	return (a == nil) == (b == nil) && (a == nil || a.Error() == b.Error())
}
