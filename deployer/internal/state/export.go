package state

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// exported are the files of an export, in the order in which Import writes
// them: state.json last, since it makes the others count.
func (s Store) exported() []string {
	return []string{"journal.jsonl", "terraform/terraform.tfstate", "terraform/applied.json", "secrets.json", "state.json"}
}

// maxExport bounds an import: what is larger is none.
const maxExport = 256 << 20

// Export writes the state, its secrets as they are on disk, the engine's state
// and the journal as one tar archive. With how, the whole archive is encrypted.
// VMs and packages are not in it.
func (s Store) Export(w io.Writer, how *Encryption) error {
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	for _, name := range s.exported() {
		data, err := os.ReadFile(filepath.Join(s.Dir, name))
		if errors.Is(err, fs.ErrNotExist) && name != "state.json" && name != "secrets.json" {
			continue // never journaled; or the engine keeps its state elsewhere
		}
		if err == nil {
			err = archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(data)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR})
		}
		if err == nil {
			_, err = archive.Write(data)
		}
		if err != nil {
			return fmt.Errorf("cannot export the state: %w", err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("cannot export the state: %w", err)
	}
	data := out.Bytes()
	if how != nil {
		var err error
		if data, err = s.Keys.Seal(data, *how); err != nil {
			return fmt.Errorf("cannot encrypt the export: %w", err)
		}
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("cannot write the export: %w", err)
	}
	return nil
}

// Import puts an export, or a copy of the state, of the named deployment in place of what the folder
// holds. What would lose something is refused unless force is set: the state of
// another deployment, or a later one of the same.
func (s Store) Import(r io.Reader, deployment string, force bool) (*State, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxExport+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the export: %w", err)
	}
	if len(data) > maxExport {
		return nil, fmt.Errorf("cannot import: it is larger than %d MiB, which no export is", maxExport>>20)
	}
	if Encrypted(data) {
		if data, err = s.Keys.Open(data); err != nil {
			return nil, fmt.Errorf("cannot read the export: %w", err)
		}
	}
	if data, err = unzipped(data); err != nil {
		return nil, fmt.Errorf("cannot read the export: %w", err)
	}
	files, err := s.unpack(data)
	if err != nil {
		return nil, err
	}
	if secrets := files["secrets.json"]; !Encrypted(secrets) && !json.Valid(secrets) {
		return nil, errors.New("cannot import: its secrets.json is damaged")
	}
	st, err := parseState(files["state.json"])
	if err != nil {
		return nil, fmt.Errorf("cannot use the export's state.json: %w", err)
	}
	if st.Deployment != deployment {
		return nil, fmt.Errorf("cannot import: it is the state of the deployment %q and the manifest's is %q; name the manifest that it belongs to", st.Deployment, deployment)
	}
	had, err := s.LoadState()
	if err != nil && !force && !errors.Is(err, ErrDamaged) {
		return nil, err
	}
	if had != nil && !force {
		switch {
		case had.DeploymentID != st.DeploymentID:
			return nil, fmt.Errorf("cannot import: %s holds the state of another deployment (id %.8s, the export's is %.8s), which would be lost; export it first, then use --force", s.Dir, had.DeploymentID, st.DeploymentID)
		case had.Epoch > st.Epoch:
			return nil, fmt.Errorf("cannot import: %s holds a later state (epoch %d, the export's is %d), which would be lost; export it first, then use --force", s.Dir, had.Epoch, st.Epoch)
		}
	}
	if err := os.MkdirAll(s.Terraform(), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the state folder: %w", err)
	}
	if _, err := writeChanged(filepath.Join(s.Dir, ".gitignore"), []byte("*\n")); err != nil {
		return nil, err
	}
	for _, name := range s.exported() {
		path := filepath.Join(s.Dir, name)
		content, there := files[name]
		if !there {
			// What the export lacks belongs to the state that goes.
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("cannot remove what the export does not have: %w", err)
			}
			continue
		}
		if _, err := writeChanged(path, content); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// unpack takes an export apart. Anything but the files of one is refused.
func (s Store) unpack(data []byte) (map[string][]byte, error) {
	files := map[string][]byte{}
	left := int64(maxExport)
	for archive := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the export: %w; give what deploy state export has written", err)
		}
		known := false
		for _, name := range s.exported() {
			known = known || h.Name == name && h.Typeflag == tar.TypeReg
		}
		// A sparse file can claim any size.
		if left -= h.Size; left < 0 {
			return nil, fmt.Errorf("cannot import: its files are larger than %d MiB, which no export's are", maxExport>>20)
		}
		if _, twice := files[h.Name]; !known || twice {
			return nil, fmt.Errorf("cannot import: it holds %q, which no export does", h.Name)
		}
		if files[h.Name], err = io.ReadAll(archive); err != nil {
			return nil, fmt.Errorf("cannot read the export: %w", err)
		}
	}
	for _, name := range []string{"state.json", "secrets.json"} {
		if files[name] == nil {
			return nil, fmt.Errorf("cannot import: it holds no %s; give what deploy state export has written", name)
		}
	}
	return files, nil
}
