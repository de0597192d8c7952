package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/archive"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/peers"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// How much, and how long, is read of an upload that is refused as too large.
const (
	discardBytes   = 4 << 30
	discardTimeout = 2 * time.Minute
)

// maxUploads is the number of uploads of an account that a controller takes at once: each
// takes room on its disk.
const maxUploads = 4

// MaxFiles is the number of files that an app may have.
const MaxFiles = 100_000

// tooManyResources is true of a text that lists more than an app may have: told
// before it is decoded, which takes many times its length in memory.
func tooManyResources(text []byte) bool {
	return bytes.Count(text, []byte{','}) > 10*MaxFiles
}

// resource is a file as vmc describes it.
type resource struct {
	Size number `json:"size"`
	SHA1 string `json:"sha1"`
	Name string `json:"fn"`
}

// matchResources answers which files need not be uploaded, since this user has
// uploaded them before, to this controller or another one. They are given back as they came: vmc deletes its copies by
// their names.
func (s *Server) matchResources(w http.ResponseWriter, r *http.Request, a model.Account) error {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, config.MaxResources))
	if err != nil {
		return model.Because(model.ErrBadRequest, "cannot read the body: %v", err)
	}
	if tooManyResources(data) {
		return model.Because(model.ErrBadRequest, "the list of resources is too long")
	}
	var list []json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		return model.Because(model.ErrBadRequest, "the body is not the JSON that is wanted: %v", err)
	}
	wanted := make([]peers.Content, len(list))
	for i, raw := range list {
		var one resource
		if err := json.Unmarshal(raw, &one); err != nil {
			return model.Because(model.ErrBadRequest, "a resource is not as it should be: %v", err)
		}
		wanted[i] = peers.Content{SHA1: one.SHA1, Size: int64(one.Size)}
	}
	known, have := []json.RawMessage{}, s.Peers.Known(r.Context(), a.ID, wanted)
	for i, raw := range list {
		if have[wanted[i]] {
			known = append(known, raw)
		}
	}
	rest.WriteJSON(w, http.StatusOK, known)
	return nil
}

// upload is the content of an upload's form.
type upload struct {
	file      *os.File // nil: none; it has no name, closing removes it
	size      int64
	resources []archive.Resource
}

// uploadBits makes an app's package of what is uploaded and what is known, and
// answers when it is kept safely.
func (s *Server) uploadBits(w http.ResponseWriter, r *http.Request, a model.Account, app store.App) error {
	if !s.uploads.Enter(app.OwnerID, maxUploads) {
		return model.Because(model.ErrTooManySessions, "%d uploads of the account at once are the most", maxUploads)
	}
	defer s.uploads.Leave(app.OwnerID)
	whole := r.Body
	r.Body = http.MaxBytesReader(w, whole, s.Config.Start.MaxUpload())
	up, err := s.readUpload(r)
	if up.file != nil {
		defer up.file.Close()
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		discard(w, whole)
		return model.ErrPackaging(fmt.Errorf("the upload is larger than %d MiB", s.Config.Start.MaxDropletSizeMB))
	}
	if err != nil {
		return err
	}
	ctx, cancel := s.Frame.Detached(r)
	defer cancel()
	known, err := s.gatherResources(ctx, app.OwnerID, up.resources)
	if err != nil {
		return err
	}
	kept, err := s.Peers.Keep(ctx, blob.Package, app.ID, func(w io.Writer) error {
		var file io.ReaderAt
		if up.file != nil {
			file = up.file
		}
		return archive.Pack(w, file, up.size, known, s.Blobs.Pool(app.OwnerID), archive.Limits{Bytes: int64(s.Config.Start.MaxDropletSizeMB) << 20, Files: MaxFiles}, time.Now())
	})
	var missing *archive.MissingError
	var refused *archive.RefusedError
	switch {
	case errors.As(err, &missing):
		return model.ErrResourceMissing(missing)
	case errors.As(err, &refused):
		return model.ErrPackaging(refused)
	case err != nil:
		return err
	}
	if err := s.Store.SetPackage(ctx, app.ID, kept.SHA1); err != nil {
		return model.AppError(err)
	}
	s.Log.Info("app uploaded", "app", app.ID, "name", app.Name, "owner", a.Email, "package", kept.SHA1)
	w.Header().Set(packageHeader, kept.SHA1)
	w.WriteHeader(http.StatusOK)
	return nil
}

// discard reads what a client still sends, for a while: most clients read no
// answer before they have sent everything, and would only see that the
// connection breaks.
func discard(w http.ResponseWriter, body io.Reader) {
	// Not every connection has deadlines; then the bytes are the bound.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(discardTimeout))
	_, _ = io.Copy(io.Discard, io.LimitReader(body, discardBytes)) // the client may be gone
}

// readUpload reads the form.
func (s *Server) readUpload(r *http.Request) (up upload, err error) {
	parts, err := r.MultipartReader()
	if err != nil {
		return up, model.Because(model.ErrBadRequest, "%v", err)
	}
	method := r.Method
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return up, badForm(err)
		}
		switch part.FormName() {
		case "_method":
			text, err := io.ReadAll(io.LimitReader(part, 16))
			if err != nil {
				return up, badForm(err)
			}
			if string(text) == "put" || string(text) == "PUT" {
				method = http.MethodPut
			}
		case "application":
			if up.file != nil {
				return up, model.Because(model.ErrBadRequest, "the form has two files")
			}
			if up.file, err = s.Blobs.Temporary(); err != nil {
				return up, err
			}
			if up.size, err = io.Copy(up.file, part); err != nil {
				return up, badForm(err)
			}
		case "resources":
			text, err := io.ReadAll(io.LimitReader(part, config.MaxResources+1))
			if err != nil {
				return up, badForm(err)
			}
			if up.resources, err = parseResources(text); err != nil {
				return up, model.Because(model.ErrBadRequest, "%v", err)
			}
		}
	}
	if method != http.MethodPut {
		return up, model.Because(model.ErrBadRequest, "the form's _method is not put")
	}
	if up.size == 0 && up.file != nil { // an empty form field
		up.file.Close()
		up.file = nil
	}
	if up.file == nil && up.resources == nil {
		return up, model.Because(model.ErrBadRequest, "the form has neither a file nor resources")
	}
	return up, nil
}

// badForm turns an error of reading a form into a bad request, unless it comes
// from the size limit or the disk.
func badForm(err error) error {
	var tooLarge *http.MaxBytesError
	var disk *fs.PathError
	if errors.As(err, &tooLarge) || errors.As(err, &disk) {
		return err
	}
	return model.Because(model.ErrBadRequest, "cannot read the form: %v", err)
}

// parseResources reads the list of files that are not uploaded. What is wrong
// with their names is found when they are packed.
func parseResources(text []byte) ([]archive.Resource, error) {
	if len(text) > config.MaxResources || tooManyResources(text) {
		return nil, errors.New("the list of resources is too long")
	}
	var list []struct {
		resource
		Mode *number `json:"mode"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("the resources are not the JSON that is wanted: %w", err)
	}
	resources := []archive.Resource{}
	for _, r := range list {
		one := archive.Resource{Name: r.Name, SHA1: r.SHA1, Size: int64(r.Size)}
		if r.Mode != nil {
			one.Mode = fs.FileMode(*r.Mode) & fs.ModePerm
		}
		resources = append(resources, one)
	}
	return resources, nil
}

// gatherResources fetches the owner's resources that only another controller has.
func (s *Server) gatherResources(ctx context.Context, owner int64, resources []archive.Resource) ([]archive.Resource, error) {
	if len(resources) > MaxFiles {
		return resources, nil // they are refused when they are packed
	}
	for _, r := range resources {
		f, err := s.Blobs.Pool(owner).Open(r.SHA1, r.Size)
		if err == nil {
			f.Close()
			continue
		}
		if err := s.Peers.FetchResource(ctx, owner, r); err != nil {
			return nil, model.ErrResourceMissing(&archive.MissingError{Resource: r})
		}
	}
	return resources, nil
}

// downloadBits gives the app's files back.
func (s *Server) downloadBits(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	if app.PackageHash == "" {
		return model.ErrFileNotFound
	}
	return s.Peers.Send(w, r, blob.Blob{Kind: blob.Package, App: app.ID, SHA1: app.PackageHash}, "application/zip")
}
