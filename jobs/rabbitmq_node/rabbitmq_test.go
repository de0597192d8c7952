package rabbitmqnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/clusterworks/deploy/agent/host/proc"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node/nodetest"
	"github.com/clusterworks/deploy/jobs/wire"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// deadline is far above what a busy machine needs for anything that is awaited.
const deadline = 2 * time.Minute

// dial connects as an app with these credentials does.
func dial(t *testing.T, c wire.Credentials) (*amqp.Connection, error) {
	conn, err := amqp.DialConfig(c.Text("url"), amqp.Config{Heartbeat: deadline, Dial: amqp.DefaultDial(deadline)})
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// open returns a channel of a connection of its own, on which publishing is confirmed.
func openChannel(t *testing.T, c wire.Credentials) *amqp.Channel {
	t.Helper()
	conn, err := dial(t, c)
	must(t, err)
	ch, err := conn.Channel()
	must(t, err)
	must(t, ch.Confirm(false))
	return ch
}

// publish reports whether the server has acknowledged a message, or refused it.
func publish(t *testing.T, ch *amqp.Channel, queue, text string) (bool, error) {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	c, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", queue, false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(text)})
	if err != nil {
		return false, err
	}
	return c.WaitContext(ctx)
}

func declare(ch *amqp.Channel, queue string) error {
	_, err := ch.QueueDeclare(queue, true, false, false, false, nil)
	return err
}

// get returns a message's text, "" if there is none.
func get(t *testing.T, ch *amqp.Channel, queue string) string {
	t.Helper()
	m, there, err := ch.Get(queue, true)
	must(t, err)
	if !there {
		return ""
	}
	return string(m.Body)
}

func refused(t *testing.T, what string, err error) {
	t.Helper()
	var e *amqp.Error
	if !errors.As(err, &e) || e.Code != amqp.AccessRefused && e.Code != amqp.NotAllowed && e.Code != amqp.ResourceError && e.Code != amqp.PreconditionFailed {
		t.Errorf("%s: %v, want a refusal", what, err)
	}
}

// serverPID returns the process of the node's server.
func serverPID(t *testing.T, f *nodetest.Fixture) (pid int, all []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	must(t, err)
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		folder, err := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if err != nil || !strings.HasPrefix(folder, f.Base) {
			continue
		}
		all = append(all, n)
		if name, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "comm")); strings.TrimSpace(string(name)) == "beam.smp" {
			pid = n
		}
	}
	return pid, all
}

// TestRabbitMQ has one node with a small plan; the parts follow each other, since a
// server takes its time to start.
func TestRabbitMQ(t *testing.T) {
	t.Parallel()
	f := nodetest.New(t, Definition, fmt.Sprintf("rabbitmq: {port: %d, limits: {connections: 12, channels: 8, queues: 5, queue_mb: 1, message_mb: 1}}\n", componenttest.FreePort(t)))
	t.Run("Bindings", func(t *testing.T) { testBindings(t, f) })
	t.Run("Limits", func(t *testing.T) { testLimits(t, f) })
	t.Run("NothingLeaks", func(t *testing.T) { testNothingLeaks(t, f) })
	t.Run("KillDuringWrites", func(t *testing.T) { testKillDuringWrites(t, f) })
	t.Run("End", func(t *testing.T) {
		f.Stop()
		if _, left := serverPID(t, f); len(left) > 0 {
			t.Errorf("processes run on after their node: %v", left)
		}
	})
}

// testBindings: what one binding sends another receives; nobody reaches another
// instance, or the server; who is unbound is out at once.
func testBindings(t *testing.T, f *nodetest.Fixture) {
	one, other := f.Provision(), f.Provision()
	a, b, theirs := f.Bind(one), f.Bind(one), f.Bind(other)
	sender, receiver := openChannel(t, a), openChannel(t, b)
	must(t, declare(sender, "q"))
	if ok, err := publish(t, sender, "q", "hello"); !ok || err != nil {
		t.Fatalf("publish: %v, %v", ok, err)
	}
	if got := get(t, receiver, "q"); got != "hello" {
		t.Errorf("another binding gets %q", got)
	}
	elsewhere := func(c wire.Credentials, vhost string) wire.Credentials {
		c = c.Without()
		c["url"] = strings.TrimSuffix(c.Text("url"), c.Text("vhost")) + vhost
		return c
	}
	with := func(c wire.Credentials, user, password string) wire.Credentials {
		c = c.Without()
		c["url"] = fmt.Sprintf("amqp://%s:%s@%s:%d/%s", user, password, c.Text("host"), c.Number("port"), c.Text("vhost"))
		return c
	}
	for name, c := range map[string]wire.Credentials{
		"a user of another instance": elsewhere(theirs, a.Text("vhost")),
		"the usual vhost":            elsewhere(a, "%2f"),
		"no such vhost":              elsewhere(a, "nowhere"),
		"a wrong password":           with(a, a.User(), b.Text("password")),
		"no password":                with(a, a.User(), ""),
		"guest":                      with(a, "guest", "guest"),
		"the administrator":          with(a, "node%20administrator", ""),
	} {
		_, err := dial(t, c)
		refused(t, name, err)
	}
	// What a user may not do ends the channel.
	for name, do := range map[string]func(*amqp.Channel) error{
		"an exchange of the server": func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare("amq.mine", "fanout", true, false, false, false, nil)
		},
		"the server's log": func(ch *amqp.Channel) error { return ch.ExchangeBind("x", "", "amq.rabbitmq.trace", false, nil) },
	} {
		if err := do(openChannel(t, a)); err == nil {
			t.Errorf("a user gets %s", name)
		}
	}
	// The API of the server answers on the loopback, and users not at all.
	s, _ := serverPID(t, f)
	listeners, err := proc.Listeners([]int{s})
	must(t, err)
	refusals := 0
	for _, at := range listeners {
		if !at.Addr().IsLoopback() {
			t.Errorf("the server listens on %v", at)
		}
		for _, c := range []wire.Credentials{a, one, {"username": "guest", "password": "guest"}} {
			request, err := http.NewRequest(http.MethodGet, "http://"+at.String()+"/api/users", nil)
			must(t, err)
			request.SetBasicAuth(c.User(), c.Text("password"))
			client := &http.Client{Timeout: 3 * time.Second}
			response, err := client.Do(request)
			if err != nil {
				break // it is no API
			}
			response.Body.Close()
			if response.StatusCode != http.StatusUnauthorized {
				t.Errorf("the API at %v answers %q with %s", at, c.User(), response.Status)
			}
			refusals++
		}
	}

	if len(listeners) < 3 || refusals != 3 {
		t.Errorf("the server listens on %v, and the API refused %d of 3", listeners, refusals)
	}
	closed := make(chan *amqp.Error, 1)
	sender.NotifyClose(closed)
	f.Unbind(a)
	select {
	case <-closed:
	case <-time.After(deadline):
		t.Error("a connection of an unbound user lives on")
	}
	_, err = dial(t, a)
	refused(t, "an unbound user", err)
	if ok, err := publish(t, receiver, "q", "still here"); !ok || err != nil {
		t.Errorf("the other binding: %v, %v", ok, err)
	}
	// Nobody becomes a user of two instances, and the try, undone, removes nobody.
	taken := wire.BindRequest{Name: one.Name(), Credentials: wire.Credentials{"name": one.Name(), "username": theirs.User(), "password": "known"}}
	if f.Ask(wire.ServiceBind, taken).Success {
		t.Error("a user of another instance is taken over")
	}
	if _, err := dial(t, theirs); err != nil {
		t.Errorf("the user whose name was wanted: %v", err)
	}
	f.Unprovision(one)
	_, err = dial(t, b)
	refused(t, "a user of an instance that was removed", err)
	f.Unprovision(other)
}

// testLimits: what is beyond the plan is refused and told; nothing that was
// acknowledged is dropped for it, and others are served.
func testLimits(t *testing.T, f *nodetest.Fixture) {
	one, other := f.Provision(), f.Provision()
	c := f.Bind(one)
	conn, err := dial(t, c)
	must(t, err)
	channel := func() *amqp.Channel {
		t.Helper()
		ch, err := conn.Channel()
		must(t, err)
		must(t, ch.Confirm(false))
		return ch
	}
	ch := channel()
	must(t, declare(ch, "q0"))
	text, accepted := strings.Repeat("x", 100_000), 0
	for range 30 { // three times what a queue keeps
		ok, err := publish(t, ch, "q0", text)
		must(t, err)
		if ok {
			accepted++
		}
	}
	if accepted < 5 || accepted > 15 {
		t.Errorf("%d of 30 messages of 100 kB were accepted by a queue of 1 MiB", accepted)
	}
	queue, err := ch.QueueDeclarePassive("q0", true, false, false, false, nil)
	if err != nil || queue.Messages != accepted {
		t.Errorf("%d messages are there of %d that were acknowledged: %v", queue.Messages, accepted, err)
	}
	for n := 1; n < 5; n++ {
		must(t, declare(ch, fmt.Sprint("q", n)))
	}
	refused(t, "the sixth queue", declare(ch, "q5"))
	if ok, err := publish(t, channel(), "q1", strings.Repeat("x", 2<<20)); ok && err == nil {
		t.Error("a message of 2 MiB is accepted")
	}
	many := 0
	for err = nil; err == nil && many < 50; many++ {
		_, err = conn.Channel()
	}
	if many > 10 {
		t.Errorf("%d channels of one user", many)
	}
	connections, failed := []*amqp.Connection{}, 0
	for range 40 {
		more, err := amqp.DialConfig(c.Text("url"), amqp.Config{Dial: amqp.DefaultDial(deadline)})
		if err != nil {
			failed++
			continue
		}
		connections = append(connections, more)
	}
	if len(connections) > 12 || failed < 28 {
		t.Errorf("%d connections and %d refusals, 12 are allowed", len(connections), failed)
	}
	for range 300 { // who says nothing has none of the instance's connections
		idle, err := net.Dial("tcp", c.Text("host")+":"+strconv.Itoa(c.Number("port")))
		must(t, err)
		defer idle.Close()
	}
	if ch := openChannel(t, f.Bind(other)); declare(ch, "q") != nil {
		t.Error("another instance is not served")
	}
	for _, more := range connections {
		more.Close()
	}
	f.Unprovision(one)
	f.Unprovision(other)
}

// testNothingLeaks: passwords are in the node's records only; the server is nobody's
// who could become root.
func testNothingLeaks(t *testing.T, f *nodetest.Fixture) {
	one := f.Provision()
	c := f.Bind(one)
	openChannel(t, c)
	found := 0
	look := func(path string, text []byte) {
		for _, secret := range []string{one.Text("password"), c.Text("password")} {
			if !bytes.Contains(text, []byte(secret)) {
				continue
			}
			found++
			if filepath.Base(filepath.Dir(path)) != "instances" {
				t.Errorf("a password is in %s", path)
			}
		}
	}
	must(t, filepath.WalkDir(f.Base, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the server is at work
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		look(path, text)
		if strings.HasSuffix(path, ".erlang.cookie") {
			if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o600 || len(text) < 20 {
				t.Errorf("the cookie: %v, %d bytes, %v", info.Mode(), len(text), err)
			}
		}
		return err
	}))
	_, all := serverPID(t, f)
	for _, pid := range all {
		for _, name := range []string{"cmdline", "environ", "status"} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // a program that the server has run
			}
			must(t, err)
			look(name, text)
			if name == "status" && os.Getuid() == 0 && (bytes.Contains(text, []byte("\nUid:\t0\t")) || !bytes.Contains(text, []byte("NoNewPrivs:\t1"))) {
				t.Errorf("the server runs as root or may become it:\n%s", text)
			}
		}
	}
	if found != 2 {
		t.Errorf("%d passwords found in records, want 2", found)
	}
	f.Unprovision(one)
}

// testKillDuringWrites: server and node are killed while an app sends; what was
// acknowledged is there, with the same credentials, and so are instances that are made
// side by side.
func testKillDuringWrites(t *testing.T, f *nodetest.Fixture) {
	var group sync.WaitGroup
	var mu sync.Mutex
	users := []wire.Credentials{}
	for range 5 {
		group.Go(func() {
			c := f.Bind(f.Provision())
			mu.Lock()
			defer mu.Unlock()
			users = append(users, c)
		})
	}
	group.Wait()
	c := users[0]
	ch := openChannel(t, c)
	must(t, declare(ch, "outlives"))
	// The server answers before it has written down that there is a queue.
	componenttest.Eventually(t, "the queue on disk", func() bool {
		found := false
		_ = filepath.WalkDir(f.Base, func(file string, _ os.DirEntry, _ error) error { // files go away meanwhile
			if slices.Contains([]string{".LOG", ".DCD", ".DCL"}, filepath.Ext(file)) { // Mnesia's
				data, _ := os.ReadFile(file)
				found = found || bytes.Contains(data, []byte("outlives"))
			}
			return nil
		})
		return found
	})
	acknowledged := 0
	for ; acknowledged < 20; acknowledged++ {
		if ok, err := publish(t, ch, "outlives", strconv.Itoa(acknowledged)); !ok || err != nil {
			t.Fatalf("publish: %v, %v", ok, err)
		}
	}
	pid, _ := serverPID(t, f)
	killed := make(chan error, 1)
	go func() { killed <- syscall.Kill(pid, syscall.SIGKILL) }()
	for {
		if ok, err := publish(t, ch, "outlives", strconv.Itoa(acknowledged)); !ok || err != nil {
			break
		}
		acknowledged++
	}
	must(t, <-killed)
	f.Stop()
	f.Start()
	for _, c := range users {
		conn, err := dial(t, c)
		must(t, err)
		conn.Close()
	}
	ch = openChannel(t, c)
	for n := range acknowledged {
		if got := get(t, ch, "outlives"); got != strconv.Itoa(n) {
			t.Fatalf("message %d of %d that were acknowledged is %q", n, acknowledged, got)
		}
	}
	// A server that ends by itself is started again, and the node says so meanwhile.
	pid, _ = serverPID(t, f)
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	componenttest.Eventually(t, "the server again", func() bool {
		now, _ := serverPID(t, f)
		if now == pid || now == 0 {
			return false
		}
		conn, err := amqp.DialConfig(c.Text("url"), amqp.Config{Dial: amqp.DefaultDial(deadline)})
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func TestFind(t *testing.T) {
	if i, err := find("rabbitmq-server"); err != nil || !strings.HasPrefix(i.version, "3.") && !strings.HasPrefix(i.version, "4.") {
		t.Errorf("%+v, %v", i, err)
	}
	for _, program := range []string{"/bin/true", "/nowhere/rabbitmq-server"} {
		if i, err := find(program); err == nil {
			t.Errorf("%s is a RabbitMQ server %s", program, i.version)
		}
	}
}

// TestHashed: the same password has another salt each time, and no trace of itself.
func TestHashed(t *testing.T) {
	one, err := hashed("password")
	must(t, err)
	other, err := hashed("password")
	must(t, err)
	if one == other || len(one) != 48 || strings.Contains(one, "password") {
		t.Errorf("%q, %q", one, other)
	}
}
