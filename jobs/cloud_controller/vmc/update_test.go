package vmc

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// load asks an app again and again, half of it POST, until it is told to end.
type load struct {
	made, lost atomic.Int64
	first      atomic.Value // what was lost first
	end        context.CancelFunc
	group      sync.WaitGroup
}

func (p *platform) load(url string, connections int) *load {
	l := &load{}
	var ctx context.Context
	ctx, l.end = context.WithCancel(p.t.Context())
	for n := range connections {
		l.group.Go(func() {
			c := &http.Client{Timeout: deadline, Transport: &http.Transport{DialContext: (&client.Dialer{Dialer: net.Dialer{Timeout: deadline}}).DialContext, MaxIdleConnsPerHost: 1}}
			defer c.CloseIdleConnections()
			for i := n; ctx.Err() == nil; i++ {
				method, body := http.MethodGet, ""
				if i%2 == 0 {
					method, body = http.MethodPost, strings.Repeat("x", 1000)
				}
				request, err := http.NewRequest(method, url, strings.NewReader(body))
				if err != nil {
					panic(err)
				}
				answer, err := c.Do(request)
				l.made.Add(1)
				what := ""
				if err != nil {
					what = err.Error()
				} else {
					text, err := io.ReadAll(answer.Body)
					answer.Body.Close()
					if err != nil || answer.StatusCode != http.StatusOK {
						what = fmt.Sprintf("%s %s: %v", answer.Status, text, err)
					}
				}
				if what != "" {
					l.lost.Add(1)
					l.first.CompareAndSwap(nil, what)
				}
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
	p.t.Cleanup(func() { l.end(); l.group.Wait() })
	return l
}

// none ends the load, which must have lost nothing.
func (l *load) none(t *testing.T) {
	t.Helper()
	l.end()
	l.group.Wait()
	t.Logf("%d requests, %d lost", l.made.Load(), l.lost.Load())
	if l.lost.Load() > 0 || l.made.Load() < 100 {
		t.Errorf("of %d requests %d are lost: %v", l.made.Load(), l.lost.Load(), l.first.Load())
	}
}

const versionJS = `
const http = require('http');
http.createServer((req, res) => { req.resume(); req.on('end', () => res.end('VERSION ' + (process.env.GREETING || ''))) }).listen(process.env.VCAP_APP_PORT).on('upgrade', (req, socket) => {
  socket.on('error', () => {});
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nVERSION');
});
`

// socket opens a web socket at an app, which has to say this on it.
func (p *platform) socket(app, want string) net.Conn {
	p.t.Helper()
	domain := strings.TrimPrefix(p.target, "api.")
	_, port, _ := strings.Cut(domain, ":")
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	must(p.t, err)
	p.t.Cleanup(func() { conn.Close() })
	must(p.t, conn.SetDeadline(time.Now().Add(deadline)))
	_, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s.%s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", app, domain)
	must(p.t, err)
	said := ""
	for buffer := make([]byte, 1000); !strings.HasSuffix(said, want); {
		n, err := conn.Read(buffer)
		if said += string(buffer[:n]); err != nil {
			p.t.Fatalf("the web socket of %s says %q, %v; want %q", app, said, err, want)
		}
	}
	return conn
}

// TestUpdates: whatever is done to a running app, its users lose nothing; what does
// not run is withdrawn, with the reason on the screen; and what ran comes back.
func TestUpdates(t *testing.T) {
	p := newPlatform(t)
	p.ok("register", "me@example.com")
	app := t.TempDir()
	version := func(text string) []string {
		p.write(app, map[string]string{"server.js": text})
		return []string{"push", "rolls", "--path", app, "--framework", "node", "--memory", "64M", "--instances", "2"}
	}
	good := func(name string) []string { return version(strings.ReplaceAll(versionJS, "VERSION", name)) }
	p.ok(good("one")...)
	url := "http://rolls." + strings.TrimPrefix(p.target, "api.") + "/"
	serves := func(want string) {
		t.Helper()
		for range 6 {
			if page, err := p.page(url); err != nil || page != want {
				t.Errorf("the app says %q, %v; want %q", page, err, want)
			}
		}
	}
	serves("one ")
	l := p.load(url, 8)
	socket := p.socket("rolls", "one")
	if out := p.ok(good("two")...); !strings.Contains(out, "rolls runs, 2 of 2") {
		t.Errorf("push: %s", out)
	}
	serves("two ")
	// A web socket goes on until its instance ends, and ends in order.
	if rest, err := io.ReadAll(socket); len(rest) > 0 || err != nil {
		t.Errorf("an open web socket ends with %q, %v", rest, err)
	}
	p.socket("rolls", "two")
	p.ok("restart", "rolls")
	p.ok("env", "set", "rolls", "GREETING=hi")
	serves("two hi")
	p.ok("mem", "rolls", "72M")
	p.ok("scale", "rolls", "4")
	p.ok("scale", "rolls", "2")

	// What does not run is withdrawn, files and settings.
	p.fails("rolls keeps running with its previous version: instance", version("console.error('no such luck'); process.exit(3)")...)
	status, _, errOut := p.vmc(version("console.error('no such luck'); process.exit(3)")...)
	if status != 1 || !strings.Contains(errOut, "The app ended with status 3.") || !strings.Contains(errOut, "no such luck") {
		t.Errorf("a push of what crashes: status %d\n%s", status, errOut)
	}
	p.fails("ended with status 5", version("setTimeout(() => process.exit(5), 200);"+strings.ReplaceAll(versionJS, "VERSION", "bad"))...)
	p.ok("scale", "rolls", "1")
	p.fails("no DEA has room for one more instance of 4050 MB", "mem", "rolls", "4050M")
	p.ok("scale", "rolls", "2")
	serves("two hi")
	if out := p.ok("mem", "rolls"); out != "72M\n" {
		t.Errorf("the memory is %q after an update that failed", out)
	}
	l.none(t)

	l = p.load(url, 8)
	out := p.ok("releases", "rolls")
	if n := strings.Count(out, "\n"); n != 5 || !strings.Contains(out, "present") {
		t.Errorf("releases:\n%s", out)
	}
	p.ok("rollback", "rolls", "1")
	serves("one ")
	p.ok("rollback", "rolls")
	serves("two hi")

	// A canary waits.
	if out := p.ok(append(good("three"), "--canary", "1")...); !strings.Contains(out, "1 of 2 instances of rolls are new") {
		t.Errorf("push --canary: %s", out)
	}
	if out := p.ok("releases", "rolls"); !strings.Contains(out, "present, being replaced") {
		t.Errorf("releases while a canary waits:\n%s", out)
	}
	// The way back is to what the canary was to replace, not to what was before that.
	p.ok("rollback", "rolls")
	serves("two hi")
	p.ok(append(good("three"), "--canary", "1")...)
	// Nothing takes its files to all instances but who says so.
	p.fails("a canary waits", "env", "set", "rolls", "GREETING=all")
	p.fails("a canary waits", "mem", "rolls", "80M")
	p.fails("a canary of rolls waits", "restart", "rolls")
	p.fails("a canary of rolls waits", "restart", "rolls", "--now")
	if out := p.ok("env", "rolls"); out != "GREETING=hi\n" {
		t.Errorf("the environment is %q after a change that was refused", out)
	}
	p.ok("promote", "rolls")
	serves("three hi")

	// Of two at once the later wins, and the earlier is told so.
	told := make(chan string, 1)
	go func() {
		_, _, errOut := p.vmc("restart", "rolls")
		told <- errOut
	}()
	eventually(t, "the first one is under way", func() bool {
		_, out, _ := p.vmc("releases", "rolls", "--json")
		return strings.Contains(out, `"updating": true`)
	})
	p.ok("env", "set", "rolls", "GREETING=there")
	if errOut := <-told; !strings.Contains(errOut, "a later update has taken its place") {
		t.Errorf("the earlier one is told: %s", errOut)
	}
	serves("three there")

	// Who waits for the update of an app is told that it has another name.
	go func() {
		_, _, errOut := p.vmc("restart", "rolls")
		told <- errOut
	}()
	eventually(t, "the update is under way", func() bool {
		_, out, _ := p.vmc("releases", "rolls", "--json")
		return strings.Contains(out, `"updating": true`)
	})
	p.ok("rename", "rolls", "rolled")
	if errOut := <-told; !strings.Contains(errOut, "rolls was deleted or renamed meanwhile") {
		t.Errorf("after the app was renamed: %s", errOut)
	}
	p.ok("rename", "rolled", "rolls")
	serves("three there")
	l.none(t)

	p.ok("restart", "rolls", "--now")
	again := func() bool { page, err := p.page(url); return err == nil && page == "three there" }
	eventually(t, "it serves again", again)

	// With a stop an unpromoted canary is gone: the app is what ran beside it.
	p.ok(append(good("four"), "--canary", "1", "--env", "GREETING=bye")...)
	if _, _, errOut := p.vmc("stop", "rolls"); !strings.Contains(errOut, "vmc start rolls starts the version that ran beside it") {
		t.Errorf("stop of an app with a canary: %s", errOut)
	}
	p.ok("start", "rolls")
	eventually(t, "what ran beside the canary serves", again)
	serves("three there")
}
