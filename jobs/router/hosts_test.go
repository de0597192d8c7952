package router

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

	"github.com/clusterworks/deploy/jobs/wire"
)

// TestAppWithoutInstance: an app that has no instance is told from one that does not
// exist, and clients may come again.
func TestAppWithoutInstance(t *testing.T) {
	c := start(t, "404_redirect: http://elsewhere.test/", nil)
	c.publish(wire.SubjectRouterHosts, wire.RouterHosts{Hosts: []string{"down.cf.test", "*.wild.test"}})
	eventually(t, "the router knows it", func() bool { return c.router.isApps("down.cf.test") })
	for host, want := range map[string]int{"down.cf.test": 503, "DOWN.cf.test.:8080": 503, "x.wild.test": 503, "wild.test": 302, "other.cf.test": 302, "127.0.0.8": 302} {
		res, body := c.get(host)
		after := res.Header.Get("Retry-After")
		if res.StatusCode != want || (want == 503) != (after == "5") || want == 503 && strings.TrimSpace(body) != "VCAP ROUTER: 503 - THE APP HAS NO RUNNING INSTANCE" {
			t.Errorf("%s: %d, Retry-After %q, %s", host, res.StatusCode, after, body)
		}
	}
	s := c.backend(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "up") }, "down.cf.test")
	if _, body := c.get("down.cf.test"); body != "up" {
		t.Errorf("with an instance: %q", body)
	}
	c.publish(wire.SubjectRouterUnregister, registration(s.Listener.Addr(), "down.cf.test"))
	eventually(t, "without one again", func() bool { res, _ := c.get("down.cf.test"); return res.StatusCode == 503 })
	c.publish(wire.SubjectRouterHosts, wire.RouterHosts{Gone: []string{"down.cf.test"}})
	eventually(t, "deleted", func() bool { res, _ := c.get("down.cf.test"); return res.StatusCode == 302 })
}

func TestAppHosts(t *testing.T) {
	a := appHosts{seen: map[string]time.Time{}, most: 2}
	a.told(wire.RouterHosts{Hosts: []string{"a.test", "b.test", "c.test", "not a host"}}, epoch)
	if !a.has("a.test") || !a.has("b.test") || a.has("c.test") || a.has("not a host") || len(a.seen) != 2 {
		t.Errorf("known: %v", a.seen)
	}
	later := epoch.Add(wire.HostsStaleAfter)
	a.told(wire.RouterHosts{Hosts: []string{"a.test"}}, later)
	a.prune(later.Add(time.Second))
	if !a.has("a.test") || a.has("b.test") {
		t.Errorf("known later: %v", a.seen)
	}
	a.touch(later.Add(time.Hour))
	a.prune(later.Add(time.Hour))
	if !a.has("A.test:80") || a.has("") || a.has("127.0.0.1") {
		t.Errorf("after the bus was away: %v", a.seen)
	}
}

// TestPortsMoveUnderLoad moves a port from app to app while users ask for both. The
// end of an instance is not told, as when its machine is lost. Each app is served by
// its own instances only: the DEA claims the port before it starts what listens there.
func TestPortsMoveUnderLoad(t *testing.T) {
	c := start(t, "", nil)
	port := 0
	listen := func() net.Listener {
		t.Helper()
		var l net.Listener
		eventually(t, "the port is free", func() (ok bool) {
			var err error
			l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			return err == nil
		})
		port = l.Addr().(*net.TCPAddr).Port
		return l
	}
	first := listen()
	addr := first.Addr()
	route := func(app string, uris ...string) wire.Registration {
		r := registration(addr, uris...)
		r.App = wire.ID(app)
		return r
	}
	var asked, wrong atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	for n := range 4 {
		app := []string{"one", "two"}[n%2]
		clients.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: deadline}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				request, err := http.NewRequestWithContext(ctx, "GET", "http://"+c.router.Address()+"/", nil)
				if err != nil {
					panic(err)
				}
				request.Host = app + ".cf.test"
				res, err := client.Do(request)
				if err != nil {
					continue
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 {
					continue // it has no instance in this moment
				}
				asked.Add(1)
				if string(body) != app {
					wrong.Add(1)
				}
			}
		})
	}
	l := first
	for round := range 30 {
		app := []string{"one", "two"}[round%2]
		if round > 0 {
			// The claim, which the routers have before anything listens.
			c.publish(wire.SubjectRouterRegister, route(app))
			other := []string{"two", "one"}[round%2]
			eventually(t, "the former app's route is gone", func() bool { return c.router.table.lookup(other+".cf.test") == nil })
			l = listen()
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, app) })}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		before := asked.Load()
		// It listens for a while before it is registered, as one that has to prove healthy.
		eventually(t, "it answers", func() bool {
			res, err := http.Get("http://" + addr.String())
			if err == nil {
				res.Body.Close()
			}
			return err == nil
		})
		c.register(route(app, app+".cf.test"))
		eventually(t, "it serves", func() bool { return asked.Load() > before+5 })
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		<-served
	}
	if wrong.Load() > 0 {
		t.Errorf("of %d requests %d were answered by the other app", asked.Load(), wrong.Load())
	}
	t.Logf("%d requests", asked.Load())
}
