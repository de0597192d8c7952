package packages

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"

	"github.com/clusterworks/deploy/agent/api"
)

const (
	// AgentProgram is the program that is not packed: VMs get it as it is.
	AgentProgram = "agent"
	// ShimProgram is no package either: the agent carries it, in a zip archive
	// at its end, under this name.
	ShimProgram = "shim"
)

// PackResult says what Pack found to do.
type PackResult struct {
	Packed    []string // programs that are new or changed
	Unchanged []string
	Removed   []string // files that belonged to no program
}

// Pack makes the folder out for one platform from the named programs in the
// folder from: the agent with the shim appended, <name>.tar.gz of every other
// program, and the index. What did not change is not written again, what belongs to none of the
// programs is removed. Archives depend on the program's name and bytes only.
func Pack(from, out, goos, goarch string, programs []string) (PackResult, error) {
	var result PackResult
	if err := os.MkdirAll(out, 0o755); err != nil {
		return result, fmt.Errorf("cannot make the packages' folder: %w", err)
	}
	// An index that is missing or cannot be read only means that all is packed
	// anew.
	old := &indexFile{}
	content, err := os.ReadFile(filepath.Join(out, indexName))
	if err == nil {
		if f, err := parseIndex(content); err == nil {
			old = f
		}
	}

	carried := ""
	if slices.Contains(programs, AgentProgram) && slices.Contains(programs, ShimProgram) {
		carried = filepath.Join(from, ShimProgram)
		programs = slices.DeleteFunc(slices.Clone(programs), func(name string) bool { return name == ShimProgram })
	}
	entries := make([]*indexEntry, len(programs))
	changed := make([]bool, len(programs))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range programs {
		g.Go(func() (err error) {
			was, shim := old.Packages[name], ""
			if name == AgentProgram {
				was, shim = old.Agent, carried
			}
			entries[i], changed[i], err = packProgram(filepath.Join(from, name), shim, out, name, was)
			if err != nil {
				return fmt.Errorf("cannot pack the program %s into %s: %w", name, out, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return result, err
	}

	index := indexFile{OS: goos, Arch: goarch, Packages: map[string]*indexEntry{}}
	keep := map[string]bool{indexName: true}
	for i, name := range programs {
		if name == AgentProgram {
			index.Agent, index.API = entries[i], api.Version
		} else {
			index.Packages[name] = entries[i]
		}
		keep[entries[i].File] = true
		if changed[i] {
			result.Packed = append(result.Packed, name)
		} else {
			result.Unchanged = append(result.Unchanged, name)
		}
	}
	encoded, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return result, fmt.Errorf("cannot encode the package index: %w", err)
	}
	encoded = append(encoded, '\n')
	if !bytes.Equal(encoded, content) {
		if err := renameio.WriteFile(filepath.Join(out, indexName), encoded, 0o644); err != nil {
			return result, fmt.Errorf("cannot write the package index: %w", err)
		}
	}
	result.Removed, err = prune(out, keep)
	return result, err
}

// packProgram writes the file for one program unless it is there already. shim
// is the program that the agent carries, "" for none.
func packProgram(program, shim, out, name string, was *indexEntry) (entry *indexEntry, changed bool, err error) {
	digest, size, err := hashFile(program)
	if err != nil {
		return nil, false, err
	}
	if shim != "" {
		also, _, err := hashFile(shim)
		if err != nil {
			return nil, false, err
		}
		digest += "+" + also
	}
	if was != nil && was.Program == digest {
		have, haveSize, err := hashFile(filepath.Join(out, was.File))
		if err == nil && have == was.Digest && haveSize == was.Size {
			return was, false, nil
		}
	}
	file, mode := name, os.FileMode(0o755)
	write := func(w io.Writer, program io.Reader) error {
		if _, err := io.Copy(w, program); err != nil || shim == "" {
			return err
		}
		return appendShim(w, size, shim)
	}
	if name != AgentProgram {
		file, mode = name+".tar.gz", 0o644
		write = func(w io.Writer, program io.Reader) error { return archive(w, name, program, size) }
	}
	src, err := os.Open(program)
	if err != nil {
		return nil, false, err
	}
	defer src.Close()
	dst, err := renameio.NewPendingFile(filepath.Join(out, file), renameio.WithStaticPermissions(mode))
	if err != nil {
		return nil, false, err
	}
	defer dst.Cleanup()
	h := sha256.New()
	if err := write(io.MultiWriter(dst, h), src); err != nil {
		return nil, false, err
	}
	packed, err := dst.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, false, err
	}
	if err := dst.CloseAtomicallyReplace(); err != nil {
		return nil, false, err
	}
	return &indexEntry{File: file, Digest: hex.EncodeToString(h.Sum(nil)), Size: packed, Program: digest}, true, nil
}

// archive writes a tar.gz with one program. No time, owner or order of the
// builder gets in, so that the same program has the same digest everywhere.
func archive(w io.Writer, name string, program io.Reader, size int64) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Mode: 0o755, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	if _, err := io.Copy(t, program); err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	return z.Close()
}

// appendShim writes a zip archive with the shim behind a program of that size.
// A program's loader does not look there, and a reader of zip archives looks
// from the end.
func appendShim(w io.Writer, size int64, shim string) error {
	program, err := os.Open(shim)
	if err != nil {
		return err
	}
	defer program.Close()
	z := zip.NewWriter(w)
	z.SetOffset(size)
	f, err := z.CreateHeader(&zip.FileHeader{Name: ShimProgram, Method: zip.Deflate})
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, program); err != nil {
		return err
	}
	return z.Close()
}

// prune removes the files of programs that are no more, and what an
// interrupted run left behind. Folders are not ours.
func prune(out string, keep map[string]bool) (removed []string, err error) {
	files, err := os.ReadDir(out)
	if err != nil {
		return nil, fmt.Errorf("cannot look for files to remove: %w", err)
	}
	for _, f := range files {
		if keep[f.Name()] || f.IsDir() {
			continue
		}
		if err := os.Remove(filepath.Join(out, f.Name())); err != nil {
			return removed, fmt.Errorf("cannot remove a file that belongs to no program: %w", err)
		}
		removed = append(removed, f.Name())
	}
	return removed, nil
}

// String is one line for people.
func (r PackResult) String() string {
	var parts []string
	for _, part := range []struct {
		what  string
		names []string
	}{{"packed", r.Packed}, {"removed", r.Removed}} {
		if len(part.names) > 0 {
			parts = append(parts, part.what+" "+strings.Join(part.names, " "))
		}
	}
	parts = append(parts, fmt.Sprintf("%d unchanged", len(r.Unchanged)))
	return strings.Join(parts, "; ")
}
