package deployer

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/clusterworks/deploy/deployer/internal/bus"
)

// Bus runs a NATS client that finds the bus in its environment: an account of it,
// lent for as long as the command and this process live. It returns the client's
// exit status.
func (r Reach) Bus(ctx context.Context, account string, command []string, streams Streams) (int, error) {
	x, err := loadTold(r.d)
	if err != nil {
		return 0, err
	}
	defer x.fleet.Close()
	if len(x.State.Bus) == 0 {
		return 0, errors.New("cannot reach the bus: none has served yet; apply first")
	}
	loan, err := bus.Lend(ctx, bus.Account(account), func() (bus.Settings, error) { return x.credentials.BusSettings(x.State.Bus) }, r.d.config.Log)
	if err != nil {
		return 0, err
	}
	defer loan.Close()
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "NATS_") { // settings of the user's own for another bus
			env = append(env, e)
		}
	}
	return runHere(ctx, command, append(env, "NATS_URL="+loan.URL), streams)
}

// BusCA returns the certificates, PEM, of which one has signed those of the bus.
func (r Reach) BusCA() (string, error) {
	x, err := loadTold(r.d)
	if err != nil {
		return "", err
	}
	defer x.fleet.Close()
	if len(x.State.Bus) == 0 {
		return "", errors.New("cannot show the bus's CA: no bus has served yet; apply first")
	}
	return x.credentials.Trusted(), nil
}
