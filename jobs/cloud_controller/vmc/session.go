package vmc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// exitStatus is that of a command beside an app, which becomes vmc's own.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("the command ended with status %d", int(e)) }

const (
	// sessionFailed is the status where there is none of the command's, as ssh's.
	sessionFailed = 255
	// windowEvery is the interval at which it is looked whether the window has another size.
	windowEvery = 500 * time.Millisecond
	// interruptWait is the time that a command has to end after a signal.
	interruptWait = 5 * time.Second
	// maxCaptured bounds what --json shows of each stream.
	maxCaptured = 4 << 20
)

const sessionHelp = `It has the app's user, files, network, memory and limits, and its environment, and
sees nothing else; it ends with this program, and all that it has started with it.
The exit status is the command's, 128 and the signal's number if a signal ended it,
and 255 if there is none: no such instance, or the connection broke off.`

func sshCommand(v *vmc) *cobra.Command {
	return v.appsOf(&cobra.Command{
		Use:     "ssh APP [INSTANCE]",
		Short:   "Open a shell beside a running instance of an app",
		Long:    "ssh opens a shell beside an instance of an app, by default the first that runs.\n" + sessionHelp,
		Example: "  vmc ssh hello\n  vmc ssh hello 1\n  echo 'du -sh .' | vmc ssh hello",
		Args:    cobra.RangeArgs(1, 2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		if v.json {
			return errors.New("a shell has no result to print as JSON; vmc run has")
		}
		index := -1
		if len(args) == 2 {
			var err error
			if index, err = strconv.Atoi(args[1]); err != nil || index < 0 {
				return fmt.Errorf("%q is no instance: want a number that vmc instances %s shows", args[1], args[0])
			}
		}
		_, isIn := terminal(v.in)
		_, isOut := terminal(v.out)
		return session(ctx, v, c, args[0], index, nil, isIn && isOut)
	})
}

func runCommand(v *vmc) *cobra.Command {
	index, tty := -1, false
	c := v.appsOf(&cobra.Command{
		Use:     "run APP -- COMMAND [ARGUMENT...]",
		Short:   "Run a command beside a running instance of an app",
		Long:    "run runs a command beside an instance of an app, in the folder of its files.\n" + sessionHelp,
		Example: "  vmc run shop -- rake db:migrate\n  vmc run shop --instance 1 -- cat config.yml\n  vmc run shop --tty -- python3\n  vmc run shop -- tar c public | tar x",
		Args:    cobra.MinimumNArgs(2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		return session(ctx, v, c, args[0], index, args[1:], tty)
	})
	c.Flags().IntVar(&index, "instance", -1, "the instance; by default the first that runs")
	c.Flags().BoolVarP(&tty, "tty", "t", false, "give it a terminal, for programs that ask")
	return c
}

// session runs a command, or a shell, beside an instance and is its terminal.
func session(ctx context.Context, v *vmc, c *client.Client, app string, index int, command []string, tty bool) error {
	if index < 0 {
		instances, err := c.Instances(ctx, app)
		if err != nil {
			return err
		}
		for _, i := range instances {
			if i.State == client.Running && (index < 0 || i.Index < index) {
				index = i.Index
			}
		}
		if index < 0 {
			return sessionFailure(v, fmt.Errorf("no instance of %s runs: vmc app %s tells more", app, app))
		}
	}
	start := client.SessionStart{Command: command, TTY: tty, Term: os.Getenv("TERM")}
	in, isTerminal := terminal(v.in)
	if tty && isTerminal {
		if cols, rows, err := term.GetSize(int(in.Fd())); err == nil {
			start.Rows, start.Cols = rows, cols
		}
	}
	// It ends with the command, and not at once with a signal: the command has it first.
	working, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s, err := c.Session(working, app, index, start)
	if err != nil {
		return sessionFailure(v, err)
	}
	defer s.Close()
	if tty && isTerminal {
		before, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return sessionFailure(v, fmt.Errorf("cannot use the terminal: %w", err))
		}
		defer func() { _ = term.Restore(int(in.Fd()), before) }() // as far as that can be
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	beside.Go(func() {
		select {
		case <-working.Done():
			return
		case <-ctx.Done():
		}
		_ = s.Control(working, client.SessionControl{Signal: "INT"}) // it may have ended
		select {
		case <-working.Done():
		case <-time.After(interruptWait):
			cancel()
		}
	})
	if tty && isTerminal {
		beside.Go(func() { followWindow(working, s, in, start) })
	}
	if !isTerminal || tty {
		// Not waited for: a read of a terminal does not end.
		go feed(working, s, v.in)
	} else {
		_ = s.Control(working, client.SessionControl{EOF: true})
	}
	stdout, stderr := v.out, v.err
	var captured [2]limited
	if v.json {
		stdout, stderr = &captured[0], &captured[1]
	}
	end, err := s.Run(working, stdout, stderr)
	if err != nil {
		return sessionFailure(v, err)
	}
	if end.Error != "" {
		return sessionFailure(v, errors.New(end.Error))
	}
	status := end.Status
	if end.Signal != "" {
		status = 128 + signalNumbers[end.Signal]
	}
	if v.json {
		err := v.printJSON(map[string]any{"app": app, "instance": index, "status": status, "signal": end.Signal,
			"stdout": captured[0].String(), "stderr": captured[1].String()})
		if err != nil {
			return err
		}
	}
	if status != 0 {
		return exitStatus(status)
	}
	return nil
}

// sessionFailure says what is wrong where there is no status of the command's.
func sessionFailure(v *vmc, err error) error {
	fmt.Fprintln(v.err, "Error:", v.explain(err))
	return exitStatus(sessionFailed)
}

// signalNumbers are those of Linux, where the command runs.
var signalNumbers = map[string]int{"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9, "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "XCPU": 24, "XFSZ": 25, "SYS": 31}

// limited keeps the first of what is written.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	_, _ = l.Buffer.Write(p[:min(len(p), maxCaptured-l.Len())]) // never fails
	return len(p), nil
}

// feed sends what comes in, and its end.
func feed(ctx context.Context, s *client.Session, in io.Reader) {
	buffer := make([]byte, client.SessionInput)
	for {
		n, err := in.Read(buffer)
		if n > 0 && s.Input(ctx, buffer[:n]) != nil {
			return
		}
		if err != nil {
			_ = s.Control(ctx, client.SessionControl{EOF: true}) // it may have ended
			return
		}
	}
}

// followWindow tells the command when the window has another size.
func followWindow(ctx context.Context, s *client.Session, in *os.File, start client.SessionStart) {
	rows, cols := start.Rows, start.Cols
	tick := time.NewTicker(windowEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		nowCols, nowRows, err := term.GetSize(int(in.Fd()))
		if err != nil || nowRows == rows && nowCols == cols {
			continue
		}
		rows, cols = nowRows, nowCols
		if s.Control(ctx, client.SessionControl{Rows: rows, Cols: cols}) != nil {
			return
		}
	}
}
