package services

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Files with what is in an instance: an owner lets one be made of a snapshot and gets a URL
// that opens it for a while, or sends one, which takes the place of what is there.

const (
	// maxTransfers is the number of files of an instance that pass through a controller at once.
	maxTransfers = 2
	// transferIdle ends a transfer in which nothing moves.
	transferIdle = 2 * time.Minute
	// transferBuffer is the number of bytes of a file that a controller holds.
	transferBuffer = 64 << 10
)

// files is the part of the API that passes files on.
type files struct {
	*Services
	owned func(*http.Request, model.Account) (store.ServiceInstance, error)
}

// routes adds what an instance's owner may do with files, and the two URLs that open one
// for who has them.
func (api files) routes(handle func(string, rest.Handler), user, userJSON func(string, func(http.ResponseWriter, *http.Request, model.Account) error)) {
	of := "/services/v1/configurations/{alias}/serialized"
	userJSON("GET "+of+"/url/snapshots/{snapshot}", api.exportURL)
	userJSON("POST "+of+"/uploads", api.uploadURL)
	userJSON("PUT "+of+"/url", func(http.ResponseWriter, *http.Request, model.Account) error {
		return model.Because(model.ErrExtension, "the cloud fetches no URLs of its users, which could lead into its own network; send the file (vmc import-service)")
	})
	user("PUT "+of+"/data", api.importData)
	handle("GET /services/v1/exports/{owner}/{alias}/{gateway}/{snapshot}", rest.Signed(api.Config, api.signed(api.sendExport)))
	handle("PUT /services/v1/uploads/{owner}/{alias}/{gateway}", rest.Signed(api.Config, api.signed(api.takeImport)))
}

// signedURL answers with a URL, as the user reaches this controller, that opens a path
// about an instance for a while.
func (api files) signedURL(w http.ResponseWriter, r *http.Request, a model.Account, i store.ServiceInstance, kind string, more ...string) error {
	path := "/services/v1/" + kind + "/" + strconv.FormatInt(a.ID, 10) + "/" + url.PathEscape(i.Alias) + "/" + url.PathEscape(i.GatewayID)
	for _, element := range more {
		path += "/" + url.PathEscape(element)
	}
	rest.WriteJSON(w, http.StatusOK, map[string]string{"url": rest.SignedURL(api.Config, r.Host, path)})
	return nil
}

// exportURL gives the owner the URL of an export that is there.
func (api files) exportURL(w http.ResponseWriter, r *http.Request, a model.Account) error {
	i, err := api.owned(r, a)
	if err != nil {
		return err
	}
	snapshot := r.PathValue("snapshot")
	if !wire.ValidServiceInstance(snapshot) {
		return model.Because(model.ErrServiceNotFound, "there is no %.100q", snapshot)
	}
	return api.signedURL(w, r, a, i, "exports", snapshot)
}

// uploadURL gives the owner a URL to which a file can be sent.
func (api files) uploadURL(w http.ResponseWriter, r *http.Request, a model.Account) error {
	i, err := api.owned(r, a)
	if err != nil {
		return err
	}
	return api.signedURL(w, r, a, i, "uploads")
}

// signed finds the instance of a signed URL: the one that it was signed for, of the same
// owner.
func (api files) signed(h func(http.ResponseWriter, *http.Request, store.ServiceInstance) error) rest.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		owner, err := strconv.ParseInt(r.PathValue("owner"), 10, 64)
		if err != nil {
			return model.ErrServiceNotFound
		}
		i, err := api.Store.ServiceInstance(r.Context(), owner, r.PathValue("alias"))
		if errors.Is(err, store.ErrNotFound) || err == nil && (i.GatewayID == "" || i.GatewayID != r.PathValue("gateway")) {
			return model.ErrServiceNotFound
		}
		if err != nil {
			return err
		}
		return h(w, r, i)
	}
}

func (api files) importData(w http.ResponseWriter, r *http.Request, a model.Account) error {
	i, err := api.owned(r, a)
	if err != nil {
		return err
	}
	return api.takeImport(w, r, i)
}

// sendExport sends a file on from the gateway.
func (api files) sendExport(w http.ResponseWriter, r *http.Request, i store.ServiceInstance) error {
	path := gatewayPath + "/" + url.PathEscape(i.GatewayID) + "/serialized/snapshots/" + url.PathEscape(r.PathValue("snapshot")) + "/data"
	return api.transfer(r, i, func(ctx context.Context, moves func(), g gateway) error {
		answer, err := g.open(ctx, http.MethodGet, path, nil, 0)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(answer.ContentLength, 10))
		w.Header().Set("Cache-Control", "no-store")
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, moving{answer.Body, moves}, make([]byte, transferBuffer)); err != nil {
			api.Log.Warn("a file was not sent whole", "alias", i.Alias, "service", i.Offering.Label, "error", err)
			panic(http.ErrAbortHandler) // the client must not take what it has for the file
		}
		api.Log.Info("an export was read", "alias", i.Alias, "service", i.Offering.Label, "bytes", answer.ContentLength)
		return nil
	})
}

// takeImport sends a file on to the gateway, and answers with the job.
func (api files) takeImport(w http.ResponseWriter, r *http.Request, i store.ServiceInstance) error {
	path := gatewayPath + "/" + url.PathEscape(i.GatewayID) + "/serialized/data"
	return api.transfer(r, i, func(ctx context.Context, moves func(), g gateway) error {
		answer, err := g.open(ctx, http.MethodPut, path, moving{r.Body, moves}, r.ContentLength)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(io.LimitReader(answer.Body, maxGatewayAnswer))
		if err != nil || !json.Valid(text) {
			return model.ErrGateway
		}
		api.Log.Info("a file is imported", "alias", i.Alias, "service", i.Offering.Label, "bytes", r.ContentLength)
		rest.WriteJSON(w, http.StatusOK, json.RawMessage(text))
		return nil
	})
}

// transfer does one of the few transfers of an instance, and ends it if nothing moves.
func (api files) transfer(r *http.Request, i store.ServiceInstance, do func(ctx context.Context, moves func(), g gateway) error) error {
	g, err := api.gateway(i.Offering)
	if err != nil {
		return err
	}
	if !api.transfers.Enter(i.ID, maxTransfers) {
		return model.Because(model.ErrTooManySessions, "%d files of %s at once are the most", maxTransfers, i.Alias)
	}
	defer api.transfers.Leave(i.ID)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	idle := time.AfterFunc(transferIdle, cancel)
	defer idle.Stop()
	return do(ctx, func() { idle.Reset(transferIdle) }, g)
}

// moving describes what is read of a file; moves is told of each piece.
type moving struct {
	io.Reader
	moves func()
}

func (m moving) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	m.moves()
	return n, err
}
