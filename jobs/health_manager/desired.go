package healthmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// answerTimeout bounds each request to the bulk API.
const answerTimeout = 10 * time.Second

// idleTimeout is the time that a connection to a cloud controller is kept for the
// next request: shorter than a server keeps it.
const idleTimeout = 30 * time.Second

// maxAnswer bounds an answer of the bulk API, bytes.
const maxAnswer = 64 << 20

// errCredentials says that a cloud controller refused user and password.
var errCredentials = errors.New("user or password refused")

// bulkAPI reads what is wanted from whichever cloud controller answers. It is
// used by one goroutine.
type bulkAPI struct {
	config BulkAPI
	dialer *net.Dialer
	secure component.Config // how to speak TLS to them
	// ask gets user and password over the bus.
	ask         func(context.Context) (wire.BulkCredentials, error)
	controllers []*http.Client        // one for each address; the one that answered last is first
	told        string                // where the controller is that gave the credentials
	credentials *wire.BulkCredentials // nil: to be asked for
}

func newBulkAPI(config BulkAPI, dialer *net.Dialer, secure component.Config, ask func(context.Context) (wire.BulkCredentials, error)) *bulkAPI {
	b := &bulkAPI{config: config, dialer: dialer, secure: secure, ask: ask}
	b.connect(config.Addresses)
	return b
}

// connect prepares clients of the controllers at these addresses; none: of the
// one that DNS finds.
func (b *bulkAPI) connect(addresses []string) {
	b.close()
	b.controllers = nil
	if len(addresses) == 0 {
		addresses = []string{""}
	}
	for _, address := range addresses {
		transport := &http.Transport{IdleConnTimeout: idleTimeout}
		transport.DialContext = func(ctx context.Context, network, named string) (net.Conn, error) {
			if address != "" {
				named = address
			}
			return b.dialer.DialContext(ctx, network, named)
		}
		if b.secure.Secure() {
			transport.DialTLSContext = b.secure.DialTLS(transport.DialContext)
		}
		b.controllers = append(b.controllers, &http.Client{Transport: transport, Timeout: answerTimeout})
	}
}

// close lets go of idle connections.
func (b *bulkAPI) close() {
	for _, c := range b.controllers {
		c.CloseIdleConnections()
	}
}

// all calls each for every app, in batches.
func (b *bulkAPI) all(ctx context.Context, each func(map[wire.ID]wire.BulkApp)) error {
	token := json.RawMessage(`{}`)
	for {
		batch, err := b.batch(ctx, b.config.BatchSize, token)
		if err != nil {
			return err
		}
		if len(batch.Results) == 0 {
			return nil
		}
		each(batch.Results)
		if string(batch.BulkToken) == string(token) {
			return fmt.Errorf("the bulk API does not get on: it gave the token %s again", token)
		}
		token = batch.BulkToken
	}
}

// one reads a single app: the batch of one that follows the id before it. nil:
// there is no such app.
func (b *bulkAPI) one(ctx context.Context, id wire.ID) (*wire.BulkApp, error) {
	number, err := strconv.ParseInt(string(id), 10, 64)
	if err != nil {
		return nil, nil // the cloud controllers' ids are numbers
	}
	batch, err := b.batch(ctx, 1, json.RawMessage(fmt.Sprintf(`{"id":%d}`, number-1)))
	if err != nil {
		return nil, err
	}
	if app, found := batch.Results[id]; found {
		return &app, nil
	}
	return nil, nil
}

func (b *bulkAPI) batch(ctx context.Context, size int, token json.RawMessage) (wire.BulkApps, error) {
	query := url.Values{"batch_size": {strconv.Itoa(size)}, "bulk_token": {string(token)}}
	data, err := b.get(ctx, "/bulk/apps?"+query.Encode())
	if err != nil {
		return wire.BulkApps{}, err
	}
	return wire.ParseBulkApps(data)
}

// users counts them.
func (b *bulkAPI) users(ctx context.Context) (int, error) {
	data, err := b.get(ctx, "/bulk/counts?model=user")
	if err != nil {
		return 0, err
	}
	counts, err := wire.ParseBulkCounts(data)
	return counts.Counts["user"], err
}

// get asks one cloud controller after the other. Credentials that are refused
// are asked for once more: they are new after a controller's restart. So are
// those of a controller that does not answer, where no addresses are given:
// another one may answer, and say where it is.
func (b *bulkAPI) get(ctx context.Context, path string) ([]byte, error) {
	for again := false; ; again = true {
		if b.credentials == nil {
			credentials, err := b.ask(ctx)
			if err != nil {
				return nil, err
			}
			b.credentials = &credentials
			if len(b.config.Addresses) == 0 && credentials.Address != b.told {
				b.told = credentials.Address
				b.connect(strings.Fields(b.told))
			}
		}
		var problems []error
		for range len(b.controllers) {
			data, err := b.try(ctx, b.controllers[0], path)
			if err == nil {
				return data, nil
			}
			problems = append(problems, err)
			if ctx.Err() != nil {
				break
			}
			b.controllers = append(b.controllers[1:], b.controllers[0])
		}
		err := fmt.Errorf("cannot read the bulk API: %w", errors.Join(problems...))
		if !errors.Is(err, errCredentials) && b.told == "" {
			return nil, err
		}
		b.credentials = nil
		if again {
			return nil, err
		}
	}
}

func (b *bulkAPI) try(ctx context.Context, controller *http.Client, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.config.Host+path, nil)
	if err != nil {
		return nil, err
	}
	request.SetBasicAuth(b.credentials.User, b.credentials.Password)
	request.Header.Set("Accept", "application/json")
	answer, err := controller.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden:
		return nil, fmt.Errorf("GET %s: %w", request.URL, errCredentials)
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("GET %s: %s", request.URL, answer.Status)
	case err != nil:
		return nil, fmt.Errorf("GET %s: %w", request.URL, err)
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("GET %s: the answer exceeds %d bytes", request.URL, maxAnswer)
	}
	return body, nil
}

// desired is an app of the bulk API as the judgement wants it.
func desired(app wire.BulkApp) *Desired {
	return &Desired{
		Started:   app.State == wire.AppStarted,
		Staged:    app.PackageState == wire.PackageStaged,
		Version:   app.Version,
		Updating:  app.Updating,
		Instances: app.Instances,
		Updated:   app.UpdatedAt.Time,
		Framework: app.Framework,
		Runtime:   app.Runtime,
	}
}
