package agent_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/agent/api"
)

// told is a message that the routers received, or the word of a process that it was
// told to end, subjectEnds.
type told struct {
	subject string
	Host    string
	Port    int
	URIs    []string
	Tags    map[string]string
}

// subjectEnds is this test's own: a process was told to end.
const subjectEnds = "router.ends"

// routers listens as the routers do.
func (f *fixture) routers(nc *nats.Conn) *hearing {
	f.Helper()
	heard := make(chan told, 256)
	// One subscription, for only within one messages keep their order.
	_, err := nc.Subscribe("router.*", func(m *nats.Msg) {
		x := told{subject: m.Subject}
		if m.Subject != "router.start" && json.Unmarshal(m.Data, &x) == nil {
			heard <- x
		}
	})
	f.must(err)
	f.must(nc.Flush())
	return &hearing{messages: heard, last: map[string]string{}}
}

// hears waits for the next message; what a host's last one said may be said again
// before.
func (f *fixture) hears(heard *hearing, subject, host string) told {
	f.Helper()
	timeout := time.After(patience)
	for {
		select {
		case x := <-heard.messages:
			of := strings.Join(x.URIs, " ")
			if x.subject == subject && of == host {
				heard.last[of] = x.subject
				return x
			}
			if heard.last[of] != x.subject {
				f.Fatalf("routers hear %+v, want %s of %s", x, subject, host)
			}
		case <-timeout:
			f.Fatalf("no %s of %s within %s", subject, host, patience)
		}
	}
}

// hearing describes what the routers have not looked at.
type hearing struct {
	messages chan told
	last     map[string]string // host -> subject of its last message
}

// ends has a process say on the bus that it was told to end, and returns the file to
// which the process writes a line for that. The bus keeps order: what an agent had
// it take before comes first, however busy the machine is.
func (f *fixture) ends(nc *nats.Conn) string {
	f.Helper()
	path := filepath.Join(f.TempDir(), "ends")
	f.must(syscall.Mkfifo(path, 0o600))
	pipe, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	f.must(err)
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			_ = nc.Publish(subjectEnds, []byte(`{"uris":["`+lines.Text()+`"]}`)) // who does not hear it, fails
		}
	})
	f.Cleanup(func() { pipe.Close(); reading.Wait() })
	return path
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
	healthy := filepath.Join(t.TempDir(), "healthy")
	set := func(on bool) {
		t.Helper()
		if on {
			f.must(os.WriteFile(healthy, nil, 0o600))
		} else {
			f.must(os.Remove(healthy))
		}
	}
	set(true)
	guest := shell("guest", fmt.Sprintf("trap 'echo guest > %s; exit 0' TERM; while :; do sleep 0.1; done", f.ends(nc)), "d1")
	guest.StopGrace = patience.Milliseconds()
	guest.Checks = []api.Check{{Kind: api.CheckExec, Command: []string{"test", "-e", healthy}, IntervalMS: 50, TimeoutMS: 20000, Failures: 1}}
	const drain = 2 * time.Second
	route := func(host string) []api.Route {
		return []api.Route{{Host: host, Port: 8080, DrainMS: drain.Milliseconds(), User: "web.0.guest-ROUTES", Password: "one"}}
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

	// It is off the routers before it is told to end, and for as long as requests may
	// be on their way.
	began := time.Now()
	f.must(f.do(api.Stop{}))
	if took := time.Since(began); took < drain {
		t.Errorf("it was stopped after %v, requests may take %v", took, drain)
	}
	f.hears(heard, "router.unregister", "host.cf.test")
	f.hears(heard, subjectEnds, "guest")
	f.must(f.do(api.Start{}))
	f.hears(heard, "router.register", "host.cf.test")

	// A job that goes takes its routes with it; its user is another one than the next's.
	other := sleeper("other", "d1")
	other.Routes = []api.Route{{Host: "other.cf.test", Port: 9, User: "web.0.other-ROUTES", Password: "two"}}
	f.apply(specOf("g3", jobOf("other", other)))
	f.hears(heard, "router.unregister", "host.cf.test")
	f.hears(heard, subjectEnds, "guest")
	f.hears(heard, "router.register", "other.cf.test")

	// A new password is none of the routers' business but that they hear it again.
	f.bus.Admit("web.0.other-ROUTES", "three")
	other.Routes[0].Password = "three"
	f.apply(specOf("g4", jobOf("other", other)))
	f.hears(heard, "router.register", "other.cf.test")
}
