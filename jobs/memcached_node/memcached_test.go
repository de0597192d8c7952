package memcachednode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node/nodetest"
	"github.com/clusterworks/deploy/jobs/wire"
)

// firstPort is where a test's range of ports begins; each has one of its own, below
// those that the kernel gives away.
var firstPort = struct {
	sync.Mutex
	next int
}{next: 24500 + os.Getpid()%60*100}

func start(t *testing.T, settings string) *nodetest.Fixture {
	firstPort.Lock()
	firstPort.next += 15
	ports := fmt.Sprintf("ports: %d-%d\n", firstPort.next, firstPort.next+14)
	firstPort.Unlock()
	return nodetest.New(t, Definition, ports+settings)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// app is an app's connection, in the binary protocol.
type app struct{ net.Conn }

const (
	opGet, opSet, opFlush, opStat, opAuth = 0x00, 0x01, 0x08, 0x10, 0x21

	done, missing, tooLarge, noMemory, refused = 0x00, 0x01, 0x03, 0x82, 0x20
)

// dial connects to an instance without saying who it is.
func dial(t *testing.T, c wire.Credentials) app {
	t.Helper()
	conn, err := net.DialTimeout("tcp", c.Text("host")+":"+strconv.Itoa(c.Number("port")), time.Minute)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	return app{conn}
}

// ask sends one request and returns the answer's status and value; an error is a
// connection that has ended.
func (a app) ask(op byte, extras, key, value string) (int, string, error) {
	request := make([]byte, headerBytes)
	request[0], request[1], request[4] = askMagic, op, byte(len(extras))
	binary.BigEndian.PutUint16(request[2:], uint16(len(key)))
	binary.BigEndian.PutUint32(request[8:], uint32(len(extras)+len(key)+len(value)))
	if _, err := a.Write(append(request, extras+key+value...)); err != nil {
		return 0, "", err
	}
	header := make([]byte, headerBytes)
	if _, err := io.ReadFull(a, header); err != nil {
		return 0, "", err
	}
	body := make([]byte, binary.BigEndian.Uint32(header[8:]))
	if _, err := io.ReadFull(a, body); err != nil {
		return 0, "", err
	}
	return int(binary.BigEndian.Uint16(header[6:])), string(body[header[4]:]), nil
}

func (a app) auth(mechanism, user, password string) (int, error) {
	status, _, err := a.ask(opAuth, "", mechanism, "\x00"+user+"\x00"+password)
	return status, err
}

// as connects as an app with these credentials does.
func as(t *testing.T, c wire.Credentials) app {
	t.Helper()
	a := dial(t, c)
	if status, err := a.auth("PLAIN", c.User(), c.Text("password")); status != done || err != nil {
		t.Fatalf("cannot log in: %#x, %v", status, err)
	}
	return a
}

func (a app) set(key, value string) (int, error) {
	status, _, err := a.ask(opSet, "\x00\x00\x00\x00\x00\x00\x00\x00", key, value)
	return status, err
}

func (a app) get(key string) string {
	status, value, err := a.ask(opGet, "", key, "")
	if err != nil || status != done {
		return fmt.Sprintf("(%#x %v)", status, err)
	}
	return value
}

const none = "(0x1 <nil>)"

// TestBindings: what one binding writes another reads; who has no user of the instance
// reaches nothing in it, whatever way to log in is tried; who is unbound is out at once.
func TestBindings(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	one, other := f.Provision(), f.Provision()
	a, b, theirs := f.Bind(one), f.Bind(one), f.Bind(other)
	appA, appB := as(t, a), as(t, b)
	if status, err := appA.set("k", "v"); status != done || err != nil {
		t.Fatalf("set: %#x, %v", status, err)
	}
	if got := appB.get("k"); got != "v" {
		t.Errorf("another binding has %q", got)
	}
	if got := as(t, theirs).get("k"); got != none {
		t.Errorf("another instance has %q", got)
	}
	for name, try := range map[string]struct{ mechanism, user, password string }{
		"a user of another instance": {"PLAIN", theirs.User(), theirs.Text("password")},
		"a wrong password":           {"PLAIN", a.User(), b.Text("password")},
		"no password":                {"PLAIN", a.User(), ""},
		"nobody":                     {"PLAIN", "", ""},
		"an unknown user":            {"PLAIN", "root", "root"},
		"a long name":                {"PLAIN", strings.Repeat("x", 900), strings.Repeat("y", 900)},
		"a name with a NUL":          {"PLAIN", a.User() + "\x00" + a.Text("password"), "x"},
		"anonymous":                  {"ANONYMOUS", "", ""},
		"a digest":                   {"DIGEST-MD5", a.User(), a.Text("password")},
		"CRAM":                       {"CRAM-MD5", a.User(), a.Text("password")},
		"no such mechanism":          {"EXTERNAL", a.User(), a.Text("password")},
	} {
		stranger := dial(t, a)
		if status, err := stranger.auth(try.mechanism, try.user, try.password); status == done && err == nil {
			t.Errorf("%s is let in", name)
		}
		if got := stranger.get("k"); got == "v" || got == none {
			t.Errorf("%s reads %q", name, got)
		}
	}
	silent := dial(t, a)
	for _, op := range []byte{opGet, opSet, opFlush, opStat} {
		if status, _, err := silent.ask(op, "", "", ""); err == nil && status != refused {
			t.Errorf("who has not logged in may %#x: %#x", op, status)
		}
	}
	// The text protocol knows no users, and there is none.
	text := dial(t, a)
	_, err := io.WriteString(text, "get k\r\nset k 0 0 1\r\nx\r\nquit\r\n")
	must(t, err)
	if answer, _ := io.ReadAll(text); bytes.Contains(answer, []byte("VALUE")) || bytes.Contains(answer, []byte("STORED")) {
		t.Errorf("the text protocol answers %q", answer)
	}
	udp, err := net.Dial("udp", a.Text("host")+":"+strconv.Itoa(a.Number("port")))
	must(t, err)
	defer udp.Close()
	must(t, udp.SetDeadline(time.Now().Add(10*time.Second)))
	_, _ = udp.Write([]byte("\x00\x00\x00\x00\x00\x01\x00\x00stats\r\n"))
	if _, err := udp.Read(make([]byte, 100)); err == nil {
		t.Error("it answers UDP")
	}

	f.Unbind(a)
	if got := appA.get("k"); !strings.Contains(got, "EOF") && !strings.Contains(got, "reset") && !strings.Contains(got, "pipe") {
		t.Errorf("a connection of an unbound user lives on and reads %q", got)
	}
	var back app
	componenttest.Eventually(t, "the server again", func() bool {
		conn, err := net.Dial("tcp", a.Text("host")+":"+strconv.Itoa(a.Number("port")))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	if status, err := dial(t, a).auth("PLAIN", a.User(), a.Text("password")); status == done && err == nil {
		t.Error("an unbound user is let in")
	}
	back = as(t, b)
	if got := back.get("k"); got != none {
		t.Errorf("the cache has %q after an unbind", got)
	}
	if status, err := back.set("k", "v"); status != done || err != nil {
		t.Errorf("the other binding cannot write: %#x, %v", status, err)
	}
	f.Unprovision(one)
	if got := back.get("k"); got == "v" {
		t.Error("an instance that was removed answers")
	}
	entries, err := os.ReadDir(filepath.Join(f.Base, "servers"))
	if err != nil || len(entries) != 1 || entries[0].Name() != other.Name() {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// TestLimits: memory and connections end at the plan's limits; what is old goes, and
// the node still binds while an app has all connections.
func TestLimits(t *testing.T) {
	t.Parallel()
	f := start(t, "memcached: {max_memory_mb: 4, max_clients: 20}\n")
	one, other := f.Provision(), f.Provision()
	a := f.Bind(one)
	writer := as(t, a)
	value := strings.Repeat("x", 100_000)
	for n := range 200 { // five times what fits
		if status, err := writer.set(fmt.Sprint("k", n), value); err != nil || status != done && status != noMemory {
			t.Fatalf("set %d: %#x, %v", n, status, err)
		}
	}
	if got := writer.get("k199"); got != value {
		t.Errorf("what was written last is %.20q", got)
	}
	if got := writer.get("k0"); got != none {
		t.Errorf("what was written first is %.20q", got)
	}
	if status, err := writer.set("large", strings.Repeat("x", 2<<20)); err == nil && status != tooLarge {
		t.Errorf("an item of 2 MiB: %#x", status)
	}
	for range 60 {
		conn, err := net.Dial("tcp", a.Text("host")+":"+strconv.Itoa(a.Number("port")))
		must(t, err)
		defer conn.Close()
	}
	b := f.Bind(one) // the node needs no connection for it
	if got := as(t, f.Bind(other)).get("k"); got != none {
		t.Errorf("another instance has %q", got)
	}
	f.Unbind(b)
	componenttest.Eventually(t, "connections are free again", func() bool {
		conn, err := net.Dial("tcp", a.Text("host")+":"+strconv.Itoa(a.Number("port")))
		if err != nil {
			return false
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		status, err := app{conn}.auth("PLAIN", a.User(), a.Text("password"))
		return err == nil && status == done
	})
}

// serversOf returns the processes of the servers of a node.
func serversOf(t *testing.T, f *nodetest.Fixture) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	must(t, err)
	pids := []int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		folder, err := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if err == nil && strings.HasPrefix(folder, f.Base) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestRestarts: servers and node may be killed or ended at any time; users come in
// again with what they have, and nothing of a node that has ended runs on.
func TestRestarts(t *testing.T) {
	t.Parallel()
	f := start(t, "capacity: 10\n")
	var group sync.WaitGroup
	var mu sync.Mutex
	users := []wire.Credentials{}
	for range 10 {
		group.Go(func() {
			c := f.Bind(f.Provision())
			mu.Lock()
			defer mu.Unlock()
			users = append(users, c)
		})
	}
	group.Wait()
	if a := f.Ask(wire.ServiceProvision, wire.ProvisionRequest{Plan: "free"}); a.Success {
		t.Error("a full node takes one more")
	}
	servers := serversOf(t, f)
	if len(servers) != 10 {
		t.Fatalf("%d servers run", len(servers))
	}
	for _, pid := range servers {
		if os.Getuid() == 0 {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			must(t, err)
			if strings.Contains(string(status), "\nUid:\t0\t") || !strings.Contains(string(status), "NoNewPrivs:\t1") {
				t.Errorf("the server runs as root or may become it:\n%s", status)
			}
		}
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	login := func() {
		t.Helper()
		for _, c := range users {
			componenttest.Eventually(t, "a user comes in again", func() bool {
				conn, err := net.Dial("tcp", c.Text("host")+":"+strconv.Itoa(c.Number("port")))
				if err != nil {
					return false
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				status, err := app{conn}.auth("PLAIN", c.User(), c.Text("password"))
				return err == nil && status == done
			})
		}
	}
	login()
	f.Stop()
	if left := serversOf(t, f); len(left) > 0 {
		t.Errorf("servers run on after their node: %v", left)
	}
	f.Start()
	login()
}

// TestNoPasswordLeaks: passwords are in the node's record only, and neither an argument
// nor in the environment of a process.
func TestNoPasswordLeaks(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	one := f.Provision()
	c := f.Bind(one)
	as(t, c)
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
	must(t, filepath.WalkDir(filepath.Dir(f.Base), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		look(path, text)
		return err
	}))
	for _, pid := range serversOf(t, f) {
		for _, name := range []string{"cmdline", "environ"} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
			must(t, err)
			look(name, text)
		}
	}
	if found != 2 {
		t.Errorf("%d passwords found in records, want 2", found)
	}
}

func TestFindVersion(t *testing.T) {
	if v, err := findVersion(t.Context(), "memcached"); err != nil || !strings.HasPrefix(v, "1.") {
		t.Errorf("%q, %v", v, err)
	}
	old := filepath.Join(t.TempDir(), "memcached")
	must(t, os.WriteFile(old, []byte("#!/bin/sh\necho memcached 1.4.0\necho '-p, --port=<num>'\n"), 0o700))
	for _, program := range []string{"/bin/true", "/nowhere/memcached", old} {
		if v, err := findVersion(t.Context(), program); err == nil {
			t.Errorf("%s is a memcached server %s with SASL", program, v)
		}
	}
}

// FuzzQuestion: no bytes of a server are more than a refusal.
func FuzzQuestion(f *testing.F) {
	f.Add([]byte("\x00\x04user\x00\x05wrong\x00\tmemcached\x00\x02vm"))
	f.Add([]byte("\xff\xffuser"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		q, err := readQuestion(bytes.NewReader(data))
		if err == nil && (len(q.user) > maxField || !bytes.Contains(data, []byte(q.user))) {
			t.Errorf("%q is %+v", data, q)
		}
	})
}
