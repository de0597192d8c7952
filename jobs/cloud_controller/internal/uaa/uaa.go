// Package uaa asks the user component about accounts, and verifies its tokens: keys.go.
package uaa

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/wire"
)

// What callers tell apart.
var (
	// ErrAway: no instance answers as it should. Nothing follows from that.
	ErrAway     = errors.New("cannot ask the user component")
	ErrNotFound = errors.New("the user component has no such account")
	ErrExists   = errors.New("the user component has the account already")
	ErrRefused  = errors.New("the user component refuses")
)

const (
	askTimeout = 20 * time.Second
	// maxAnswer bounds what an answer may be: wire.UAAPage accounts, or keys.
	maxAnswer = 4 << 20
)

// Client asks the user component.
type Client struct {
	settings func() config.UAA
	scheme   string
	http     *http.Client
	keys     keys
}

// New returns a client that asks over TLS if secure.
func New(settings func() config.UAA, secure bool, client *http.Client) *Client {
	c := &Client{settings: settings, scheme: "http", http: client}
	if secure {
		c.scheme = "https"
	}
	c.keys.fetch = func(ctx context.Context) ([]byte, error) {
		status, _, body, err := c.ask(ctx, http.MethodGet, "/token_keys", nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%w for its keys: it answers %d", ErrAway, status)
		}
		return body, err
	}
	return c
}

// ask asks one instance after the other until one can be reached.
func (c *Client) ask(ctx context.Context, method, path string, asked any) (status int, header http.Header, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	data, err := json.Marshal(asked)
	if err != nil {
		return 0, nil, nil, err
	}
	settings := c.settings()
	failures := []error{ErrAway}
	for _, address := range settings.Addresses {
		request, err := http.NewRequestWithContext(ctx, method, c.scheme+"://"+address+path, bytes.NewReader(data))
		if err != nil {
			return 0, nil, nil, err
		}
		request.SetBasicAuth("cloud_controller", settings.Secret)
		request.Header.Set("Content-Type", "application/json")
		response, err := c.http.Do(request)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
		response.Body.Close()
		switch {
		case err != nil:
			failures = append(failures, err)
			continue
		case response.StatusCode == http.StatusUnauthorized:
			failures = append(failures, fmt.Errorf("%s does not take our secret", address))
			continue
		}
		return response.StatusCode, response.Header, body, nil
	}
	return 0, nil, nil, errors.Join(failures...)
}

// account turns an answer into an account.
func account(status int, body []byte, err error) (a wire.UAAAccount, _ error) {
	switch {
	case err != nil:
		return a, err
	case status == http.StatusNotFound:
		return a, ErrNotFound
	case status == http.StatusConflict:
		return a, ErrExists
	case status == http.StatusBadRequest:
		return a, fmt.Errorf("%w: %.200s", ErrRefused, body)
	case status != http.StatusOK:
		return a, fmt.Errorf("%w: it answers %d", ErrAway, status)
	}
	if err := json.Unmarshal(body, &a); err != nil || a.Email == "" || a.Stamp == "" {
		return a, fmt.Errorf("%w: its answer is no account", ErrAway)
	}
	return a, nil
}

func accountPath(email string) string { return wire.UAAAccounts + "/" + url.PathEscape(email) }

// Check reports whether a password is right, with the account's stamp, or how long to
// wait after others that were wrong.
func (c *Client) Check(ctx context.Context, email, password, address string) (stamp string, ok bool, wait time.Duration, err error) {
	status, header, body, err := c.ask(ctx, http.MethodPost, wire.UAACheck, wire.UAALogin{Email: email, Password: password, Address: address})
	if err == nil && status == http.StatusForbidden {
		return "", false, 0, nil
	}
	if err == nil && status == http.StatusTooManyRequests {
		seconds, err := strconv.Atoi(header.Get("Retry-After"))
		if err != nil || seconds < 1 {
			return "", false, 0, fmt.Errorf("%w: it does not say how long to wait", ErrAway)
		}
		return "", false, time.Duration(seconds) * time.Second, nil
	}
	a, err := account(status, body, err)
	return a.Stamp, err == nil, 0, err
}

// Stamp returns an account's stamp; ErrNotFound if there is no such account.
func (c *Client) Stamp(ctx context.Context, email string) (string, error) {
	status, _, body, err := c.ask(ctx, http.MethodGet, accountPath(email), nil)
	a, err := account(status, body, err)
	return a.Stamp, err
}

// SetPassword sets a password, or makes the account: then ErrExists if there is one.
func (c *Client) SetPassword(ctx context.Context, email, password string, make bool) (stamp string, err error) {
	status, _, body, err := c.ask(ctx, http.MethodPut, accountPath(email), wire.UAAPassword{Password: password, New: make})
	a, err := account(status, body, err)
	return a.Stamp, err
}

// Delete removes an account, if it is there.
func (c *Client) Delete(ctx context.Context, email string) error {
	status, _, _, err := c.ask(ctx, http.MethodDelete, accountPath(email), nil)
	if err == nil && status != http.StatusNoContent {
		err = fmt.Errorf("%w: it answers %d", ErrAway, status)
	}
	return err
}

// Import gives accounts with their hashes to the user component. It returns their
// stamps by their e-mail addresses.
func (c *Client) Import(ctx context.Context, accounts []wire.UAAAccount) (map[string]string, error) {
	stamps := map[string]string{}
	for len(accounts) > 0 {
		some := accounts[:min(len(accounts), wire.UAAPage)]
		accounts = accounts[len(some):]
		status, _, body, err := c.ask(ctx, http.MethodPost, wire.UAAAccounts, some)
		if err != nil {
			return nil, err
		}
		var list []wire.UAAAccount
		if status != http.StatusOK || json.Unmarshal(body, &list) != nil || len(list) != len(some) {
			return nil, fmt.Errorf("%w: it takes no accounts, but answers %d: %.200s", ErrAway, status, body)
		}
		for i, a := range list {
			if a.Email != some[i].Email || a.Stamp == "" {
				return nil, fmt.Errorf("%w: it took other accounts than it was given", ErrAway)
			}
			stamps[a.Email] = a.Stamp
		}
	}
	return stamps, nil
}

// Export fetches all accounts with their hashes.
func (c *Client) Export(ctx context.Context) ([]wire.UAAAccount, error) {
	var all []wire.UAAAccount
	for after := ""; ; {
		status, _, body, err := c.ask(ctx, http.MethodGet, wire.UAAAccounts+"?"+url.Values{"after": {after}}.Encode(), nil)
		if err != nil {
			return nil, err
		}
		var some []wire.UAAAccount
		if status != http.StatusOK || json.Unmarshal(body, &some) != nil {
			return nil, fmt.Errorf("%w: it gives no accounts, but answers %d", ErrAway, status)
		}
		for _, a := range some {
			if a.Email == "" || a.Hash == "" || a.Email <= after {
				return nil, fmt.Errorf("%w: its list of accounts is damaged", ErrAway)
			}
			after = a.Email
		}
		if all = append(all, some...); len(some) < wire.UAAPage {
			return all, nil
		}
	}
}
