package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
)

// Content describes what a file of a user's has in it, whatever its name.
type Content struct {
	SHA1 string `json:"sha1"`
	Size int64  `json:"size"` // bytes
}

// matchTimeout bounds how long one peer is waited for: what it does not tell is
// uploaded once more, and nothing else.
const matchTimeout = 10 * time.Second

// Known returns which contents of an owner's this controller, or another one, has.
func (p *Peers) Known(ctx context.Context, owner int64, wanted []Content) map[Content]bool {
	known := p.knownHere(owner, wanted)
	for _, peer := range p.Config.Now().Peers {
		var unknown []Content
		for _, one := range wanted {
			// Smaller files are in no pool.
			if !known[one] && one.Size >= blob.MinResource {
				unknown = append(unknown, one)
			}
		}
		if len(unknown) == 0 {
			break
		}
		there, err := p.askKnown(ctx, peer, owner, unknown)
		if err != nil {
			p.Log.Debug("a controller does not tell which files it has", "peer", peer, "error", err)
			continue
		}
		for _, one := range unknown {
			known[one] = there[one]
		}
	}
	return known
}

func (p *Peers) knownHere(owner int64, wanted []Content) map[Content]bool {
	known, pool := map[Content]bool{}, p.Blobs.Pool(owner)
	for _, one := range wanted {
		if f, err := pool.Open(one.SHA1, one.Size); err == nil {
			f.Close()
			known[one] = true
		}
	}
	return known
}

func (p *Peers) askKnown(ctx context.Context, peer string, owner int64, wanted []Content) (map[Content]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, matchTimeout)
	defer cancel()
	body, err := json.Marshal(wanted)
	if err != nil {
		return nil, err
	}
	answer, err := p.askPeer(ctx, http.MethodPost, peer, fmt.Sprintf("/internal/resources/%d", owner), bytes.NewReader(body), int64(len(body)))
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var list []Content
	if err := json.NewDecoder(http.MaxBytesReader(nil, answer.Body, config.MaxResources)).Decode(&list); err != nil {
		return nil, fmt.Errorf("cannot read which files controller %s has: %w", peer, err)
	}
	known := map[Content]bool{}
	for _, one := range list {
		known[one] = true
	}
	return known, nil
}

// answerKnown answers a peer which contents are here.
func (p *Peers) answerKnown(w http.ResponseWriter, r *http.Request) error {
	owner, err := strconv.ParseInt(r.PathValue("owner"), 10, 64)
	if err != nil {
		return model.ErrFileNotFound
	}
	var wanted []Content
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, config.MaxResources)).Decode(&wanted); err != nil {
		return model.Because(model.ErrBadRequest, "cannot read the body: %v", err)
	}
	known := p.knownHere(owner, wanted)
	list := []Content{}
	for _, one := range wanted {
		if known[one] {
			list = append(list, one)
		}
	}
	rest.WriteJSON(w, http.StatusOK, list)
	return nil
}
