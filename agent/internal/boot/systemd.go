package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Unit is the content of the systemd unit of an agent.
//
// KillMode=process ends the agent alone; Delegate=yes keeps systemd out of the
// control groups below; by default a lack of memory in one process would end
// all (OOMPolicy) and all together could have no more tasks than a daemon
// (TasksMax). Servers have more than 1,024 connections (LimitNOFILE); a higher soft
// limit makes programs slow that close all files they might have. The jobs' data may
// be on a stemcell's persistent disk (deploy-disk).
func Unit(executable, dir string) string {
	return `[Unit]
Description=deploy agent of ` + strings.ReplaceAll(dir, "%", "%%") + `
After=network-online.target deploy-disk.service
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart=` + quote(executable) + ` run --dir ` + quote(dir) + `
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
}

// quote makes a text one word of a command line in a unit (systemd.service(5)).
func quote(word string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`).Replace(word) + `"`
}

// UnitName is the name of the unit of the agent in dir, which is absolute: as
// systemd-escape --path has it, so that two agents have two.
func UnitName(dir string) string {
	var b strings.Builder
	for _, c := range []byte(strings.Trim(filepath.Clean(dir), "/")) {
		switch {
		case c == '/':
			b.WriteByte('-')
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == ':':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return "deploy-agent-" + b.String() + ".service"
}

// installUnit starts the agent by systemd. Started again is the agent only when
// no agent of this program is up, be it that an earlier install ended before it
// got so far.
func (m Machine) installUnit(ctx context.Context, executable string, up bool) error {
	name := UnitName(m.Dir)
	if err := writeChanged(filepath.Join(m.Units, name), []byte(Unit(executable, m.Dir))); err != nil {
		return fmt.Errorf("cannot install the agent as a systemd unit: %w", err)
	}
	verb := "restart"
	if up {
		verb = "start"
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", name}, {verb, name}} {
		if err := systemctl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (m Machine) removeUnit(ctx context.Context) error {
	name := UnitName(m.Dir)
	file := filepath.Join(m.Units, name)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := systemctl(ctx, "disable", "--now", name); err != nil {
		return err
	}
	if err := os.Remove(file); err != nil {
		return fmt.Errorf("cannot remove the agent's systemd unit: %w", err)
	}
	return systemctl(ctx, "daemon-reload")
}

func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot run systemctl %s: %w: %.500s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
