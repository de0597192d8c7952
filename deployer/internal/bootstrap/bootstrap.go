// Package bootstrap puts the agent on a VM over SSH, and packages where the
// agent looks for them. Everything may be ended anywhere and done again: files
// appear whole or not at all, and what is there already is not sent again.
package bootstrap

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/client"
	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/ssh"
)

// Machine is a VM as its template describes it (templates/CONTRACT.md).
type Machine struct {
	AgentDir string
	OS, Arch string // as in Go
	// Boot is the time that it may take to boot, 0 if that is not known. One that may
	// take longer than UsualBoot is slow (emulated), and so is all else on it.
	Boot time.Duration
}

// UsualBoot is the time that a VM gets to boot if nothing says how long it takes.
const UsualBoot = 5 * time.Minute

// limit returns the time that a step may take on the machine.
func (m Machine) limit(s step) time.Duration {
	if m.Boot <= UsualBoot {
		return s.limit
	}
	return time.Duration(float64(s.limit) * float64(m.Boot) / float64(UsualBoot)).Round(time.Second)
}

// Step is one of the steps of Agent, in the order of Steps.
type Step string

// The steps.
const (
	StepInspect Step = "inspect" // is this VM fit, and what is there?
	StepUpload  Step = "upload"  // the agent program, unless it is there
	StepInstall Step = "install" // it starts with the VM, and now
	StepAnswer  Step = "answer"  // it answers on its socket through SSH
)

// step describes what a step does and how long it may take.
type step struct {
	name  Step
	limit time.Duration
	do    func(*bootstrap, context.Context) error
}

// steps are all of them, in order.
func steps() []step {
	return []step{
		{StepInspect, time.Minute, (*bootstrap).inspect},
		{StepUpload, 15 * time.Minute, (*bootstrap).upload},
		{StepInstall, 4 * time.Minute, (*bootstrap).install},
		{StepAnswer, time.Minute, (*bootstrap).answer},
	}
}

// bootstrap is one VM on its way.
type bootstrap struct {
	ssh     *ssh.Client
	machine Machine
	agent   packages.Blob
	note    func(string)

	there     bool // the agent program is on the VM, whole
	client    *client.Client
	inventory api.Inventory
}

// Agent makes the VM at the far end of conn run the given agent program, and
// returns a client of the agent, over conn, with the agent's first answer. Each
// step is reported before it begins, unless there is nothing to do in it; note
// is called with what remains for the operator to do, if anything does.
func Agent(ctx context.Context, conn *ssh.Client, m Machine, agent packages.Blob, report func(Step), note func(string)) (*client.Client, api.Inventory, error) {
	b := &bootstrap{ssh: conn, machine: m, agent: agent, note: note}
	for _, s := range steps() {
		if s.name == StepUpload && b.there {
			continue
		}
		report(s.name)
		limit := m.limit(s)
		within, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
		err := s.do(b, within)
		cancel()
		if err != nil {
			return nil, api.Inventory{}, fmt.Errorf("cannot put the agent on %s: %w", conn, err)
		}
	}
	return b.client, b.inventory, nil
}

// maxNote bounds what a machine may tell the operator, in characters.
const maxNote = 1000

// program returns where the agent program lies on the VM.
func (b *bootstrap) program() string {
	return path.Join(b.machine.AgentDir, "bin", "agent-"+b.agent.Digest[:12])
}

func (b *bootstrap) upload(ctx context.Context) error {
	return uploadBlob(ctx, b.ssh, b.program(), b.agent, 0o755)
}

func (b *bootstrap) install(ctx context.Context) error {
	command := ssh.Quote(b.program()) + " install --dir " + ssh.Quote(b.machine.AgentDir)
	if b.machine.Boot > UsualBoot { // else it knows how long it may take
		deadline, _ := ctx.Deadline()
		command += fmt.Sprintf(" --patience %s", (time.Until(deadline) * 9 / 10).Round(time.Second)) // its own words come before ours
	}
	out, err := b.ssh.Run(ctx, command, nil)
	if err != nil {
		return err
	}
	var installed struct {
		Agent string `json:"agent"`
		Note  string `json:"note"`
	}
	if err := json.Unmarshal([]byte(lastLine(out)), &installed); err != nil {
		return fmt.Errorf("cannot read what its agent install answered (%.200q): %w", out, err)
	}
	if installed.Agent != b.agent.Digest {
		return fmt.Errorf("its agent install put another agent there (sha256 %.64q) than was sent (%s)", installed.Agent, b.agent.Digest)
	}
	if installed.Note != "" {
		b.note(fmt.Sprintf("%.*s", maxNote, installed.Note))
	}
	return nil
}

// lastLine is the last line that is not empty: a login shell may write lines of
// its own before it.
func lastLine(out string) string {
	out = strings.TrimSpace(out)
	return out[strings.LastIndexByte(out, '\n')+1:]
}

func (b *bootstrap) answer(ctx context.Context) error {
	socket := path.Join(b.machine.AgentDir, "run", "agent.sock")
	b.client = client.Unix(func(ctx context.Context) (net.Conn, error) { return b.ssh.DialUnix(ctx, socket) })
	var err error
	if b.inventory, err = b.client.Inventory(ctx); err != nil {
		return fmt.Errorf("the agent was installed but does not answer through SSH: %w; look at its log, and whether the SSH server allows forwarding to unix sockets", err)
	}
	if b.inventory.Agent.Digest != b.agent.Digest {
		return fmt.Errorf("another agent (sha256 %.12q) answers there than was installed (%.12s)", b.inventory.Agent.Digest, b.agent.Digest)
	}
	return nil
}
