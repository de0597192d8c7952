//go:build e2e

package examples

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestArticle stands the article's whole picture up and uses a service as a user does:
// an app that is bound writes and reads, also after its node was killed and its VM was
// made again with its disk; unbound it cannot; and nothing is left in the end.
func TestArticle(t *testing.T) {
	t.Parallel()
	p := startPlatform(t, "article.hcl", "article.localhost")
	p.edit(`domain = "cf.localhost"`, `domain = "article.localhost"`)
	p.mustApply()
	p.register()
	within(t, time.Minute, "both services are offered", func() bool {
		out, code := p.vmc("services")
		return code == 0 && strings.Contains(out, "redis") && strings.Contains(out, "7.0") && strings.Contains(out, "memcached")
	})
	p.mustVmc("create-service", "redis", "guests")
	p.mustVmc("create-service", "redis", "others")
	push := []string{"push", "--path", "apps/guestbook", "--url", "guestbook.article.localhost"}
	p.mustVmc(push...)

	ask := func(app, method, line string) (string, error) {
		request, err := http.NewRequest(method, "http://"+p.listen+"/", strings.NewReader(line))
		if err != nil {
			return "", err
		}
		request.Host = app + ".article.localhost"
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", response.Status, body)
		}
		return string(body), err
	}
	guestbook := func(method, line string) (string, error) { return ask("guestbook", method, line) }
	reads := func(want string) {
		t.Helper()
		var got string
		var err error
		within(t, time.Minute, "the guestbook has its lines", func() bool { got, err = guestbook("GET", ""); return got == want })
		if err != nil || got != want {
			t.Errorf("the guestbook has %q, %v, want %q", got, err, want)
		}
	}
	if got, err := guestbook("POST", "Ada was here"); err != nil || got != "Ada was here\n" {
		t.Fatalf("%q, %v", got, err)
	}
	p.mustVmc("create-service", "memcached", "visits")
	p.mustVmc("push", "--path", "apps/visits", "--url", "visits.article.localhost")
	visited := func(want string) {
		t.Helper()
		if got, err := ask("visits", "GET", ""); err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	visited("visit 1\n")
	visited("visit 2\n")
	// The nodes are killed, and their servers end with them.
	killed := 0
	for name, pid := range p.status().pids() {
		if strings.Contains(name, "redis_node") {
			kill(t, pid)
			killed++
		}
	}
	if killed != 2 {
		t.Errorf("%d nodes killed", killed)
	}
	reads("Ada was here\n")
	if out, code := p.run("recreate", "--auto-approve", "service_node"); code != 0 {
		t.Fatalf("recreate exited with %d:\n%s", code, out)
	}
	reads("Ada was here\n")
	within(t, time.Minute, "visits are counted anew", func() bool {
		_, err := ask("visits", "GET", "")
		return err == nil
	})
	if got, err := guestbook("POST", "and Grace"); err != nil || got != "Ada was here\nand Grace\n" {
		t.Errorf("%q, %v", got, err)
	}
	p.mustVmc("unbind-service", "guests", "guestbook")
	within(t, time.Minute, "the app has no service", func() bool {
		_, err := guestbook("GET", "")
		return err != nil && strings.Contains(err.Error(), "no redis service is bound")
	})
	p.mustVmc("bind-service", "guests", "guestbook")
	reads("Ada was here\nand Grace\n")
	p.mustVmc("delete", "--force", "guestbook", "visits")
	p.mustVmc("delete-service", "--force", "guests", "others", "visits")
	if out := p.mustVmc("services"); !strings.Contains(out, "You have no services") {
		t.Errorf("services:\n%s", out)
	}
}
