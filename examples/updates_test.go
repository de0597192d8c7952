//go:build e2e

package examples

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// updateUnderLoad does to an app what its owner does, under the load of 64 clients:
// pushes, good and bad ones, settings, more and fewer instances. Controllers are
// killed meanwhile. No request may be lost. With -long there is more of everything;
// what the short form leaves out TestUpdates of jobs/cloud_controller/vmc does, with a
// router and a controller less.
func (p *platform) updateUnderLoad(t *testing.T) {
	pushes, kills, least := 1, 2, int64(0)
	if *long {
		pushes, kills, least = 20, 10, 50_000
	}
	app := t.TempDir()
	files := func(text string) {
		t.Helper()
		for name, content := range map[string]string{"server.js": text, "package.json": "{}\n"} {
			if err := os.WriteFile(filepath.Join(app, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	version := func(name string) string { return strings.Replace(echo, "'hello from '", "'"+name+" from '", 1) }
	files(version("v0"))
	p.mustVmc("push", "shop", "--path", app, "--memory", "32M", "--instances", "2")
	p.mustServe("shop", "v0 from ")
	l := startLoad(t, p.listen, "shop."+p.domain, loadClients, *rate)
	timed := func(args ...string) {
		t.Helper()
		begin := time.Now()
		p.mustVmc(args...)
		t.Logf("vmc %s: %.1f s; %v", strings.Join(args, " "), time.Since(begin).Seconds(), l)
	}
	last := ""
	for n := range pushes {
		last = fmt.Sprintf("v%d from ", n+1)
		files(version(fmt.Sprint("v", n+1)))
		timed("push", "shop", "--path", app)
		p.mustServe("shop", last)
	}
	if *long {
		timed("restart", "shop")
		timed("env", "set", "shop", "A=b")
		timed("mem", "shop", "40M")
	}
	timed("scale", "shop", "6")
	timed("scale", "shop", "2")

	type bad struct {
		what, text, want string
		arguments        []string
	}
	bads := []bad{{"crashes after 5 s", version("bad") + "setTimeout(() => process.exit(5), 5000);\n", "The app ended with status 5.", nil}}
	if *long {
		bads = append(bads,
			bad{"crashes at its start", "console.error('no such luck'); process.exit(3)", "no such luck", nil},
			bad{"never listens", "setInterval(() => {}, 1000)", "it did not listen on port", []string{"--start-timeout", "10s"}},
			bad{"fails its check", strings.Replace(version("bad"), "res.end(body)", "res.statusCode = req.url === '/ok' ? 500 : 200; res.end(body)", 1), "GET /ok",
				[]string{"--health-check", "http", "--health-endpoint", "/ok", "--start-timeout", "10s"}},
		)
	}
	for _, bad := range bads {
		files(bad.text)
		out, code := p.vmc(append([]string{"push", "shop", "--path", app}, bad.arguments...)...)
		t.Logf("push of what %s: %s\n%v", bad.what, out, l)
		if code != 1 || !strings.Contains(out, bad.want) || !strings.Contains(out, "keeps running with its previous version") {
			t.Errorf("push of what %s: exit code %d\n%s", bad.what, code, out)
		}
		p.mustServe("shop", last)
	}

	// Whichever controller drives an update, another one goes on with it.
	for n := range kills {
		id := fmt.Sprint("cloud_controller/", n%2)
		done := make(chan string, 1)
		go func() {
			out, code := p.vmc("restart", "shop")
			if code != 0 {
				done <- out
			}
			close(done)
		}()
		within(t, 30*time.Second, "the update is under way", func() bool { return p.updating("shop") || n > 0 && len(done) > 0 })
		// At another moment of it each time.
		<-time.After(time.Duration(n) * 800 * time.Millisecond)
		if err := p.killAndWait(id); err != nil {
			t.Fatal(err)
		}
		for out := range done {
			t.Logf("restart with %s killed: %s", id, out)
		}
		within(t, time.Minute, "the update is over", func() bool { _, code := p.vmc("releases", "shop"); return code == 0 && !p.updating("shop") })
		p.mustRun("shop", 2, nil)
		p.mustServe("shop", last)
	}
	timed("rollback", "shop")
	for *long && l.answered() < least {
		timed("restart", "shop")
	}
	l.stop()
	l.mustNotFail(t)
	p.mustVmc("delete", "shop", "--force")
}

// updating reports whether an update of an app is under way.
func (p *platform) updating(app string) bool {
	out, code := p.vmc("releases", app, "--json")
	var list []struct{ Updating bool }
	if code != 0 || json.Unmarshal([]byte(out), &list) != nil {
		return false // the controller may be away for a moment
	}
	for _, one := range list {
		if one.Updating {
			return true
		}
	}
	return false
}
