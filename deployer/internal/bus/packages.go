package bus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/clusterworks/deploy/agent/api"
)

// The object store's stream and the subjects of its chunks (NATS ADR-20).
const (
	packageStream = "OBJ_" + api.PackageBucket
	chunkPrefix   = "$O." + api.PackageBucket + ".C."
)

const (
	// overhead is more than what the stream needs beside a package's bytes: a
	// header for each chunk of 128 KiB, and the metadata.
	overhead = 64 << 10
	// answerTimeout bounds the questions before a package is sent.
	answerTimeout = 10 * time.Second
	// parallelLookups bounds the questions under way at once.
	parallelLookups = 16
	// removalPoll is the interval at which a store is tried again whose folder is in use.
	removalPoll = 50 * time.Millisecond
	// errCodeStoreFailed holds what nats-server answers when it cannot make a stream's
	// store (JSStreamCreateErrF of its errors.json).
	errCodeStoreFailed = 10049
)

// errLost ends a transfer whose connection broke: acknowledgements sent
// meanwhile never come.
var errLost = errors.New("the connection to the bus was lost")

// Publish puts a package into the cache that agents read; one that is there
// is not sent again and r not read. The bytes must have the digest (sha256,
// hex). A full cache is emptied first: what is still needed comes again, as
// Missing tells.
func (b *Bus) Publish(ctx context.Context, digest string, size int64, r io.Reader) error {
	// Emptying the cache must not meet a package half written.
	b.publishing.Lock()
	defer b.publishing.Unlock()
	ctx, cancel := b.whileConnected(ctx)
	defer cancel()
	if err := b.publish(ctx, digest, size, r); err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
		return fmt.Errorf("cannot publish package %s on the bus: %w", digest, err)
	}
	return nil
}

func (b *Bus) publish(ctx context.Context, digest string, size int64, r io.Reader) error {
	// Servers of a cluster that have no leader now, or not enough of each other,
	// do not answer.
	asking, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	missing, err := b.missing(asking, []string{digest})
	if err != nil || len(missing) == 0 {
		return err
	}
	store, err := b.bucket(asking)
	if err != nil {
		return err
	}
	if err := b.makeRoom(asking, size); err != nil {
		return err
	}
	checked := &checkedReader{r: r, hash: sha256.New(), digest: digest, size: size}
	_, err = store.Put(ctx, jetstream.ObjectMeta{Name: digest}, checked)
	return err
}

// Missing tells which of the packages the cache does not hold, whole.
func (b *Bus) Missing(ctx context.Context, digests []string) ([]string, error) {
	ctx, cancel := b.whileConnected(ctx)
	defer cancel()
	missing, err := b.missing(ctx, digests)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the bus for packages: %w", err)
	}
	return missing, nil
}

func (b *Bus) missing(ctx context.Context, digests []string) ([]string, error) {
	store, err := b.js.ObjectStore(ctx, api.PackageBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return digests, nil
	}
	if err != nil {
		return nil, err
	}
	stream, err := b.js.Stream(ctx, packageStream)
	if err != nil {
		return nil, err
	}
	// Metadata alone proves nothing: count the chunks as well.
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(chunkPrefix+"*"))
	if err != nil {
		return nil, err
	}
	absent := make([]bool, len(digests))
	var lookups errgroup.Group
	lookups.SetLimit(parallelLookups)
	for i, digest := range digests {
		lookups.Go(func() error {
			object, err := store.GetInfo(ctx, digest)
			if errors.Is(err, jetstream.ErrObjectNotFound) {
				absent[i] = true
				return nil
			}
			if err != nil {
				return err
			}
			absent[i] = info.State.Subjects[chunkPrefix+object.NUID] != uint64(object.Chunks)
			return nil
		})
	}
	if err := lookups.Wait(); err != nil {
		return nil, err
	}
	var missing []string
	for i, digest := range digests {
		if absent[i] {
			missing = append(missing, digest)
		}
	}
	return missing, nil
}

// bucket finds the object store, or makes it; it is as large as the account
// may have, which the job nats says.
func (b *Bus) bucket(ctx context.Context) (jetstream.ObjectStore, error) {
	account, err := b.js.AccountInfo(ctx)
	if err != nil {
		return nil, err
	}
	// Each copy counts; what is kept once only for now is no larger, so that it
	// can become three.
	bound := account.Limits.MaxStore
	if bound > 0 {
		bound /= int64(b.replicas())
	}
	stream, err := b.js.Stream(ctx, packageStream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
	case err != nil:
		return nil, err
	case stream.CachedInfo().Config.MaxBytes == bound:
		if config := stream.CachedInfo().Config; config.Replicas < b.replicas() {
			config.Replicas = b.replicas()
			if _, err := b.js.UpdateStream(ctx, config); err != nil { // not all servers are there
				b.log.Info("the bus keeps fewer copies of packages than it has servers for", "error", err)
			}
		}
		return b.js.ObjectStore(ctx, api.PackageBucket)
	case bound > 0:
		// The server changes no stream that reserves more than the limit allows,
		// be it to make it smaller.
		if err := b.js.DeleteObjectStore(ctx, api.PackageBucket); err != nil {
			return nil, err
		}
	}
	config := jetstream.ObjectStoreConfig{
		Bucket:      api.PackageBucket,
		Description: "packages by digest, a cache that the deployer fills",
		MaxBytes:    bound,
		Storage:     jetstream.FileStorage,
		Replicas:    b.replicas(),
	}
	made, err := b.create(ctx, config)
	if err != nil && config.Replicas > 1 { // not all servers are there
		config.Replicas = 1
		return b.create(ctx, config)
	}
	return made, err
}

// create makes the object store. A server goes on removing a deleted stream's
// folder after it has said that it is deleted, and cannot make the new one in it
// meanwhile.
func (b *Bus) create(ctx context.Context, config jetstream.ObjectStoreConfig) (jetstream.ObjectStore, error) {
	again := time.NewTicker(removalPoll)
	defer again.Stop()
	for {
		made, err := b.js.CreateOrUpdateObjectStore(ctx, config)
		var refused *jetstream.APIError
		if !errors.As(err, &refused) || refused.ErrorCode != errCodeStoreFailed {
			return made, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-again.C:
		}
	}
}

// replicas is on how many of the bus's servers a package is kept: three, if
// there are as many, outlive one. Two do not outlive one any better than one.
func (b *Bus) replicas() int {
	if b.servers >= 3 {
		return 3
	}
	return 1
}

// makeRoom empties the cache if a package of this size does not fit any more.
// That also takes what interrupted transfers have left.
func (b *Bus) makeRoom(ctx context.Context, size int64) error {
	stream, err := b.js.Stream(ctx, packageStream)
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	needed := size + size/100 + overhead
	switch bound := info.Config.MaxBytes; {
	case bound <= 0 || int64(info.State.Bytes)+needed <= bound:
		return nil
	case needed > bound:
		return fmt.Errorf("it has %d bytes where the bus keeps %d: raise max_store_mb of the job nats", size, bound)
	}
	b.log.Info("the bus's cache of packages is full; emptying it", "bytes", info.State.Bytes)
	return stream.Purge(ctx)
}

// whileConnected ends the context when the connection is lost.
func (b *Bus) whileConnected(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	lost := b.nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	if !b.nc.IsConnected() {
		cancel(errLost)
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-lost:
			cancel(errLost)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-watched
		b.nc.RemoveStatusListener(lost)
	}
}

// checkedReader fails instead of ending when what it read is not the package,
// so that nothing false gets its metadata.
type checkedReader struct {
	r      io.Reader
	hash   hash.Hash
	read   int64
	digest string
	size   int64
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.hash.Write(p[:n])
	c.read += int64(n)
	if err == io.EOF {
		if c.read != c.size {
			return n, fmt.Errorf("it has %d bytes, not %d", c.read, c.size)
		}
		if sum := hex.EncodeToString(c.hash.Sum(nil)); sum != c.digest {
			return n, fmt.Errorf("its bytes have the digest %s", sum)
		}
	}
	return n, err
}
