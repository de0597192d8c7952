package localvm

import (
	"strings"
	"testing"
)

func TestNamespacesEndWithTheirInit(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m, err := h.createMachine(t.Context(), machineConfig{
		Group: "web", SSHPort: DefaultSSHPort, AuthorizedKey: h.authorizedKey(), Isolation: isolationNamespaces,
	}, anywhere())
	if err != nil {
		t.Fatal(err)
	}
	if m.Level != isolationNamespaces || !m.Running {
		t.Fatalf("the VM is %+v", m)
	}
	client := h.dial(m)
	if got := strings.TrimSpace(h.output(client, "tr '\\0' ' ' </proc/1/cmdline; echo $DEPLOY_INIT_PID")); !strings.Contains(got, "local-init --dir "+h.machineDir("web", 0)) || !strings.HasSuffix(got, "1") {
		t.Errorf("process 1 is %q", got)
	}
	if caps := strings.Fields(h.output(client, "grep CapAmb /proc/1/status")); caps[1] != "0000000000000000" {
		t.Errorf("the init keeps capabilities %s", caps)
	}
	// A stranger to the VM: another session, no environment.
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start(`setsid env -i sleep 1000`); err != nil {
		t.Fatal(err)
	}
	init := h.initProcess(m)
	var all []process
	waitFor(t, "the process on the VM", func() bool {
		if all, err = descendants(init.pid); err != nil {
			t.Fatal(err)
		}
		return len(all) > 0
	})
	h.service(m, "agent", `echo $$ >>$HOME/starts; exec sleep 1000`)
	h.starts(m, 1)
	h.kill(init)
	waitFor(t, "the end of everything", func() bool {
		for _, p := range all {
			if p.alive() {
				return false
			}
		}
		return len(carrying(t, m.ID)) == 0
	})
	now, err := h.updateMachine(t.Context(), m.machineConfig)
	if err != nil || !now.Running || now.Level != isolationNamespaces {
		t.Fatalf("started again: %+v, %v", now, err)
	}
	h.starts(m, 2)
	if err := h.deleteMachine(t.Context(), "web", 0, m.ID); err != nil {
		t.Error(err)
	}
	if left := carrying(t, m.ID); len(left) > 0 {
		t.Errorf("processes %s are left", pids(left))
	}
}

func TestAutoRunsAtOneLevelOrTheOther(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m, err := h.createMachine(t.Context(), machineConfig{
		Group: "web", SSHPort: DefaultSSHPort, AuthorizedKey: h.authorizedKey(), Isolation: isolationAuto,
	}, anywhere())
	if err != nil || !m.Running || m.Level == "" {
		t.Fatalf("the VM is %+v, %v", m, err)
	}
	h.output(h.dial(m), "true")
}
