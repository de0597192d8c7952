package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

// tunnelPiece is the size of what one message of a tunnel carries at most, in bytes.
const tunnelPiece = 32 << 10

// Tunnel is one connection to a service, through the controller.
type Tunnel struct {
	Vendor      string         `json:"vendor"` // "redis"
	Credentials map[string]any `json:"credentials"`
	conn        *websocket.Conn
}

// Tunnel connects to a service of the user.
func (i ServiceData) Tunnel(ctx context.Context) (*Tunnel, error) {
	c := i.client
	header := http.Header{}
	if c.Token != "" {
		header.Set("Authorization", c.Token)
	}
	if c.As != "" {
		header.Set("Proxy-User", c.As)
	}
	u := c.target.JoinPath(i.path("tunnel")...)
	conn, answer, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{HTTPClient: c.http, HTTPHeader: header})
	if err != nil {
		if answer != nil {
			text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10)) // without it there is the status
			return nil, failure(answer, text)
		}
		return nil, fmt.Errorf("cannot connect to %s: %w", i.name, err)
	}
	conn.SetReadLimit(2 * tunnelPiece)
	t := &Tunnel{conn: conn}
	kind, text, err := conn.Read(ctx)
	if err == nil && kind != websocket.MessageText {
		err = errors.New("it does not begin with the service's credentials")
	}
	if err == nil {
		err = json.Unmarshal(text, t)
	}
	if err != nil {
		t.Close()
		return nil, fmt.Errorf("cannot begin a tunnel to %s: %w", i.name, err)
	}
	return t, nil
}

// Relay passes bytes on between a local connection and the service, until one of them
// ends, and closes both. It returns why the controller has ended it, if that says so.
func (t *Tunnel) Relay(ctx context.Context, local net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		defer t.Close()
		buffer := make([]byte, tunnelPiece)
		for {
			n, err := local.Read(buffer)
			if n > 0 && t.conn.Write(ctx, websocket.MessageBinary, buffer[:n]) != nil || err != nil {
				return
			}
		}
	}()
	defer func() { <-sent }()
	defer local.Close()
	for {
		_, data, err := t.conn.Read(ctx)
		var closed websocket.CloseError
		if errors.As(err, &closed) && closed.Code != websocket.StatusNormalClosure {
			return fmt.Errorf("the connection was ended: %s", closed.Reason)
		}
		if err != nil {
			return nil // one of the two ends has gone
		}
		if _, err := local.Write(data); err != nil {
			return nil
		}
	}
}

// Close ends the connection.
func (t *Tunnel) Close() { _ = t.conn.CloseNow() }
