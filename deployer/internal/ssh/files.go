package ssh

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/pkg/sftp"
)

// staleUpload is the age at which a temporary file belongs to nobody any more.
const staleUpload = time.Hour

// Upload writes size bytes of r to a file on the host, all or nothing: to a
// temporary file in the same folder first, which then takes the file's place.
// The folder must exist.
func (c *Client) Upload(ctx context.Context, file string, r io.Reader, size int64, mode fs.FileMode) error {
	_, err := withFiles(ctx, c, "write "+file, size, func(files *sftp.Client) (struct{}, error) {
		return struct{}{}, upload(ctx, files, file, r, size, mode)
	})
	return err
}

// withFiles does something with the host's files that writes size bytes; what says
// what, for errors.
func withFiles[T any](ctx context.Context, c *Client, what string, size int64, do func(*sftp.Client) (T, error)) (T, error) {
	value, err := await(ctx, c, func() (T, error) {
		files, err := c.sftp()
		if err != nil {
			var none T
			return none, err
		}
		files.answers.allow(size)
		return sensible(func() (T, error) { return do(files.Client) })
	})
	if err != nil {
		return value, c.failed(what, err)
	}
	return value, nil
}

// sensible makes an error of a panic. The library believes that a host which was
// asked for a file or its size does not just answer "yes".
func sensible[T any](do func() (T, error)) (value T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the host's answer makes no sense: %v", r)
		}
	}()
	return do()
}

func upload(ctx context.Context, files *sftp.Client, file string, r io.Reader, size int64, mode fs.FileMode) (err error) {
	prefix := "." + path.Base(file) + ".upload-"
	temporary := path.Join(path.Dir(file), prefix+rand.Text())
	f, err := files.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			files.Remove(temporary) // what cannot be removed now goes with the next upload
		}
	}()
	if err := removeStale(files, path.Dir(file), prefix, f); err != nil {
		return err
	}
	written, err := f.ReadFromWithConcurrency(&contextReader{ctx, io.LimitReader(r, size+1)}, 0)
	if err != nil {
		return err
	}
	if written != size {
		return fmt.Errorf("the source is not of the expected %d bytes but has %d or more", size, written)
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, ok := files.HasExtension("fsync@openssh.com"); ok {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	return files.PosixRename(temporary, file)
}

// removeStale removes what broken uploads of the same file left behind, by the
// host's own clock, which gave the new temporary file its time.
func removeStale(files *sftp.Client, dir, prefix string, current *sftp.File) error {
	now, err := current.Stat()
	if err != nil {
		return err
	}
	entries, err := files.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || now.ModTime().Sub(e.ModTime()) < staleUpload {
			continue
		}
		if err := files.Remove(path.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// MkdirAll makes a folder on the host, and those above it, if they are missing.
func (c *Client) MkdirAll(ctx context.Context, dir string) error {
	_, err := withFiles(ctx, c, "make the folder "+dir, 0, func(files *sftp.Client) (struct{}, error) {
		return struct{}{}, files.MkdirAll(dir)
	})
	return err
}

// Stat describes a file on the host; the error of a missing one answers
// errors.Is(err, fs.ErrNotExist).
func (c *Client) Stat(ctx context.Context, file string) (fs.FileInfo, error) {
	return withFiles(ctx, c, "look for "+file, 0, func(files *sftp.Client) (fs.FileInfo, error) {
		info, err := files.Stat(file)
		if err == nil {
			_ = info.Size() // a description without content shows here, not at the caller's
		}
		return info, err
	})
}
