package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/render"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// Keep notes what an apply has made of the deployment, if that differs from the
// last revision, and keeps its sources and packages for a rollback. vms is a
// digest over the inputs of the VMs. Part of a deployment makes no revision, nor does
// a pass of a rotation whose manifest is that of the last one: it makes other
// generations of the same revision.
func (p *Packages) Keep(wanted []plan.Wanted, vms string, pass bool) error {
	if len(p.s.Targets) > 0 {
		return nil
	}
	st := p.s.State
	next := p.next(wanted, vms)
	if pass {
		if same, err := p.sameRevision(next); err != nil {
			return err
		} else if same {
			st.Revisions[len(st.Revisions)-1].Generations = next.Generations
			return p.s.Save()
		}
	}
	if n := len(st.Revisions); n > 0 {
		last := st.Revisions[n-1]
		if maps.Equal(last.Generations, next.Generations) && slices.Equal(last.Packages, next.Packages) && (last.VMs == "" || last.VMs == next.VMs) {
			return nil
		}
		next.Number = last.Number + 1
	}
	if err := os.MkdirAll(p.s.Store.Packages(), 0o700); err != nil {
		return fmt.Errorf("cannot make the folder for packages: %w", err)
	}
	for _, digest := range next.Packages {
		if err := p.keep(digest); err != nil {
			return err
		}
	}
	files, err := p.sources()
	if err != nil {
		return err
	}
	// Another run may have made a revision of this number.
	if err := p.s.Check(); err != nil {
		return err
	}
	if err := p.s.Store.KeepSources(next.Number, files); err != nil {
		return err
	}
	_, sensitive, err := encodeVariables(p.s.Manifest)
	if err != nil {
		return fmt.Errorf("cannot keep a revision for rollback: %w", err)
	}
	st.Revisions = append(st.Revisions, next)
	if n := len(st.Revisions); n > state.KeptRevisions {
		st.Revisions = slices.Clone(st.Revisions[n-state.KeptRevisions:])
	}
	p.keepVariables(next.Number, sensitive)
	p.s.Revision = next.Number
	// What no revision needs is removed only when the state says so too.
	if err := p.s.Save(); err != nil {
		return err
	}
	return errors.Join(p.drop(), p.s.Store.DropSources(st.Revisions))
}

// sameRevision reports whether next was made from what the last revision was made from.
func (p *Packages) sameRevision(next state.Revision) (bool, error) {
	n := len(p.s.State.Revisions)
	if n == 0 {
		return false, nil
	}
	last := p.s.State.Revisions[n-1]
	if !slices.Equal(last.Packages, next.Packages) || last.VMs != next.VMs {
		return false, nil
	}
	files, err := p.sources()
	if err != nil {
		return false, err
	}
	had, err := p.s.Store.Sources(last.Number)
	if err != nil {
		return false, nil // it cannot be returned to, so a new one is needed
	}
	_, sensitive, err := encodeVariables(p.s.Manifest)
	if err != nil {
		return false, fmt.Errorf("cannot keep a revision for rollback: %w", err)
	}
	for name, value := range sensitive {
		if !bytes.Equal(p.s.Secrets.Variables[variableKey(last.Number, name)], value) {
			return false, nil
		}
	}
	return maps.EqualFunc(files, had, bytes.Equal), nil
}

// next returns the revision that the instances make.
func (p *Packages) next(wanted []plan.Wanted, vms string) state.Revision {
	next := state.Revision{
		Number: 1, At: p.s.Now.UTC().Truncate(time.Second), Manifest: manifestDigest(p.s.Manifest),
		Generations: map[string]string{}, Packages: []string{}, VMs: vms,
	}
	for _, w := range wanted {
		if p.s.Exempt(w.Spec.Instance) != "" {
			continue
		}
		next.Generations[w.Spec.Instance] = w.Spec.Generation
		for _, x := range w.Spec.Packages {
			next.Packages = append(next.Packages, x.Digest)
		}
	}
	slices.Sort(next.Packages)
	next.Packages = slices.Compact(next.Packages)
	return next
}

// keepVariables adds a revision's sensitive variables to the secrets, and removes
// those of revisions that are no longer kept.
func (p *Packages) keepVariables(revision int, sensitive map[string]json.RawMessage) {
	kept := map[string]json.RawMessage{}
	for name, data := range sensitive {
		kept[variableKey(revision, name)] = data
	}
	for key, value := range p.s.Secrets.Variables {
		number, _, _ := strings.Cut(key, "/")
		if slices.ContainsFunc(p.s.State.Revisions, func(v state.Revision) bool { return strconv.Itoa(v.Number) == number }) {
			kept[key] = value
		}
	}
	if p.s.Secrets.Variables = kept; len(kept) == 0 {
		p.s.Secrets.Variables = nil
	}
}

func variableKey(number int, name string) string { return strconv.Itoa(number) + "/" + name }

// encodeVariables returns the values of the manifest's variables as cty's JSON
// with the type, the sensitive ones apart.
func encodeVariables(m *manifests.Manifest) (open, sensitive map[string]json.RawMessage, err error) {
	open, sensitive = map[string]json.RawMessage{}, map[string]json.RawMessage{}
	for name, v := range m.Variables() {
		data, err := ctyjson.Marshal(v.Value, cty.DynamicPseudoType)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot encode the variable %q: %w", name, err)
		}
		if v.Sensitive {
			sensitive[name] = data
		} else {
			open[name] = data
		}
	}
	return open, sensitive, nil
}

// decodeVariables reads what encodeVariables wrote.
func decodeVariables(values map[string]json.RawMessage, of string) (map[string]cty.Value, error) {
	out := map[string]cty.Value{}
	for name, data := range values {
		v, err := ctyjson.Unmarshal(data, cty.DynamicPseudoType)
		if err != nil {
			return nil, fmt.Errorf("cannot read the variable %q of %s: %w", name, of, err)
		}
		out[name] = v
	}
	return out, nil
}

// sources collects what the session's manifest was read from, as it was read:
// the files may have been edited since.
func (p *Packages) sources() (map[string][]byte, error) {
	if p.source.revision != nil {
		return p.source.revision.files, nil
	}
	files := map[string][]byte{}
	content := revisionContent{Programs: map[string]render.Package{}}
	for name, source := range p.s.Manifest.Sources {
		files[path.Join(manifestPart, name)] = source
	}
	if _, name, _ := manifestFiles(p.source.Manifest); name != "." {
		content.Manifest = name
	}
	open, sensitive, err := encodeVariables(p.s.Manifest)
	if err != nil {
		return nil, fmt.Errorf("cannot keep a revision for rollback: %w", err)
	}
	content.Variables, content.Sensitive = open, slices.Sorted(maps.Keys(sensitive))
	programs, err := p.Programs()
	if err != nil {
		return nil, err
	}
	for _, g := range p.s.Manifest.Groups {
		for _, j := range g.Jobs {
			folder := jobsPart
			if j.Spec.Release != "" {
				folder = path.Join(releasesPart, j.Spec.Release)
			}
			if err := keepJob(files, folder, j.Spec); err != nil {
				return nil, err
			}
			for _, x := range j.Spec.Packages {
				for _, name := range []string{x.Program, j.Spec.Release + "/" + x.Program} {
					if b, ok := programs[name]; ok {
						content.Programs[name] = b
					}
				}
			}
		}
	}
	data, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot encode a revision: %w", err)
	}
	files[revisionIndex] = append(data, '\n')
	return files, nil
}

// keepJob adds what is read of a job; folder is that of its folder of jobs.
func keepJob(files map[string][]byte, folder string, job *manifests.Job) error {
	own := path.Join(job.Name, "job.hcl")
	if _, done := files[path.Join(folder, own)]; done {
		return nil
	}
	names := append([]string{own}, job.Bases...)
	for _, t := range job.Templates {
		names = append(names, path.Join(job.Name, "templates", t.Source))
	}
	read := path.Dir(path.Dir(job.Range.Filename)) // the folder of jobs, in the names of files
	for _, name := range names {
		f := job.Files[path.Join(read, name)]
		if f == nil {
			return fmt.Errorf("cannot keep the job %s for rollback: its %s is not among what was read", job.Name, name)
		}
		files[path.Join(folder, name)] = f.Bytes
	}
	return nil
}

// manifestDigest covers the contents of the manifest's files, wherever they are.
func manifestDigest(m *manifests.Manifest) string {
	var sums []string
	for _, f := range m.Files {
		if f != nil {
			sum := sha256.Sum256(f.Bytes)
			sums = append(sums, hex.EncodeToString(sum[:]))
		}
	}
	slices.Sort(sums)
	h := sha256.New()
	for _, s := range sums {
		fmt.Fprintln(h, s)
	}
	return hex.EncodeToString(h.Sum(nil))
}
