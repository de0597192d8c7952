package router

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/jobs/wire"
)

// TestRecent: whatever apps are asked for, of each the latest requests are kept, in
// their order, within the bounds.
func TestRecent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRecent()
		apps := rapid.IntRange(1, 40).Draw(t, "apps")
		asked := map[string]int{}
		for n := range rapid.IntRange(0, 4000).Draw(t, "requests") {
			app := fmt.Sprint(n % apps)
			asked[app]++
			r.add(app, wire.RoutedRequest{ID: fmt.Sprint(asked[app]), URI: "/" + strings.Repeat("x", n%2000)})
		}
		for app, n := range asked {
			got := r.of(app)
			for i, one := range got {
				if want := fmt.Sprint(n - len(got) + i + 1); one.ID != want {
					t.Fatalf("request %d of app %s is %s, want %s", i, app, one.ID, want)
				}
				if len(one.URI) > wire.MaxRoutedText {
					t.Fatalf("a text of %d bytes is kept", len(one.URI))
				}
			}
			if len(got) > wire.MaxRoutedRequests || n < wire.MaxRoutedRequests && len(got) != n && len(got) != 0 {
				t.Fatalf("%d of %d requests are kept", len(got), n)
			}
		}
		for i := range r.parts {
			p := &r.parts[i]
			sum := 0
			for _, element := range p.apps {
				for _, one := range element.Value.(*appRequests).requests {
					sum += sizeOf(one)
				}
			}
			if sum != p.bytes || p.bytes > recentBytes {
				t.Fatalf("a part has %d bytes and counts %d, of %d", sum, p.bytes, recentBytes)
			}
		}
	})
}

// TestRequestsAreTold: who asks over the bus for an app's requests gets them, failed
// ones too, and none of another app.
func TestRequestsAreTold(t *testing.T) {
	c := start(t, "trusted_fronts: [127.0.0.0/8]\n", nil)
	s := c.backend(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	}, "hello.cf.test")
	other := registration(s.Listener.Addr(), "other.cf.test")
	other.App, other.Port, other.PrivateInstanceIndex = "8", 1, "3" // nobody listens there
	c.register(other)
	c.get("Hello.cf.test:80", "X-Request-Id", "one-of-mine")
	c.get("other.cf.test")
	ask := func(app string) (told wire.RoutedRequests) {
		data, err := json.Marshal(wire.RequestsAsked{App: wire.ID(app)})
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.conn.Request(wire.SubjectRouterRequests, data, deadline)
		if err == nil {
			told, err = wire.ParseRoutedRequests(m.Data)
		}
		if err != nil {
			t.Fatal(err)
		}
		return told
	}
	var one wire.RoutedRequest
	eventually(t, "the request is told", func() bool {
		told := ask("7")
		if len(told.Requests) != 1 {
			return false
		}
		one = told.Requests[0]
		return told.Router == c.router.base.UUID()
	})
	if one.ID != "one-of-mine" || one.Client != "127.0.0.1" || one.Method != "GET" || one.Host != "hello.cf.test" || one.URI != "/path;a=b?q=1;2" || one.Status != 418 || one.Bytes != 15 || time.Since(one.At) > time.Hour {
		t.Errorf("told %+v", one)
	}
	eventually(t, "the failed request is told", func() bool {
		told := ask("8").Requests
		return len(told) == 1 && told[0].Status == http.StatusBadGateway && told[0].Index == "3"
	})
	if told := ask("9"); told.Requests == nil || len(told.Requests) > 0 {
		t.Errorf("of an app that was not asked for: %+v", told)
	}
}
