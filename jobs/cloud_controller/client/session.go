package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/coder/websocket"
)

// SessionStart says what a session is to run.
type SessionStart struct {
	Command []string `json:"command"` // a program and its arguments; none: a shell
	// TTY gives it a terminal of Rows and Cols, of the kind Term.
	TTY  bool   `json:"tty"`
	Rows int    `json:"rows,omitempty"`
	Cols int    `json:"cols,omitempty"`
	Term string `json:"term,omitempty"`
}

// SessionControl changes a session. Each field that is set does.
type SessionControl struct {
	Rows   int    `json:"rows,omitempty"`
	Cols   int    `json:"cols,omitempty"`
	Signal string `json:"signal,omitempty"` // such as "INT"
	EOF    bool   `json:"eof,omitempty"`    // the command's input ends
}

// SessionEnd tells how a session has ended.
type SessionEnd struct {
	Status int    `json:"status"`           // -1: by Signal, or for the reason Error
	Signal string `json:"signal,omitempty"` // such as "KILL"
	Error  string `json:"error,omitempty"`
}

// SessionInput is the number of bytes that Input takes at most. What comes is bounded alike.
const SessionInput = 32 << 10

const (
	sessionStdin  = 0
	sessionStderr = 2
	sessionLimit  = 48 << 10
)

// Session is a command beside an instance of an app.
type Session struct{ conn *websocket.Conn }

// Session begins a command beside the instance with an index of an app.
func (c *Client) Session(ctx context.Context, app string, index int, start SessionStart) (*Session, error) {
	header := http.Header{}
	token, err := c.token(ctx)
	if err != nil {
		return nil, err
	}
	if token != "" {
		header.Set("Authorization", token)
	}
	if c.As != "" {
		header.Set("Proxy-User", c.As)
	}
	u := c.target.JoinPath("apps", app, "instances", strconv.Itoa(index), "session")
	conn, answer, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{HTTPClient: c.http, HTTPHeader: header})
	if err != nil {
		if answer != nil {
			text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10)) // without it there is the status
			return nil, named(failure(answer, text), app)
		}
		return nil, fmt.Errorf("cannot begin a session: %w", err)
	}
	conn.SetReadLimit(sessionLimit)
	text, err := json.Marshal(start)
	if err == nil {
		err = conn.Write(ctx, websocket.MessageText, text)
	}
	if err != nil {
		_ = conn.CloseNow()
		return nil, fmt.Errorf("cannot begin a session: %w", err)
	}
	return &Session{conn}, nil
}

// Input sends what the command reads. At most SessionInput bytes.
func (s *Session) Input(ctx context.Context, data []byte) error {
	return s.conn.Write(ctx, websocket.MessageBinary, append([]byte{sessionStdin}, data...))
}

// Control sends a signal, the window's size, or the end of the input.
func (s *Session) Control(ctx context.Context, c SessionControl) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return s.conn.Write(ctx, websocket.MessageText, text)
}

// Run writes what the command prints until it ends, and tells how.
func (s *Session) Run(ctx context.Context, stdout, stderr io.Writer) (SessionEnd, error) {
	for {
		kind, data, err := s.conn.Read(ctx)
		var closed websocket.CloseError
		switch {
		case errors.As(err, &closed) && closed.Reason != "":
			return SessionEnd{}, fmt.Errorf("the session was ended: %s", closed.Reason)
		case err != nil:
			return SessionEnd{}, fmt.Errorf("the session broke off: %w", err)
		case kind == websocket.MessageText:
			var end SessionEnd
			if err := json.Unmarshal(data, &end); err != nil {
				return SessionEnd{}, fmt.Errorf("cannot read how the session ended: %w", err)
			}
			return end, nil
		case len(data) == 0:
			continue
		}
		to := stdout
		if data[0] == sessionStderr {
			to = stderr
		}
		if _, err := to.Write(data[1:]); err != nil {
			return SessionEnd{}, fmt.Errorf("cannot print: %w", err)
		}
	}
}

// Close ends the session, and the command with it.
func (s *Session) Close() { _ = s.conn.CloseNow() }
