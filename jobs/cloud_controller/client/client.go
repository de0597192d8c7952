// Package client calls the cloud controller's REST API, which is that of the
// original (docs/protocol.md).
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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// tries of a request whose repetition does no harm, while the controller or the
// way to it is away; they take about 15 s. Where nobody listens at all, there is
// rather no cloud: refusals says how often that is tried, within a second.
const (
	tries    = 8
	refusals = 3
)

// Client is a user of one controller.
type Client struct {
	target *url.URL
	http   *http.Client
	// Token says who the user is; "": nobody.
	Token string
	// Renew, if set, returns the token for each request, for one that expires.
	Renew func(ctx context.Context) (string, error)
	// As is the e-mail address of the user for whom an administrator acts; "":
	// for themselves.
	As string
	// Trace, if set, is told of every request.
	Trace func(method, path string, status int, took time.Duration)
	// Retrying, if set, is told why a request is made again.
	Retrying func(err error)
}

// Error describes what a controller answered.
type Error struct {
	Status      int // HTTP
	Code        int `json:"code"` // the API's; 0 if the answer had none
	Description string
}

func (e *Error) Error() string {
	switch {
	case e.Code != 0:
		return fmt.Sprintf("%s (error %d)", e.Description, e.Code)
	case e.Description != "":
		return fmt.Sprintf("the answer was %d %s: %s", e.Status, http.StatusText(e.Status), e.Description)
	}
	return fmt.Sprintf("the answer was %d %s", e.Status, http.StatusText(e.Status))
}

// Codes of Error that callers tell apart.
const (
	CodeLocked      = 102 // the app was changed in between
	CodeForbidden   = 200
	CodeAppNotFound = 301
	CodeAppStopped  = 305
	CodeNoFile      = 306
	CodeStaging     = 310
	CodeServiceGone = 500
)

// Is says whether err is the controller's answer with this code.
func Is(err error, code int) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// ParseTarget makes a URL of what a user types: a host, with or without a scheme.
func ParseTarget(text string) (string, error) {
	full := text
	if !strings.Contains(full, "://") {
		full = "http://" + full
	}
	u, err := url.Parse(full)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("%q is not a target; use a host, such as api.cf.localhost:8080 or https://api.example.com", text)
	}
	return u.Scheme + "://" + u.Host, nil
}

// New returns a client of the controller at target, a URL of ParseTarget.
func New(target, token string) (*Client, error) {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("%q is not a target", target)
	}
	transport := &http.Transport{
		Proxy:                 proxy,
		DialContext:           (&Dialer{net.Dialer{Timeout: 10 * time.Second}}).DialContext,
		IdleConnTimeout:       time.Second,
		ExpectContinueTimeout: 2 * time.Second,
	}
	return &Client{
		target: u,
		Token:  token,
		http: &http.Client{Transport: newPatience(transport), CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // POST /apps answers 302, and that is all
		}},
	}, nil
}

// proxy returns the environment's proxy for a request, but none for this machine.
func proxy(r *http.Request) (*url.URL, error) {
	if isLocal(r.URL.Hostname()) {
		return nil, nil
	}
	return http.ProxyFromEnvironment(r)
}

// isLocal reports whether a host name is this machine's wherever it is looked up.
func isLocal(host string) bool {
	host = strings.ToLower(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// Dialer is a net.Dialer that finds *.localhost on this machine, as browsers do
// and resolvers do not.
type Dialer struct{ net.Dialer }

// DialContext connects to a host and port.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && isLocal(host) {
		addr = net.JoinHostPort("127.0.0.1", port)
	}
	return d.Dialer.DialContext(ctx, network, addr)
}

// Close lets connections go.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Target is the controller's URL.
func (c *Client) Target() string { return c.target.String() }

// Domain returns what names of apps end in: the target's host without its first label.
func (c *Client) Domain() string {
	_, domain, _ := strings.Cut(c.target.Hostname(), ".")
	return domain
}

// AppURL returns where an app with this host name is reached: as the controller is.
func (c *Client) AppURL(host string) string {
	u := *c.target
	u.Host = host
	if port := c.target.Port(); port != "" && !strings.Contains(host, ":") {
		u.Host = net.JoinHostPort(host, port)
	}
	return u.String() + "/"
}

// request describes one request.
type request struct {
	method string
	path   []string // elements, not escaped
	header http.Header
	// body makes the body anew for each try; nil: none.
	body func() (io.Reader, int64)
	// once: making it twice is not the same as once.
	once bool
	// made, if set, counts the tries.
	made *int
}

// firstWait is between the first two tries.
const firstWait = 200 * time.Millisecond

// do makes a request until it is answered, and returns an answer of success. The
// caller closes its body.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	refused := 0
	res, err := backoff.Retry(ctx, func() (*http.Response, error) {
		if r.made != nil {
			*r.made++
		}
		res, err := c.try(ctx, r)
		if errors.Is(err, syscall.ECONNREFUSED) {
			refused++
		}
		if err == nil || ctx.Err() != nil || refused == refusals || !again(r, err) {
			if err != nil {
				err = backoff.Permanent(err)
			}
			return res, err
		}
		return nil, err
	}, backoff.WithMaxTries(tries), backoff.WithMaxElapsedTime(0),
		backoff.WithBackOff(&backoff.ExponentialBackOff{InitialInterval: firstWait, RandomizationFactor: 0.3, Multiplier: 2, MaxInterval: 4 * time.Second}),
		backoff.WithNotify(func(err error, _ time.Duration) {
			if c.Retrying != nil {
				c.Retrying(err)
			}
		}))
	if err != nil {
		return nil, err
	}
	return res, nil
}

// again says whether a request that failed is worth another try: nobody took it,
// or whoever took it is gone and it may be made twice.
func again(r request, err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return errors.Is(err, syscall.ECONNREFUSED) || dial.Timeout()
	}
	if r.once {
		return false
	}
	var answer *Error
	if errors.As(err, &answer) {
		// What stands between answers these; the controller's own errors have codes.
		return answer.Code == 0 && (answer.Status == http.StatusBadGateway || answer.Status == http.StatusServiceUnavailable || answer.Status == http.StatusGatewayTimeout)
	}
	// net.ErrClosed: the connection ended while the body was sent.
	for _, lost := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed} {
		if errors.Is(err, lost) {
			return true
		}
	}
	return false
}

// token returns what says who the user is, "": nobody.
func (c *Client) token(ctx context.Context) (string, error) {
	if c.Token == "" || c.Renew == nil {
		return c.Token, nil
	}
	return c.Renew(ctx)
}

func (c *Client) try(ctx context.Context, r request) (*http.Response, error) {
	var body io.Reader
	var length int64
	if r.body != nil {
		body, length = r.body()
	}
	escaped := make([]string, len(r.path))
	for i, element := range r.path {
		escaped[i] = url.PathEscape(element)
	}
	path := "/" + strings.Join(escaped, "/")
	req, err := http.NewRequestWithContext(ctx, r.method, c.target.String()+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.ContentLength = length
		// For the transport, when a kept connection has ended before it was used.
		req.GetBody = func() (io.ReadCloser, error) {
			body, _ := r.body()
			return io.NopCloser(body), nil
		}
	}
	req.Header.Set("User-Agent", "vmc")
	req.Header.Set("Accept", "application/json")
	for name, values := range r.header {
		req.Header[name] = values
	}
	token, err := c.token(ctx)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	if c.As != "" {
		req.Header.Set("Proxy-User", c.As)
	}
	begin := time.Now()
	res, err := c.http.Do(req)
	status := 0
	if res != nil {
		status = res.StatusCode
	}
	if c.Trace != nil {
		c.Trace(r.method, path, status, time.Since(begin))
	}
	var hangs *silent
	if errors.As(err, &hangs) {
		return nil, hangs
	}
	if err != nil {
		return nil, fmt.Errorf("cannot reach %s: %w", c.target.Host, errors.Unwrap(err))
	}
	if res.StatusCode < 400 {
		return res, nil
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	return nil, failure(res, text)
}

// failure reads an error of the API, of its services part, or of whoever stands
// in between.
func failure(res *http.Response, text []byte) *Error {
	e := &Error{Status: res.StatusCode}
	var body struct {
		Code        int    `json:"code"`
		Description string `json:"description"`
		Errors      string `json:"errors"`
	}
	if json.Unmarshal(text, &body) == nil {
		e.Code, e.Description = body.Code, body.Description
		if e.Description == "" {
			e.Description = body.Errors
		}
	} else if kind := res.Header.Get("Content-Type"); strings.HasPrefix(kind, "text/plain") {
		e.Description = strings.TrimSpace(string(text[:min(len(text), 300)]))
	}
	return e
}

// call sends JSON (nil: no body) and reads JSON (into nil: whatever it is, *[]byte: as it is).
func (c *Client) call(ctx context.Context, once bool, method string, body, into any, path ...string) error {
	r := request{method: method, path: path, once: once, header: http.Header{"Content-Type": {"application/json"}}}
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r.body = func() (io.Reader, int64) { return bytes.NewReader(data), int64(len(data)) }
	}
	res, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("cannot read the answer of %s: %w", c.target.Host, err)
	}
	if into == nil || res.StatusCode == http.StatusNoContent {
		return nil
	}
	if text, ok := into.(*[]byte); ok {
		*text = data
		return nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("the answer of %s is not JSON of this API (is it a cloud controller of the first generation?): %w", c.target.Host, err)
	}
	return nil
}

func (c *Client) get(ctx context.Context, into any, path ...string) error {
	return c.call(ctx, false, http.MethodGet, nil, into, path...)
}

// Info describes what a cloud says of itself and of who asks.
type Info struct {
	Name        string               `json:"name"`
	Build       any                  `json:"build"`
	Support     string               `json:"support"`
	Version     any                  `json:"version"`
	Description string               `json:"description"`
	Frameworks  map[string]Framework `json:"frameworks"`
	Isolation   string               `json:"isolation,omitempty"` // lowest level of the DEAs; "": not known
	User        string               `json:"user,omitempty"`      // "": not logged in
	// LoginAt is the URL of the user component at which users log in; "": at the cloud.
	LoginAt string `json:"authorization_endpoint,omitempty"`
	Limits  *Usage `json:"limits,omitempty"`
	Usage   *Usage `json:"usage,omitempty"`
}

// Usage describes what an account has or may have.
type Usage struct {
	Memory   int `json:"memory"` // MB
	AppURIs  int `json:"app_uris,omitempty"`
	Services int `json:"services"`
	Apps     int `json:"apps"`
}

// Framework is a kind of app.
type Framework struct {
	Name      string           `json:"name"`
	Runtimes  []Runtime        `json:"runtimes"` // the default first, if there is one
	Detection []map[string]any `json:"detection"`
}

// Runtime describes what apps run with.
type Runtime struct {
	Name        string `json:"name,omitempty"`
	Version     string `json:"version"`
	Description string `json:"description"`
}

// Info asks what the cloud is.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var info Info
	err := c.get(ctx, &info, "info")
	if err == nil && info.Name == "" {
		err = fmt.Errorf("%s is not a cloud controller: its /info has no name", c.target.Host)
	}
	return info, err
}

// Runtimes lists the runtimes by name.
func (c *Client) Runtimes(ctx context.Context) (map[string]Runtime, error) {
	var runtimes map[string]Runtime
	err := c.get(ctx, &runtimes, "info", "runtimes")
	return runtimes, err
}

// Domain is a host name, or "*." and all names below a domain, that the user may
// map to apps.
type Domain struct {
	Name       string `json:"name"`
	Restricted bool   `json:"restricted"` // not every user may
}

// Domains returns those of the logged-in user. A cloud of the original knows none.
func (c *Client) Domains(ctx context.Context) ([]Domain, error) {
	var domains []Domain
	err := c.get(ctx, &domains, "domains")
	return domains, err
}

// Login returns a token for a user.
func (c *Client) Login(ctx context.Context, email, password string) (string, error) {
	var answer struct {
		Token string `json:"token"`
	}
	err := c.call(ctx, false, http.MethodPost, map[string]string{"password": password}, &answer, "users", email, "tokens")
	if err == nil && answer.Token == "" {
		err = errors.New("the answer has no token")
	}
	return answer.Token, err
}

// Register makes an account.
func (c *Client) Register(ctx context.Context, email, password string) error {
	return c.call(ctx, true, http.MethodPost, map[string]string{"email": email, "password": password}, nil, "users")
}

// ChangePassword sets the password of whoever is logged in.
func (c *Client) ChangePassword(ctx context.Context, email, password string) error {
	return c.call(ctx, false, http.MethodPut, map[string]string{"email": email, "password": password}, nil, "users", email)
}

// DeleteUser removes an account with all that it has.
func (c *Client) DeleteUser(ctx context.Context, email string) error {
	return c.call(ctx, true, http.MethodDelete, nil, nil, "users", email)
}

// User is an account.
type User struct {
	Email string `json:"email"`
	Admin bool   `json:"admin"`
	Apps  []struct {
		Name  string `json:"name"`
		State string `json:"state"`
	} `json:"apps"`
}

// Users lists all accounts, for administrators.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	var users []User
	err := c.get(ctx, &users, "users")
	return users, err
}

// ServiceOffer is a service that can be had, by its vendor and version.
type ServiceOffer struct {
	Vendor      string         `json:"vendor"`
	Version     string         `json:"version"`
	Type        string         `json:"type"`
	Description string         `json:"description"`
	Provider    string         `json:"provider"`
	Tiers       map[string]any `json:"tiers"` // by plan
}

// ServiceOffers lists what can be had.
func (c *Client) ServiceOffers(ctx context.Context) ([]ServiceOffer, error) {
	var tree map[string]map[string]map[string]ServiceOffer
	if err := c.get(ctx, &tree, "info", "services"); err != nil {
		return nil, err
	}
	var offers []ServiceOffer
	for kind, vendors := range tree {
		for vendor, versions := range vendors {
			for version, offer := range versions {
				offer.Type, offer.Vendor, offer.Version = kind, vendor, version
				offers = append(offers, offer)
			}
		}
	}
	slices.SortFunc(offers, func(a, b ServiceOffer) int {
		return strings.Compare(a.Vendor+" "+a.Version, b.Vendor+" "+b.Version)
	})
	return offers, nil
}

// Service is one that a user has.
type Service struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Vendor  string `json:"vendor"`
	Version string `json:"version"`
	Tier    string `json:"tier"`
}

// Services lists what the user has.
func (c *Client) Services(ctx context.Context) ([]Service, error) {
	var services []Service
	err := c.get(ctx, &services, "services")
	return services, err
}

// CreateService makes one of an offer.
func (c *Client) CreateService(ctx context.Context, s Service) error {
	return c.call(ctx, true, http.MethodPost, s, nil, "services")
}

// DeleteService removes one and what is in it.
func (c *Client) DeleteService(ctx context.Context, name string) error {
	return c.call(ctx, true, http.MethodDelete, nil, nil, "services", name)
}
