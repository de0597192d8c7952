package deployer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/ssh"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// SSHRequest is a shell on a VM, or a command there.
type SSHRequest struct {
	Instance string
	// Command gets exactly these arguments. One alone is a line for the user's shell,
	// as ssh takes it; without any there is a login shell.
	Command  []string
	In       *os.File
	Out, Err io.Writer
}

// SSH connects a terminal to an instance's VM and returns the exit status of
// what ran there, as a shell does: 128 and the signal's number if a signal ended it.
func (r Reach) SSH(ctx context.Context, q SSHRequest) (int, error) {
	x, err := loadTold(r.d)
	if err != nil {
		return 0, err
	}
	defer x.fleet.Close()
	instance, err := theInstance(slices.Sorted(maps.Keys(x.State.VMs)), q.Instance)
	if err != nil {
		return 0, fmt.Errorf("cannot open a shell on %q: %w", q.Instance, err)
	}
	c, err := x.fleet.Connect(ctx, state.Own(instance))
	if err != nil {
		return 0, err
	}
	var terminal *ssh.Terminal
	if fd := int(q.In.Fd()); len(q.Command) == 0 && term.IsTerminal(fd) {
		before, err := term.MakeRaw(fd)
		if err != nil {
			return 0, fmt.Errorf("cannot make the terminal raw: %w", err)
		}
		defer term.Restore(fd, before)
		resize, stop := watchSize(fd)
		defer stop()
		width, height, err := term.GetSize(fd)
		if err != nil {
			width, height = 80, 24
		}
		terminal = &ssh.Terminal{Type: os.Getenv("TERM"), Size: ssh.Size{Width: width, Height: height}, Resize: resize}
	}
	line := shellLine(q.Command)
	err = c.Interactive(ctx, line, ssh.Streams{Stdin: q.In, Stdout: q.Out, Stderr: q.Err}, terminal)
	var exit *ssh.ExitError
	if errors.As(err, &exit) && exit.Signal != "" {
		if n := unix.SignalNum("SIG" + exit.Signal); n != 0 {
			return 128 + int(n), nil
		}
	} else if errors.As(err, &exit) && exit.Status >= 0 {
		return exit.Status, nil
	}
	return 0, err
}

// theInstance returns the instance that a name means: its own, or its group's if that has
// one VM. ids are the instances with VMs.
func theInstance(ids []string, name string) (string, error) {
	var members []string
	for _, id := range ids {
		group, _, err := api.SplitInstance(id)
		switch {
		case id == name:
			return id, nil
		case err == nil && group == name:
			members = append(members, id)
		}
	}
	switch len(members) {
	case 0:
		return "", errors.New("there is no such instance with a VM; see deploy status")
	case 1:
		return members[0], nil
	}
	return "", fmt.Errorf("the group has %d instances; name one, as %s", len(members), members[0])
}

// shellLine returns the line that gives a shell exactly these words; SSH knows
// lines only. One word is a line already.
func shellLine(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = ssh.Quote(word)
	}
	return strings.Join(quoted, " ")
}

// watchSize tells of every change of a terminal's size.
func watchSize(fd int) (<-chan ssh.Size, func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGWINCH)
	sizes := make(chan ssh.Size)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-signals:
			}
			width, height, err := term.GetSize(fd)
			if err != nil {
				continue
			}
			select {
			case sizes <- ssh.Size{Width: width, Height: height}:
			case <-quit:
				return
			}
		}
	}()
	return sizes, func() {
		signal.Stop(signals)
		close(quit)
		<-done
	}
}
