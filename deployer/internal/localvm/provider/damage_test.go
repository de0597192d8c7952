package provider

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// locked reports whether somebody has locked a file.
func locked(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// A running init puts its files back, whatever became of them, and goes on.
func TestInitPutsItsFilesBack(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m := h.machine("web", 0)
	dir := h.machineDir(seat{group: "web"})
	service := filepath.Join(localvm.ServicesFolder, "agent.json")
	h.output(h.dial(m), `echo '{"command": ["/bin/sleep", "1000"]}' > $DEPLOY_SERVICES/agent.json; kill -HUP $DEPLOY_INIT_PID`)
	waitFor(t, "the service's start", func() bool {
		_, err := os.Stat(filepath.Join(dir, localvm.LogFolder, "agent.log"))
		return err == nil
	})
	status, _, alive := localvm.Find(dir)
	if !alive {
		t.Fatal("the init does not run")
	}
	whole := map[string][]byte{}
	for _, name := range []string{localvm.ConfigFile, localvm.HostKeyFile, localvm.StatusFile, service, "lock"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		whole[name] = data
	}
	for _, how := range []string{"removed", "emptied", "halved"} {
		for name, data := range whole {
			path := filepath.Join(dir, name)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if how == "removed" {
				continue
			}
			if how == "emptied" {
				data = nil
			}
			if err := os.WriteFile(path, data[:len(data)/2], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for name, data := range whole {
			path := filepath.Join(dir, name)
			waitFor(t, name+", "+how+", is whole again", func() bool {
				if name == "lock" {
					return locked(path)
				}
				now, err := os.ReadFile(path)
				return err == nil && bytes.Equal(now, data)
			})
		}
	}
	waitFor(t, "the init is known to run", func() bool {
		now, _, alive := localvm.Find(dir)
		return alive && now.PID == status.PID
	})
	h.dial(m)
	var told []localvm.Repair
	waitFor(t, "each repair is told", func() bool {
		told = localvm.Repairs(filepath.Dir(dir))
		return len(told) >= 3*len(whole)
	})
	for name := range whole {
		named := slices.ContainsFunc(told, func(r localvm.Repair) bool {
			return strings.HasPrefix(r.String(), "web/0: ") && strings.Contains(r.What, filepath.Join(dir, name)+" was ")
		})
		if !named {
			t.Errorf("no repair of %s is told in %v", name, told)
		}
	}
	if err := localvm.ForgetRepairs(told); err != nil {
		t.Fatal(err)
	}
	if left := localvm.Repairs(filepath.Dir(dir)); len(left) > 0 {
		t.Errorf("after they were told there are still %v", left)
	}
}

// A VM that does not run and has lost its own files is started as it was, with all
// that is in its folder; it is not made anew.
func TestAVMWithoutItsFilesIsStartedAgain(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m := h.machine("web", 0)
	dir := h.machineDir(seat{group: "web"})
	mark := filepath.Join(dir, "agent", "mark")
	if err := os.WriteFile(mark, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, p, _ := localvm.Find(dir)
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the init has ended", func() bool { return !p.Alive() })
	for _, name := range []string{localvm.ConfigFile, localvm.HostKeyFile, localvm.StatusFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	known, there := h.remembered(m.Machine, m.HostKey, m.Level)
	if !there || known.Running || known.HostKey != "" || known.ID != m.ID {
		t.Fatalf("remembered is %v, %+v", there, known)
	}
	again, err := h.updateMachine(t.Context(), m.Machine)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Running || again.ID != m.ID || again.Address != m.Address || again.HostKey == m.HostKey {
		t.Errorf("it is %+v, it was %+v", again, m)
	}
	h.dial(again)
	if data, err := os.ReadFile(mark); err != nil || string(data) != "kept" {
		t.Errorf("in its folder: %q, %v", data, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, there := h.remembered(m.Machine, m.HostKey, m.Level); there {
		t.Error("a VM whose folder is gone is remembered")
	}
}
