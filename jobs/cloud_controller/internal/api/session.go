package api

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	// maxAppSessions is the number of sessions of an app that pass through a controller at once.
	// DEAs have limits of their own.
	maxAppSessions = 10
	// sessionDial bounds the way to a DEA.
	sessionDial = 15 * time.Second
	// sessionPing is the interval at which both ends of a session are asked whether they are there:
	// more often than routers and load balancers wait.
	sessionPing = 20 * time.Second
)

// session lets the owner of an app run a command beside one of its instances, see
// wire.SessionStart: it passes a WebSocket on to the DEA that has it.
func (s *Server) session(w http.ResponseWriter, r *http.Request, a model.Account, app store.App) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return model.Because(model.ErrBadRequest, "a session wants a WebSocket")
	}
	if app.State != store.Started {
		return model.ErrAppStopped
	}
	found, err := s.runningInstance(r.Context(), app, r.PathValue("instance"))
	if err != nil {
		return err
	}
	if !s.sessions.Enter(app.ID, maxAppSessions) {
		return model.Because(model.ErrTooManySessions, "%d of the app at once are the most", maxAppSessions)
	}
	defer s.sessions.Leave(app.ID)
	ctx, cancel := s.Frame.Detached(r) // r's ends with the handler's hold of the connection
	defer cancel()
	inner, err := s.dialSession(ctx, found)
	if err != nil {
		return err
	}
	defer inner.CloseNow()
	outer, err := websocket.Accept(w, r, nil)
	if err != nil {
		return nil // it is answered
	}
	defer outer.CloseNow()
	s.note(ctx, a, app, fmt.Sprintf("session in instance %d begun", found.Index))
	s.Log.Info("a session begins", append(model.Attributes(app), "index", found.Index, "by", a.Email)...)
	inner.SetReadLimit(wire.SessionText)
	outer.SetReadLimit(wire.SessionText)
	var standing sync.WaitGroup
	standing.Go(func() {
		rest.WhileAllowed(ctx, s.Config.Now().Timeouts.Standing, func(ctx context.Context) error {
			if err := s.Accounts.Stands(ctx, a); err != nil {
				return err
			}
			now, err := s.Store.AppByID(ctx, app.ID)
			if errors.Is(err, store.ErrNotFound) || err == nil && now.OwnerID != app.OwnerID {
				return model.ErrAppNotFound
			}
			return err
		}, func(reason string) {
			_ = outer.Close(websocket.StatusPolicyViolation, reason) // it may be gone
			cancel()
		})
	})
	relaySession(ctx, cancel, outer, inner)
	standing.Wait()
	return nil
}

// runningInstance finds the instance with an index of an app that runs. Its DEA's
// answer is checked: an id is never taken from the user.
func (s *Server) runningInstance(ctx context.Context, app store.App, which string) (wire.DEAFound, error) {
	index, err := strconv.Atoi(which)
	if err != nil || !indexText.MatchString(which) || index >= app.Instances {
		return wire.DEAFound{}, model.ErrNoInstance(which)
	}
	request := wire.DEAFind{Droplet: model.ID(app), InstanceFilter: wire.InstanceFilter{Indices: []int{index}, States: []string{wire.StateRunning}}}
	if request.Version, err = s.version(ctx, app); err != nil {
		return wire.DEAFound{}, err
	}
	answers, err := s.Placer.Find(ctx, request, 1)
	if err != nil {
		return wire.DEAFound{}, err
	}
	for _, f := range answers {
		if f.Droplet == model.ID(app) && f.Index == index && f.State == wire.StateRunning {
			if f.SessionURI == "" {
				return f, model.Because(model.ErrNoSessions, "the DEA of instance %d gives none", index)
			}
			return f, nil
		}
	}
	return wire.DEAFound{}, model.ErrNoInstance(which)
}

// dialSession connects to the DEA of an instance.
func (s *Server) dialSession(ctx context.Context, f wire.DEAFound) (*websocket.Conn, error) {
	if s.Inside == nil || !strings.HasPrefix(f.SessionURI, "https://") {
		return nil, model.Because(model.ErrNoSessions, "the controller speaks no TLS to DEAs")
	}
	ctx, cancel := context.WithTimeout(ctx, sessionDial)
	defer cancel()
	credentials := base64.StdEncoding.EncodeToString([]byte(f.Credentials[0] + ":" + f.Credentials[1]))
	conn, answer, err := websocket.Dial(ctx, f.SessionURI, &websocket.DialOptions{HTTPClient: s.Inside, HTTPHeader: http.Header{"Authorization": {"Basic " + credentials}}})
	if err == nil {
		return conn, nil
	}
	if answer != nil && answer.StatusCode == http.StatusTooManyRequests {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000)) // without it there is less to say
		return nil, model.Because(model.ErrTooManySessions, "%s", strings.TrimSpace(string(text)))
	}
	s.Log.Warn("cannot begin a session", "dea", f.DEA, "instance", f.Instance, "error", err)
	return nil, model.Because(model.ErrNoSessions, "the DEA of instance %d does not give one now", f.Index)
}

// relaySession passes messages on in both directions until one end is gone.
func relaySession(ctx context.Context, cancel context.CancelFunc, outer, inner *websocket.Conn) {
	var all sync.WaitGroup
	all.Go(func() {
		defer cancel()
		for gone := false; ; {
			kind, data, err := outer.Read(ctx)
			if err != nil {
				return
			}
			// What is sent to a command that has ended is lost; how it ended is on its way.
			gone = gone || inner.Write(ctx, kind, data) != nil
		}
	})
	all.Go(func() {
		defer cancel()
		for {
			kind, data, err := inner.Read(ctx)
			var closed websocket.CloseError
			if errors.As(err, &closed) {
				_ = outer.Close(closed.Code, closed.Reason) // it may be gone, too
			}
			if err != nil || outer.Write(ctx, kind, data) != nil {
				return
			}
		}
	})
	all.Go(func() {
		tick := time.NewTicker(sessionPing)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, conn := range []*websocket.Conn{outer, inner} {
				ping, done := context.WithTimeout(ctx, sessionPing)
				err := conn.Ping(ping)
				done()
				if err != nil {
					cancel()
					return
				}
			}
		}
	})
	<-ctx.Done()
	// What waits for either end does not any more.
	_ = outer.CloseNow()
	_ = inner.CloseNow()
	all.Wait()
}
