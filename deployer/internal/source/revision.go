package source

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterworks/deploy/deployer/internal/memfs"
	"github.com/clusterworks/deploy/deployer/internal/render"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// The sources of a revision are the manifest with all that it was read from: its
// files below manifest/, the job folders below jobs/ (built in) and
// releases/<release>/, and revision.json. Loaded in place of today's, they lead to
// the same specifications. Addresses, secrets and certificates are today's.
const (
	revisionIndex = "revision.json"
	manifestPart  = "manifest"
	jobsPart      = "jobs"
	releasesPart  = "releases"
)

// revisionContent is revision.json.
type revisionContent struct {
	// Manifest is the file below manifest/, "" if it is a folder.
	Manifest  string                     `json:"manifest,omitempty"`
	Variables map[string]json.RawMessage `json:"variables"`
	// Sensitive variables are in the secrets.
	Sensitive []string                  `json:"sensitive,omitempty"`
	Programs  map[string]render.Package `json:"programs"`
}

// revision is a kept revision, which stands in for the manifest's files.
type revision struct {
	deployment string
	number     int
	files      map[string][]byte
	content    revisionContent
}

// Revision returns the number of the revision that is read, 0 if it is the
// manifest's files.
func (s *Source) Revision() int {
	if s.revision == nil {
		return 0
	}
	return s.revision.number
}

// At returns a source that reads a kept revision.
func (s *Source) At(number int) (*Source, error) {
	store, err := s.Store()
	if err != nil {
		return nil, err
	}
	st, err := store.LoadState()
	if err != nil {
		return nil, err
	}
	if st == nil {
		return nil, session.ErrNoState
	}
	if !slices.ContainsFunc(st.Revisions, func(r state.Revision) bool { return r.Number == number }) {
		var kept []string
		for _, r := range st.Revisions {
			kept = append(kept, strconv.Itoa(r.Number))
		}
		if len(kept) == 0 {
			kept = []string{"none"}
		}
		return nil, fmt.Errorf("cannot find revision %d: kept are %s; see deploy history", number, strings.Join(kept, ", "))
	}
	r := &revision{deployment: st.Deployment, number: number}
	if r.files, err = store.Sources(number); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(r.files[revisionIndex], &r.content); err != nil {
		return nil, fmt.Errorf("cannot read revision %d: %w", number, err)
	}
	return &Source{Options: s.Options, revision: r}, nil
}

// options returns what the revision's manifest is loaded with.
func (r *revision) options(secrets *state.Secrets) (manifests.Options, error) {
	var o manifests.Options
	values := maps.Clone(r.content.Variables)
	for _, name := range r.content.Sensitive {
		if secrets == nil || secrets.Variables[variableKey(r.number, name)] == nil {
			return o, fmt.Errorf("cannot return to revision %d: its sensitive variable %q is not in the state's secrets any more", r.number, name)
		}
		values[name] = secrets.Variables[variableKey(r.number, name)]
	}
	var err error
	if o.Values, err = decodeVariables(values, fmt.Sprintf("revision %d", r.number)); err != nil {
		return o, err
	}
	jobs := memfs.FS{}
	releases := map[string]memfs.FS{}
	for name, data := range r.files {
		part, rest, _ := strings.Cut(name, "/")
		switch part {
		case jobsPart:
			jobs[rest] = data
		case releasesPart:
			release, rest, _ := strings.Cut(rest, "/")
			if releases[release] == nil {
				releases[release] = memfs.FS{}
			}
			releases[release][rest] = data
		}
	}
	o.Jobs = jobs
	// A release that is not among the sources is one that no job came from.
	o.OpenRelease = func(r manifests.Release) (fs.FS, error) { return releases[r.Name], nil }
	return o, nil
}

// load reads the revision's manifest. certificates is the folder of domains' files.
func (r *revision) load(secrets *state.Secrets, certificates fs.FS) (*manifests.Manifest, error) {
	o, err := r.options(secrets)
	if err != nil {
		return nil, err
	}
	o.Files = certificates // as secrets, certificates are today's
	files := memfs.FS{}
	for name, data := range r.files {
		if rest, ok := strings.CutPrefix(name, manifestPart+"/"); ok {
			files[rest] = data
		}
	}
	m, diags := manifests.Load(files, cmp.Or(r.content.Manifest, "."), o)
	if diags.HasErrors() {
		return nil, fmt.Errorf("cannot use the manifest of revision %d with this deploy: %w", r.number, manifestError(m, diags))
	}
	return m, nil
}
