package services

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/confine/network"
	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	// maxTunnels is the number of connections to an instance that pass through a controller at once.
	maxTunnels = 10
	// tunnelDial bounds the way to an instance.
	tunnelDial = 10 * time.Second
	// tunnelPing is the interval at which a client is asked whether it is there: more often than
	// routers and load balancers wait.
	tunnelPing = 20 * time.Second
	// tunnelPiece is the size of what one message carries at most, in bytes.
	tunnelPiece = 32 << 10
)

// tunnelTarget returns where an instance is, by its credentials: those that its gateway
// has given, never what a user says.
func tunnelTarget(credentials json.RawMessage) (string, error) {
	var c wire.Credentials
	if err := json.Unmarshal(credentials, &c); err != nil {
		return "", errors.New("its credentials are no JSON object")
	}
	host, port := c.Text("host"), c.Number("port")
	if host == "" {
		host = c.Text("hostname")
	}
	if host == "" || port < 1 || port > 65535 {
		return "", errors.New("its credentials name no host and port")
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

// noNeighbour refuses what no service is at, whatever a broker says, or the name that it
// gives resolves to: the controller's machine's own neighbours and its cloud's metadata.
func noNeighbour(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if network.Closest(to.Addr()) {
		return fmt.Errorf("%s is a neighbour of the controller's machine, and no service", to.Addr())
	}
	return nil
}

// owned finds an instance of the user, by the alias in the path.
func (api *API) owned(r *http.Request, a model.Account) (store.ServiceInstance, error) {
	i, err := api.aliased(r.Context(), a, r.PathValue("alias"))
	if err == nil && i.GatewayID == "" {
		err = model.ErrServiceNotFound
	}
	return i, err
}

// tunnel lets the owner of an instance connect to it: a WebSocket is one connection. Its
// first message has the kind of the service and the owner's credentials, all others are
// bytes to and from the instance.
func (api *API) tunnel(w http.ResponseWriter, r *http.Request, a model.Account) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return model.Because(model.ErrBadRequest, "a tunnel wants a WebSocket")
	}
	i, err := api.owned(r, a)
	if err != nil {
		return err
	}
	target, err := tunnelTarget(i.Credentials)
	if err != nil {
		return model.Because(model.ErrExtension, "there is no way to %s: %v", i.Alias, err)
	}
	o, err := readOffering(i.Offering)
	if err != nil {
		return err
	}
	if !api.tunnels.Enter(i.ID, maxTunnels) {
		return model.Because(model.ErrTooManySessions, "%d connections to %s at once are the most", maxTunnels, i.Alias)
	}
	defer api.tunnels.Leave(i.ID)
	ctx, cancel := api.Frame.Detached(r) // r's ends with the handler's hold of the connection
	defer cancel()
	inner, err := (&net.Dialer{Timeout: tunnelDial, Control: noNeighbour}).DialContext(ctx, "tcp", target)
	if err != nil {
		api.Log.Warn("cannot reach a service for a tunnel", "alias", i.Alias, "service", i.Offering.Label, "error", err)
		return model.Because(model.ErrGateway, "%s does not answer at its address", i.Alias)
	}
	defer inner.Close()
	outer, err := websocket.Accept(w, r, nil)
	if err != nil {
		return nil // it is answered
	}
	defer outer.CloseNow()
	first, err := json.Marshal(map[string]any{"vendor": o.name(), "credentials": i.Credentials})
	if err == nil {
		err = outer.Write(ctx, websocket.MessageText, first)
	}
	if err != nil {
		return nil // the client has gone
	}
	api.Log.Info("a tunnel begins", "alias", i.Alias, "service", i.Offering.Label, "owner", a.Email)
	var standing sync.WaitGroup
	standing.Go(func() {
		rest.WhileAllowed(ctx, api.Config.Now().Timeouts.Standing, func(ctx context.Context) error {
			if err := api.Stands(ctx, a); err != nil {
				return err
			}
			now, err := api.aliased(ctx, a, i.Alias)
			if err == nil && now.ID != i.ID {
				return model.ErrServiceNotFound
			}
			return err
		}, func(reason string) {
			_ = outer.Close(websocket.StatusPolicyViolation, reason) // it may be gone
			cancel()
		})
	})
	relayTunnel(ctx, cancel, outer, inner, api.Config.Now().Timeouts.TunnelIdle)
	standing.Wait()
	return nil
}

// relayTunnel passes bytes on in both directions until one end is gone, or nothing was
// sent for idle.
func relayTunnel(ctx context.Context, cancel context.CancelFunc, outer *websocket.Conn, inner net.Conn, idle time.Duration) {
	outer.SetReadLimit(2 * tunnelPiece)
	var moved atomic.Int64 // Unix nanoseconds
	touch := func() { moved.Store(time.Now().UnixNano()) }
	touch()
	var all sync.WaitGroup
	all.Go(func() {
		defer cancel()
		for {
			_, data, err := outer.Read(ctx)
			if err != nil {
				return
			}
			touch()
			if _, err := inner.Write(data); err != nil {
				return
			}
		}
	})
	all.Go(func() {
		defer cancel()
		buffer := make([]byte, tunnelPiece)
		for {
			n, err := inner.Read(buffer)
			if n > 0 {
				touch()
				if outer.Write(ctx, websocket.MessageBinary, buffer[:n]) != nil {
					return
				}
			}
			if err != nil {
				_ = outer.Close(websocket.StatusNormalClosure, "the service has ended the connection") // it may be gone
				return
			}
		}
	})
	all.Go(func() {
		tick := time.NewTicker(min(tunnelPing, max(idle/4, time.Millisecond)))
		defer tick.Stop()
		defer cancel()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if time.Since(time.Unix(0, moved.Load())) > idle {
				_ = outer.Close(websocket.StatusPolicyViolation, fmt.Sprintf("nothing was sent for %v", idle)) // it may be gone
				return
			}
			ping, done := context.WithTimeout(ctx, tunnelPing)
			err := outer.Ping(ping)
			done()
			if err != nil {
				return
			}
		}
	})
	<-ctx.Done()
	// What waits for either end does not any more.
	_ = outer.CloseNow()
	_ = inner.Close()
	all.Wait()
}
