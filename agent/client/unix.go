package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// maxReply bounds a reply; a spec with all its files is the largest.
const maxReply = 64 << 20

// Unix asks over HTTP on connections that dial makes, to the agent's
// run/agent.sock.
func Unix(dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{&unix{http.Client{
		Transport: &http.Transport{
			DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			MaxIdleConnsPerHost: 2,
			IdleConnTimeout:     30 * time.Second,
			DisableCompression:  true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}}
}

type unix struct{ http http.Client }

func (u *unix) call(ctx context.Context, method api.Method, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/v1/"+string(method), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	// Submissions carry an op_id and the rest only read: all may be repeated on
	// a fresh connection when a kept one turns out to be dead.
	request.Header.Set("Idempotency-Key", "x")
	response, err := u.http.Do(request)
	if err != nil {
		var at *url.Error
		if errors.As(err, &at) {
			err = at.Err // its URL is nobody's address
		}
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxReply+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxReply {
		return nil, fmt.Errorf("the reply has more than %d bytes", maxReply)
	}
	if response.StatusCode == http.StatusOK {
		return data, nil
	}
	return nil, refusal(data, response.Status)
}

// refusal reads the error that an agent has sent.
func refusal(body []byte, status string) error {
	var e api.Error
	if json.Unmarshal(body, &e) != nil || e.Code == "" {
		return fmt.Errorf("not an agent's answer: %s: %.100s", status, strings.TrimSpace(string(body)))
	}
	return &e
}
