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

	"deploy/deployer/internal/packages"
	"deploy/deployer/internal/ssh"
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

// checkedReader fails where it should end if what it has read is not the blob.
type checkedReader struct {
	r    io.Reader
	hash hash.Hash
	blob packages.Blob
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.hash.Write(p[:n])
	if err == io.EOF {
		if got := hex.EncodeToString(c.hash.Sum(nil)); got != c.blob.Digest {
			return n, fmt.Errorf("%s has the sha256 %s, not %s as its index says: type `make build`", c.blob.File, got, c.blob.Digest)
		}
	}
	return n, err
}
