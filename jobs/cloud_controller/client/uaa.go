package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// uaaClient is the client that vmc is to the user component: a public client.
const uaaClient = "vmc"

// Grant describes what the user component gives for a login. Access is a Token; it is valid
// until Expires, and Refresh gives the next Grant, once.
type Grant struct {
	Access  string
	Refresh string
	Expires time.Time
}

// ErrLoginEnded says that a refresh token is no longer valid: its login has ended.
var ErrLoginEnded = errors.New("the login has ended")

// UAA is the user component that a cloud names.
type UAA struct {
	c   *Client
	url string
}

// UAA returns the user component at a URL that the cloud names. It refuses one to which
// a password would travel less safely than to the cloud.
func (c *Client) UAA(at string) (UAA, error) {
	u, err := url.Parse(at)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "":
		return UAA{}, fmt.Errorf("%s says that users log in at %q, which is no address of a user component", c.target.Host, at)
	case c.target.Scheme == "https" && u.Scheme != "https":
		return UAA{}, fmt.Errorf("%s says that users log in at %s, to which your password would travel in plain text; tell the operator", c.target.Host, at)
	}
	return UAA{c, strings.TrimSuffix(at, "/")}, nil
}

// Login logs in with a password.
func (a UAA) Login(ctx context.Context, email, password string) (Grant, error) {
	return a.grant(ctx, url.Values{"grant_type": {"password"}, "username": {strings.ToLower(email)}, "password": {password}})
}

// Refresh gets the next Grant; ErrLoginEnded if there is none.
func (a UAA) Refresh(ctx context.Context, refresh string) (Grant, error) {
	return a.grant(ctx, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}})
}

// Logout ends a login.
func (a UAA) Logout(ctx context.Context, refresh string) error {
	_, err := a.form(ctx, "/oauth/revoke", url.Values{"token": {refresh}, "token_type_hint": {"refresh_token"}})
	return err
}

func (a UAA) grant(ctx context.Context, form url.Values) (Grant, error) {
	began := time.Now()
	data, err := a.form(ctx, "/oauth/token", form)
	if err != nil {
		return Grant{}, err
	}
	var answer struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		Expires int    `json:"expires_in"`
	}
	if err := json.Unmarshal(data, &answer); err != nil || answer.Access == "" || answer.Expires <= 0 {
		return Grant{}, fmt.Errorf("the answer of %s has no token", a.url)
	}
	return Grant{Access: "bearer " + answer.Access, Refresh: answer.Refresh, Expires: began.Add(time.Duration(answer.Expires) * time.Second)}, nil
}

// form posts a form to the user component. A refusal of a login or of a password is an
// *Error, as the controller's.
func (a UAA) form(ctx context.Context, path string, form url.Values) ([]byte, error) {
	form.Set("client_id", uaaClient)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "vmc")
	begin := time.Now()
	response, err := a.c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the user component %s: %w", a.url, errors.Unwrap(err))
	}
	defer response.Body.Close()
	if a.c.Trace != nil {
		a.c.Trace(http.MethodPost, path, response.StatusCode, time.Since(begin))
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("cannot read the answer of %s: %w", a.url, err)
	}
	if response.StatusCode == http.StatusOK {
		return data, nil
	}
	var refusal struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(data, &refusal) != nil || refusal.Error == "" {
		return nil, failure(response, data)
	}
	if refusal.Error == "invalid_grant" {
		if form.Has("refresh_token") {
			return nil, ErrLoginEnded
		}
		return nil, &Error{Status: response.StatusCode, Code: CodeForbidden, Description: refusal.Description}
	}
	return nil, fmt.Errorf("the user component %s refuses: %s (%s)", a.url, refusal.Description, refusal.Error)
}
