// Package staging has stagers make droplets of packages.
package staging

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/peers"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/services"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Deps are the parts that staging works with.
type Deps struct {
	Config   *config.Live
	Log      *slog.Logger
	Bus      *nats.Conn
	Store    *store.Store
	Catalog  model.Catalog
	Services *services.Services
	Peers    *peers.Peers
	Frame    *rest.Frame
	Address  func() string // host:port of this controller
	// SecureAddress is the place where they reach it over TLS; "": nowhere.
	SecureAddress func() string
}

// Staging asks stagers.
type Staging struct {
	Deps
	tasks tasks
}

// New returns a Staging without tasks.
func New(d Deps) *Staging { return &Staging{Deps: d} }

// noStagerPatience is the time that a stager is waited for that is not there: the
// only one may be about to start again.
const noStagerPatience = 10 * time.Second

// maxStagingLog bounds what is kept of a staging's log.
const maxStagingLog = 256 << 10

// Staged returns the app with a droplet made of its present package, which takes
// a staging unless it has one. The app is not saved.
func (s *Staging) Staged(ctx context.Context, app store.App) (store.App, error) {
	if app.PackageState == store.Staged && app.DropletHash != "" {
		return app, nil
	}
	if app.PackageHash == "" {
		return app, model.ErrStaging("the app has no files, upload them first")
	}
	droplet, log, err := s.stage(ctx, app)
	if log != "" {
		if err := s.Store.SetStagingLog(ctx, app.ID, log); err != nil {
			s.Log.Warn("a staging log was lost", "app", app.ID, "error", err)
		}
	}
	if err != nil {
		s.Log.Info("staging failed", "app", app.ID, "name", app.Name, "error", err)
		if err := s.Store.SetStagingFailed(ctx, app.ID, app.PackageHash); err != nil && !errors.Is(err, store.ErrStale) {
			s.Log.Warn("cannot note that staging failed", "app", app.ID, "error", err)
		}
		return app, err
	}
	app.DropletHash, app.PackageState = droplet, store.Staged
	s.Log.Info("app staged", model.Attributes(app)...)
	return app, nil
}

// stage asks a stager and waits for the droplet.
func (s *Staging) stage(ctx context.Context, app store.App) (droplet, log string, err error) {
	framework, runtime, err := s.Catalog.Resolve(app.Framework, app.Runtime)
	if err != nil {
		return "", "", err
	}
	services, err := s.Services.Bound(ctx, app)
	if err != nil {
		return "", "", err
	}
	id := s.tasks.begin(app.ID)
	download, upload := fmt.Sprintf("/staging/app/%d", app.ID), fmt.Sprintf("/staging/droplet/%d/%s", app.ID, id)
	secureUpload := ""
	if at := s.SecureAddress(); at != "" {
		secureUpload = "https://" + at + upload
	}
	answer, err := s.askStager(ctx, wire.StagingRequest{
		AppID: model.ID(app), Owner: strconv.FormatInt(app.OwnerID, 10),
		Properties: wire.StagingProperties{
			Services: services, Framework: framework.Name, FrameworkInfo: framework, Runtime: runtime.Name, RuntimeInfo: runtime,
			Resources:   wire.StagingResources{Memory: app.Memory, Disk: app.Disk, FDs: app.FDs},
			Environment: model.NotNil(app.Environment),
			Meta:        wire.StagingMeta{Debug: model.Debug(app), Console: model.Console(app), Command: app.Command},
		},
		DownloadURI:       rest.SignedURL(s.Config, s.Address(), download),
		UploadURI:         "http://" + s.Address() + upload,
		SecureDownloadURI: rest.SecureURL(s.Config, s.SecureAddress(), download),
		SecureUploadURI:   secureUpload,
	})
	droplet = s.tasks.end(id)
	log = strings.ToValidUTF8(strings.ReplaceAll(answer.TaskLog, "\x00", ""), "\ufffd")
	if len(log) > maxStagingLog {
		log = strings.ToValidUTF8(log[len(log)-maxStagingLog:], "")
	}
	switch {
	case err != nil:
		return "", log, err
	case answer.Error != "":
		return "", log, model.ErrStaging(answer.Error)
	case droplet == "":
		return "", log, model.ErrStaging("the stager has uploaded no droplet")
	}
	return droplet, log, nil
}

// askStager sends the request and waits for the answer.
func (s *Staging) askStager(ctx context.Context, request wire.StagingRequest) (wire.StagingAnswer, error) {
	data, err := json.Marshal(request)
	if err != nil {
		return wire.StagingAnswer{}, fmt.Errorf("cannot write a staging request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.Config.Start.Staging.MaxStagingRuntime)*time.Second)
	defer cancel()
	for begun := time.Now(); ; {
		m, err := s.Bus.RequestWithContext(ctx, s.Config.Start.Staging.Queue, data)
		switch {
		case err == nil:
			answer, err := wire.ParseStagingAnswer(m.Data)
			if err != nil {
				s.Log.Warn("ignoring a message", "subject", s.Config.Start.Staging.Queue, "error", err)
				return wire.StagingAnswer{}, model.ErrStaging("the stager's answer cannot be read")
			}
			return answer, nil
		case errors.Is(err, context.DeadlineExceeded):
			return wire.StagingAnswer{}, model.ErrStagingTimedOut
		case errors.Is(err, nats.ErrNoResponders) && time.Since(begun) < noStagerPatience:
		case errors.Is(err, nats.ErrNoResponders):
			return wire.StagingAnswer{}, model.ErrStaging("no stager is there")
		default:
			s.Log.Warn("cannot ask a stager", "error", err)
			return wire.StagingAnswer{}, model.ErrStaging("the message bus cannot be reached")
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}
