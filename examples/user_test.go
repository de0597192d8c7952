//go:build e2e

package examples

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// user is an ordinary user of this machine, made for a test.
type user struct {
	name, home string
	uid, gid   uint32
}

// users numbers the users of a run.
var users atomic.Int32

// newUser makes a user with an empty home; the test must be run by root. Both
// go with the test.
func newUser(t *testing.T) *user {
	t.Helper()
	home, err := os.MkdirTemp("", "deploy-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	u := &user{name: fmt.Sprintf("deploy%d-%d", os.Getpid(), users.Add(1)), home: home}
	if out, err := exec.Command("useradd", "--no-create-home", "--home-dir", home, "--shell", "/bin/sh", u.name).CombinedOutput(); err != nil {
		t.Fatalf("useradd: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("userdel", u.name).CombinedOutput(); err != nil {
			t.Errorf("userdel: %v\n%s", err, out)
		}
	})
	found, err := osuser.Lookup(u.name)
	if err != nil {
		t.Fatal(err)
	}
	number := func(text string) uint32 {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n == 0 {
			t.Fatalf("%s is user %s of group %s: %v", u.name, found.Uid, found.Gid, err)
		}
		return uint32(n)
	}
	u.uid, u.gid = number(found.Uid), number(found.Gid)
	u.own(t, home)
	return u
}

func (u *user) own(t testing.TB, path string) {
	t.Helper()
	if err := os.Chown(path, int(u.uid), int(u.gid)); err != nil {
		t.Fatal(err)
	}
}

// run makes cmd run as the user, in its home.
func (u *user) run(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.uid, Gid: u.gid}}
	cmd.Dir = u.home
	cmd.Env = []string{"HOME=" + u.home, "USER=" + u.name, "LOGNAME=" + u.name, "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8"}
}

// belongTo makes a cluster that is not yet deployed the user's: its manifest is
// <name>.hcl in the user's home, its state <name>.
func (c *cluster) belongTo(u *user, name string) {
	c.t.Helper()
	source, err := os.ReadFile(c.manifest)
	if err != nil {
		c.t.Fatal(err)
	}
	c.as, c.manifest, c.state = u, filepath.Join(u.home, name+".hcl"), filepath.Join(u.home, name)
	if err := os.WriteFile(c.manifest, source, 0o600); err != nil {
		c.t.Fatal(err)
	}
	u.own(c.t, c.manifest)
}

// TestOrdinaryUser runs the example as an ordinary user, as plain processes and
// in namespaces.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	for _, isolation := range []string{"none", "namespaces"} {
		t.Run(isolation, func(t *testing.T) {
			c := start(t, "hello.hcl")
			c.isolate(isolation)
			c.belongTo(u, isolation)
			c.mustApply()
			for name, pid := range c.mustAllRun(8).pids() { // pids of this machine, whatever they are on the VM
				command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				if err != nil || !strings.Contains(string(command), c.state) {
					t.Errorf("%s is process %d, which is %q, %v", name, pid, command, err)
				}
			}
			if body, err := page(c.listen, "hello.cf.localhost"); err != nil || !strings.Contains(body, "hello/") {
				t.Errorf("through the load balancer: %q, %v", body, err)
			}
			statuses, err := filepath.Glob(filepath.Join(c.state, "hello", "vms", "*-?", "status.json"))
			if err != nil || len(statuses) != 8 {
				t.Fatalf("status files are %q, %v", statuses, err)
			}
			for _, path := range statuses {
				data, err := os.ReadFile(path)
				if err != nil || !strings.Contains(string(data), fmt.Sprintf(`"isolation":%q`, isolation)) {
					t.Errorf("%s is %s, %v", path, data, err)
				}
			}
			owned := 0
			for _, line := range processesUnder(c.state) {
				pid, _, _ := strings.Cut(line, " ")
				var info syscall.Stat_t
				if err := syscall.Stat("/proc/"+pid, &info); err == nil && info.Uid == u.uid {
					owned++
				}
			}
			if owned < 8 {
				t.Errorf("%d processes belong to the user", owned)
			}
			if r := c.applyJSON(); r.Changed || r.Counts.EngineRuns != 0 {
				t.Errorf("another apply: %+v", r)
			}
			if isolation == "namespaces" {
				c.mustReviveVM("hello-0")
			}
		})
	}
}

// mustReviveVM kills the init of an isolated VM: everything on it ends at once,
// and an apply brings it back.
func (c *cluster) mustReviveVM(name string) {
	t := c.t
	t.Helper()
	dir := filepath.Join(c.state, "hello", "vms", name)
	var init struct {
		PID int `json:"pid"`
	}
	data, err := os.ReadFile(filepath.Join(dir, "status.json"))
	if err == nil {
		err = json.Unmarshal(data, &init)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(init.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	within(t, 30*time.Second, "everything on "+name+" has ended", func() bool { return len(processesUnder(dir)) == 0 })
	c.mustApply()
	c.mustAllRun(8)
}
