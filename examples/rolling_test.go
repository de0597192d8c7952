//go:build e2e

package examples

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The long form is make soak.
var (
	soak = flag.Int64("soak", 4000, "requests that TestRollingUpdateUnderLoad answers at least")
	long = flag.Bool("long", false, "whether TestPlatform does all that it can: 20 pushes, more bad ones, 10 killed controllers, 50,000 requests, 200 placements")
	rate = flag.Int("rate", 700, "requests that it sends a second")
)

const loadClients = 64

// rolled is a cluster of which routers and hellos can be rolled by variables,
// and with it a router "edge" and a hello "chat" that are left alone.
const rolled = `deployment "rolled" { domain = "rolled.localhost" }
infrastructure "local" {}
variable "listen" { default = "" }
variable "drain_timeout_s" { default = 30 }
variable "port" { default = 8082 }
variable "max_body_mb" { default = 64 }
release "examples" { path = "./jobs" }
secret "nats" { type = "password" }
update {
  max_in_flight    = "34%"
  min_healthy_time = "1s"
  watch_time       = "0s-60s"
}
group "nats" {
  job "nats" {
    properties { password = secret.nats.value }
  }
}
group "lb" {
  job "nginx" {
    properties {
      domains     = ["*.${deployment.domain}"]
      routers     = concat(group.router.instances[*].address, group.edge.instances[*].address)
      max_body_mb = var.max_body_mb
    }
  }
}
group "router" {
  instances = 3
  job "router" {
    properties {
      drain_timeout_s = var.drain_timeout_s
      trace_key       = "22"
    }
  }
}
group "edge" {
  job "router" {
    properties { trace_key = "22" }
  }
}
group "hello" {
  instances = 3
  job "hello" {
    properties { port = var.port }
  }
}
group "chat" {
  job "hello" {
    properties { name = "chat" }
  }
}
`

func rolledCluster(t *testing.T) *cluster {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rolled.hcl")
	if err := os.WriteFile(file, []byte(rolled), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, file)
}

// TestRollingUpdateUnderLoad rolls all routers and all hellos, every process of
// which restarts, under the load of 64 clients: no request fails, none has to be
// sent again, nginx is not reloaded, and a WebSocket over a router and a hello
// that are left alone goes on. Then nginx is reloaded: no request fails but for
// those that a client may send again.
func TestRollingUpdateUnderLoad(t *testing.T) {
	t.Parallel()
	c := rolledCluster(t)
	c.mustApply()
	before := c.mustAllRun(10)
	lb := net.JoinHostPort(c.addressOf("lb/0"), "8080")
	within(t, 30*time.Second, "the page is served", func() bool {
		_, err := page(lb, "hello.rolled.localhost")
		return err == nil
	})
	talk := openTalk(t, lb, "chat.rolled.localhost", c.addressOf("edge/0"))
	workers := childrenOf(t, before.pids()["lb/0 nginx"])

	l := startLoad(t, lb, "hello.rolled.localhost", loadClients, *rate)
	vars := []string{}
	for round := 1; round == 1 || l.answered() < *soak; round++ {
		pids := c.status().pids()
		vars = []string{fmt.Sprintf("--var=drain_timeout_s=%d", 20+round%2), fmt.Sprintf("--var=port=%d", 8100+round%2)}
		if out, code := c.run("apply", append([]string{"--auto-approve"}, vars...)...); code != 0 {
			t.Fatalf("apply exited with %d:\n%s", code, out)
		}
		for name, pid := range c.status().pids() {
			rolls := strings.HasPrefix(name, "router/") || strings.HasPrefix(name, "hello/")
			if (pid != pids[name]) != rolls {
				t.Errorf("%s: pid was %d and is %d", name, pids[name], pid)
			}
		}
		t.Logf("rolling update %d: %v", round, l)
		if t.Failed() || l.failed.Load() > 0 {
			break
		}
	}
	l.stop()
	l.mustNotFail(t)
	if l.again() > 0 {
		t.Error("requests had to be sent again, although nginx was not reloaded")
	}
	if l.answered() < *soak {
		t.Errorf("%d requests are too few to tell", l.answered())
	}
	if now := childrenOf(t, before.pids()["lb/0 nginx"]); !slices.Equal(now, workers) {
		t.Errorf("nginx was reloaded: its workers are %v, and were %v", now, workers)
	}
	talk.mustGoOn(t)

	// Reloads. Those that the deployer asks for, and then many more.
	l = startLoad(t, lb, "hello.rolled.localhost", loadClients, *rate)
	for size := range 2 {
		if out, code := c.run("apply", append([]string{"--auto-approve", fmt.Sprintf("--var=max_body_mb=%d", 65+size)}, vars...)...); code != 0 {
			t.Fatalf("apply exited with %d:\n%s", code, out)
		}
	}
	if after := c.status().pids(); after["lb/0 nginx"] != before.pids()["lb/0 nginx"] {
		t.Error("nginx was restarted, not reloaded")
	}
	reloads := 2
	for again := time.NewTicker(500 * time.Millisecond); reloads < 6 || l.answered() < *soak/4; reloads++ {
		<-again.C
		if err := syscall.Kill(before.pids()["lb/0 nginx"], syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	l.stop()
	t.Logf("%d reloads of nginx", reloads)
	l.mustNotFail(t)
}

// talk is a WebSocket on which something is said and heard all the time.
type talk struct {
	conn  *websocket.Conn
	heard atomic.Int64
	hang  context.CancelFunc
	ended chan struct{} // closed when it ended
	err   error         // why
}

// openTalk opens a WebSocket to host over the load balancer and the router with
// a given address.
func openTalk(t *testing.T, lb, host, router string) *talk {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	k := &talk{ended: make(chan struct{})}
	within(t, 30*time.Second, "a WebSocket over the router "+router, func() bool {
		conn, response, err := websocket.Dial(ctx, "ws://"+lb+"/socket", &websocket.DialOptions{
			Host: host, HTTPHeader: http.Header{"X-Vcap-Trace": {"22"}},
		})
		if err != nil {
			return false
		}
		if response.Header.Get("X-Vcap-Router") != router {
			_ = conn.CloseNow() // another one
			return false
		}
		k.conn = conn
		return true
	})
	if _, text, err := k.conn.Read(ctx); err != nil || !strings.Contains(string(text), " from ") {
		t.Fatalf("the WebSocket says %q, %v", text, err)
	}
	ctx, k.hang = context.WithCancel(context.Background())
	go func() {
		defer close(k.ended)
		k.err = k.goOn(ctx)
	}()
	t.Cleanup(k.end)
	return k
}

// goOn says something ten times a second and hears it again.
func (k *talk) goOn(ctx context.Context) error {
	defer k.conn.CloseNow()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		word := strconv.FormatInt(k.heard.Load(), 10)
		if err := k.conn.Write(ctx, websocket.MessageText, []byte(word)); err != nil {
			return err
		}
		_, heard, err := k.conn.Read(ctx)
		if err != nil {
			return err
		}
		if string(heard) != word {
			return fmt.Errorf("heard %q instead of %q", heard, word)
		}
		k.heard.Add(1)
	}
}

// mustGoOn checks that the connection has lasted, still does, and ends it.
func (k *talk) mustGoOn(t *testing.T) {
	t.Helper()
	before := k.heard.Load()
	within(t, 30*time.Second, "the WebSocket goes on", func() bool {
		select {
		case <-k.ended:
			t.Fatalf("the WebSocket ended after %d messages: %v", before, k.err)
		default:
		}
		return k.heard.Load() > before+1
	})
	t.Logf("WebSocket: %d messages", k.heard.Load())
	k.end()
}

// end hangs up.
func (k *talk) end() {
	k.hang()
	<-k.ended
}

// childrenOf are the pids of a process's children.
func childrenOf(t *testing.T, pid int) []string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	children := strings.Fields(string(text))
	slices.Sort(children)
	return children
}
