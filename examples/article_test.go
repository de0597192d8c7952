//go:build e2e

package examples

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestArticle stands the article's whole picture up and uses its services as a user does:
// apps that are bound write and read, also after their nodes were killed and the VMs were
// made again with their disks; unbound they cannot; and nothing is left in the end.
func TestArticle(t *testing.T) {
	t.Parallel()
	p := startPlatform(t, "article.hcl", "article.localhost")
	p.edit(`domain = "cf.localhost"`, `domain = "article.localhost"`)
	p.edit("  job \"redis_node\" {\n    properties {\n", fmt.Sprintf("  job \"redis_node\" {\n    properties {\n      migration_nfs = %q\n", t.TempDir()))
	p.mustApply()
	p.register()
	// What follows is done with a token of the user component.
	if info := p.mustVmc("info", "--json"); !strings.Contains(info, `"authorization_endpoint": "http://uaa.article.localhost:`) || !strings.Contains(info, `"user": "somebody@example.com"`) {
		t.Errorf("vmc info: %s", info)
	}
	if out := p.mustVmc("logout") + p.mustVmc("login", "somebody@example.com"); strings.Contains(out, "lasts until it expires") {
		t.Errorf("vmc logout: %s", out)
	}
	within(t, 3*time.Minute, "all services are offered", func() bool {
		out, code := p.vmc("services")
		return code == 0 && strings.Contains(out, "redis") && strings.Contains(out, "memcached") && strings.Contains(out, "postgresql") && strings.Contains(out, "rabbitmq") && strings.Contains(out, "mysql") && strings.Contains(out, "legacy")
	})
	p.mustVmc("create-service", "redis", "guests")
	p.mustVmc("create-service", "redis", "others")
	push := []string{"push", "--path", "apps/guestbook", "--url", "guestbook.article.localhost"}
	p.mustVmc(push...)
	ledgers := []string{"postgresql", "mysql", "rabbitmq"}
	built := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-o", built+"/ledger", "./apps/ledger")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	manifest := fmt.Sprintf("applications:\n- {name: ledger, url: ledger.article.localhost, framework: binary, runtime: binary, memory: 64M, services: [%s]}\n", strings.Join(ledgers, ", "))
	if err := os.WriteFile(built+"/manifest.yml", []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, service := range ledgers {
		p.mustVmc("create-service", service, service)
	}
	p.mustVmc("push", "--path", built)

	ask := func(app, method, line string) (string, error) {
		app, path, _ := strings.Cut(app, "/")
		request, err := http.NewRequest(method, "http://"+p.listen+"/"+path, strings.NewReader(line))
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
	ledgersRead := func(want string) {
		t.Helper()
		for _, service := range ledgers {
			within(t, 3*time.Minute, service+" has its lines", func() bool { got, _ := ask("ledger/"+service, "GET", ""); return got == want })
		}
	}
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
	p.mustVmc("create-service", "legacy", "old")
	p.mustVmc("bind-service", "old", "visits")
	within(t, time.Minute, "the app runs with a service of the broker's", func() bool { _, err := ask("visits", "GET", ""); return err == nil })
	if got, err := ask("service_broker", "GET", ""); err == nil || !strings.HasPrefix(err.Error(), "401 ") || !strings.Contains(err.Error(), "Not authorized") {
		t.Errorf("the broker's URL without a token: %q, %v", got, err)
	}
	for _, service := range ledgers {
		if got, err := ask("ledger/"+service, "POST", "one"); err != nil || got != "one\n" {
			t.Fatalf("%s: %q, %v", service, got, err)
		}
	}
	// What is in a service goes to a file, and comes back from it.
	files := t.TempDir()
	kept := []string{"guests", "postgresql", "mysql"}
	for _, service := range kept {
		p.mustVmc("export-service", service, files+"/"+service)
	}
	if _, err := guestbook("POST", "Bob was here"); err != nil {
		t.Error(err)
	}
	for _, service := range []string{"postgresql", "mysql"} {
		if _, err := ask("ledger/"+service, "POST", "two"); err != nil {
			t.Errorf("%s: %v", service, err)
		}
	}
	for _, service := range kept {
		p.mustVmc("import-service", service, files+"/"+service, "--force")
	}
	reads("Ada was here\n")
	ledgersRead("one\n")
	// Whose instances the nodes have is known, and nobody takes them away unasked.
	out, code := p.run("status", "--census")
	mustTell(t, out, code, 0, "_node holds 1 ", " instance: ", "(of ", "postgres holds 1 database: cloud_controller (", "nats holds nothing of anybody")
	if strings.Contains(out, "does not say what lives there") {
		t.Errorf("a job does not answer:\n%s", out)
	}
	out, code = p.run("destroy", "--auto-approve", "--delete-disks")
	mustTell(t, out, code, 1, "WHICH WILL BE LOST", "cannot take away without approval what lives on ", "service_node/")
	// The nodes are killed, and their servers end with them.
	killed := 0
	for name, pid := range p.status().pids() {
		if strings.Contains(name, "_node") {
			kill(t, pid)
			killed++
		}
	}
	if killed != 2*(2+len(ledgers)) {
		t.Errorf("%d nodes killed", killed)
	}
	reads("Ada was here\n")
	ledgersRead("one\n")
	if out, code := p.run("recreate", "--auto-approve", "service_node"); code != 0 {
		t.Fatalf("recreate exited with %d:\n%s", code, out)
	}
	reads("Ada was here\n")
	within(t, time.Minute, "visits are counted anew", func() bool {
		_, err := ask("visits", "GET", "")
		return err == nil
	})
	ledgersRead("one\n")
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
	// An instance moves with what is in it: by an errand, and before its node is removed.
	out, code = p.run("status", "--census")
	guests := regexp.MustCompile(`guests (d[0-9a-f]{32})`).FindStringSubmatch(out)
	if code != 0 || guests == nil || !strings.Contains(out, "guestbook") {
		t.Fatalf("the census does not name the guestbook's instance:\n%s", out)
	}
	out, code = p.run("run", "redis_gateway/migrate", "--", guests[1], "redis_node_free_1")
	mustTell(t, out, code, 0, "copying", "done", "being restarted")
	reads("Ada was here\nand Grace\n")
	p.edit("instances = 2\n  vm        = vm.large\n  disk      = disk.data", "instances = 1\n  vm        = vm.large\n  disk      = disk.data")
	out, code = p.run("apply", "--auto-approve", "--accept-data-loss")
	mustTell(t, out, code, 0)
	reads("Ada was here\nand Grace\n")
	if got, err := guestbook("POST", "and Alan"); err != nil || got != "Ada was here\nand Grace\nand Alan\n" {
		t.Errorf("%q, %v", got, err)
	}
	p.mustVmc("delete", "--force", "guestbook", "visits", "ledger")
	p.mustVmc(append([]string{"delete-service", "--force", "guests", "others", "visits", "old"}, ledgers...)...)
	if out := p.mustVmc("services"); !strings.Contains(out, "You have no services") {
		t.Errorf("services:\n%s", out)
	}
}
