package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A session is a command beside an instance's app, for the app's owner. vmc speaks to a
// cloud controller, and that to the DEA, by WebSocket: the first message is a
// SessionStart, then texts are SessionControl and the last one a SessionEnd; binary
// messages are a byte that names the stream, and what goes through it.
const (
	SessionStdin  = 0
	SessionStdout = 1
	SessionStderr = 2
	// SessionMessage is the time that a binary message is at most, the first byte included.
	SessionMessage = 32<<10 + 1
	// SessionText bounds the texts.
	SessionText = 48 << 10
)

const (
	maxSessionWords = 1000
	maxSessionBytes = 32 << 10
	maxWindow       = 4096
)

// SessionStart says what is to run.
type SessionStart struct {
	// Command is a program and its arguments; none: a shell.
	Command []string `json:"command"`
	// TTY gives it a terminal of Rows and Cols, of the kind Term.
	TTY  bool   `json:"tty"`
	Rows int    `json:"rows,omitempty"`
	Cols int    `json:"cols,omitempty"`
	Term string `json:"term,omitempty"`
}

// SessionControl changes a session. Each field that is set does.
type SessionControl struct {
	Rows   int    `json:"rows,omitempty"` // the window's, with Cols
	Cols   int    `json:"cols,omitempty"`
	Signal string `json:"signal,omitempty"` // one of sessionSignals, for the command's process group
	EOF    bool   `json:"eof,omitempty"`    // its input ends
}

// SessionEnd tells how a session has ended.
type SessionEnd struct {
	Status int    `json:"status"`           // -1: by Signal, or for the reason Error
	Signal string `json:"signal,omitempty"` // such as "KILL"
	Error  string `json:"error,omitempty"`
}

var termName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

var sessionSignals = []string{"HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "KILL"}

// ParseSessionStart decodes and validates the first message of a session.
func ParseSessionStart(data []byte) (SessionStart, error) {
	s, err := parse[SessionStart](data, "the start of a session")
	if err != nil {
		return SessionStart{}, err
	}
	size := 0
	for _, word := range s.Command {
		size += len(word) + 1
		if strings.ContainsRune(word, 0) {
			return SessionStart{}, errors.New("cannot start a session: its command has a NUL")
		}
	}
	switch {
	case len(s.Command) > maxSessionWords || size > maxSessionBytes:
		return SessionStart{}, fmt.Errorf("cannot start a session: its command is longer than %d words or %d bytes", maxSessionWords, maxSessionBytes)
	case len(s.Command) > 0 && s.Command[0] == "":
		return SessionStart{}, errors.New("cannot start a session: its command has no name")
	case s.Rows < 0 || s.Rows > maxWindow || s.Cols < 0 || s.Cols > maxWindow:
		return SessionStart{}, fmt.Errorf("cannot start a session in a window of %d rows and %d columns", s.Rows, s.Cols)
	case s.Term != "" && !termName.MatchString(s.Term):
		s.Term = "dumb"
	}
	return s, nil
}

// ParseSessionControl decodes and validates a text of who uses a session.
func ParseSessionControl(data []byte) (SessionControl, error) {
	c, err := parse[SessionControl](data, "a session's message")
	switch {
	case err != nil:
		return SessionControl{}, err
	case c.Rows < 0 || c.Rows > maxWindow || c.Cols < 0 || c.Cols > maxWindow:
		return SessionControl{}, fmt.Errorf("cannot make a window of %d rows and %d columns", c.Rows, c.Cols)
	case c.Signal != "" && !slices.Contains(sessionSignals, c.Signal):
		return SessionControl{}, fmt.Errorf("cannot send the signal %.20q", c.Signal)
	}
	return c, nil
}

// ParseSessionEnd decodes the last text of a session.
func ParseSessionEnd(data []byte) (SessionEnd, error) {
	var e SessionEnd
	if err := json.Unmarshal(data, &e); err != nil {
		return SessionEnd{}, fmt.Errorf("cannot read the end of a session: %w", err)
	}
	return e, nil
}
