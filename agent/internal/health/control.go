// Package health asks a process how it is: the checks of its spec, and the
// control contract (jobs/component/README.md) with readiness, drain and reload.
package health

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/clusterworks/deploy/agent/host/sockets"
)

// maxAnswer is how much of an answer's body, one line for people, is read.
const maxAnswer = 300

// Control is the path of the unix socket on which a process serves the control
// contract. It may be longer than the kernel's 107 bytes.
type Control string

// Ready returns nil if the process can serve, else why not.
func (c Control) Ready(ctx context.Context) error { return c.ask(ctx, http.MethodGet, "/ready") }

// Drain returns nil when the process serves nothing any more. There is no way
// back; a drained process is stopped.
func (c Control) Drain(ctx context.Context) error { return c.ask(ctx, http.MethodPost, "/drain") }

// Reload returns nil when the files on disk are in use.
func (c Control) Reload(ctx context.Context) error { return c.ask(ctx, http.MethodPost, "/reload") }

func (c Control) ask(ctx context.Context, method, path string) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://control"+path, nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return sockets.Dial(ctx, string(c)) },
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return fmt.Errorf("its control socket does not answer %s: %w", path, short(ctx, err))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if response.StatusCode == http.StatusOK && err == nil {
		return nil
	}
	return fmt.Errorf("%s answers %d: %s", path, response.StatusCode, strings.TrimSpace(string(body)))
}
