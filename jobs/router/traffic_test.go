package router

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/wire"
)

func TestTraffic(t *testing.T) {
	traffic := newTraffic(true)
	at := func(seconds float64) time.Time { return epoch.Add(time.Duration(seconds * float64(time.Second))) }
	traffic.add("a.test", "1", "10.0.0.1", at(0))
	traffic.add("a.test", "1", "10.0.0.2", at(1))
	traffic.add("a.test", "1", "10.0.0.2", at(1))
	traffic.add("b.test", "2", "10.0.0.1", at(1.9))
	traffic.add("api.test", "", "10.0.0.1", at(1.9)) // no app
	if rates := traffic.rates(at(1.9)); len(rates) > 0 {
		t.Errorf("a sweep that is not over counts: %v", rates)
	}
	want := "[{a.test 1.5 [{10.0.0.2 1} {10.0.0.1 0.5}]} {api.test 0.5 [{10.0.0.1 0.5}]} {b.test 0.5 [{10.0.0.1 0.5}]}]"
	for _, seconds := range []float64{2, 3.9} {
		if got := fmt.Sprint(traffic.rates(at(seconds))); got != want {
			t.Errorf("after %v s\n%s, want\n%s", seconds, got, want)
		}
	}
	traffic.add("c.test", "3", "10.0.0.1", at(3.9))
	if got, want := fmt.Sprint(traffic.rates(at(5.5))), "[{c.test 0.5 [{10.0.0.1 0.5}]}]"; got != want {
		t.Errorf("the next sweep: %s, want %s", got, want)
	}
	if rates := traffic.rates(at(100)); len(rates) > 0 {
		t.Errorf("after a long silence: %v", rates)
	}
	if got := traffic.activeApps(); !slices.Equal(got, []wire.ID{"1", "2", "3"}) {
		t.Errorf("active: %v", got)
	}
	if got := traffic.activeApps(); len(got) > 0 {
		t.Errorf("active again: %v", got)
	}
	for n := range 2 * maxClients {
		traffic.add("d.test", "4", fmt.Sprint(n), at(200))
	}
	for n := range maxURLs {
		traffic.add(fmt.Sprint(n), "4", "10.0.0.1", at(200))
	}
	rates := traffic.rates(at(202))
	if len(rates) != maxURLs || len(rates[0].Clients) != topClients || rates[0].RPS != maxClients {
		t.Errorf("%d URLs, the first %v with %d clients", len(rates), rates[0].RPS, len(rates[0].Clients))
	}
}

func TestClient(t *testing.T) {
	for forwarded, want := range map[string]string{
		"": "127.0.0.1", "192.0.2.7": "192.0.2.7", "forged, 192.0.2.7": "192.0.2.7", "192.0.2.7, ": "127.0.0.1",
	} {
		req := &http.Request{RemoteAddr: "127.0.0.1:5555", Header: http.Header{}}
		if forwarded != "" {
			req.Header.Set("X-Forwarded-For", forwarded)
		}
		if got := client(req, false); got != "127.0.0.1" {
			t.Errorf("forwarded for %q by a stranger: %s", forwarded, got)
		}
		if got := client(req, true); got != want {
			t.Errorf("forwarded for %q: %s, want %s", forwarded, got, want)
		}
	}
}

// TestActiveApps: on the bus and in varz is what was asked for.
func TestActiveApps(t *testing.T) {
	c := start(t, "enable_nonprod_apps: true\nflush_apps_interval: 0.05\nstatus: {expose_all_apps: true}\n", nil)
	messages := make(chan *nats.Msg, 1000)
	if _, err := c.conn.ChanSubscribe(wire.SubjectRouterActiveApps, messages); err != nil {
		t.Fatal(err)
	}
	c.backend(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "page") }, "b.test") // of app 7
	c.get("b.test")
	for end := time.After(deadline); ; {
		select {
		case m := <-messages:
			apps, err := wire.ParseActiveApps(m.Data)
			if err != nil {
				t.Fatal(err)
			}
			if len(apps) == 0 {
				continue
			}
			if !slices.Equal(apps, []wire.ID{"7"}) {
				t.Errorf("active: %v", apps)
			}
		case <-end:
			t.Fatal("no app is told to be active")
		}
		break
	}
	eventually(t, "varz has the rates", func() bool {
		doc := c.router.varz()
		top, all := doc["top10_app_requests"].([]rate), doc["top_app_requests"].([]rate)
		return len(top) == 1 && len(all) == 1 && top[0].URL == "b.test" && top[0].Clients[0].IP == "127.0.0.1"
	})
}
