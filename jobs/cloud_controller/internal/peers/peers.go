// Package peers keeps packages and droplets at all controllers.
package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/archive"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// Deps are the parts that peers work with.
type Deps struct {
	Config *config.Live
	Log    *slog.Logger
	Store  *store.Store
	Blobs  *blob.Store
	Client *http.Client
}

// Peers are the other controllers.
type Peers struct{ Deps }

// New returns the peers.
func New(d Deps) *Peers { return &Peers{d} }

const (
	// peerTimeout bounds the copying of one blob; a peer that is away is noticed
	// within DialTimeout.
	peerTimeout = 2 * time.Minute
	DialTimeout = 2 * time.Second
	// pushTimeout bounds a copy that somebody waits for: less than a stager waits.
	pushTimeout = 45 * time.Second
	// syncInterval is the interval at which a controller looks for what it lacks, and for what
	// nobody needs any more.
	syncInterval = 30 * time.Second
	// syncRetry is the interval at which one looks that is not ready for what it lacks.
	syncRetry = 3 * time.Second
	// sweepAfter says how old a blob is that no app names before it is removed: an
	// upload is named only after it was kept.
	sweepAfter = time.Hour
)

// ErrAway says that another controller cannot be reached, or does not know
// this one by its keys.
var ErrAway = errors.New("cannot ask another controller")

// ErrNotBrought says that a blob that is missing here may be fetched later.
var ErrNotBrought = errors.New("another controller may have it, and it cannot be brought here now")

// Path returns where peers ask for a blob.
func Path(b blob.Blob) string {
	return fmt.Sprintf("/internal/blobs/%s/%d/%s", b.Kind, b.App, b.SHA1)
}

// Credentials returns what peers know each other by.
func (p *Peers) Credentials() config.Credentials {
	return config.Credentials{User: "cloud_controller", Password: p.Config.Now().Keys.Derive("peer password")}
}

// Keep keeps a blob here and, before it returns, at every peer that can be
// reached, so that it survives the loss of this controller. A peer that is away
// fetches it when it comes back.
func (p *Peers) Keep(ctx context.Context, kind blob.Kind, app int64, write func(io.Writer) error) (blob.Blob, error) {
	b, err := p.Blobs.Put(kind, app, write)
	if err != nil {
		return blob.Blob{}, err
	}
	var copies sync.WaitGroup
	for _, peer := range p.Config.Now().Peers {
		copies.Go(func() {
			if err := p.push(ctx, peer, b); err != nil {
				p.Log.Warn("another controller has no copy yet", "peer", peer, "blob", Path(b), "error", err)
			}
		})
	}
	copies.Wait()
	return b, nil
}

// push copies a blob to a peer.
func (p *Peers) push(ctx context.Context, peer string, b blob.Blob) error {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	f, err := p.Blobs.Get(b)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	answer, err := p.askPeer(ctx, http.MethodPut, peer, Path(b), f, info.Size())
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

// askPeer makes a request; the answer's body is to be closed.
func (p *Peers) askPeer(ctx context.Context, method, peer, path string, body io.Reader, size int64) (*http.Response, error) {
	scheme := "http://"
	if p.Config.Start.Secure() {
		scheme = "https://"
	}
	request, err := http.NewRequestWithContext(ctx, method, scheme+peer+path, body)
	if err != nil {
		return nil, fmt.Errorf("cannot ask another controller: %w", err)
	}
	if body != nil {
		request.ContentLength = size
	}
	auth := p.Credentials()
	request.SetBasicAuth(auth.User, auth.Password)
	answer, err := p.Client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	if answer.StatusCode/100 != 2 {
		answer.Body.Close()
		switch answer.StatusCode {
		case http.StatusNotFound:
			return nil, fmt.Errorf("controller %s: %w", peer, fs.ErrNotExist)
		case http.StatusUnauthorized:
			// One of us has new keys and the other will have them: an update that changes
			// them goes on to it only when this one is ready.
			return nil, fmt.Errorf("%w: controller %s has other keys", ErrAway, peer)
		}
		return nil, fmt.Errorf("controller %s answers %s", peer, answer.Status)
	}
	return answer, nil
}

// fetch gets a blob from the first peer that has it. It is ErrNotBrought if one
// that can be reached neither gives it nor says that it has none, fs.ErrNotExist
// if all that can be reached have none, ErrAway if none can be reached.
func (p *Peers) fetch(ctx context.Context, b blob.Blob) error {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	var problems []error
	result := ErrAway
	for _, peer := range p.Config.Now().Peers {
		answer, err := p.askPeer(ctx, http.MethodGet, peer, Path(b), nil, 0)
		if err == nil {
			err = p.Blobs.PutExpected(b, io.LimitReader(answer.Body, p.Config.Start.MaxUpload()))
			answer.Body.Close()
		}
		if err == nil {
			p.Log.Info("fetched from another controller", "peer", peer, "blob", Path(b))
			return nil
		}
		switch {
		case errors.Is(err, ErrAway):
		case !errors.Is(err, fs.ErrNotExist):
			result = ErrNotBrought
		case !errors.Is(result, ErrNotBrought):
			result = fs.ErrNotExist
		}
		problems = append(problems, err)
	}
	if len(problems) == 0 {
		result = fs.ErrNotExist // there is nobody to ask
	}
	return fmt.Errorf("cannot get %s: %w: %v", Path(b), result, errors.Join(problems...))
}

// FetchResource gets a file of an owner's pool from the first peer that has it.
func (p *Peers) FetchResource(ctx context.Context, owner int64, r archive.Resource) error {
	// A client may have written anything there.
	if (blob.Blob{Kind: blob.Package, App: 1, SHA1: r.SHA1}).Validate() != nil || r.Size < blob.MinResource {
		return fs.ErrNotExist
	}
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	for _, peer := range p.Config.Now().Peers {
		answer, err := p.askPeer(ctx, http.MethodGet, peer, fmt.Sprintf("/internal/resources/%d/%s/%d", owner, r.SHA1, r.Size), nil, 0)
		if err != nil {
			continue
		}
		err = p.keepResource(owner, r, answer.Body)
		answer.Body.Close()
		if err == nil {
			return nil
		}
	}
	return fs.ErrNotExist
}

func (p *Peers) keepResource(owner int64, r archive.Resource, from io.Reader) error {
	w, err := p.Blobs.Pool(owner).Add(r.Size)
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

// KeepInStep fetches blobs that are missing here and removes those that nobody
// needs, until ctx ends. It reports why the controller is not ready, nil when it
// has once got all that it can get: an update goes on to the next controller only
// when this one has what that one has.
func (p *Peers) KeepInStep(ctx context.Context, report func(error)) {
	for complete := false; ; {
		err := p.Sync(ctx)
		if err != nil && ctx.Err() == nil {
			p.Log.Warn("some packages and droplets are missing here", "error", err)
		}
		if err := p.Store.Logins().DropFailedLogins(ctx); err != nil && ctx.Err() == nil {
			p.Log.Warn("cannot clean up", "error", err)
		}
		next := syncInterval
		if errors.Is(err, ErrNotBrought) && !complete {
			report(err)
			next = syncRetry
		} else {
			complete = true
			report(nil)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// Sync fetches missing blobs and removes those that nobody needs, once.
func (p *Peers) Sync(ctx context.Context) error {
	begun := time.Now()
	list, err := p.Store.Blobs(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotBrought, err)
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
	if len(p.Config.Now().Peers) > 0 {
		for b := range needed {
			if p.Blobs.Has(b) || ctx.Err() != nil {
				continue
			}
			err := p.fetch(ctx, b)
			problems = append(problems, err)
			if errors.Is(err, ErrAway) {
				break // all of them: the next time
			}
		}
	}
	problems = append(problems,
		p.Blobs.Sweep(begun.Add(-sweepAfter), func(b blob.Blob) bool { return needed[b] }),
		p.Blobs.SweepResources(int64(p.Config.Start.ResourcePoolMB)<<20),
	)
	return errors.Join(problems...)
}
