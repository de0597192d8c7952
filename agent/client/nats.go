package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/clusterworks/deploy/agent/api"
)

// NATS asks the agent of an instance over the bus. The connection stays the
// caller's.
func NATS(nc *nats.Conn, instance string) *Client { return &Client{&bus{nc, instance}} }

type bus struct {
	nc       *nats.Conn
	instance string
}

// errLost ends a request whose reply can no longer come.
var errLost = errors.New("the connection to the bus was lost")

func (b *bus) call(ctx context.Context, method api.Method, body []byte) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	lost := b.nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-lost:
			cancel(errLost)
		case <-ctx.Done():
		}
	}()
	defer func() {
		cancel(nil)
		<-watched
		b.nc.RemoveStatusListener(lost)
	}()
	// A request on a broken connection would be buffered, and sent whenever it
	// comes back.
	if !b.nc.IsConnected() {
		return nil, nats.ErrDisconnected
	}
	if limit := b.nc.MaxPayload(); int64(len(body)) > limit {
		return nil, fmt.Errorf("the request has %d bytes; the bus carries at most %d", len(body), limit)
	}
	message, err := b.nc.RequestWithContext(ctx, api.Subject(b.instance, method), body)
	if errors.Is(err, context.Canceled) {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	if text := message.Header.Get(micro.ErrorHeader); text != "" {
		return nil, refusal(message.Data, text)
	}
	return message.Data, nil
}
