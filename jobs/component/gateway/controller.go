package gateway

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
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	answerTimeout = 10 * time.Second // of each request to the controller
	idleTimeout   = 30 * time.Second // of a connection to it, shorter than it keeps one
	maxAnswer     = 64 << 20         // bytes of an answer
)

// errUnknownHandle says that the controller has no such handle.
var errUnknownHandle = errors.New("the controller does not know it")

// errStaleHandle says that another gateway has changed a handle meanwhile.
var errStaleHandle = errors.New("another gateway of this service has changed it meanwhile")

// controller speaks to whichever cloud controller answers.
type controller struct {
	uri     string
	token   string
	label   string
	clients []*http.Client // one for each controller
}

func newController(c Config, dialer *net.Dialer) *controller {
	suffix := ""
	if c.Service.Provider != "" {
		suffix = "/" + url.PathEscape(c.Service.Provider)
	}
	to := &controller{uri: c.CloudControllerURI, token: c.Token, label: url.PathEscape(c.Service.label()) + suffix}
	addresses := c.CloudControllers
	if len(addresses) == 0 {
		addresses = []string{""}
	}
	for _, address := range addresses {
		transport := &http.Transport{IdleConnTimeout: idleTimeout, DialContext: func(ctx context.Context, network, named string) (net.Conn, error) {
			if address != "" {
				named = address
			}
			return dialer.DialContext(ctx, network, named)
		}}
		to.clients = append(to.clients, &http.Client{Transport: transport, Timeout: answerTimeout})
	}
	return to
}

func (c *controller) close() {
	for _, client := range c.clients {
		client.CloseIdleConnections()
	}
}

// call asks the controllers one after the other until one answers. What is asked of
// them may be asked twice.
func (c *controller) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	var problems []error
	for _, client := range c.clients {
		data, status, err := c.ask(ctx, client, method, path, body)
		switch {
		case err != nil:
			problems = append(problems, err)
		case status == http.StatusNotFound:
			return nil, errUnknownHandle
		case status == http.StatusConflict:
			return nil, errStaleHandle
		case status == http.StatusForbidden:
			return nil, errors.New("the cloud controller refuses the token; its builtin_services and the gateway's token must be the same")
		case status != http.StatusOK:
			problems = append(problems, fmt.Errorf("the cloud controller answers %d: %.200s", status, data))
		default:
			return data, nil
		}
	}
	return nil, errors.Join(problems...)
}

func (c *controller) ask(ctx context.Context, client *http.Client, method, path string, body []byte) ([]byte, int, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.uri+"/services/v1/offerings"+path, bytes.NewReader(body))
	if err != nil {
		return nil, 0, fmt.Errorf("cannot ask the cloud controller: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-VCAP-Service-Token", c.token)
	response, err := client.Do(request)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot ask the cloud controller: %w", err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read the cloud controller's answer: %w", err)
	}
	return data, response.StatusCode, nil
}

// offer tells the controller what is offered.
func (c *controller) offer(ctx context.Context, doc []byte) error {
	_, err := c.call(ctx, http.MethodPost, "", doc)
	return err
}

// handles fetches all handles of the offering.
func (c *controller) handles(ctx context.Context) (handles, error) {
	data, err := c.call(ctx, http.MethodGet, "/"+c.label+"/handles", nil)
	if errors.Is(err, errUnknownHandle) {
		return nil, errors.New("the cloud controller does not know the offering yet")
	}
	if err != nil {
		return nil, err
	}
	return parseHandles(data)
}

// parseHandles reads the controller's list of handles. Without the list there is no
// answer, which is not the same as an empty one.
func parseHandles(data []byte) (handles, error) {
	var answer struct {
		Handles *[]wire.ServiceHandle `json:"handles"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, errors.New("cannot read the cloud controller's handles: they are no JSON of handles")
	}
	if answer.Handles == nil {
		return nil, errors.New("cannot read the cloud controller's handles: there are none in its answer")
	}
	return handlesOf(*answer.Handles), nil
}

// change describes what the controller is told of a handle.
type change struct {
	wire.ServiceHandle
	// Restart has the app of the binding restarted.
	Restart bool `json:"restart,omitempty"`
	// Was, if it is not nil, is the configuration that is replaced: if the controller has
	// another one by now, the change is an errStaleHandle.
	Was map[string]any `json:"was,omitempty"`
}

// update tells the controller what has become of a handle.
func (c *controller) update(ctx context.Context, h change) error {
	doc, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("cannot write the handle: %w", err)
	}
	_, err = c.call(ctx, http.MethodPost, "/"+c.label+"/handles/"+url.PathEscape(h.ServiceID), doc)
	return err
}
