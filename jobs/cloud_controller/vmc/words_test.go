package vmc

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// TestHostOf: a URL is taken as people write it: with a scheme, a final dot, capitals, or
// letters of their own alphabet.
func TestHostOf(t *testing.T) {
	for text, want := range map[string]string{
		"hello.cf.localhost": "hello.cf.localhost", "HTTP://Hello.cf.localhost:8080/": "hello.cf.localhost", "hello.cf.localhost.": "hello.cf.localhost",
		"Bücher.example": "xn--bcher-kva.example", "例え.テスト": "xn--r8jz45g.xn--zckzah", "my_app.cf.localhost": "my_app.cf.localhost",
		"": "", "a/b": "", "a b": "", "ü b.example": "",
	} {
		got, err := hostOf(text)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
}

// cancelAt cancels when a text is written to it.
type cancelAt struct {
	strings.Builder
	text   string
	cancel context.CancelFunc
}

func (c *cancelAt) Write(p []byte) (int, error) {
	n, err := c.Builder.Write(p)
	if strings.Contains(c.String(), c.text) {
		c.cancel()
	}
	return n, err
}

// TestInterrupted: who interrupts vmc is told what goes on without it.
func TestInterrupted(t *testing.T) {
	p := newPlatform(t)
	p.ok("register", "me@example.com")
	const late = "setTimeout(() => require('http').createServer((q, r) => r.end('late')).listen(process.env.PORT), 8000)"
	app := p.write(t.TempDir(), map[string]string{"server.js": late})
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	said := &cancelAt{text: "Staging slow: done", cancel: cancel}
	var out strings.Builder
	status := Run(ctx, "1", []string{"push", "slow", "--path", app}, strings.NewReader(""), &out, said)
	if status != exitInterrupted || !strings.Contains(said.String(), "Starting slow: interrupted") || !strings.Contains(said.String(), "Error: interrupted; slow goes on starting without vmc, see vmc app slow") {
		t.Errorf("status %d\n%s%s", status, out.String(), said.String())
	}
	eventually(t, "it goes on", func() bool {
		page, err := p.page("http://slow." + strings.TrimPrefix(p.target, "api.") + "/")
		return err == nil && page == "late"
	})
	if !errors.Is(continues{"x"}, context.Canceled) {
		t.Error("an interruption is not known as one")
	}
	// Sizes and names that no program could get are refused when they are set.
	p.fails("put this into a file", "env", "set", "slow", "BIG="+strings.Repeat("x", 131072))
	status, _, errOut := p.vmc("env", "set", "slow", "VCAP_X=1")
	if status != exitLogin || !strings.Contains(errOut, "are reserved") || strings.Contains(errOut, "logged in") {
		t.Errorf("a reserved name: status %d, %s", status, errOut)
	}
	p.fails("is empty; push the one that has the app's files", "push", "none", "--path", t.TempDir())
}
