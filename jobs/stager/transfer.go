package stager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// headerTimeout is the time that a controller may take to answer once it has all; it
// stores a droplet, and copies it to others, before it does.
const headerTimeout = 60 * time.Second

// connectTries are for a controller that is just being restarted.
const connectTries = 5

// newClient returns the client of controllers; secure, where it is not nil, connects
// to them by TLS.
func newClient(dialer *net.Dialer, secure func(ctx context.Context, network, address string) (net.Conn, error)) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:           dialer.DialContext,
		DialTLSContext:        secure,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: headerTimeout,
		IdleConnTimeout:       2 * time.Second,
	}}
}

// download writes what is at uri to a new file, at most limit bytes. Errors do
// not show the URI, which has a password.
func download(ctx context.Context, client *http.Client, uri, file string, limit int64) (size int64, err error) {
	res, err := ask(ctx, client, func() (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	})
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, unexpected(res)
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	size, err = io.Copy(out, io.LimitReader(res.Body, limit+1))
	err = errors.Join(err, out.Close())
	if err == nil && size > limit {
		err = fmt.Errorf("it is larger than the %d MB that are allowed", limit>>20)
	}
	return size, err
}

// upload posts a file as the field upload[droplet] of a form.
func upload(ctx context.Context, client *http.Client, uri, file string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	var head strings.Builder
	form := multipart.NewWriter(&head)
	if _, err := form.CreateFormFile("upload[droplet]", "droplet.tgz"); err != nil {
		return err
	}
	tail := "\r\n--" + form.Boundary() + "--\r\n"
	res, err := ask(ctx, client, func() (*http.Request, error) {
		// Every try has a reader of its own: a transport may still read the last one's.
		body := io.MultiReader(strings.NewReader(head.String()), io.NewSectionReader(in, 0, info.Size()), strings.NewReader(tail))
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, uri, body)
		if err != nil {
			return nil, err
		}
		req.ContentLength = int64(head.Len()) + info.Size() + int64(len(tail))
		req.Header.Set("Content-Type", form.FormDataContentType())
		return req, nil
	})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return unexpected(res)
	}
	// An answer that is cut says nothing about what was stored.
	if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20)); err != nil {
		return err
	}
	return nil
}

// ask makes a request, and again only if nobody was there to take it: an upload
// can be used once.
func ask(ctx context.Context, client *http.Client, request func() (*http.Request, error)) (*http.Response, error) {
	return backoff.Retry(ctx, func() (*http.Response, error) {
		req, err := request()
		if err != nil {
			return nil, backoff.Permanent(errors.New("the controller sent an address that cannot be used"))
		}
		res, err := client.Do(req)
		var dial *net.OpError
		switch {
		case err == nil:
			return res, nil
		case ctx.Err() != nil:
			return nil, backoff.Permanent(context.Cause(ctx))
		case errors.As(err, &dial) && dial.Op == "dial":
			return nil, dial
		}
		// Without url.Error, which shows the address.
		return nil, backoff.Permanent(errors.Unwrap(err))
	}, backoff.WithMaxTries(connectTries), backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 200 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 2 * time.Second,
	}))
}

// unexpected tells what a server answered; the beginning of its text has the
// reason.
func unexpected(res *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(res.Body, 300))
	if message := strings.TrimSpace(string(text)); message != "" {
		return fmt.Errorf("the controller answered %s: %s", res.Status, message)
	}
	return fmt.Errorf("the controller answered %s", res.Status)
}
