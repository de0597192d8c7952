package vminit

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// outputQuiet is the time that a session waits for more output after its process
// has ended: something else may hold the pipe open for ever.
const outputQuiet = 250 * time.Millisecond

// session is one SSH session channel (RFC 4254, 6).
type session struct {
	init    *vmInit
	channel ssh.Channel
	env     []string
	size    *pty.Winsize // nil: no pty was asked for

	begun  bool
	attend func() // starts what goes on with the session's process
	cmd    *exec.Cmd
	tty    *os.File // the master's side
	owned  sync.WaitGroup
}

func newSession(v *vmInit, channel ssh.Channel) *session {
	return &session{init: v, channel: channel}
}

// serve answers the requests of a session until its channel is closed.
func (s *session) serve(requests <-chan *ssh.Request) {
	defer s.owned.Wait()
	defer func() { _ = s.channel.Close() }()
	for request := range requests {
		ok := s.answer(request)
		if request.WantReply {
			_ = request.Reply(ok, nil)
		}
		if s.attend != nil {
			// Only now: a process that ends at once would close the channel before
			// the client knows that it was started.
			s.attend()
			s.attend = nil
		}
	}
}

func (s *session) answer(request *ssh.Request) bool {
	switch request.Type {
	case "env":
		var v struct{ Name, Value string }
		if ssh.Unmarshal(request.Payload, &v) != nil || s.begun {
			return false
		}
		s.env = append(s.env, v.Name+"="+v.Value)
		return true
	case "pty-req":
		var v struct {
			Term                  string
			Columns, Rows, PX, PY uint32
			Modes                 string
		}
		if ssh.Unmarshal(request.Payload, &v) != nil || s.begun {
			return false
		}
		s.size = &pty.Winsize{Rows: uint16(v.Rows), Cols: uint16(v.Columns), X: uint16(v.PX), Y: uint16(v.PY)}
		s.env = append(s.env, "TERM="+v.Term)
		return true
	case "window-change":
		var v struct{ Columns, Rows, PX, PY uint32 }
		if ssh.Unmarshal(request.Payload, &v) != nil || s.tty == nil {
			return false
		}
		return pty.Setsize(s.tty, &pty.Winsize{Rows: uint16(v.Rows), Cols: uint16(v.Columns), X: uint16(v.PX), Y: uint16(v.PY)}) == nil
	case "signal":
		var v struct{ Name string }
		if ssh.Unmarshal(request.Payload, &v) != nil || s.cmd == nil {
			return false
		}
		if sig := unix.SignalNum("SIG" + v.Name); sig != 0 {
			// The whole job, as a terminal would.
			return syscall.Kill(-s.cmd.Process.Pid, sig) == nil
		}
		return false
	case "exec":
		var v struct{ Command string }
		if ssh.Unmarshal(request.Payload, &v) != nil {
			return false
		}
		return s.begin(exec.Command("/bin/sh", "-c", v.Command))
	case "shell":
		shell := os.Getenv("SHELL")
		if shell == "" {
			shell = "/bin/sh"
		}
		cmd := exec.Command(shell)
		if s.size != nil {
			cmd.Args = append(cmd.Args, "-i")
		}
		return s.begin(cmd)
	case "subsystem":
		var v struct{ Name string }
		if ssh.Unmarshal(request.Payload, &v) != nil || v.Name != "sftp" || s.begun {
			return false
		}
		s.begun = true
		s.attend = func() { s.owned.Go(s.serveFiles) }
		return true
	}
	return false
}

func (s *session) serveFiles() {
	defer func() { _ = s.channel.Close() }()
	server, err := sftp.NewServer(s.channel, sftp.WithServerWorkingDirectory(s.init.Dir))
	if err == nil {
		defer server.Close() // which closes the channel, so it comes after the status
		err = server.Serve()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.init.Log.Warn("SFTP session failed", "error", err)
		return
	}
	s.exited(0) // scp fails without it
}

// begin starts the session's one process.
func (s *session) begin(cmd *exec.Cmd) bool {
	if s.begun {
		return false
	}
	s.begun = true
	cmd.Dir = s.init.Dir
	cmd.Env = append(append([]string{}, s.init.env...), s.env...)
	cmd.Env = append(cmd.Env, localvm.EnvVM+"="+s.init.ID)
	start := s.startPiped
	if s.size != nil {
		start = s.startTTY
	}
	if err := start(cmd); err != nil {
		s.init.Log.Error("cannot start", "command", strings.Join(cmd.Args, " "), "error", err)
		_, _ = io.WriteString(s.channel.Stderr(), "cannot start "+cmd.Path+": "+err.Error()+"\n")
		return false
	}
	return true
}

func (s *session) startTTY(cmd *exec.Cmd) error {
	ended, err := s.init.children.start(cmd, func() (err error) {
		s.tty, err = pty.StartWithSize(cmd, s.size)
		return err
	})
	if err != nil {
		return err
	}
	s.cmd = cmd
	s.attend = func() {
		s.owned.Go(func() { _, _ = io.Copy(s.tty, s.channel) })
		output := newOutput(s.channel, s.tty)
		s.owned.Go(output.copy)
		s.owned.Go(func() {
			s.end(<-ended, output)
			_ = s.tty.Close()
		})
	}
	return nil
}

func (s *session) startPiped(cmd *exec.Cmd) error {
	var theirs, ours [3]*os.File
	closeAll := func(files [3]*os.File) {
		for _, f := range files {
			if f != nil {
				_ = f.Close()
			}
		}
	}
	for i := range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(theirs)
			closeAll(ours)
			return err
		}
		theirs[i], ours[i] = w, r
		if i == 0 {
			theirs[i], ours[i] = r, w
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs[0], theirs[1], theirs[2]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	ended, err := s.init.children.start(cmd, cmd.Start)
	closeAll(theirs)
	if err != nil {
		closeAll(ours)
		return err
	}
	s.cmd = cmd
	s.attend = func() {
		s.owned.Go(func() {
			_, _ = io.Copy(ours[0], s.channel)
			_ = ours[0].Close()
		})
		outputs := []*output{newOutput(s.channel, ours[1]), newOutput(s.channel.Stderr(), ours[2])}
		for _, o := range outputs {
			s.owned.Go(o.copy)
		}
		s.owned.Go(func() {
			s.end(<-ended, outputs...)
			closeAll(ours)
		})
	}
	return nil
}

// end reports the end of the process when its output is through.
func (s *session) end(status unix.WaitStatus, outputs ...*output) {
	for _, o := range outputs {
		o.finish()
	}
	if status.Signaled() {
		_, _ = s.channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name    string
			Core    bool
			Message string
			Lang    string
		}{Name: strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG"), Core: status.CoreDump()}))
	} else {
		s.exited(status.ExitStatus())
	}
	_ = s.channel.Close()
}

func (s *session) exited(status int) {
	_, _ = s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
}

// output copies what a process writes.
type output struct {
	to     io.Writer
	from   *os.File
	copied chan struct{}
}

func newOutput(to io.Writer, from *os.File) *output {
	return &output{to: to, from: from, copied: make(chan struct{})}
}

func (o *output) copy() {
	defer close(o.copied)
	buffer := make([]byte, 32<<10)
	ending := false // the process has ended, and nothing came since the last deadline
	for {
		n, err := o.from.Read(buffer)
		if n > 0 {
			if _, err := o.to.Write(buffer[:n]); err != nil {
				_ = o.from.Close() // the client is gone; so learns who writes
				return
			}
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && !ending:
			// There may be a full pipe behind a slow client: ask once more.
			ending = true
			_ = o.from.SetReadDeadline(time.Now().Add(outputQuiet))
		case err != nil:
			return
		case ending:
			_ = o.from.SetReadDeadline(time.Now().Add(outputQuiet))
		}
	}
}

// finish returns when the output of an ended process is through.
func (o *output) finish() {
	if err := o.from.SetReadDeadline(time.Now().Add(outputQuiet)); err != nil {
		_ = o.from.Close()
	}
	<-o.copied
}
