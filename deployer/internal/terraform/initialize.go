package terraform

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/terraform-exec/tfexec"
)

// initialize has the engine make what it keeps in its data folder, unless the folder
// is as the last init left it. Nothing there is of worth: a folder that is damaged
// so that the engine cannot even make it anew is removed first.
func (r *Runner) initialize(ctx context.Context) error {
	data := filepath.Join(r.options.Dir, dataDir)
	stamp := filepath.Join(r.options.Dir, initFile)
	wanted := func() ([]byte, error) {
		content, err := dataDigest(data, stamp)
		words := []string{r.engine.Name, r.engine.Version, r.root.source, r.root.template, r.mirror, content}
		return []byte(strings.Join(words, " ") + "\n"), err
	}
	want, err := wanted()
	if err != nil {
		return err
	}
	if now, err := os.ReadFile(stamp); err == nil && string(now) == string(want) {
		return nil
	}
	r.tf.SetStdout(io.Discard)
	init := func() error { return r.tf.Init(ctx, tfexec.Reattach(r.reattach), tfexec.Upgrade(false)) }
	if err := init(); err != nil {
		if _, statErr := os.Stat(data); statErr != nil || ctx.Err() != nil {
			return r.failed(ctx, "initialize the work folder "+r.options.Dir, nil, err)
		}
		if err := os.RemoveAll(data); err != nil {
			return fmt.Errorf("cannot remove the engine's data folder, which it cannot use: %w", err)
		}
		if err := init(); err != nil {
			return r.failed(ctx, "initialize the work folder "+r.options.Dir, nil, err)
		}
	}
	if want, err = wanted(); err != nil {
		return err
	}
	return writeChanged(stamp, want)
}

// smallFile is the size up to which the content of a file of the engine's data is
// compared. Of larger ones, which are providers, the engine knows digests itself.
const smallFile = 64 << 10

// dataDigest returns a digest of the names, sizes and small contents in the
// engine's data folder, the stamp of the last init apart; "" if there is no folder.
func dataDigest(data, stamp string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(data, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || path == stamp {
			return err
		}
		name := strings.TrimPrefix(path, data)
		info, err := os.Stat(path) // providers may be links into a cache
		if errors.Is(err, fs.ErrNotExist) {
			_, _ = fmt.Fprintf(h, "%q gone\n", name)
			return nil
		}
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(h, "%q %d\n", name, info.Size())
		if info.Mode().IsRegular() && info.Size() <= smallFile {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			_, _ = h.Write(text)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the engine's data folder: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}
