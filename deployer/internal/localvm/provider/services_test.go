package provider

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// service writes a boot service that runs a shell command and tells the init.
func (h *testHost) service(m machineState, name, command string) {
	h.t.Helper()
	data, err := json.Marshal(map[string]any{"command": []string{"/bin/sh", "-c", command}, "env": map[string]string{"COLOUR": "blue"}})
	if err != nil {
		h.t.Fatal(err)
	}
	path := filepath.Join(h.machineDir(seatOf(m.Machine)), localvm.ServicesFolder, name+".json")
	if err := renameio.WriteFile(path, data, 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.initProcess(m).Signal(syscall.SIGHUP)
}

// starts returns the pids that services wrote to the file "starts", when there
// are n of them.
func (h *testHost) starts(m machineState, n int) []int {
	h.t.Helper()
	var found []int
	waitFor(h.t, "start "+strconv.Itoa(n)+" of a service", func() bool {
		data, _ := os.ReadFile(filepath.Join(h.machineDir(seatOf(m.Machine)), "starts"))
		found = nil
		for line := range strings.Lines(string(data)) {
			pid, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil || !strings.HasSuffix(line, "\n") {
				return false
			}
			found = append(found, pid)
		}
		return len(found) >= n
	})
	return found
}

func TestBootServices(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m := h.machine("web", 0)
	dir := h.machineDir(seat{group: "web"})
	h.service(m, "agent", `echo "$DEPLOY_VM $DEPLOY_SERVICES $DEPLOY_INIT_PID $COLOUR" >facts; echo $$ >>$HOME/starts; exec sleep 1000`)
	first := h.starts(m, 1)[0]
	facts, err := os.ReadFile(filepath.Join(dir, "facts"))
	want := strings.Join([]string{m.ID, filepath.Join(dir, "services"), strconv.Itoa(h.initProcess(m).PID), "blue"}, " ")
	if err != nil || strings.TrimSpace(string(facts)) != want {
		t.Errorf("a service sees %q, want %q, %v", facts, want, err)
	}

	// It ends: it is started again.
	p, found := localvm.FindProcess(first)
	if !found {
		t.Fatal("the service does not run")
	}
	h.kill(p)
	second, _ := localvm.FindProcess(h.starts(m, 2)[1])

	// A reread of the same file leaves it alone; a changed one replaces it, even
	// one that ignores TERM.
	h.initProcess(m).Signal(syscall.SIGHUP)
	h.service(m, "agent", `trap "" TERM; echo $$ >>$HOME/starts; while :; do sleep 1000; done`)
	third, _ := localvm.FindProcess(h.starts(m, 3)[2])
	if second.Alive() {
		t.Error("the old service runs beside the new one")
	}
	h.service(m, "agent", `echo $$ >>$HOME/starts; exec sleep 1000`)
	fourth, _ := localvm.FindProcess(h.starts(m, 4)[3])
	if third.Alive() {
		t.Error("the stubborn service runs beside the new one")
	}

	// A file that cannot be read leaves its service alone, and the others go on.
	if err := os.WriteFile(filepath.Join(dir, localvm.ServicesFolder, "agent.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.service(m, "other", `echo $$ >>$HOME/starts; exec sleep 1000`)
	h.starts(m, 5)
	if !fourth.Alive() {
		t.Error("a broken file ended its service")
	}

	// A removed file ends it.
	if err := os.Remove(filepath.Join(dir, localvm.ServicesFolder, "agent.json")); err != nil {
		t.Fatal(err)
	}
	h.initProcess(m).Signal(syscall.SIGHUP)
	waitFor(t, "the end of a removed service", func() bool { return !fourth.Alive() })
	if all := h.starts(m, 5); len(all) != 5 {
		t.Errorf("there were %d starts, want 5", len(all))
	}
}

func TestOrphansAreReaped(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m := h.machine("web", 0)
	// The shell starts a child that outlives it and then ends: a zombie, if the
	// init does not look after it.
	pid, err := strconv.Atoi(h.output(h.dial(m), `(read line <gate; exit 3) >/dev/null 2>&1 & echo $!; mkfifo gate`))
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the orphan at its gate", func() bool {
		gate, err := os.OpenFile(filepath.Join(h.machineDir(seat{group: "web"}), "gate"), os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return syscall.Kill(pid, 0) != nil // it came before its gate, and has ended
		}
		return gate.Close() == nil
	})
	waitFor(t, "the orphan's end without a zombie", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
}
