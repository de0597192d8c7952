package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/wire"
)

// TestMain runs this program as a gateway or a node that a test can kill.
func TestMain(m *testing.M) {
	switch os.Getenv("CUT_ROLE") {
	case "gateway":
		os.Exit(component.Main("service_gateway", Run))
	case "node":
		os.Exit(node.Main(node.Definition{
			Name: "nothing", Open: func(context.Context, node.Host) (node.Service, error) { return drawer(os.Getenv("CUT_FOLDER")), nil },
		}))
	}
	os.Exit(m.Run())
}

// drawer is a service whose instances are folders and whose users are files in them,
// with their passwords. It stops where the file "pause" says so, until that is gone.
type drawer string

func (d drawer) pause(where string) {
	asked := func() bool {
		data, err := os.ReadFile(filepath.Join(string(d), "pause"))
		return err == nil && string(data) == where
	}
	if !asked() {
		return
	}
	if err := os.WriteFile(filepath.Join(string(d), "reached"), nil, 0o600); err != nil {
		panic(err)
	}
	for asked() {
		<-time.After(2 * time.Millisecond)
	}
}

func (d drawer) at(parts ...string) string {
	return filepath.Join(append([]string{string(d), "things"}, parts...)...)
}

func (d drawer) Ready() error { return nil }

func (d drawer) Provision(_ context.Context, i node.Instance) (wire.Credentials, error) {
	d.pause("provision, before")
	err := os.MkdirAll(d.at(i.Name), 0o700)
	if err == nil && i.Disabled {
		err = os.WriteFile(d.at(i.Name, "closed"), nil, 0o600)
	}
	d.pause("provision, after")
	return wire.Credentials{"user": i.User, "password": i.Password}, err
}

func (d drawer) Unprovision(_ context.Context, i node.Instance) error {
	d.pause("unprovision, before")
	err := os.RemoveAll(d.at(i.Name))
	d.pause("unprovision, after")
	return err
}

func (d drawer) Bind(_ context.Context, i node.Instance, b node.Binding) (wire.Credentials, error) {
	d.pause("bind, before")
	err := os.WriteFile(d.at(i.Name, b.User), []byte(b.Password), 0o600)
	d.pause("bind, after")
	return wire.Credentials{"user": b.User, "username": b.User, "password": b.Password}, err
}

func (d drawer) Unbind(_ context.Context, i node.Instance, b node.Binding) error {
	d.pause("unbind, before")
	err := os.Remove(d.at(i.Name, b.User))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	d.pause("unbind, after")
	return err
}

func (d drawer) Disable(_ context.Context, i node.Instance) error {
	d.pause("disable, before")
	err := os.WriteFile(d.at(i.Name, "closed"), nil, 0o600)
	d.pause("disable, after")
	return err
}

func (d drawer) Enable(_ context.Context, i node.Instance) error {
	d.pause("enable, before")
	err := os.Remove(d.at(i.Name, "closed"))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	d.pause("enable, after")
	return err
}

func (d drawer) Size(context.Context, node.Instance) (int64, error) { return 1, nil }

// Dump writes the file "data", which is what an instance keeps.
func (d drawer) Dump(_ context.Context, i node.Instance, to io.Writer) error {
	data, err := os.ReadFile(d.at(i.Name, "data"))
	if err != nil {
		return err
	}
	half := len(data) / 2
	if _, err := to.Write(data[:half]); err != nil {
		return err
	}
	d.pause("dump, half")
	_, err = to.Write(data[half:])
	d.pause("dump, after")
	return err
}

func (d drawer) Load(_ context.Context, i node.Instance, from io.ReadSeeker) error {
	d.pause("load, before")
	data, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.at(i.Name, "data"), data[:len(data)/2], 0o600); err != nil {
		return err
	}
	d.pause("load, half")
	err = os.WriteFile(d.at(i.Name, "data"), data, 0o600)
	d.pause("load, after")
	return err
}

// Serialize writes what Dump wrote after a word.
func (d drawer) Serialize(_ context.Context, _ node.Instance, from io.Reader, to io.Writer) error {
	d.pause("serialize, before")
	data, err := io.ReadAll(from)
	if err == nil {
		_, err = to.Write(append([]byte("file:"), data...))
	}
	d.pause("serialize, after")
	return err
}

// Deserialize takes nothing but what begins with that word.
func (d drawer) Deserialize(ctx context.Context, i node.Instance, from io.ReadSeeker) error {
	word := make([]byte, 5)
	if _, err := io.ReadFull(from, word); err != nil || string(word) != "file:" {
		return wire.Failure(wire.ServiceMalformed, "it is no file of a drawer")
	}
	data, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	return d.Load(ctx, i, bytes.NewReader(data))
}

// holds returns what is in the drawer: instances, and "instance/user" with the password.
func (d drawer) holds(t *testing.T) map[string]string {
	t.Helper()
	held := map[string]string{}
	instances, err := os.ReadDir(d.at())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, i := range instances {
		held[i.Name()] = ""
		users, _ := os.ReadDir(d.at(i.Name()))
		for _, u := range users {
			password, _ := os.ReadFile(d.at(i.Name(), u.Name()))
			held[i.Name()+"/"+u.Name()] = string(password)
		}
	}
	return held
}

// cuts is a world whose parts are programs that are killed.
type cuts struct {
	*world
	drawer
	base, nodeFile string
	secondFile     string // of another node, with a drawer of its own; "": there is none
	secondDrawer   drawer
	snapshots      string // their folder
	programs       map[string]*exec.Cmd
}

const cutNode = "nothing_node_free_0"

func newCuts(t *testing.T) *cuts {
	c := &cuts{world: newWorld(t, ""), drawer: drawer(t.TempDir()), base: t.TempDir(), snapshots: t.TempDir(), programs: map[string]*exec.Cmd{}}
	c.nodeFile = filepath.Join(t.TempDir(), "node.yml")
	text := fmt.Sprintf("mbus: %s\nlocal_route: 127.0.0.1\nnode_id: %s\nbase_dir: %s\nop_time_limit: 0.8\nannounce_interval: 0.5\nsupported_versions: ['1.0']\nsnapshots: {folder: %s, max: 3}\n", c.bus, cutNode, c.base, c.snapshots)
	if err := os.WriteFile(c.nodeFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for who := range c.programs {
			c.kill(who)
		}
	})
	c.begin("gateway")
	c.begin("node")
	c.settled()
	return c
}

// begin begins a part again.
func (c *cuts) begin(who string) {
	c.Helper()
	file, role, folder := c.file, who, c.drawer
	switch who {
	case "bus":
		at, err := url.Parse(c.bus)
		if err != nil {
			c.Fatal(err)
		}
		port, err := strconv.Atoi(at.Port())
		if err != nil {
			c.Fatal(err)
		}
		c.server = componenttest.Bus(c, componenttest.On(port))
		return
	case "node":
		file = c.nodeFile
	case "second":
		file, role, folder = c.secondFile, "node", c.secondDrawer
	}
	cmd := exec.Command(os.Args[0], "-c", file)
	cmd.Env = append(os.Environ(), "CUT_ROLE="+role, "CUT_FOLDER="+string(folder))
	cmd.Stderr = c.Output()
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	c.programs[who] = cmd
}

// kill ends a part at once.
func (c *cuts) kill(who string) {
	if who == "bus" {
		c.server.Shutdown()
		c.server.WaitForShutdown()
		return
	}
	_ = c.programs[who].Process.Kill() // it may have ended
	_ = c.programs[who].Wait()
	delete(c.programs, who)
}

func (c *cuts) signal(who string, s syscall.Signal) {
	c.Helper()
	if err := c.programs[who].Process.Signal(s); err != nil {
		c.Fatal(err)
	}
}

// records returns what the node has a record of, with its state.
func (c *cuts) records() map[string]node.State {
	states := map[string]node.State{}
	files, _ := filepath.Glob(filepath.Join(c.base, "instances", "*.json"))
	for _, file := range files {
		var i node.Instance
		if data, err := os.ReadFile(file); err != nil || json.Unmarshal(data, &i) != nil {
			states[file] = "unreadable"
			continue
		}
		states[i.Name] = i.State
		for _, b := range i.Bindings {
			states[i.Name+"/"+b.User] = b.State
		}
	}
	return states
}

// settled waits until all parts serve, and nothing on the node is half-made.
func (c *cuts) settled() {
	c.Helper()
	c.serving(1)
	componenttest.Eventually(c, "the node answers and has tidied up", func() bool {
		if _, err := c.conn.Request("NothingaaS.discover", nil, time.Second); err != nil {
			return false
		}
		for _, state := range c.records() {
			if state != node.Whole {
				return false
			}
		}
		return true
	})
}

// made asks until it is done; what earlier tries have left are orphans.
func (c *cuts) made(path, body string) (h wire.ServiceHandle) {
	c.Helper()
	componenttest.Eventually(c, "the service makes it", func() bool {
		r, err := c.try("tok", "POST", path, body)
		return err == nil && r.status == 200 && json.Unmarshal([]byte(r.body), &h) == nil
	})
	return c.keep(h)
}

const (
	wantedInstance = `{"label":"nothing-1.0","name":"db","plan":"free","email":"dev@example.com","version":"1.0"}`
	wantedBinding  = `{"label":"nothing-1.0","email":"dev@example.com","binding_options":{}}`
)

// users returns what the controller's users have: instances, and users with their passwords.
func (c *cuts) users() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := map[string]string{}
	for _, h := range c.handles {
		if h.IsInstance() {
			known[h.ServiceID] = ""
		} else {
			known[h.Credentials.Binding()] = h.Credentials.Text("password")
		}
	}
	return known
}

// TestCut: whoever is killed at whichever message of an operation, users have what the
// server has, whole, with their own passwords; everything else is found within two
// checks, and purged on request.
func TestCut(t *testing.T) {
	t.Parallel()
	for _, operation := range []string{"provision", "bind", "unbind", "unprovision"} {
		t.Run(operation, func(t *testing.T) {
			t.Parallel()
			c := newCuts(t)
			for _, where := range []string{"asked", "done", "answered"} {
				for _, who := range []string{"node", "gateway", "bus"} {
					c.cut(operation, where, who)
				}
			}
		})
	}
}

// cut kills who at a point of an operation: when the node has been asked and the server
// has not; when the server has done it and the node has no record of that; when the node
// has answered and the gateway has not heard it.
func (c *cuts) cut(operation, where, who string) {
	c.Helper()
	what := fmt.Sprintf("%s killed when %s, %s", who, operation, where)
	other := c.made(configurations, wantedInstance) // of somebody else
	c.made(configurations+"/"+other.ServiceID+"/handles", wantedBinding)
	method, path, body := "POST", configurations, wantedInstance
	if operation != "provision" {
		i := c.made(configurations, wantedInstance)
		path, body = configurations+"/"+i.ServiceID+"/handles", wantedBinding
		if operation != "bind" {
			b := c.made(path, wantedBinding)
			method, path, body = "DELETE", path+"/"+b.ServiceID, "{}"
			c.forget(b.ServiceID)
			if operation == "unprovision" {
				path = configurations + "/" + i.ServiceID
				c.forget(i.ServiceID)
			}
		}
	}
	before := c.records()
	point, pause, reached := operation+", before", filepath.Join(string(c.drawer), "pause"), filepath.Join(string(c.drawer), "reached")
	if where == "done" {
		point = operation + ", after"
	}
	if err := os.WriteFile(pause, []byte(point), 0o600); err != nil {
		c.Fatal(err)
	}
	type outcome struct {
		reply
		err error
	}
	ended := make(chan outcome, 1)
	ask := func() {
		r, err := c.try("tok", method, path, body)
		ended <- outcome{r, err}
	}
	go ask()
	componenttest.Eventually(c, what+": it gets there", func() bool {
		if _, err := os.Stat(reached); err == nil {
			return true
		}
		select {
		case <-ended: // the operation's time was up before it got there: a busy machine
			go ask()
		default:
		}
		return false
	})
	if where == "answered" {
		c.signal("gateway", syscall.SIGSTOP)
		c.remove(pause)
		componenttest.Eventually(c, what+": the node has ended it", func() bool {
			now := c.records()
			for _, state := range now {
				if state != node.Whole {
					return false
				}
			}
			return len(now) != len(before) || !slices.Equal(sortedKeys(now), sortedKeys(before))
		})
		c.kill(who)
		if who != "gateway" {
			c.signal("gateway", syscall.SIGCONT)
		}
	} else {
		c.kill(who)
		c.remove(pause)
	}
	c.remove(reached)
	c.begin(who)
	o := <-ended
	c.settled()
	if o.err == nil && o.status == 200 && method == "POST" {
		var h wire.ServiceHandle
		if err := json.Unmarshal([]byte(o.body), &h); err != nil {
			c.Fatalf("%s: %v: %s", what, err, o.body)
		}
		c.keep(h)
	}
	known := c.users()
	for name, password := range known {
		if got, there := c.holds(c.T)[name]; !there || got != password {
			c.Errorf("%s: a user has %s, and the server has not", what, name)
		}
	}
	for range 2 {
		out, err := c.operate("check-orphans")
		if err != nil {
			c.Fatalf("%s: %v", what, err)
		}
		if strings.HasPrefix(out, "orphan") {
			if out, err := c.operate("purge-orphans", "all"); err != nil {
				c.Fatalf("%s: %s, %v", what, out, err)
			}
		} else if slices.Equal(sortedKeys(c.holds(c.T)), sortedKeys(known)) {
			break
		}
	}
	componenttest.Eventually(c, what+": the server has what users have", func() bool {
		held := c.holds(c.T)
		return len(c.records()) == len(known) && slices.Equal(sortedKeys(held), sortedKeys(known))
	})
	for name, password := range known {
		if c.holds(c.T)[name] != password {
			c.Errorf("%s: %s has another password", what, name)
		}
	}
}

func (c *cuts) remove(file string) {
	if err := os.Remove(file); err != nil {
		c.Fatal(err)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := []string{}
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
