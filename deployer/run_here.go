package deployer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// Streams describe what a program that runs for the user is connected to.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// endingTime is the time that a program on this machine may take to end when it is told to.
const endingTime = 5 * time.Second

// runHere runs a program on this machine and returns its exit status as a shell
// does: 128 and the signal's number if a signal ended it. When the context ends,
// the program is told to end, and its end is waited for.
func runHere(ctx context.Context, command, env []string, streams Streams) (int, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, streams.In, streams.Out, streams.Err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endingTime
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case errors.As(err, &exit):
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return exit.ExitCode(), nil
	case err != nil:
		return 0, fmt.Errorf("cannot run %s: %w", command[0], err)
	}
	return 0, nil
}
