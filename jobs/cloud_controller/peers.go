package cloudcontroller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/archive"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
)

const (
	// peerTimeout bounds the copying of one blob; a peer that is away is noticed
	// within dialTimeout.
	peerTimeout = 2 * time.Minute
	dialTimeout = 2 * time.Second
	// pushTimeout bounds a copy that somebody waits for: less than a stager waits.
	pushTimeout = 45 * time.Second
	// syncInterval is how often a controller looks for what it lacks, and for what
	// nobody needs any more.
	syncInterval = 30 * time.Second
	// syncRetry is how often one looks that is not ready for what it lacks.
	syncRetry = 3 * time.Second
	// sweepAfter is how old a blob is that no app names before it is removed: an
	// upload is named only after it was kept.
	sweepAfter = time.Hour
)

// errPeerAway says that another controller cannot be reached, or does not know
// this one by its keys.
var errPeerAway = errors.New("cannot ask another controller")

// errNotBrought says that what is lacking may be had, later.
var errNotBrought = errors.New("another controller may have it, and it cannot be brought here now")

func blobPath(b blob.Blob) string {
	return fmt.Sprintf("/internal/blobs/%s/%d/%s", b.Kind, b.App, b.SHA1)
}

func (c *Controller) peerCredentials() Credentials {
	return Credentials{User: "cloud_controller", Password: c.settings.Load().Keys.derive("peer password")}
}

// peerRoutes are what controllers ask each other.
func (c *Controller) peerRoutes(handle func(string, handler)) {
	peer := func(pattern string, h handler) { handle(pattern, c.basic(c.peerCredentials, h)) }
	peer("GET /internal/blobs/{kind}/{id}/{sha1}", func(w http.ResponseWriter, r *http.Request) error {
		b, err := blobOfPath(r)
		if err != nil {
			return err
		}
		// Only what is here: two controllers must not ask each other in circles.
		return c.sendLocal(w, r, b, "application/octet-stream")
	})
	peer("PUT /internal/blobs/{kind}/{id}/{sha1}", func(w http.ResponseWriter, r *http.Request) error {
		b, err := blobOfPath(r)
		if err != nil {
			return err
		}
		if err := c.blobs.PutExpected(b, http.MaxBytesReader(w, r.Body, c.maxUpload())); err != nil {
			if errors.Is(err, blob.ErrWrongSum) {
				return because(errBadRequest, "%v", err)
			}
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	peer("GET /internal/resources/{sha1}/{size}", func(w http.ResponseWriter, r *http.Request) error {
		size, err := strconv.ParseInt(r.PathValue("size"), 10, 64)
		if err != nil {
			return errFileNotFound
		}
		f, err := c.blobs.Open(r.PathValue("sha1"), size)
		if err != nil {
			return errFileNotFound
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
		return blob.Blob{}, errFileNotFound
	}
	return b, nil
}

// keepBlob keeps a blob here and, before it returns, with every peer that can be
// reached: when this controller is lost in the next moment, nothing else is. A
// peer that is away fetches it when it comes back.
func (c *Controller) keepBlob(ctx context.Context, kind blob.Kind, app int64, write func(io.Writer) error) (blob.Blob, error) {
	b, err := c.blobs.Put(kind, app, write)
	if err != nil {
		return blob.Blob{}, err
	}
	var copies sync.WaitGroup
	for _, peer := range c.settings.Load().Peers {
		copies.Go(func() {
			if err := c.push(ctx, peer, b); err != nil {
				c.base.Log().Warn("another controller has no copy yet", "peer", peer, "blob", blobPath(b), "error", err)
			}
		})
	}
	copies.Wait()
	return b, nil
}

// push copies a blob to a peer.
func (c *Controller) push(ctx context.Context, peer string, b blob.Blob) error {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	f, err := c.blobs.Get(b)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	answer, err := c.askPeer(ctx, http.MethodPut, peer, blobPath(b), f, info.Size())
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

// askPeer makes a request; the answer's body is to be closed.
func (c *Controller) askPeer(ctx context.Context, method, peer, path string, body io.Reader, size int64) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+peer+path, body)
	if err != nil {
		return nil, fmt.Errorf("cannot ask another controller: %w", err)
	}
	if body != nil {
		request.ContentLength = size
	}
	auth := c.peerCredentials()
	request.SetBasicAuth(auth.User, auth.Password)
	answer, err := c.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPeerAway, err)
	}
	if answer.StatusCode/100 != 2 {
		answer.Body.Close()
		switch answer.StatusCode {
		case http.StatusNotFound:
			return nil, fmt.Errorf("controller %s: %w", peer, fs.ErrNotExist)
		case http.StatusUnauthorized:
			// One of us has new keys and the other will have them: an update that changes
			// them goes on to it only when this one is ready.
			return nil, fmt.Errorf("%w: controller %s has other keys", errPeerAway, peer)
		}
		return nil, fmt.Errorf("controller %s answers %s", peer, answer.Status)
	}
	return answer, nil
}

// fetch gets a blob from the first peer that has it. It is errNotBrought if one
// that can be reached neither gives it nor says that it has none, fs.ErrNotExist
// if all that can be reached have none, errPeerAway if none can be reached.
func (c *Controller) fetch(ctx context.Context, b blob.Blob) error {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	var problems []error
	result := errPeerAway
	for _, peer := range c.settings.Load().Peers {
		answer, err := c.askPeer(ctx, http.MethodGet, peer, blobPath(b), nil, 0)
		if err == nil {
			err = c.blobs.PutExpected(b, io.LimitReader(answer.Body, c.maxUpload()))
			answer.Body.Close()
		}
		if err == nil {
			c.base.Log().Info("fetched from another controller", "peer", peer, "blob", blobPath(b))
			return nil
		}
		switch {
		case errors.Is(err, errPeerAway):
		case !errors.Is(err, fs.ErrNotExist):
			result = errNotBrought
		case result != errNotBrought:
			result = fs.ErrNotExist
		}
		problems = append(problems, err)
	}
	if len(problems) == 0 {
		result = fs.ErrNotExist // there is nobody to ask
	}
	return fmt.Errorf("cannot get %s: %w: %v", blobPath(b), result, errors.Join(problems...))
}

// fetchResource gets a file of the resource pool from the first peer that has it.
func (c *Controller) fetchResource(ctx context.Context, r archive.Resource) error {
	// A client may have written anything there.
	if (blob.Blob{Kind: blob.Package, App: 1, SHA1: r.SHA1}).Validate() != nil || r.Size < 0 {
		return fs.ErrNotExist
	}
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	for _, peer := range c.settings.Load().Peers {
		answer, err := c.askPeer(ctx, http.MethodGet, peer, fmt.Sprintf("/internal/resources/%s/%d", r.SHA1, r.Size), nil, 0)
		if err != nil {
			continue
		}
		err = c.keepResource(r, answer.Body)
		answer.Body.Close()
		if err == nil {
			return nil
		}
	}
	return fs.ErrNotExist
}

func (c *Controller) keepResource(r archive.Resource, from io.Reader) error {
	w, err := c.blobs.Add(r.Size)
	if err != nil {
		return err
	}
	defer w.Discard()
	if _, err := io.Copy(w, io.LimitReader(from, r.Size)); err != nil {
		return err
	}
	// Whether it is what it is said to be is checked when it is used.
	return w.Commit(r.SHA1)
}

// sendBlob answers with a blob, which is fetched first if only a peer has it.
func (c *Controller) sendBlob(w http.ResponseWriter, r *http.Request, b blob.Blob, contentType string) error {
	if !c.blobs.Has(b) {
		err := c.fetch(r.Context(), b)
		if errors.Is(err, fs.ErrNotExist) {
			c.base.Log().Error("an app's files are lost, push it again", "app", b.App, "blob", blobPath(b), "error", err)
			return errFileNotFound
		}
		if errors.Is(err, errNotBrought) {
			c.base.Log().Warn("an app's files are not here yet", "app", b.App, "blob", blobPath(b), "error", err)
			return errNotHereNow
		}
		if err != nil {
			return err
		}
	}
	return c.sendLocal(w, r, b, contentType)
}

func (c *Controller) sendLocal(w http.ResponseWriter, r *http.Request, b blob.Blob, contentType string) error {
	f, err := c.blobs.Get(b)
	if errors.Is(err, fs.ErrNotExist) {
		return errFileNotFound
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

// keepInStep fetches what this controller lacks and removes what nobody needs,
// again and again. The controller is ready when it has once got all that it can
// get, so that an update goes on to the next one only when this one has what that
// one has.
func (c *Controller) keepInStep(ctx context.Context) error {
	for {
		err := c.syncBlobs(ctx)
		if err != nil && ctx.Err() == nil {
			c.base.Log().Warn("packages and droplets are not all here", "error", err)
		}
		if err := c.store.DropFailedLogins(ctx); err != nil && ctx.Err() == nil {
			c.base.Log().Warn("cannot clean up", "error", err)
		}
		next := syncInterval
		if errors.Is(err, errNotBrought) && c.ready() != nil {
			c.waitFor(err)
			next = syncRetry
		} else {
			c.waitFor(nil)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

func (c *Controller) syncBlobs(ctx context.Context) error {
	begun := time.Now()
	list, err := c.store.Blobs(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotBrought, err)
	}
	needed := map[blob.Blob]bool{}
	for _, a := range list {
		for kind, sha1 := range map[blob.Kind]string{blob.Package: a.PackageHash, blob.Droplet: a.DropletHash} {
			if sha1 != "" {
				needed[blob.Blob{Kind: kind, App: a.AppID, SHA1: sha1}] = true
			}
		}
	}
	var problems []error
	if len(c.settings.Load().Peers) > 0 {
		for b := range needed {
			if c.blobs.Has(b) || ctx.Err() != nil {
				continue
			}
			err := c.fetch(ctx, b)
			problems = append(problems, err)
			if errors.Is(err, errPeerAway) {
				break // all of them: the next time
			}
		}
	}
	problems = append(problems,
		c.blobs.Sweep(begun.Add(-sweepAfter), func(b blob.Blob) bool { return needed[b] }),
		c.blobs.SweepResources(int64(c.config.ResourcePoolMB)<<20),
	)
	return errors.Join(problems...)
}
