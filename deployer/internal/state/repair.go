package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
)

// Repaired says what was put in the place of a file.
type Repaired struct {
	File string `json:"file"` // below the folder
	From string `json:"from"` // a copy's path, or what else it was made from
	// Aside is the place where the damaged file is now, "" if there was none.
	Aside string `json:"aside,omitempty"`
}

// ErrNoCopy says that nothing is there from which a file can be put back.
var ErrNoCopy = errors.New("no copy has it")

// Repair puts state.json and secrets.json back from the newest copy that fits what
// is whole: the deployment's id decides, never a file's time. It sets what it
// replaces aside. ErrNoCopy means that state.json cannot be put back so; id is the
// deployment's then. The caller holds the lock.
func Repair(s Store, now time.Time) (done []Repaired, id string, err error) {
	if _, _, err := s.Load(); err == nil || !errors.Is(err, ErrDamaged) {
		return nil, "", err
	}
	copies, err := usableCopies(s)
	if err != nil {
		return nil, "", err
	}
	st, stErr := s.LoadState()
	secrets, secretsErr := s.loadSecrets()
	for _, err := range []error{stErr, secretsErr} {
		if err != nil && !errors.Is(err, ErrDamaged) {
			return nil, "", err
		}
	}
	// Which of the two is to be believed.
	keepState, keepSecrets := st != nil, secretsErr == nil && secrets != nil
	switch {
	case keepState && keepSecrets && len(copies) == 0:
		return nil, "", fmt.Errorf("cannot repair %s: state.json (id %.8s) and secrets.json (id %.8s) belong to two deployments, and no copy shows which is right; restore the other one", s.Dir, st.DeploymentID, secrets.DeploymentID)
	case keepState && keepSecrets: // of two deployments: the copies say which is this one
		keepState, keepSecrets = copies[0].state.DeploymentID == st.DeploymentID, copies[0].state.DeploymentID == secrets.DeploymentID
	}
	if keepState {
		id = st.DeploymentID
	} else if keepSecrets {
		id = secrets.DeploymentID
	}
	var from *usableCopy
	for _, c := range copies {
		if id == "" || c.state.DeploymentID == id {
			from = &c
			break
		}
	}
	if from == nil && keepSecrets {
		return nil, id, fmt.Errorf("cannot repair %s: %w", s.stateFile(), ErrNoCopy)
	}
	if from == nil {
		return nil, id, fmt.Errorf("cannot repair %s: %w, and the keys in it are nowhere else; import an export (deploy state import MANIFEST < FILE)", s.secretsFile(), ErrNoCopy)
	}
	// Secrets first, as in a save: a state counts once it is there.
	for _, f := range []struct {
		name string
		keep bool
	}{{"secrets.json", keepSecrets}, {"state.json", keepState}} {
		if f.keep {
			continue
		}
		r, err := Replace(s, f.name, from.files[f.name], from.Path, now)
		if err != nil {
			return done, id, err
		}
		done = append(done, r)
	}
	_, _, err = s.Load()
	return done, from.state.DeploymentID, err
}

type usableCopy struct {
	Copy
	state *State
	files map[string][]byte
}

// usableCopies returns the copies that are whole, the newest first.
func usableCopies(s Store) ([]usableCopy, error) {
	all, err := Copies(s)
	if err != nil {
		return nil, err
	}
	var out []usableCopy
	for _, c := range all {
		st, files, err := c.Files(s)
		if err == nil && (Encrypted(files["secrets.json"]) || json.Valid(files["secrets.json"])) {
			out = append(out, usableCopy{c, st, files})
		}
	}
	return out, nil
}

// CopiesOf returns what the whole copies of a deployment hold of a file, the newest
// first, by the copies' paths.
func CopiesOf(s Store, id, file string) (paths []string, contents [][]byte, err error) {
	copies, err := usableCopies(s)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range copies {
		if data, ok := c.files[file]; ok && c.state.DeploymentID == id {
			paths, contents = append(paths, c.Path), append(contents, data)
		}
	}
	return paths, contents, nil
}

// Replace puts data in the place of a file of the folder, which is set aside.
func Replace(s Store, file string, data []byte, from string, now time.Time) (Repaired, error) {
	r := Repaired{File: file, From: from}
	aside, err := SetAside(s, file, now)
	if err != nil {
		return r, err
	}
	r.Aside = aside
	path := filepath.Join(s.Dir, filepath.FromSlash(file))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return r, fmt.Errorf("cannot repair %s: %w", path, err)
	}
	if err := renameio.WriteFile(path, data, 0o600, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		return r, fmt.Errorf("cannot repair %s: %w", path, err)
	}
	return r, syncFolder(filepath.Dir(path))
}

// SetAside gives a file another name and returns it, "" if there is no such file.
func SetAside(s Store, file string, now time.Time) (string, error) {
	path := filepath.Join(s.Dir, filepath.FromSlash(file))
	for n := 0; ; n++ {
		aside := path + ".damaged-" + now.UTC().Format(copyTime)
		if n > 0 {
			aside += fmt.Sprintf("-%d", n)
		}
		if _, err := os.Lstat(aside); err == nil {
			continue
		}
		err := os.Rename(path, aside)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		if err == nil {
			err = os.Chmod(aside, 0o600)
		}
		if err != nil {
			return "", fmt.Errorf("cannot set %s aside: %w", path, err)
		}
		return aside, nil
	}
}

// RepairPackages sets kept packages aside whose content is not what their name says:
// an agent would refuse them. What is built is kept again by the next apply.
func RepairPackages(s Store, st *State, now time.Time) ([]Repaired, error) {
	digests := map[string]bool{}
	for _, r := range st.Revisions {
		for _, digest := range r.Packages {
			digests[digest] = true
		}
	}
	var done []Repaired
	for _, digest := range sorted(digests) {
		err := examinePackage(s, digest)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		file := "packages/" + digest + ".tar.gz"
		aside, err := SetAside(s, file, now)
		if err != nil {
			return done, err
		}
		done = append(done, Repaired{File: file, From: "nothing: the next apply keeps it again if it is built", Aside: aside})
	}
	return done, nil
}
