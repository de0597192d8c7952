package cloudcontroller

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/wire"
)

// TestRequestsOfAnApp: the owner of an app, and nobody else, is told what went through
// all routers, in the order of the times; a router that does not answer is counted.
func TestRequestsOfAnApp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	u, other := c.register("dev@example.com"), c.register("other@example.com")
	u.create("hello")
	begin := time.Unix(1343815200, 0).UTC()
	answer := func(router string, seconds ...int) {
		_, err := w.conn.Subscribe(wire.SubjectRouterRequests, func(m *nats.Msg) {
			asked, err := wire.ParseRequestsAsked(m.Data)
			if err != nil || asked.App != "1" {
				t.Errorf("asked %s: %v", m.Data, err)
			}
			told := wire.RoutedRequests{Router: router}
			for _, s := range seconds {
				told.Requests = append(told.Requests, wire.RoutedRequest{At: begin.Add(time.Duration(s) * time.Second), ID: router})
			}
			data, _ := json.Marshal(told)
			_ = m.Respond(data) // fails when the test is over
		})
		must(t, err)
	}
	here := func(router string) {
		data, err := json.Marshal(wire.RouterStart{ID: router})
		must(t, err)
		must(t, w.conn.Publish(wire.SubjectRouterStart, data))
	}
	answer("a", 1, 4)
	answer("b", 2, 3)
	must(t, w.conn.Flush())
	var got struct {
		Requests []wire.RoutedRequest
		Silent   int `json:"silent_routers"`
	}
	ids := func() string {
		got.Requests, got.Silent = nil, 0
		u.call("GET", "/apps/hello/requests", nil).want(200).json(&got)
		all := ""
		for _, r := range got.Requests {
			all += r.ID
		}
		return all
	}
	if got := ids(); got != "abba" { // none has said that it is here
		t.Errorf("told %q", got)
	}
	here("a")
	here("b")
	here("silent")
	eventually(t, "one is silent", func() bool { return ids() == "abba" && got.Silent == 1 })
	other.call("GET", "/apps/hello/requests", nil).fails(404, 301)
	if a := (&client{c: c}).call("GET", "/apps/hello/requests", nil); a.Status != 403 || strings.Contains(a.Body, "requests") {
		t.Errorf("nobody is told %d %s", a.Status, a.Body)
	}
}
