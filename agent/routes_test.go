package agent_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/agent/api"
)

// told is a message that the routers received.
type told struct {
	subject string
	at      time.Time
	Host    string
	Port    int
	URIs    []string
	Tags    map[string]string
}

// routers listens as the routers do.
func (f *fixture) routers(nc *nats.Conn) *hearing {
	f.Helper()
	heard := make(chan told, 256)
	// One subscription, for only within one messages keep their order.
	_, err := nc.Subscribe("router.*", func(m *nats.Msg) {
		x := told{subject: m.Subject, at: time.Now()}
		if m.Subject != "router.start" && json.Unmarshal(m.Data, &x) == nil {
			heard <- x
		}
	})
	f.must(err)
	f.must(nc.Flush())
	return &hearing{messages: heard}
}

// hears waits for a message. Others may come before: what is known is told again, and
// a process that is started anew may be healthy for a moment.
func (f *fixture) hears(heard *hearing, subject, host string) told {
	f.Helper()
	timeout := time.After(patience)
	for {
		select {
		case x := <-heard.messages:
			said := x.subject + " " + strings.Join(x.URIs, " ")
			if said == subject+" "+host {
				return x
			}
		case <-timeout:
			f.Fatalf("no %s of %s within %s", subject, host, patience)
		}
	}
}

// hearing is what the routers have not looked at.
type hearing struct {
	messages chan told
}

// A daemon that knows nothing of the bus is registered while it is healthy, when a
// router starts, and by the next agent; a route's change restarts nothing; and it is
// off the routers some time before it is stopped.
func TestRoutesFollowHealth(t *testing.T) {
	t.Parallel()
	f := startOnBus(t)
	f.bus.Admit("web.0.guest-ROUTES", "one")
	f.bus.Admit("web.0.other-ROUTES", "two")
	nc := f.bus.Connect("")
	heard := f.routers(nc)
	healthy, stopped := filepath.Join(t.TempDir(), "healthy"), filepath.Join(t.TempDir(), "stopped")
	set := func(on bool) {
		t.Helper()
		if on {
			f.must(os.WriteFile(healthy, nil, 0o600))
		} else {
			f.must(os.Remove(healthy))
		}
	}
	set(true)
	guest := shell("guest", fmt.Sprintf("trap 'date +%%s%%N > %s; exit 0' TERM; while :; do sleep 0.1; done", stopped), "d1")
	guest.Checks = []api.Check{{Kind: api.CheckExec, Command: []string{"test", "-e", healthy}, IntervalMS: 50, TimeoutMS: 20000, Failures: 1}}
	route := func(host string) []api.Route {
		return []api.Route{{Host: host, Port: 8080, DrainMS: 6000, User: "web.0.guest-ROUTES", Password: "one"}}
	}
	guest.Routes = route("guest.cf.test")
	f.apply(specOf("g1", jobOf("guest", guest)))
	x := f.hears(heard, "router.register", "guest.cf.test")
	if x.Host != "127.0.0.1" || x.Port != 8080 || x.Tags["component"] != "guest" {
		t.Errorf("routers hear %+v", x)
	}
	pid := f.pids()["guest/guest"]

	set(false)
	f.hears(heard, "router.unregister", "guest.cf.test")
	set(true)
	f.hears(heard, "router.register", "guest.cf.test")

	f.must(nc.Publish("router.start", []byte(`{"id":"r","hosts":["127.0.0.1"],"minimumRegisterIntervalInSeconds":30}`)))
	f.hears(heard, "router.register", "guest.cf.test")

	f.agent.Kill()
	f.agent.Run()
	f.hears(heard, "router.register", "guest.cf.test")

	guest.Routes = route("host.cf.test")
	f.apply(specOf("g2", jobOf("guest", guest)))
	f.hears(heard, "router.unregister", "guest.cf.test")
	f.hears(heard, "router.register", "host.cf.test")
	if now := f.pids()["guest/guest"]; now != pid {
		t.Errorf("the process was restarted: %d, was %d", now, pid)
	}

	// What ends by itself goes. Its next start is not healthy before the test says so,
	// or nobody might see that it was away.
	kill := f.pids()["guest/guest"]
	process, err := os.FindProcess(kill)
	f.must(err)
	set(false)
	f.must(process.Kill())
	f.hears(heard, "router.unregister", "host.cf.test")
	set(true)
	f.hears(heard, "router.register", "host.cf.test")

	f.must(f.do(api.Stop{}))
	gone := f.hears(heard, "router.unregister", "host.cf.test")
	text, err := os.ReadFile(stopped)
	f.must(err)
	nanos, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	f.must(err)
	if end := time.Unix(0, nanos); !end.After(gone.at) {
		t.Errorf("stopped at %s, off the routers at %s", end, gone.at)
	}
	f.must(f.do(api.Start{}))
	f.hears(heard, "router.register", "host.cf.test")

	// A job that goes takes its routes with it; its user is another one than the next's.
	other := sleeper("other", "d1")
	other.Routes = []api.Route{{Host: "other.cf.test", Port: 9, User: "web.0.other-ROUTES", Password: "two"}}
	f.apply(specOf("g3", jobOf("other", other)))
	f.hears(heard, "router.unregister", "host.cf.test")
	f.hears(heard, "router.register", "other.cf.test")

	// A new password is none of the routers' business but that they hear it again.
	f.bus.Admit("web.0.other-ROUTES", "three")
	other.Routes[0].Password = "three"
	f.apply(specOf("g4", jobOf("other", other)))
	f.hears(heard, "router.register", "other.cf.test")
}
