// Package source reads what a deployment is made from: the manifest from its
// files or from a kept revision, saved plans, and the packages that are built,
// kept, or in release archives. It also keeps them, so that a later run can
// return to them.
package source

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/deployer/internal/release"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// Options say where to read from.
type Options struct {
	Manifest string // file or folder
	StateDir string
	Vars     map[string]string // values of variables by name
	VarFiles []string
	Values   map[string]cty.Value // values of variables that come last, before the defaults
	Environ  []string             // where DEPLOY_VAR_name is looked up
	Jobs     fs.FS                // built-in jobs
	Packages string               // folder of built packages
	Keys     *state.Keys          // open an encrypted state
	// Warn hears of what is doubtful in the manifest.
	Warn func(error)
}

// Source reads one deployment's manifest, from its files or from a kept revision.
type Source struct {
	Options
	archives archives
	warn     sync.Once // the manifest is read twice in an apply
	revision *revision // in place of the manifest's files, if not nil
}

// New returns the source that reads the manifest's files.
func New(o Options) *Source { return &Source{Options: o} }

// Locate reads the manifest and returns where its state is. If the manifest is
// wrong, the store is returned too, as long as the deployment's name is known;
// else the store has no folder.
func (s *Source) Locate() (*manifests.Manifest, state.Store, error) {
	if s.revision != nil {
		store := s.store(s.revision.deployment)
		_, secrets, err := store.Load()
		if err != nil {
			return nil, store, err
		}
		today, _, _ := manifestFiles(s.Manifest)
		m, err := s.revision.load(secrets, today)
		return m, store, err
	}
	m, diags := s.read()
	if diags.HasErrors() {
		var store state.Store
		if m.Deployment.Name != "" {
			store = s.store(m.Deployment.Name)
		}
		return nil, store, manifestError(m, diags)
	}
	if len(diags) > 0 { // warnings
		s.warn.Do(func() { s.Warn(manifestError(m, diags)) })
	}
	return m, s.store(m.Deployment.Name), nil
}

func (s *Source) store(deployment string) state.Store {
	return state.Store{Dir: filepath.Join(s.StateDir, deployment), Keys: s.Keys}
}

// Store returns where the state is, also if the manifest is wrong but for its
// name.
func (s *Source) Store() (state.Store, error) {
	_, store, err := s.Locate()
	if store.Dir == "" {
		return store, err
	}
	return store, nil
}

func manifestError(m *manifests.Manifest, diags hcl.Diagnostics) error {
	return &manifests.Error{Diagnostics: diags, Files: m.Files}
}

// Dir returns the manifest's folder, from which relative paths in it start.
func (s *Source) Dir() string {
	if info, err := os.Stat(s.Manifest); err == nil && !info.IsDir() {
		return filepath.Dir(s.Manifest)
	}
	return s.Manifest
}

// archives are the releases that were opened, by block name. The lock is that of
// what is unpacked from them.
type archives struct {
	opened map[string]*release.Archive
	mu     sync.Mutex
}
