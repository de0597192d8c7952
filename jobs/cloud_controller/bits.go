package cloudcontroller

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
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// How much, and how long, is read of an upload that is refused as too large.
const (
	discardBytes   = 4 << 30
	discardTimeout = 2 * time.Minute
)

// maxFiles is how many an app may have.
const maxFiles = 100_000

// maxResources bounds the text that lists resources.
const maxResources = 32 << 20

// tooManyResources is true of a text that lists more than an app may have: told
// before it is decoded, which takes many times its length in memory.
func tooManyResources(text []byte) bool {
	return bytes.Count(text, []byte{','}) > 10*maxFiles
}

// resource is a file as vmc describes it.
type resource struct {
	Size number `json:"size"`
	SHA1 string `json:"sha1"`
	Name string `json:"fn"`
}

// maxUpload is the largest body: files, packed or not, and what is around them.
func (c *Controller) maxUpload() int64 {
	return int64(c.config.MaxDropletSizeMB)<<20 + maxResources + 1<<20
}

// matchResources says which files need not be uploaded. They are given back as
// they came: vmc deletes its copies by their names.
func (c *Controller) matchResources(w http.ResponseWriter, r *http.Request, _ account) error {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxResources))
	if err != nil {
		return because(errBadRequest, "cannot read the body: %v", err)
	}
	if tooManyResources(data) {
		return because(errBadRequest, "the list of resources is too long")
	}
	var list []json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		return because(errBadRequest, "the body is not the JSON that is wanted: %v", err)
	}
	known := []json.RawMessage{}
	for _, raw := range list {
		var one resource
		if err := json.Unmarshal(raw, &one); err != nil {
			return because(errBadRequest, "a resource is not as it should be: %v", err)
		}
		if f, err := c.blobs.Open(one.SHA1, int64(one.Size)); err == nil {
			f.Close()
			known = append(known, raw)
		}
	}
	writeJSON(w, http.StatusOK, known)
	return nil
}

// upload is what an upload's form has.
type upload struct {
	file      *os.File // nil: none; it has no name, closing removes it
	size      int64
	resources []archive.Resource
}

// uploadBits makes an app's package of what is uploaded and what is known, and
// answers when it is kept safely.
func (c *Controller) uploadBits(w http.ResponseWriter, r *http.Request, a account, app store.App) error {
	whole := r.Body
	r.Body = http.MaxBytesReader(w, whole, c.maxUpload())
	up, err := c.readUpload(r)
	if up.file != nil {
		defer up.file.Close()
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		discard(w, whole)
		return errPackaging(fmt.Errorf("the upload is larger than %d MiB", c.config.MaxDropletSizeMB))
	}
	if err != nil {
		return err
	}
	ctx, cancel := c.detached(r)
	defer cancel()
	known, err := c.gatherResources(ctx, up.resources)
	if err != nil {
		return err
	}
	kept, err := c.keepBlob(ctx, blob.Package, app.ID, func(w io.Writer) error {
		var file io.ReaderAt
		if up.file != nil {
			file = up.file
		}
		return archive.Pack(w, file, up.size, known, c.blobs, archive.Limits{Bytes: int64(c.config.MaxDropletSizeMB) << 20, Files: maxFiles}, time.Now())
	})
	var missing *archive.MissingError
	var refused *archive.RefusedError
	switch {
	case errors.As(err, &missing):
		return errResourceMissing(missing)
	case errors.As(err, &refused):
		return errPackaging(refused)
	case err != nil:
		return err
	}
	if err := c.store.SetPackage(ctx, app.ID, kept.SHA1); err != nil {
		return appError(err)
	}
	c.base.Log().Info("app uploaded", "app", app.ID, "name", app.Name, "owner", a.Email, "package", kept.SHA1)
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
func (c *Controller) readUpload(r *http.Request) (up upload, err error) {
	parts, err := r.MultipartReader()
	if err != nil {
		return up, because(errBadRequest, "%v", err)
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
				return up, because(errBadRequest, "the form has two files")
			}
			if up.file, err = c.blobs.Temporary(); err != nil {
				return up, err
			}
			if up.size, err = io.Copy(up.file, part); err != nil {
				return up, badForm(err)
			}
		case "resources":
			text, err := io.ReadAll(io.LimitReader(part, maxResources+1))
			if err != nil {
				return up, badForm(err)
			}
			if up.resources, err = parseResources(text); err != nil {
				return up, because(errBadRequest, "%v", err)
			}
		}
	}
	if method != http.MethodPut {
		return up, because(errBadRequest, "the form's _method is not put")
	}
	if up.size == 0 && up.file != nil { // an empty form field
		up.file.Close()
		up.file = nil
	}
	if up.file == nil && up.resources == nil {
		return up, because(errBadRequest, "the form has neither a file nor resources")
	}
	return up, nil
}

// badForm keeps what net/http and the disk say apart from what is wrong with a form.
func badForm(err error) error {
	var tooLarge *http.MaxBytesError
	var disk *fs.PathError
	if errors.As(err, &tooLarge) || errors.As(err, &disk) {
		return err
	}
	return because(errBadRequest, "cannot read the form: %v", err)
}

// parseResources reads the list of files that are not uploaded. What is wrong
// with their names is found when they are packed.
func parseResources(text []byte) ([]archive.Resource, error) {
	if len(text) > maxResources || tooManyResources(text) {
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

// gatherResources fetches the resources that only another controller has.
func (c *Controller) gatherResources(ctx context.Context, resources []archive.Resource) ([]archive.Resource, error) {
	if len(resources) > maxFiles {
		return resources, nil // they are refused when they are packed
	}
	for _, r := range resources {
		f, err := c.blobs.Open(r.SHA1, r.Size)
		if err == nil {
			f.Close()
			continue
		}
		if err := c.fetchResource(ctx, r); err != nil {
			return nil, errResourceMissing(&archive.MissingError{Resource: r})
		}
	}
	return resources, nil
}

// downloadBits gives the app's files back.
func (c *Controller) downloadBits(w http.ResponseWriter, r *http.Request, _ account, app store.App) error {
	if app.PackageHash == "" {
		return errFileNotFound
	}
	return c.sendBlob(w, r, blob.Blob{Kind: blob.Package, App: app.ID, SHA1: app.PackageHash}, "application/zip")
}
