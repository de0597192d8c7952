package redisnode

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node/nodetest"
	"github.com/clusterworks/deploy/jobs/wire"
)

// firstPort is where a test's range of ports begins; each has one of its own, below
// those that the kernel gives away.
var firstPort = struct {
	sync.Mutex
	next int
}{next: 14000 + os.Getpid()%100*100}

func ports() string {
	firstPort.Lock()
	defer firstPort.Unlock()
	firstPort.next += 25
	return fmt.Sprintf("ports: %d-%d\n", firstPort.next, firstPort.next+24)
}

func start(t *testing.T, settings string) *nodetest.Fixture {
	return nodetest.New(t, Definition, ports()+settings)
}

// as connects as an app with these credentials does.
func as(t *testing.T, c wire.Credentials) *redis.Client {
	r := redis.NewClient(&redis.Options{
		Addr: c.Text("host") + ":" + strconv.Itoa(c.Number("port")), Username: c.User(), Password: c.Text("password"), DisableIdentity: true, MaxRetries: -1,
		DialTimeout: 30 * time.Second, ReadTimeout: 30 * time.Second,
	})
	t.Cleanup(func() { r.Close() })
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func denied(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || !(strings.Contains(err.Error(), "NOPERM") || strings.Contains(err.Error(), "NOAUTH") || strings.Contains(err.Error(), "WRONGPASS") || strings.Contains(err.Error(), "DEBUG command not allowed")) {
		t.Errorf("%s: %v, want a refusal", what, err)
	}
}

// TestBindings: what one binding writes another reads; a user of another instance, a
// wrong password, or one that was unbound gets in nowhere; nobody is an administrator.
func TestBindings(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	ctx := t.Context()
	one, other := f.Provision(), f.Provision()
	a, b, theirs := f.Bind(one), f.Bind(one), f.Bind(other)
	appA, appB := as(t, a), as(t, b)
	must(t, appA.Set(ctx, "k", "v", 0).Err())
	if got, err := appB.Get(ctx, "k").Result(); err != nil || got != "v" {
		t.Errorf("%q, %v", got, err)
	}
	// Clients of old give a password without a name.
	old := a.Without("user", "username")
	if got, err := as(t, old).Get(ctx, "k").Result(); err != nil || got != "v" {
		t.Errorf("with a password only: %q, %v", got, err)
	}
	if got, err := as(t, theirs).Get(ctx, "k").Result(); !errors.Is(err, redis.Nil) {
		t.Errorf("another instance has %q, %v", got, err)
	}
	stranger := theirs.Without()
	stranger["port"] = a["port"]
	denied(t, "a user of another instance", as(t, stranger).Ping(ctx).Err())
	denied(t, "their password only", as(t, stranger.Without("user", "username")).Ping(ctx).Err())
	denied(t, "no password", as(t, a.Without("user", "username", "password")).Ping(ctx).Err())
	for _, command := range [][]any{
		{"CONFIG", "GET", "*"}, {"CONFIG", "SET", "dir", "/tmp"}, {"ACL", "LIST"}, {"ACL", "SETUSER", "x"}, {"SHUTDOWN", "NOSAVE"}, {"DEBUG", "SLEEP", "0"}, {"REPLICAOF", "127.0.0.1", "1"},
		{"MODULE", "LIST"}, {"SAVE"}, {"BGREWRITEAOF"}, {"CLIENT", "KILL", "TYPE", "normal"}, {"MONITOR"}, {"CLIENT", "LIST"}, {"FAILOVER"}, {"MIGRATE", "127.0.0.1", "1", "k", "0", "1"},
	} {
		for name, app := range map[string]*redis.Client{"a user": appA, "a password": as(t, old)} {
			denied(t, fmt.Sprint(name, command), app.Do(ctx, command...).Err())
		}
	}
	for _, command := range [][]any{{"KEYS", "*"}, {"INFO"}, {"EVAL", "return redis.call('GET','k')", "0"}, {"LPUSH", "l", "1"}, {"SORT", "l"}, {"SUBSCRIBE", "c"}} {
		if err := as(t, a).Do(ctx, command...).Err(); err != nil {
			t.Errorf("%v: %v", command, err)
		}
	}
	must(t, appA.Ping(ctx).Err())
	f.Unbind(a)
	denied(t, "an unbound user", as(t, a).Ping(ctx).Err())
	denied(t, "an unbound user's password", as(t, old).Ping(ctx).Err())
	if err := appA.Ping(ctx).Err(); err == nil {
		t.Error("a connection of an unbound user lives on")
	}
	if got, err := appB.Get(ctx, "k").Result(); err != nil || got != "v" {
		t.Errorf("the other binding has %q, %v", got, err)
	}
	f.Unprovision(one)
	if err := as(t, b).Ping(ctx).Err(); err == nil {
		t.Error("an instance that was removed answers")
	}
	entries, err := os.ReadDir(filepath.Join(f.Base, "servers"))
	if err != nil || len(entries) != 1 || entries[0].Name() != other.Name() {
		t.Errorf("left: %v, %v", entries, err)
	}
	must(t, as(t, theirs).Set(ctx, "k", "v", 0).Err())
}

// TestLimits: what is beyond the plan is refused and told; nothing is dropped, and the
// node still serves the instance.
func TestLimits(t *testing.T) {
	t.Parallel()
	f := start(t, "redis: {max_memory_mb: 2, max_clients: 20}\n")
	ctx := t.Context()
	one := f.Provision()
	app := as(t, f.Bind(one))
	must(t, app.Set(ctx, "first", "v", 0).Err())
	var err error
	for i := 0; i < 100 && err == nil; i++ {
		err = app.Set(ctx, fmt.Sprint("k", i), strings.Repeat("x", 100_000), 0).Err()
	}
	if err == nil || !strings.Contains(err.Error(), "OOM command not allowed when used memory > 'maxmemory'") {
		t.Errorf("beyond the plan's memory: %v", err)
	}
	if got, err := app.Get(ctx, "first").Result(); err != nil || got != "v" {
		t.Errorf("%q, %v", got, err)
	}
	must(t, app.FlushDB(ctx).Err())
	must(t, app.Set(ctx, "k", "v", 0).Err())

	refused := 0
	for range 40 {
		c := as(t, f.Bind(one)) // the node's own connection is not taken
		if err := c.Ping(ctx).Err(); err != nil {
			refused++
		}
	}
	if refused < 20 || refused > 30 {
		t.Errorf("%d of 40 connections refused, 20 allowed", refused)
	}
}

// pid is the process of an instance's server.
func pid(t *testing.T, f *nodetest.Fixture, c wire.Credentials) int {
	t.Helper()
	info, err := as(t, c).Info(t.Context(), "server").Result()
	must(t, err)
	for line := range strings.Lines(info) {
		if text, is := strings.CutPrefix(strings.TrimSpace(line), "process_id:"); is {
			n, err := strconv.Atoi(text)
			must(t, err)
			return n
		}
	}
	t.Fatal("no process_id")
	return 0
}

// TestKillDuringWrites: whatever is killed with -9 while an app writes, what was
// acknowledged is there, with the same credentials.
func TestKillDuringWrites(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	one := f.Provision()
	c := f.Bind(one)
	acknowledged := 0
	write := func(ctx context.Context) {
		app := as(t, c)
		for ctx.Err() == nil {
			if err := app.Set(ctx, "n", acknowledged+1, 0).Err(); err == nil {
				acknowledged++
			}
		}
	}
	for round := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { write(ctx); close(done) }()
		before := acknowledged
		server := pid(t, f, c)
		componenttest.Eventually(t, "writes", func() bool { n, _ := as(t, c).Get(t.Context(), "n").Int(); return n > before+20 })
		must(t, syscall.Kill(server, syscall.SIGKILL))
		if round == 2 { // the node as well
			f.Stop()
		}
		cancel()
		<-done
		if round == 2 {
			f.Start()
		}
		componenttest.Eventually(t, "the server again", func() bool { return as(t, c).Ping(t.Context()).Err() == nil })
		if got, err := as(t, c).Get(t.Context(), "n").Int(); err != nil || got < acknowledged || got > acknowledged+1 {
			t.Errorf("round %d: %d is there, %d was acknowledged, %v", round, got, acknowledged, err)
		}
		acknowledged, _ = as(t, c).Get(t.Context(), "n").Int()
		if pid(t, f, c) == server {
			t.Error("it is the server that was killed")
		}
	}
}

// TestNoPasswordLeaks: passwords are in the node's record only, which nobody else can
// read, and in no argument of a process.
func TestNoPasswordLeaks(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	one := f.Provision()
	c := f.Bind(one)
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid(t, f, c)))
	must(t, err)
	secrets := []string{one.Text("password"), c.Text("password")}
	found := 0
	must(t, filepath.WalkDir(filepath.Dir(f.Base), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, secret := range secrets {
			if strings.Contains(string(arguments), secret) {
				t.Error("a password is an argument")
			}
			if !strings.Contains(string(data), secret) {
				continue
			}
			found++
			if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o600 || filepath.Base(filepath.Dir(path)) != "instances" {
				t.Errorf("a password is in %s, %v, %v", path, info.Mode(), err)
			}
		}
		return nil
	}))
	if found != 2 {
		t.Errorf("%d passwords found in records, want 2", found)
	}
	if os.Getuid() == 0 {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid(t, f, c)))
		must(t, err)
		if strings.Contains(string(status), "\nUid:\t0\t") || !strings.Contains(string(status), "NoNewPrivs:\t1") {
			t.Errorf("the server runs as root or may become it:\n%s", status)
		}
	}
}

// TestManyInstances: instances are made side by side, each with a server and a port of
// its own, and all are there after a restart of the node.
func TestManyInstances(t *testing.T) {
	t.Parallel()
	f := start(t, "capacity: 12\n")
	ctx := t.Context()
	var group sync.WaitGroup
	var mu sync.Mutex
	users := map[int]wire.Credentials{}
	for n := range 12 {
		group.Go(func() {
			c := f.Bind(f.Provision())
			if err := as(t, c).Set(ctx, "n", n, 0).Err(); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			users[n] = c
		})
	}
	group.Wait()
	f.Stop()
	f.Start()
	for n, c := range users {
		if got, err := as(t, c).Get(ctx, "n").Int(); err != nil || got != n {
			t.Errorf("%d: %d, %v", n, got, err)
		}
	}
	if a := f.Ask(wire.ServiceProvision, wire.ProvisionRequest{Plan: "free"}); a.Success {
		t.Error("a full node takes one more")
	}
}

func TestFindVersion(t *testing.T) {
	if v, err := findVersion(t.Context(), "redis-server"); err != nil || !strings.Contains(v, ".") {
		t.Errorf("%q, %v", v, err)
	}
	for _, program := range []string{"/bin/true", "/nowhere/redis-server"} {
		if v, err := findVersion(t.Context(), program); err == nil {
			t.Errorf("%s is a Redis server %s", program, v)
		}
	}
}
