package servicebroker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	remoteTimeout = 14 * time.Second // below the 15 in which the controller waits
	maxAnswer     = 1 << 20          // bytes of an answer, as the controller reads it
)

func newRemote() *http.Client {
	return &http.Client{
		Timeout: remoteTimeout,
		// The token is for this broker and for nobody whom it names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// forward asks another broker the same, with the token that it knows.
func (b *Broker) forward(ctx context.Context, c *call) (any, error) {
	path := strings.TrimPrefix(c.URL.EscapedPath(), "/"+c.name)
	if !strings.HasPrefix(path, "/gateway/v1/configurations") || strings.Contains(path, "..") {
		return nil, wire.Failure(wire.ServiceNotFound, "there is no such page")
	}
	request, err := http.NewRequestWithContext(ctx, c.Method, strings.TrimSuffix(c.offering.URL, "/")+path, bytes.NewReader(c.body))
	if err != nil {
		return nil, fmt.Errorf("cannot ask the broker of %s: %w", c.name, err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-VCAP-Service-Token", c.offering.URLToken)
	response, err := b.remote.Do(request)
	if err != nil {
		return nil, errors.Join(wire.Failure(wire.ServiceGatewayTimeout, "Gateway timeout"), err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil || len(answer) > maxAnswer {
		return nil, errors.Join(wire.Failure(wire.ServiceUnavailable, "the answer of the service's broker cannot be read"), err)
	}
	return judge(c.Method, response.StatusCode, answer)
}

// judge says what the controller is told of another broker's answer: a handle as it
// is, an error of the protocol as it is, of anything else just that it is none.
func judge(method string, status int, answer []byte) (any, error) {
	strange := wire.Failure(wire.ServiceUnavailable, "the service's broker does not speak the gateway API: it answers %d", status)
	if status == http.StatusOK {
		var h wire.ServiceHandle
		err := json.Unmarshal(answer, &h)
		switch {
		case err != nil, method == http.MethodPost && (!wire.ValidServiceInstance(h.ServiceID) || h.Credentials == nil):
			return nil, strange
		case method == http.MethodPost:
			return h, nil
		}
		return struct{}{}, nil
	}
	var failure wire.ServiceFailure
	if json.Unmarshal(answer, &failure.Msg) != nil || failure.Msg.Code == 0 || status < 400 || status > 599 {
		return nil, strange
	}
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		return nil, errors.Join(wire.Failure(wire.ServiceUnavailable, "the service's broker refuses us"), errors.New("the url_token is wrong"))
	}
	failure.Status = status
	return nil, &failure
}
