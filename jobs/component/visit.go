package component

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

// visitTimeout bounds the way to the bus of a visit.
const visitTimeout = 5 * time.Second

// Visit connects to the bus as the component with this configuration does, to
// ask something, without being one; address is where that component is reached.
// The caller closes the connection.
func Visit(ctx context.Context, cfg Config, p Process) (conn *nats.Conn, address string, err error) {
	if err := cfg.validate(); err != nil {
		return nil, "", err
	}
	ip, fixed, err := ownAddress(cfg.route(p.Address))
	if err != nil {
		return nil, "", err
	}
	b, err := connect("visit", cfg, dialer(ip, fixed), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, visitTimeout)
	defer cancel()
	there := make(chan struct{}, 1)
	b.whenConnected(func() {
		select {
		case there <- struct{}{}:
		default:
		}
	})
	select {
	case <-there:
		return b.conn, ip.String(), nil
	case <-ctx.Done():
		failure := errors.Join(b.reached(), context.Cause(ctx))
		b.conn.Close()
		return nil, "", fmt.Errorf("cannot reach the bus: %w", failure)
	}
}
