package boot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUnit(t *testing.T) {
	const want = `[Unit]
Description=deploy agent of /srv/50%% off
After=network-online.target deploy-disk.service
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart="/srv/50%% off/bin/agent-\"$$x\"" run --dir "/srv/50%% off"
KillMode=process
Delegate=yes
Restart=always
RestartSec=0.2
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=65536:524288

[Install]
WantedBy=multi-user.target
`
	if got := Unit(`/srv/50% off/bin/agent-"$x"`, "/srv/50% off"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestUnitName(t *testing.T) {
	for dir, want := range map[string]string{ // as systemd-escape --path
		"/var/lib/deploy": "deploy-agent-var-lib-deploy.service",
		"/srv/a-b/c d/":   `deploy-agent-srv-a\x2db-c\x20d.service`,
		"/srv/é":          `deploy-agent-srv-\xc3\xa9.service`,
	} {
		if got := UnitName(dir); got != want {
			t.Errorf("%s: %s, want %s", dir, got, want)
		}
	}
}

// systemdMachine is one with a systemctl that notes what it is told.
func systemdMachine(t *testing.T) (m Machine, calls func() string) {
	t.Helper()
	bin, log := t.TempDir(), filepath.Join(t.TempDir(), "calls")
	script := "#!/bin/sh\necho \"$*\" >>'" + log + "'\ncase \"$1 $FAIL\" in enable*yes) echo no such unit >&2; exit 1;; esac\n"
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	m = Machine{Dir: filepath.Join(t.TempDir(), "agent"), SystemdRuns: t.TempDir(), Units: t.TempDir()}
	return m, func() string {
		data, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.RemoveAll(log); err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(data), UnitName(m.Dir), "UNIT")
	}
}

func TestSystemd(t *testing.T) {
	m, calls := systemdMachine(t)
	unit := filepath.Join(m.Units, UnitName(m.Dir))
	up := false
	install := func(program string) error {
		note, err := m.Install(t.Context(), program, func() bool { return up })
		if note != "" {
			t.Errorf("systemd starts it at boot, but: %s", note)
		}
		return err
	}
	if err := install("/agent-1"); err != nil {
		t.Fatal(err)
	}
	if got := calls(); got != "daemon-reload\nenable UNIT\nrestart UNIT\n" {
		t.Errorf("a new one: %s", got)
	}
	if got, err := os.ReadFile(unit); err != nil || string(got) != Unit("/agent-1", m.Dir) {
		t.Errorf("unit %q, %v", got, err)
	}

	up = true // the same again: whatever an earlier one has left undone, and no restart
	before, err := os.Stat(unit)
	if err != nil {
		t.Fatal(err)
	}
	if err := install("/agent-1"); err != nil {
		t.Fatal(err)
	}
	if got := calls(); got != "daemon-reload\nenable UNIT\nstart UNIT\n" {
		t.Errorf("the same: %s", got)
	}
	if after, err := os.Stat(unit); err != nil || !os.SameFile(before, after) {
		t.Errorf("the unit was written again: %v", err)
	}

	up = false
	t.Setenv("FAIL", "yes")
	if err := install("/agent-2"); err == nil || !strings.Contains(err.Error(), "systemctl enable") || !strings.Contains(err.Error(), "no such unit") {
		t.Errorf("a failing systemctl: %v", err)
	}
	t.Setenv("FAIL", "")
	calls()
	if err := install("/agent-2"); err != nil {
		t.Fatal(err)
	}
	if got := calls(); !strings.HasSuffix(got, "restart UNIT\n") {
		t.Errorf("another program: %s", got)
	}
	if got, err := os.ReadFile(unit); err != nil || string(got) != Unit("/agent-2", m.Dir) {
		t.Errorf("unit %q, %v", got, err)
	}
	if got, err := os.Readlink(m.program()); err != nil || got != "/agent-2" {
		t.Errorf("link to %q, %v", got, err)
	}

	for range 2 { // the second finds nothing to do
		if err := m.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := calls(); got != "disable --now UNIT\ndaemon-reload\n" {
		t.Errorf("removal: %s", got)
	}
	if _, err := os.Stat(unit); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unit is left: %v", err)
	}
}

func TestWhoStartsTheAgent(t *testing.T) {
	m, _ := systemdMachine(t)
	if !m.systemd() {
		t.Error("root has systemd where it runs")
	}
	m.UID = 1000
	if m.systemd() {
		t.Error("only root can install a unit of the machine")
	}
	if note := m.keeperNote(); !strings.Contains(note, "not root") || !strings.Contains(note, "bin/agent keep --dir "+m.Dir) {
		t.Errorf("note %q", note)
	}
	m.UID, m.SystemdRuns = 0, filepath.Join(m.SystemdRuns, "missing")
	if m.systemd() {
		t.Error("there is no systemd")
	}
	if note := m.keeperNote(); !strings.Contains(note, "no systemd") {
		t.Errorf("note %q", note)
	}
}
