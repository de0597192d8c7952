package peers

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
)

// Routes adds what controllers ask each other.
func (p *Peers) Routes(handle func(string, rest.Handler)) {
	peer := func(pattern string, h rest.Handler) { handle(pattern, rest.Basic(p.Credentials, h)) }
	peer("GET /internal/blobs/{kind}/{id}/{sha1}", func(w http.ResponseWriter, r *http.Request) error {
		b, err := blobOfPath(r)
		if err != nil {
			return err
		}
		// Only what is here: two controllers must not ask each other in circles.
		return p.sendLocal(w, r, b, "application/octet-stream")
	})
	peer("PUT /internal/blobs/{kind}/{id}/{sha1}", func(w http.ResponseWriter, r *http.Request) error {
		b, err := blobOfPath(r)
		if err != nil {
			return err
		}
		if err := p.Blobs.PutExpected(b, http.MaxBytesReader(w, r.Body, p.Config.Start.MaxUpload())); err != nil {
			if errors.Is(err, blob.ErrWrongSum) {
				return model.Because(model.ErrBadRequest, "%v", err)
			}
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	peer("POST /internal/resources/{owner}", p.answerKnown)
	peer("GET /internal/resources/{owner}/{sha1}/{size}", func(w http.ResponseWriter, r *http.Request) error {
		owner, err1 := strconv.ParseInt(r.PathValue("owner"), 10, 64)
		size, err2 := strconv.ParseInt(r.PathValue("size"), 10, 64)
		if err1 != nil || err2 != nil {
			return model.ErrFileNotFound
		}
		f, err := p.Blobs.Pool(owner).Open(r.PathValue("sha1"), size)
		if err != nil {
			return model.ErrFileNotFound
		}
		defer f.Close()
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		_, _ = io.Copy(w, f) // the peer may be gone
		return nil
	})
}

func blobOfPath(r *http.Request) (blob.Blob, error) {
	app, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	b := blob.Blob{Kind: blob.Kind(r.PathValue("kind")), App: app, SHA1: r.PathValue("sha1")}
	if err != nil || b.Validate() != nil {
		return blob.Blob{}, model.ErrFileNotFound
	}
	return b, nil
}

// Send answers with a blob, which is fetched first if only a peer has it.
func (p *Peers) Send(w http.ResponseWriter, r *http.Request, b blob.Blob, contentType string) error {
	if !p.Blobs.Has(b) {
		err := p.fetch(r.Context(), b)
		if errors.Is(err, fs.ErrNotExist) {
			p.Log.Error("an app's files are lost; push it again", "app", b.App, "blob", Path(b), "error", err)
			return model.ErrFileNotFound
		}
		if errors.Is(err, ErrNotBrought) {
			p.Log.Warn("an app's files have not arrived yet", "app", b.App, "blob", Path(b), "error", err)
			return model.ErrNotHereNow
		}
		if err != nil {
			return err
		}
	}
	return p.sendLocal(w, r, b, contentType)
}

func (p *Peers) sendLocal(w http.ResponseWriter, r *http.Request, b blob.Blob, contentType string) error {
	f, err := p.Blobs.Get(b)
	if errors.Is(err, fs.ErrNotExist) {
		return model.ErrFileNotFound
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return sendFile(w, r, f, contentType)
}

func sendFile(w http.ResponseWriter, r *http.Request, f *os.File, contentType string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	http.ServeContent(w, r, "", info.ModTime(), f)
	return nil
}
