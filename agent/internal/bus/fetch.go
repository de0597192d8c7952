package bus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/agent/api"
)

// An agent may read packages and nothing else of JetStream, so it creates no
// consumer: every message of the object store's stream is asked for with a
// direct get. Names are those of NATS ADR-20 (object store) and ADR-31 (direct
// get): metadata lies at $O.<bucket>.M.<base64url of the name>, chunks at
// $O.<bucket>.C.<nuid>.
const (
	directGet   = "$JS.API.DIRECT.GET.OBJ_" + api.PackageBucket
	metaSubject = "$O." + api.PackageBucket + ".M."
	partSubject = "$O." + api.PackageBucket + ".C."

	askTimeout = 5 * time.Second
	askTries   = 8 // in a row, for one message
)

// getRequest is JSApiMsgGetRequest of nats-server.
type getRequest struct {
	Seq     uint64 `json:"seq,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
}

// objectInfo describes what we need of the object store's metadata.
type objectInfo struct {
	NUID    string `json:"nuid"`
	Size    uint64 `json:"size"`
	Chunks  uint32 `json:"chunks"`
	Deleted bool   `json:"deleted"`
}

// maxPackage bounds a package, bytes.
const maxPackage = 16 << 30

// nuidForm is that of the names of chunks: they become part of a subject.
var nuidForm = regexp.MustCompile(`^[A-Za-z0-9]{1,64}$`)

// readInfo reads an object's description. What it says bounds what is fetched.
func readInfo(data []byte) (objectInfo, error) {
	var info objectInfo
	if err := json.Unmarshal(data, &info); err != nil {
		return objectInfo{}, err
	}
	switch {
	case info.Deleted:
		return objectInfo{Deleted: true}, nil
	case !nuidForm.MatchString(info.NUID):
		return objectInfo{}, fmt.Errorf("%.80q cannot be the name of its chunks", info.NUID)
	case info.Size > maxPackage:
		return objectInfo{}, fmt.Errorf("it has %d bytes, more than the %d that a package may have", info.Size, int64(maxPackage))
	case uint64(info.Chunks) > info.Size:
		return objectInfo{}, fmt.Errorf("it has %d chunks and %d bytes", info.Chunks, info.Size)
	}
	return info, nil
}

// errAbsent: the bus does not have what was asked for.
var errAbsent = errors.New("the bus does not have it")

// Fetch writes the package of that digest to w and verifies it.
func (b *Bus) Fetch(ctx context.Context, digest string, w io.Writer) error {
	meta, err := b.get(ctx, getRequest{LastFor: metaSubject + base64.URLEncoding.EncodeToString([]byte(digest))})
	if err != nil {
		return err
	}
	info, err := readInfo(meta.Data)
	if err != nil {
		return fmt.Errorf("cannot read the bus's description of package %s: %w", digest, err)
	}
	if info.Deleted {
		return errAbsent
	}
	hash := sha256.New()
	both := io.MultiWriter(hash, w)
	next, left := uint64(1), info.Size
	for n := uint32(0); n < info.Chunks; n++ {
		chunk, err := b.get(ctx, getRequest{Seq: next, NextFor: partSubject + info.NUID})
		if err != nil {
			return fmt.Errorf("chunk %d of %d: %w", n+1, info.Chunks, err)
		}
		at, err := strconv.ParseUint(chunk.Header.Get(nats.JSSequence), 10, 64)
		if err != nil {
			return fmt.Errorf("cannot read the sequence of chunk %d: %w", n+1, err)
		}
		next = at + 1
		if uint64(len(chunk.Data)) > left {
			return fmt.Errorf("the bus has more of package %s than the announced %d bytes", digest, info.Size)
		}
		left -= uint64(len(chunk.Data))
		if _, err := both.Write(chunk.Data); err != nil {
			return err
		}
	}
	if want, err := hex.DecodeString(digest); err != nil || !bytes.Equal(want, hash.Sum(nil)) {
		return fmt.Errorf("the bus has sha256 %x under the name of %s", hash.Sum(nil), digest)
	}
	return nil
}

// get asks for one message, again while the connection is broken.
func (b *Bus) get(ctx context.Context, r getRequest) (*nats.Msg, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		msg, err := b.ask(ctx, body)
		if err == nil || errors.Is(err, errAbsent) {
			return msg, err
		}
		if try == askTries || ctx.Err() != nil {
			return nil, fmt.Errorf("cannot read from the bus: %w", err)
		}
		select {
		case <-time.After(reconnectDelay(try)):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (b *Bus) ask(ctx context.Context, body []byte) (*nats.Msg, error) {
	b.mu.Lock()
	lost := b.lost
	b.mu.Unlock()
	if !b.nc.IsConnected() {
		return nil, nats.ErrDisconnected
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answered := make(chan struct{})
	defer close(answered)
	go func() { // ends with this call
		select {
		case <-lost:
			cancel()
		case <-answered:
		}
	}()
	msg, err := b.nc.RequestWithContext(ctx, directGet, body)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, errAbsent // no such bucket
	}
	if err != nil {
		return nil, err
	}
	switch status := msg.Header.Get("Status"); status {
	case "":
		return msg, nil
	case "404":
		return nil, errAbsent
	default:
		return nil, fmt.Errorf("status %s %s", status, msg.Header.Get("Description"))
	}
}
