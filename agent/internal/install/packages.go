package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/host/unpack"
)

// packages are the store/ and incoming/ of an agent's folder.
type packages struct {
	*records
	from func(ctx context.Context, digest string, w io.Writer) error // the bus, nil: there is none
}

// fetch makes every wanted package present in the store. What neither an upload
// nor the bus has is named by CodePackageMissing, all at once.
func (s packages) fetch(ctx context.Context, report Report, wanted []api.Package) error {
	var missing []string
	var why []string
	for _, p := range wanted {
		whole, err := s.whole(kindPackage, p.Digest)
		if err != nil {
			return err
		}
		if whole {
			continue
		}
		source, err := s.obtain(ctx, p)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			// Another upload would not fit either.
			return fmt.Errorf("cannot unpack package %s of %d bytes, the disk is full: make room for %s (df tells how much there is) and apply again: %w",
				p.Name, p.Size, s.path("store"), err)
		}
		if err != nil {
			missing = append(missing, p.Digest)
			why = append(why, fmt.Sprintf("%s: %v", p.Name, err))
			continue
		}
		report.Event("fetch", fmt.Sprintf("package %s from %s, %d bytes", p.Name, source, p.Size))
	}
	if len(missing) > 0 {
		return &api.Error{
			Code:     api.CodePackageMissing,
			Message:  "cannot get packages: " + strings.Join(why, "; "),
			Packages: missing,
		}
	}
	return nil
}

// obtain gets one package from incoming/ or the bus and unpacks it.
func (s packages) obtain(ctx context.Context, p api.Package) (source string, err error) {
	if p.Format != api.PackageTarGz {
		return "", fmt.Errorf("format %q is not known to this agent", p.Format)
	}
	incoming := s.path("incoming", p.Digest+".tar.gz")
	source = "upload"
	found, err := exists(incoming)
	if err != nil {
		return "", err
	}
	if !found {
		if s.from == nil {
			return "", errors.New("not uploaded")
		}
		source = "bus"
		if err := s.download(ctx, p, incoming); err != nil {
			return "", err
		}
	}
	if err := s.addToStore(ctx, p, incoming); err != nil {
		// A broken upload would be found again for ever.
		return "", errors.Join(err, os.Remove(incoming))
	}
	return source, os.Remove(incoming)
}

func (s packages) download(ctx context.Context, p api.Package, to string) error {
	f, err := os.CreateTemp(s.path("incoming"), ".download-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := s.from(ctx, p.Digest, &boundedWriter{f, p.Size}); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), to)
}

// boundedWriter refuses more bytes than the package has.
type boundedWriter struct {
	w    io.Writer
	left int64
}

func (b *boundedWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		return 0, errors.New("longer than the spec says")
	}
	b.left -= int64(len(p))
	return b.w.Write(p)
}

// maxUnpackedBytes is far above any package, and far below what would fill a VM.
const maxUnpackedBytes = 4 << 30

// addToStore verifies an archive and unpacks it to store/<digest>.
func (s packages) addToStore(ctx context.Context, p api.Package, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, f)
	if err != nil {
		return err
	}
	if size != p.Size {
		return fmt.Errorf("archive has %d bytes, expected are %d", size, p.Size)
	}
	want, err := hex.DecodeString(p.Digest)
	if err != nil || !bytes.Equal(hash.Sum(nil), want) {
		return fmt.Errorf("archive has sha256 %x, expected is %s", hash.Sum(nil), p.Digest)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	temporary, err := os.MkdirTemp(s.path("store"), ".unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	if err := unpack.TarGz(ctx, f, temporary, unpack.Options{Bytes: maxUnpackedBytes, Sync: true}); err != nil {
		return fmt.Errorf("cannot unpack: %w", err)
	}
	if err := os.Chmod(temporary, 0o755); err != nil {
		return err
	}
	return s.install(temporary, kindPackage, p.Digest)
}

func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func exists(name string) (bool, error) {
	_, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
