package staging

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// Routes adds what stagers and DEAs ask for.
func (s *Staging) Routes(handle func(string, rest.Handler)) {
	handle("GET /staged_droplets/{id}/{sha1}", rest.Signed(s.Config, s.getDroplet))
	handle("GET /staging/app/{id}", rest.Signed(s.Config, s.getPackage))
	// An upload's id is a secret that serves once.
	handle("POST /staging/droplet/{id}/{upload}", s.takeDroplet)
}

// getPackage gives a stager an app's files.
func (s *Staging) getPackage(w http.ResponseWriter, r *http.Request) error {
	app, err := s.appOfPath(r)
	if err != nil {
		return err
	}
	if app.PackageHash == "" {
		return model.ErrAppNotFound
	}
	return s.Peers.Send(w, r, blob.Blob{Kind: blob.Package, App: app.ID, SHA1: app.PackageHash}, "application/zip")
}

// getDroplet gives a DEA an app's droplet, if it is the present one or a release's.
func (s *Staging) getDroplet(w http.ResponseWriter, r *http.Request) error {
	app, err := s.appOfPath(r)
	if err != nil {
		return err
	}
	hash := r.PathValue("sha1")
	if app.DropletHash == "" || app.DropletHash != hash {
		release, err := s.Store.ReleaseOfDroplet(r.Context(), app.ID, hash)
		if err != nil || release.DropletHash == "" {
			return model.AppError(cmp.Or(err, store.ErrNotFound))
		}
	}
	return s.Peers.Send(w, r, blob.Blob{Kind: blob.Droplet, App: app.ID, SHA1: hash}, "application/x-gzip")
}

func (s *Staging) appOfPath(r *http.Request) (store.App, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return store.App{}, model.ErrAppNotFound
	}
	app, err := s.Store.AppByID(r.Context(), id)
	return app, model.AppError(err)
}

// takeDroplet returns where a stager uploads, once for each request.
func (s *Staging) takeDroplet(w http.ResponseWriter, r *http.Request) error {
	app, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	id := r.PathValue("upload")
	if err != nil || !s.tasks.take(id, app) {
		return model.Because(model.ErrBadRequest, "nobody waits for this upload")
	}
	r.Body = http.MaxBytesReader(w, r.Body, s.Config.Start.MaxUpload())
	parts, err := r.MultipartReader()
	if err != nil {
		return model.Because(model.ErrBadRequest, "%v", err)
	}
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return model.Because(model.ErrBadRequest, "the form has no upload[droplet]")
		}
		if err != nil {
			return model.Because(model.ErrBadRequest, "%v", err)
		}
		if part.FormName() != "upload[droplet]" {
			continue
		}
		ctx, cancel := s.Frame.Detached(r)
		defer cancel()
		droplet, err := s.Peers.Keep(ctx, blob.Droplet, app, func(w io.Writer) error {
			_, err := io.Copy(w, part)
			return err
		})
		if err != nil {
			return err
		}
		s.tasks.uploaded(id, droplet.SHA1)
		w.WriteHeader(http.StatusOK)
		return nil
	}
}
