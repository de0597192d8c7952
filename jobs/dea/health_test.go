package dea

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/dea/internal/core"
	"github.com/clusterworks/deploy/jobs/wire"
)

func TestReadinessOf(t *testing.T) {
	suspended := "suspend"
	times := Intervals{PortTimeout: 60, StateFileTimeout: 300}
	for _, tc := range []struct {
		name    string
		port    int
		droplet string
		debug   *string
		health  *wire.HealthCheck
		want    readiness
	}{
		{"as in the original, a port", 1, "", nil, nil, readiness{wire.CheckPort, "", time.Minute, "it did not listen on port 1, which the variable PORT names"}},
		{"as in the original, a state file", 1, "s", nil, nil, readiness{stateFile, "s", 5 * time.Minute, "its state file s did not say RUNNING"}},
		{"as in the original, a debugger", 1, "s", &suspended, nil, readiness{stateFile, "s", 0, "its state file s did not say RUNNING"}},
		{"a worker", 0, "", nil, nil, readiness{wire.CheckProcess, "", time.Minute, ""}},
		{"more time", 1, "", nil, &wire.HealthCheck{Timeout: 90}, readiness{wire.CheckPort, "", 90 * time.Second, "it did not listen on port 1, which the variable PORT names"}},
		{"less time for a state file", 1, "s", nil, &wire.HealthCheck{Timeout: 9}, readiness{stateFile, "s", 9 * time.Second, "its state file s did not say RUNNING"}},
		{"http", 1, "s", nil, &wire.HealthCheck{Type: wire.CheckHTTP, Endpoint: "/up"}, readiness{wire.CheckHTTP, "/up", time.Minute, "it did not answer GET /up on port 1, which the variable PORT names"}},
		{"http without a port", 0, "", nil, &wire.HealthCheck{Type: wire.CheckHTTP, Endpoint: "/up"}, readiness{wire.CheckProcess, "/up", time.Minute, ""}},
		{"process", 1, "s", nil, &wire.HealthCheck{Type: wire.CheckProcess}, readiness{wire.CheckProcess, "", time.Minute, ""}},
		{"a file, which stays in the app", 1, "", nil, &wire.HealthCheck{Type: wire.CheckFile, Endpoint: "../../x"}, readiness{wire.CheckFile, "app/x", time.Minute, "its file ../../x did not appear"}},
		{"a word of times to come", 1, "", nil, &wire.HealthCheck{Type: "grpc"}, readiness{wire.CheckPort, "", time.Minute, "it did not listen on port 1, which the variable PORT names"}},
	} {
		got := readinessOf(core.Instance{Port: tc.port, Start: wire.DEAStart{Health: tc.health, Debug: tc.debug}}, tc.droplet, times)
		if got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

func TestStrayed(t *testing.T) {
	own := netip.MustParseAddr("10.0.0.1")
	for _, tc := range []struct{ open, want string }{
		{"", ""},
		{"0.0.0.0:80", ""},
		{"[::]:80", "port 80 for IPv6 only"}, // if it does not answer
		{"[::]:80 0.0.0.0:80", ""},
		{"10.0.0.1:80 127.0.0.1:9", ""},
		{"127.0.0.1:80", "listens on 127.0.0.1 only, port 80"},
		{"127.0.0.1:80 0.0.0.0:3000", "listens on 127.0.0.1 only, port 80"},
		{"0.0.0.0:3000 [::]:3001", "listens on 0.0.0.0:3000, [::]:3001, not on port 80"},
	} {
		var open []netip.AddrPort
		for _, text := range strings.Fields(tc.open) {
			open = append(open, netip.MustParseAddrPort(text))
		}
		if got := strayed(open, own, 80); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%q: %q, want %q", tc.open, got, tc.want)
		}
	}
}

// TestHealth: an instance runs when its app's own check says so, has the time that
// the app asks for, and its log says early what is wrong.
func TestHealth(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	a := c.start("port_timeout: 30")
	sha := a.droplet()
	large := a.droplet(entry{name: "./startup", text: strings.Repeat("x", 2<<20), mode: 0o700})
	start := func(id wire.ID, check *wire.HealthCheck, env ...string) {
		doc := a.document(id, sha, env...)
		doc.Health = check
		if id == "9" {
			doc = a.document(id, large)
			doc.Limits.Disk = 1
		}
		a.publish(wire.SubjectDEAStartOf(a.dea.base.UUID()), doc)
	}
	start("1", &wire.HealthCheck{Type: wire.CheckHTTP, Endpoint: "/warm"})
	start("2", &wire.HealthCheck{Type: wire.CheckFile, Endpoint: "tmp.ready"}, "MODE=marker")
	start("3", &wire.HealthCheck{Type: wire.CheckProcess}, "MODE=silent")
	start("4", &wire.HealthCheck{Timeout: 1}, "MODE=silent")
	start("5", nil, "MODE=astray")
	start("6", nil, "MODE=shy")
	start("7", &wire.HealthCheck{Type: wire.CheckHTTP, Endpoint: "/never", Timeout: 5})
	start("8", nil, "MODE=exit", "STATUS=1")
	start("9", nil)

	a.state("3", wire.StateRunning)
	if got := file(t, a.state("4", wire.StateCrashed), "/logs/err.log"); !strings.Contains(got, "did not listen on port") || !strings.Contains(got, "PORT names, within 1s") {
		t.Errorf("an app with a second to start: %q", got)
	}
	if got := file(t, a.state("7", wire.StateCrashed), "/logs/err.log"); !strings.Contains(got, "did not answer GET /never") || !strings.Contains(got, "503 Not Yet") || strings.Contains(got, "IPv6") {
		t.Errorf("an app whose answers are no good: %q", got)
	}
	if got := file(t, a.state("8", wire.StateCrashed), "/logs/err.log"); !strings.Contains(got, "ended with status 1. It had not been ready before") {
		t.Errorf("an app that ends early: %q", got)
	}
	if got := file(t, a.state("9", wire.StateCrashed), "/logs/err.log"); !strings.Contains(got, "The app's files cannot be used") || !strings.Contains(got, "larger than the 1 MB") {
		t.Errorf("an app that is larger than its quota of disk: %q", got)
	}
	a.state("2", wire.StateRunning)
	if found := a.state("1", wire.StateRunning); !strings.HasPrefix(get(t, found, "/warm"), "hello") {
		t.Error("it runs and is not warm")
	}
	for id, want := range map[wire.ID]string{"5": "not on port", "6": "listens on 127.0.0.2 only"} {
		eventually(t, "app "+string(id)+" is told where it listens", func() bool {
			found := a.find(id, false)
			return len(found) == 1 && found[0].State == wire.StateStarting && found[0].Staged != nil && strings.Contains(file(t, found[0], "/logs/err.log"), want)
		})
	}
}

// TestProbePause: what is ready is seen soon after, in proportion to how long it took, and
// an app that never is costs few looks.
func TestProbePause(t *testing.T) {
	const most = 500 * time.Millisecond
	for ready := time.Duration(0); ready < 3*time.Second; ready += 7 * time.Millisecond {
		at := time.Duration(0)
		for at < ready {
			at += probePause(at, most)
		}
		if late := at - ready; late > 20*time.Millisecond+ready/8 {
			t.Errorf("ready after %v, seen %v later", ready, late)
		}
	}
	looks := 0
	for at := time.Duration(0); at < time.Minute; at += probePause(at, most) {
		looks++
	}
	if looks > 160 {
		t.Errorf("%d looks in a minute", looks)
	}
}
