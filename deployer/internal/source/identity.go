package source

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Identity tells this manifest from others; zero for a kept revision.
func (s *Source) Identity() state.ManifestID {
	if s.revision != nil {
		return state.ManifestID{}
	}
	path, err := filepath.Abs(s.Manifest)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return state.ManifestID{} // it is read next, which says what is wrong
	}
	id := state.ManifestID{Path: path}
	for top := filepath.Dir(path); ; top = filepath.Dir(top) {
		if _, err := os.Stat(filepath.Join(top, ".git")); err == nil {
			if id.Within, err = filepath.Rel(top, path); err != nil {
				id.Within = ""
			}
			return id
		}
		if top == filepath.Dir(top) {
			return id
		}
	}
}

// CheckOwner refuses a manifest whose deployment's state is that of another one: one
// that is still there and gives its deployment the same name. Applied to that state,
// this manifest would delete what the other one describes. A manifest that was
// moved, or another checkout of it, is the same one.
func (s *Source) CheckOwner(owner state.ManifestID, deployment, dir string) error {
	mine := s.Identity()
	switch {
	case mine.Path == "" || owner.Path == "" || mine.Path == owner.Path:
		return nil
	case mine.Within != "" && mine.Within == owner.Within:
		return nil
	case filepath.Dir(mine.Path) == owner.Path || mine.Path == filepath.Dir(owner.Path): // a folder, and the file in it
		return nil
	}
	other := New(s.Options)
	other.Manifest = owner.Path
	if m, _ := other.read(); m.Deployment.Name != deployment {
		return nil // it is gone, or describes something else now
	}
	return fmt.Errorf("cannot use the state folder %s: it is that of another manifest, %s, which is still there and also names its deployment %q; nothing was done: "+
		"name that manifest, give the deployment of %s a name of its own, or, if it takes the other's place, deploy state adopt %s",
		dir, owner.Path, deployment, s.Manifest, s.Manifest)
}
