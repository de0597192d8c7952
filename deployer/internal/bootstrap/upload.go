package bootstrap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/ssh"
)

// UploadPackage puts the file of a package, whose sha256 is digest, where the
// agent of agentDir takes packages from, unless it is there.
func UploadPackage(ctx context.Context, conn *ssh.Client, agentDir, digest, file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("cannot read the package: %w", err)
	}
	incoming := path.Join(agentDir, "incoming")
	to := path.Join(incoming, digest+".tar.gz")
	// Uploads are all or nothing, so the size tells a package that is there from
	// the remains of a host that lost power.
	there, err := conn.Stat(ctx, to)
	if err == nil && there.Size() == info.Size() {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := conn.MkdirAll(ctx, incoming); err != nil {
		return err
	}
	return uploadBlob(ctx, conn, to, packages.Blob{File: file, Digest: digest, Size: info.Size()}, 0o644)
}

// uploadBlob sends a built file. One that is not what its digest says does not
// appear on the VM.
func uploadBlob(ctx context.Context, conn *ssh.Client, to string, b packages.Blob, mode fs.FileMode) error {
	f, err := os.Open(b.File)
	if err != nil {
		return fmt.Errorf("cannot read a built file: %w; type `make build`", err)
	}
	defer f.Close()
	return conn.Upload(ctx, to, &checkedReader{r: f, hash: sha256.New(), blob: b}, b.Size, mode)
}

// checkedReader fails, at its end at the latest, if what it reads is not the blob.
type checkedReader struct {
	r    io.Reader
	hash hash.Hash
	size int64
	blob packages.Blob
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.hash.Write(p[:n])
	c.size += int64(n)
	wrong := c.size > c.blob.Size || err == io.EOF && hex.EncodeToString(c.hash.Sum(nil)) != c.blob.Digest
	if wrong {
		return n, fmt.Errorf("%s is not the file of %d bytes with the sha256 %s that its index promises: type `make build`", c.blob.File, c.blob.Size, c.blob.Digest)
	}
	return n, err
}
