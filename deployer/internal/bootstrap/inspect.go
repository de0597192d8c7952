package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/clusterworks/deploy/deployer/internal/ssh"
)

// minFree is the room that the agent's folder must have beside the agent
// program itself: what is less cannot hold the packages of any job.
const minFree = 64 << 20

// inspection is a POSIX script, one round trip for all questions. $1 is the
// agent's folder, $2 the agent program. Its answers begin with "deploy:", since a
// login shell may write lines of its own. Whatever the user's umask, others cannot
// put a program in place of the agent's.
const inspection = `
echo "deploy:uname $(uname -sm)"
umask go-w
mkdir -p "$1/bin" "$1/incoming" && [ -w "$1/bin" ] && [ -w "$1/incoming" ] || exit 3
echo "deploy:disk $(df -Pk "$1" | tail -n 1)"
if [ -x "$2" ]; then echo "deploy:sha256 $(sha256sum <"$2")"; fi
`

// notWritable is the script's status when the agent's folder cannot be used.
const notWritable = 3

func (b *bootstrap) inspect(ctx context.Context) error {
	command := "sh -s -- " + ssh.Quote(b.machine.AgentDir) + " " + ssh.Quote(b.program())
	out, err := b.ssh.Run(ctx, command, strings.NewReader(inspection))
	facts := parseFacts(out)
	if os, arch := goPlatform(facts.uname); facts.uname != "" && (os != b.machine.OS || arch != b.machine.Arch) {
		return fmt.Errorf("it is not a machine for %s/%s, which its template says it is: uname says %.100q; correct the template's outputs os and arch, or the image",
			b.machine.OS, b.machine.Arch, facts.uname)
	}
	if exit := (*ssh.ExitError)(nil); errors.As(err, &exit) && exit.Status == notWritable {
		return fmt.Errorf("its folder for the agent, %s, cannot be written by the SSH user: %s; correct the template's output agent_dir or the folder's owner",
			b.machine.AgentDir, exit.Stderr)
	}
	if err != nil {
		return err
	}
	if facts.uname == "" {
		return fmt.Errorf("it does not run POSIX shell commands as expected: %.200q", out)
	}
	b.there = facts.sha256 == b.agent.Digest
	need := int64(minFree)
	if !b.there {
		need += b.agent.Size
	}
	if facts.freeKnown && facts.free < need {
		return fmt.Errorf("the disk below %s has %d MiB left, at least %d MiB are needed; free some or make the VM's disk larger",
			b.machine.AgentDir, facts.free>>20, need>>20)
	}
	return nil
}

// facts describe what the inspection found; zero is unknown.
type facts struct {
	uname     string
	free      int64 // bytes
	freeKnown bool
	sha256    string
}

// diskLine is the part of a line of `df -Pk` (POSIX) after the device, whose name
// can hold anything: blocks, used, available, capacity.
var diskLine = regexp.MustCompile(`\s-?\d+\s+-?\d+\s+(-?\d+)\s+(?:\d+%|-)\s`)

func parseFacts(out string) facts {
	var f facts
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "deploy:uname":
			f.uname = value
		case "deploy:disk":
			if m := diskLine.FindStringSubmatch(value); m != nil {
				kib, err := strconv.ParseInt(m[1], 10, 64)
				if err == nil && kib <= 1<<50 {
					f.free, f.freeKnown = max(kib, 0)<<10, true
				}
			}
		case "deploy:sha256":
			f.sha256, _, _ = strings.Cut(value, " ")
		}
	}
	return f
}

// goPlatform turns the answer of `uname -sm` into Go's names; what it does not
// know stays as it is.
func goPlatform(uname string) (os, arch string) {
	system, machine, _ := strings.Cut(uname, " ")
	arches := map[string]string{
		"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "i386": "386", "i686": "386",
		"armv6l": "arm", "armv7l": "arm", "riscv64": "riscv64", "ppc64le": "ppc64le", "s390x": "s390x", "loongarch64": "loong64",
	}
	if a, ok := arches[machine]; ok {
		machine = a
	}
	return strings.ToLower(system), machine
}
