package cloudcontroller

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// noStagerPatience is how long a stager is waited for that is not there: the
// only one may be about to start again.
const noStagerPatience = 10 * time.Second

// maxStagingLog bounds what is kept of a staging's log.
const maxStagingLog = 256 << 10

// stagings are the tasks that stagers work on.
type stagings struct {
	mu    sync.Mutex
	tasks map[string]*stagingTask // by upload id
}

type stagingTask struct {
	app     int64
	taken   bool
	droplet string // sha1, once it was uploaded
}

// varz: a task is with a stager from its begin on, so none is ever pending here.
func (s *stagings) varz() map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return map[string]any{"running_stage_cmds": len(s.tasks), "pending_stage_cmds": 0}
}

func (s *stagings) begin(app int64) (id string) {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	id = hex.EncodeToString(b[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tasks == nil {
		s.tasks = map[string]*stagingTask{}
	}
	s.tasks[id] = &stagingTask{app: app}
	return id
}

// end forgets a task and returns the droplet that was uploaded for it.
func (s *stagings) end(id string) (droplet string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	droplet = s.tasks[id].droplet
	delete(s.tasks, id)
	return droplet
}

// take uses up an upload id, which serves once.
func (s *stagings) take(id string, app int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	task := s.tasks[id]
	if task == nil || task.taken || task.app != app {
		return false
	}
	task.taken = true
	return true
}

func (s *stagings) uploaded(id, sha1 string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if task := s.tasks[id]; task != nil {
		task.droplet = sha1
	}
}

// staged returns the app with a droplet made of its present package, which takes
// a staging unless it has one. The app is not saved.
func (c *Controller) staged(ctx context.Context, app store.App) (store.App, error) {
	if app.PackageState == store.Staged && app.DropletHash != "" {
		return app, nil
	}
	if app.PackageHash == "" {
		return app, errStaging("the app has no files, upload them first")
	}
	droplet, log, err := c.stage(ctx, app)
	if log != "" {
		if err := c.store.SetStagingLog(ctx, app.ID, log); err != nil {
			c.base.Log().Warn("a staging log is lost", "app", app.ID, "error", err)
		}
	}
	if err != nil {
		c.base.Log().Info("staging failed", "app", app.ID, "name", app.Name, "error", err)
		if err := c.store.SetStagingFailed(ctx, app.ID, app.PackageHash); err != nil && !errors.Is(err, store.ErrStale) {
			c.base.Log().Warn("cannot note that staging failed", "app", app.ID, "error", err)
		}
		return app, err
	}
	app.DropletHash, app.PackageState, app.RunCount = droplet, store.Staged, 0
	c.log("app staged", app)
	return app, nil
}

// stage asks a stager and waits for the droplet.
func (c *Controller) stage(ctx context.Context, app store.App) (droplet, log string, err error) {
	framework, runtime, err := c.catalog.resolve(app.Framework, app.Runtime)
	if err != nil {
		return "", "", err
	}
	services, err := c.boundServices(ctx, app)
	if err != nil {
		return "", "", err
	}
	id := c.stagings.begin(app.ID)
	auth := c.settings.Load().Staging.Auth
	at := url.URL{Scheme: "http", Host: c.address(), User: url.UserPassword(auth.User, auth.Password)}
	answer, err := c.askStager(ctx, wire.StagingRequest{
		AppID: appID(app),
		Properties: wire.StagingProperties{
			Services: services, Framework: framework.Name, FrameworkInfo: framework, Runtime: runtime.Name, RuntimeInfo: runtime,
			Resources:   wire.StagingResources{Memory: app.Memory, Disk: app.Disk, FDs: app.FDs},
			Environment: notNil(app.Environment),
			Meta:        wire.StagingMeta{Debug: debugMode(app), Console: console(app), Command: app.Command},
		},
		DownloadURI: at.JoinPath("staging", "app", string(appID(app))).String(),
		UploadURI:   at.JoinPath("staging", "droplet", string(appID(app)), id).String(),
	})
	droplet = c.stagings.end(id)
	log = strings.ToValidUTF8(strings.ReplaceAll(answer.TaskLog, "\x00", ""), "\ufffd")
	if len(log) > maxStagingLog {
		log = strings.ToValidUTF8(log[len(log)-maxStagingLog:], "")
	}
	switch {
	case err != nil:
		return "", log, err
	case answer.Error != "":
		return "", log, errStaging(answer.Error)
	case droplet == "":
		return "", log, errStaging("the stager has uploaded no droplet")
	}
	return droplet, log, nil
}

// askStager sends the request and waits for the answer.
func (c *Controller) askStager(ctx context.Context, request wire.StagingRequest) (wire.StagingAnswer, error) {
	data, err := json.Marshal(request)
	if err != nil {
		return wire.StagingAnswer{}, fmt.Errorf("cannot write a staging request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(c.config.Staging.MaxStagingRuntime)*time.Second)
	defer cancel()
	for begun := time.Now(); ; {
		m, err := c.base.Bus().RequestWithContext(ctx, c.config.Staging.Queue, data)
		switch {
		case err == nil:
			answer, err := wire.ParseStagingAnswer(m.Data)
			if err != nil {
				c.base.Log().Warn("ignoring a message", "subject", c.config.Staging.Queue, "error", err)
				return wire.StagingAnswer{}, errStaging("the stager's answer cannot be read")
			}
			return answer, nil
		case errors.Is(err, context.DeadlineExceeded):
			return wire.StagingAnswer{}, errStagingTimedOut
		case errors.Is(err, nats.ErrNoResponders) && time.Since(begun) < noStagerPatience:
		case errors.Is(err, nats.ErrNoResponders):
			return wire.StagingAnswer{}, errStaging("no stager is there")
		default:
			c.base.Log().Warn("cannot ask a stager", "error", err)
			return wire.StagingAnswer{}, errStaging("the message bus cannot be reached")
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// getPackage gives a stager an app's files.
func (c *Controller) getPackage(w http.ResponseWriter, r *http.Request) error {
	app, err := c.appOfPath(r)
	if err != nil {
		return err
	}
	if app.PackageHash == "" {
		return errAppNotFound
	}
	return c.sendBlob(w, r, blob.Blob{Kind: blob.Package, App: app.ID, SHA1: app.PackageHash}, "application/zip")
}

// getDroplet gives a DEA an app's droplet, if it is the present one.
func (c *Controller) getDroplet(w http.ResponseWriter, r *http.Request) error {
	app, err := c.appOfPath(r)
	if err != nil {
		return err
	}
	if app.DropletHash == "" || app.DropletHash != r.PathValue("sha1") {
		return errAppNotFound
	}
	return c.sendBlob(w, r, blob.Blob{Kind: blob.Droplet, App: app.ID, SHA1: app.DropletHash}, "application/x-gzip")
}

func (c *Controller) appOfPath(r *http.Request) (store.App, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return store.App{}, errAppNotFound
	}
	app, err := c.store.AppByID(r.Context(), id)
	return app, appError(err)
}

// takeDroplet is where a stager uploads, once for each request.
func (c *Controller) takeDroplet(w http.ResponseWriter, r *http.Request) error {
	app, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	id := r.PathValue("upload")
	if err != nil || !c.stagings.take(id, app) {
		return because(errBadRequest, "nobody waits for this upload")
	}
	r.Body = http.MaxBytesReader(w, r.Body, c.maxUpload())
	parts, err := r.MultipartReader()
	if err != nil {
		return because(errBadRequest, "%v", err)
	}
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return because(errBadRequest, "the form has no upload[droplet]")
		}
		if err != nil {
			return because(errBadRequest, "%v", err)
		}
		if part.FormName() != "upload[droplet]" {
			continue
		}
		ctx, cancel := c.detached(r)
		defer cancel()
		droplet, err := c.keepBlob(ctx, blob.Droplet, app, func(w io.Writer) error {
			_, err := io.Copy(w, part)
			return err
		})
		if err != nil {
			return err
		}
		c.stagings.uploaded(id, droplet.SHA1)
		w.WriteHeader(http.StatusOK)
		return nil
	}
}
