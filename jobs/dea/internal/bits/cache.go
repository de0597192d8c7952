// Package bits brings the droplets of apps onto a DEA: from its cache, from a
// folder that all share, or over HTTP, each checked by its sha1, once for all
// that want the same.
package bits

import (
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// pendingSuffix marks a droplet that is not whole yet.
const pendingSuffix = ".pending"

// Cache is a folder of droplets, named "<sha1>.tgz".
type Cache struct {
	// Dir exists.
	Dir string
	// Client fetches; its time-outs bound a transfer that stalls, see Timeout.
	Client *http.Client
	// Timeout bounds a whole transfer.
	Timeout time.Duration
	// MaxDroplet is the size that no droplet may exceed, bytes; MaxTotal what the
	// cache keeps when nobody waits for it.
	MaxDroplet, MaxTotal int64
	// OnlyHTTP says that there is no folder that all share.
	OnlyHTTP bool

	mu      sync.Mutex
	fetches map[string]*fetch
}

// Source says where a droplet is.
type Source struct {
	SHA1 string // 40 hexadecimal digits
	File string // its path on a shared folder, "" if there is none
	URI  string
}

// fetch is one transfer, for all that wait for it.
type fetch struct {
	done    chan struct{} // closed when file or err is set
	file    string
	err     error
	waiting int
	cancel  context.CancelFunc // when nobody waits any more
}

// Get returns the file of a droplet. Callers that want the same at the same time
// share one transfer. Release must follow, when err is nil.
func (c *Cache) Get(ctx context.Context, s Source) (file string, release func(), err error) {
	c.mu.Lock()
	if c.fetches == nil {
		c.fetches = map[string]*fetch{}
	}
	f := c.fetches[s.SHA1]
	if f == nil {
		// The transfer must not end with the first who wanted it.
		work, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Timeout)
		f = &fetch{done: make(chan struct{}), cancel: cancel}
		c.fetches[s.SHA1] = f
		go func() {
			defer close(f.done)
			f.file, f.err = c.bring(work, s)
		}()
	}
	f.waiting++
	c.mu.Unlock()

	leave := sync.OnceFunc(func() { c.leave(s.SHA1, f) })
	select {
	case <-f.done:
	case <-ctx.Done():
		leave()
		return "", nil, fmt.Errorf("cannot wait for droplet %s: %w", s.SHA1, context.Cause(ctx))
	}
	if f.err != nil {
		leave()
		return "", nil, f.err
	}
	return f.file, leave, nil
}

func (c *Cache) leave(sha string, f *fetch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiting--
	if f.waiting > 0 {
		return
	}
	f.cancel()
	if c.fetches[sha] == f {
		delete(c.fetches, sha)
	}
	c.evict()
}

// bring finds a droplet in the cache, on the shared folder, or fetches it.
func (c *Cache) bring(ctx context.Context, s Source) (string, error) {
	file := filepath.Join(c.Dir, s.SHA1+".tgz")
	if c.cached(file, s.SHA1) {
		now := time.Now()
		_ = os.Chtimes(file, now, now) // it is evicted later
		return file, nil
	}
	var why error
	if s.File != "" && !c.OnlyHTTP {
		in, err := os.Open(s.File)
		if err == nil {
			err = c.store(file, s.SHA1, in)
			in.Close()
		}
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			why = fmt.Errorf("from %s: %w", s.File, err)
		}
	}
	err := c.download(ctx, file, s)
	if err == nil {
		return file, nil
	}
	return "", fmt.Errorf("cannot get droplet %s: %w", s.SHA1, errors.Join(why, err))
}

// cached says whether a file of the cache is there, whole. What is not is
// removed.
func (c *Cache) cached(file, sha string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	sum := sha1.New()
	if _, err := io.Copy(sum, f); err == nil && hex.EncodeToString(sum.Sum(nil)) == sha {
		return true
	}
	_ = os.Remove(file) // else it is replaced
	return false
}

func (c *Cache) download(ctx context.Context, file string, s Source) error {
	if s.URI == "" {
		return errors.New("it is not in a shared folder, and there is no executableUri")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URI, nil)
	if err != nil {
		return err
	}
	response, err := c.Client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", s.URI, response.Status)
	}
	if err := c.store(file, s.SHA1, response.Body); err != nil {
		return fmt.Errorf("from %s: %w", s.URI, err)
	}
	return nil
}

// store writes a droplet under its name once all of it is there and right.
func (c *Cache) store(file, sha string, in io.Reader) error {
	pending := file + pendingSuffix
	out, err := os.OpenFile(pending, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(pending) // fails when it was renamed
	sum := sha1.New()
	n, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(in, c.MaxDroplet+1))
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	if n > c.MaxDroplet {
		return fmt.Errorf("it is larger than %d MB", c.MaxDroplet>>20)
	}
	if have := hex.EncodeToString(sum.Sum(nil)); have != sha {
		return fmt.Errorf("its sha1 is %s", have)
	}
	return os.Rename(pending, file)
}

// evict removes what was used longest ago until the rest is within MaxTotal.
// What somebody waits for or unpacks stays. c.mu is held.
func (c *Cache) evict() {
	entries, err := os.ReadDir(c.Dir)
	if err != nil {
		return // the next one tries again
	}
	type droplet struct {
		name string
		size int64
		used time.Time
	}
	var all []droplet
	total := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !strings.HasSuffix(e.Name(), ".tgz") {
			continue
		}
		all = append(all, droplet{e.Name(), info.Size(), info.ModTime()})
		total += info.Size()
	}
	slices.SortFunc(all, func(a, b droplet) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.name, b.name)) })
	for _, d := range all {
		if total <= c.MaxTotal {
			return
		}
		if c.fetches[strings.TrimSuffix(d.name, ".tgz")] != nil {
			continue
		}
		if os.Remove(filepath.Join(c.Dir, d.name)) == nil {
			total -= d.size
		}
	}
}

// Clean removes what an interrupted transfer has left.
func (c *Cache) Clean() error {
	left, err := filepath.Glob(filepath.Join(c.Dir, "*"+pendingSuffix))
	if err != nil {
		return err
	}
	for _, file := range left {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove a droplet that is not whole: %w", err)
		}
	}
	return nil
}
