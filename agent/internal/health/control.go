// Package health asks a process how it is: the checks of its spec, and the
// control contract (jobs/component/README.md) with readiness, drain and reload.
package health

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/host/sockets"
)

// maxAnswer is the number of bytes of an answer's body, one line for people, that are read.
const maxAnswer = 300

// Control is the path of the unix socket on which a process serves the control
// contract. It may be longer than the kernel's 107 bytes.
type Control string

// Ready returns the process's facts by name, and a nil error if it can serve, else
// why not.
func (c Control) Ready(ctx context.Context) (facts map[string]string, err error) {
	header, err := c.ask(ctx, http.MethodGet, "/ready")
	return factsOf(header), err
}

// Drain returns nil when the process serves nothing any more. There is no way
// back; a drained process is stopped.
func (c Control) Drain(ctx context.Context) error {
	_, err := c.ask(ctx, http.MethodPost, "/drain")
	return err
}

// Reload returns nil when the files on disk are in use.
func (c Control) Reload(ctx context.Context) error {
	_, err := c.ask(ctx, http.MethodPost, "/reload")
	return err
}

// factHeader is the header in which an answer has a fact, "isolation=full".
const factHeader = "Deploy-Fact"

// fact matches one fact: a name, "=", and a value of printable ASCII characters.
var fact = regexp.MustCompile(`^([a-z][a-z0-9_]{0,31})=([!-~](?:[ -~]{0,62}[!-~])?)$`)

// factsOf returns the facts in an answer's header, at most api.MaxFacts; what does
// not look like one is left out. nil: there are none.
func factsOf(header http.Header) map[string]string {
	var facts map[string]string
	for _, text := range header.Values(factHeader) {
		if m := fact.FindStringSubmatch(text); m != nil && len(facts) < api.MaxFacts {
			if facts == nil {
				facts = map[string]string{}
			}
			facts[m[1]] = m[2]
		}
	}
	return facts
}

// ask returns the answer's header, nil if there is no answer.
func (c Control) ask(ctx context.Context, method, path string) (http.Header, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://control"+path, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return sockets.Dial(ctx, string(c)) },
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("its control socket does not answer %s: %w", path, short(ctx, err))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if response.StatusCode == http.StatusOK && err == nil {
		return response.Header, nil
	}
	return response.Header, fmt.Errorf("%s answers %d: %s", path, response.StatusCode, strings.TrimSpace(string(body)))
}
