package vmc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// loginAt is a login at a user component. Its refresh token is used once: whoever uses
// it holds the lock of the settings.
type loginAt struct {
	URL     string    `json:"url"`
	Refresh string    `json:"refresh"`
	Renew   time.Time `json:"renew"` // when to get the next token
}

// renewAt leaves time for a request before a token expires.
func renewAt(g client.Grant) time.Time {
	return g.Expires.Add(-time.Until(g.Expires) / 5)
}

// renew returns the token of a target, the next one if it is about to expire. Of several
// programs at once one gets it, and the others take what it got. A login that has ended
// leaves the old token: the answer to that says what to do.
func renew(ctx context.Context, c *client.Client) (string, error) {
	saved, err := loadSettings()
	if err != nil {
		return "", err
	}
	if at, is := saved.Logins[c.Target()]; !is || time.Now().Before(at.Renew) {
		return saved.Tokens[c.Target()], nil
	}
	unlock, err := lockSettings(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	if saved, err = loadSettings(); err != nil {
		return "", err
	}
	at, is := saved.Logins[c.Target()]
	if !is || time.Now().Before(at.Renew) {
		return saved.Tokens[c.Target()], nil
	}
	component, err := c.UAA(at.URL)
	if err != nil {
		return "", err
	}
	g, err := component.Refresh(ctx, at.Refresh)
	if errors.Is(err, client.ErrLoginEnded) {
		return saved.Tokens[c.Target()], nil
	}
	if err != nil {
		return "", err
	}
	return g.Access, changeSettings(func(s *settings) { s.remember(c.Target(), at.URL, g) })
}

// remember keeps a login at a user component.
func (s *settings) remember(target, endpoint string, g client.Grant) {
	s.Tokens[target] = g.Access
	s.Logins[target] = loginAt{URL: endpoint, Refresh: g.Refresh, Renew: renewAt(g)}
}

// lockName is a file beside the settings.
const lockName = "lock"

// lockWait bounds how long another vmc is waited for.
const lockWait = time.Minute

// lockSettings waits until no other vmc renews a login.
func lockSettings(ctx context.Context) (unlock func(), err error) {
	file, err := settingsFile()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(filepath.Dir(file), lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the settings: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = tryLock(f); err == nil {
			return func() { f.Close() }, nil // which unlocks it
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("cannot lock the settings: %w; does another vmc hang?", err)
		case <-tick.C:
		}
	}
}
