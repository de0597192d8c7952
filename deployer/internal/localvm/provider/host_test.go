package provider

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// testHost is a host whose every trace goes with the test.
type testHost struct {
	*host
	t    *testing.T
	key  ssh.Signer
	user string // who logs in; "": the current one
}

func newTestHost(t *testing.T) *testHost {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	h := &testHost{host: &host{dir: t.TempDir(), executable: executable}, t: t, key: key}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var dirs []string
		for _, pattern := range []string{"*-*", filepath.Join(publishedFolder, "*")} {
			found, err := filepath.Glob(filepath.Join(h.dir, pattern))
			if err != nil {
				t.Error(err)
			}
			dirs = append(dirs, found...)
		}
		for _, dir := range dirs {
			if err := wipe(ctx, dir); err != nil {
				t.Errorf("cannot clean up: %s", err)
			}
		}
	})
	return h
}

// anywhere is a small range that other tests at work hardly use.
func anywhere() place {
	return place{cidr: netip.MustParsePrefix(fmt.Sprintf("127.%d.%d.0/24", 64+mathrand.IntN(64), mathrand.IntN(256)))}
}

func (h *testHost) authorizedKey() string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(h.key.PublicKey())))
}

func (h *testHost) machine(group string, index int64) machineState {
	h.t.Helper()
	m, err := h.createMachine(h.t.Context(), localvm.Machine{
		Group: group, Index: index, SSHPort: DefaultSSHPort, AuthorizedKey: h.authorizedKey(),
	}, anywhere())
	if err != nil {
		h.t.Fatal(err)
	}
	if !m.Running {
		h.t.Fatalf("VM %s does not run", m.ID)
	}
	return m
}

func (h *testHost) initProcess(m machineState) localvm.Process {
	h.t.Helper()
	_, p, alive := localvm.Find(h.machineDir(seatOf(m.Machine)))
	if !alive {
		h.t.Fatalf("VM %s has no init", m.ID)
	}
	return p
}

// kill ends a process without a chance to say good-bye.
func (h *testHost) kill(p localvm.Process) {
	h.t.Helper()
	p.Signal(syscall.SIGKILL)
	waitFor(h.t, "the end of a killed process", func() bool { return !p.Alive() })
}

func (h *testHost) read(m machineState) machineState {
	h.t.Helper()
	now, err := h.readMachine(seatOf(m.Machine))
	if err != nil {
		h.t.Fatal(err)
	}
	return now
}

// removeFolder removes a folder in which processes still write.
func removeFolder(t *testing.T, dir string) {
	t.Helper()
	waitFor(t, "the removal of "+dir, func() bool { return os.RemoveAll(dir) == nil })
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// carrying are the processes of a VM.
func carrying(t *testing.T, id string) []localvm.Process {
	t.Helper()
	found, err := localvm.ProcessesWith(func(v string) bool { return v == id })
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestDeletedMachineLeavesNothing(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m := h.machine("web", 0)
	client := h.dial(m)
	// One that ignores TERM, one that dropped its environment and its session.
	for _, command := range []string{
		`trap "" TERM; touch stubborn; while :; do sleep 1000; done`,
		`exec env -i /bin/sh -c 'echo $$ >stranger; exec sleep 1000'`,
	} {
		session, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Start(command); err != nil {
			t.Fatal(err)
		}
	}
	dir := h.machineDir(seat{group: "web"})
	var stranger localvm.Process
	waitFor(t, "the processes on the VM", func() bool {
		_, err := os.Stat(filepath.Join(dir, "stubborn"))
		text, err2 := os.ReadFile(filepath.Join(dir, "stranger"))
		pid, err3 := strconv.Atoi(strings.TrimSpace(string(text)))
		if errors.Join(err, err2, err3) != nil {
			return false
		}
		var found bool
		stranger, found = localvm.FindProcess(pid)
		return found
	})
	if err := h.deleteMachine(t.Context(), seat{group: "web"}, m.ID); err != nil {
		t.Fatal(err)
	}
	if left := carrying(t, m.ID); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if stranger.Alive() {
		t.Errorf("process %d, without the VM's id, is left", stranger.PID)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
	if err := canListen(m.SSHAddress()); err != nil {
		t.Error(err)
	}
}

func TestKilledInit(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m := h.machine("web", 0)
	h.service(m, "agent", `echo $$ >>$HOME/starts; exec sleep 1000`)
	before := h.starts(m, 1)

	if err := localvm.Start(t.Context(), h.executable, localvm.Init, h.machineDir(seat{group: "web"}), m.ID, localvm.Space{}); err == nil || !strings.Contains(err.Error(), "another init runs") {
		t.Errorf("a second init: %v", err)
	}

	h.kill(h.initProcess(m))
	if now := h.read(m); now.Running || now.ID != m.ID {
		t.Errorf("with a dead init: %+v", now)
	}
	if service, found := localvm.FindProcess(before[0]); !found || !service.Alive() {
		t.Error("the service ended with the init")
	}
	now, err := h.updateMachine(t.Context(), m.Machine)
	if err != nil || !now.Running || now.Address != m.Address || now.HostKey != m.HostKey {
		t.Errorf("started again: %+v, %v", now, err)
	}
	h.starts(m, 2) // the second stands by in the agent's case
	if err := h.deleteMachine(t.Context(), seat{group: "web"}, m.ID); err != nil {
		t.Error(err)
	}
	if left := carrying(t, m.ID); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestReusedPidIsNoInit(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m := h.machine("web", 0)
	p := h.initProcess(m)
	s := localvm.ReadStatus(h.machineDir(seat{group: "web"}))
	for name, change := range map[string]func(*localvm.Status){
		"start time": func(s *localvm.Status) { s.StartTime++ },
		"boot":       func(s *localvm.Status) { s.BootID = "another" },
	} {
		other := *s
		change(&other)
		data := fmt.Sprintf(`{"id":%q,"pid":%d,"start_time":%d,"boot_id":%q,"listen":%q,"config":%q}`,
			other.ID, other.PID, other.StartTime, other.BootID, other.Listen, other.Config)
		if err := os.WriteFile(filepath.Join(h.machineDir(seat{group: "web"}), localvm.StatusFile), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if h.read(m).Running {
			t.Errorf("another %s, and it passes for the init", name)
		}
	}
	if !p.Alive() {
		t.Error("the init has ended")
	}
}

func TestRemovedFolderEndsTheMachine(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m := h.machine("web", 0)
	h.service(m, "agent", "exec sleep 1000")
	removeFolder(t, h.machineDir(seat{group: "web"}))
	if _, err := h.readMachine(seat{group: "web"}); !gone(err) {
		t.Errorf("reading it: %v", err)
	}
	waitFor(t, "the end of everything", func() bool { return len(carrying(t, m.ID)) == 0 })
}

func TestCreateEndsWhatWasLeft(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	old := h.machine("web", 0)
	// An init that cannot notice: it was killed, and its folder removed.
	h.service(old, "agent", `echo $$ >>$HOME/starts; exec sleep 1000`)
	h.starts(old, 1)
	h.kill(h.initProcess(old))
	removeFolder(t, h.machineDir(seat{group: "web"}))
	if len(carrying(t, old.ID)) == 0 {
		t.Fatal("nothing was left")
	}
	h.machine("web", 0)
	if left := carrying(t, old.ID); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestEditedConfigurationIsRepaired(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m := h.machine("web", 0)
	edited := m.Machine
	edited.AuthorizedKey = "edited"
	if _, err := localvm.WriteConfig(h.machineDir(seat{group: "web"}), edited); err != nil {
		t.Fatal(err)
	}
	if now := h.read(m); now.Running || now.AuthorizedKey != "edited" {
		t.Errorf("edited: %+v", now)
	}
	before := h.initProcess(m)
	if now, err := h.updateMachine(t.Context(), m.Machine); err != nil || !now.Running {
		t.Errorf("repaired: %+v, %v", now, err)
	}
	if h.initProcess(m) != before {
		t.Error("another init")
	}
	h.output(h.dial(m), "true")
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	a := anywhere()
	a.static = a.cidr.Addr().Next()
	taken, err := net.Listen("tcp", netip.AddrPortFrom(a.static, DefaultSSHPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	_, err = h.createMachine(t.Context(), localvm.Machine{Group: "web", SSHPort: DefaultSSHPort, AuthorizedKey: h.authorizedKey()}, a)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), a.static.String()) {
		t.Errorf("got %v", err)
	}
	_, err = h.createMachine(t.Context(), localvm.Machine{Group: "web", SSHPort: DefaultSSHPort, AuthorizedKey: "no key"}, anywhere())
	if err == nil || !strings.Contains(err.Error(), "authorized_key") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(h.machineDir(seat{group: "web"})); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder is left: %v", err)
	}
}
