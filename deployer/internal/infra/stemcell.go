package infra

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/stemcells"
	"github.com/clusterworks/deploy/manifests"
)

// stemcellTag names the stemcell among a VM's tags, for people.
const stemcellTag = "stemcell"

// stemcellsOf returns where a deployment's stemcells are.
func stemcellsOf(s state.Store, base string) stemcells.Store {
	return stemcells.Store{Dir: s.Stemcells(), Base: base}
}

// CheckStemcells returns an error, with its place in the manifest, if a stemcell
// that VMs are to boot is not there or is another one than was pinned.
func (i *Infra) CheckStemcells() error {
	return i.eachStemcell(stemcellsOf(i.s.Store, i.options.Dir).Check)
}

// EnsureStemcells has the stemcells that VMs are to boot where the engine finds them.
func (i *Infra) EnsureStemcells(ctx context.Context) error {
	return i.eachStemcell(func(x *manifests.Stemcell) error {
		i.s.Event(session.Event{Phase: session.PhaseVMs, Message: "stemcell " + x.String()})
		_, err := stemcellsOf(i.s.Store, i.options.Dir).Ensure(ctx, x)
		return err
	})
}

// eachStemcell calls f for the stemcells of the manifest's VMs, and returns all that
// is wrong with them.
func (i *Infra) eachStemcell(f func(*manifests.Stemcell) error) error {
	var diags hcl.Diagnostics
	var errs []error
	for _, x := range i.wantedStemcells() {
		err := f(x)
		var problem stemcells.Problem
		if errors.As(err, &problem) {
			diags = append(diags, problem.Diagnostic)
		} else {
			errs = append(errs, err)
		}
	}
	if len(diags) > 0 {
		errs = append(errs, &manifests.Error{Diagnostics: diags, Files: i.s.Manifest.Files})
	}
	return errors.Join(errs...)
}

func (i *Infra) wantedStemcells() []*manifests.Stemcell {
	var wanted []*manifests.Stemcell
	for _, g := range i.s.Manifest.Groups {
		for _, slot := range i.s.State.Groups[g.Name] {
			if x := g.VMFor(slot.Index).Stemcell; x != nil && !slices.Contains(wanted, x) {
				wanted = append(wanted, x)
			}
		}
	}
	return wanted
}

// DropStemcells removes those that no VM boots, that the manifest does not want and
// that no kept revision would return to.
func (i *Infra) DropStemcells() error {
	store := stemcellsOf(i.s.Store, i.options.Dir)
	if there, err := filepath.Glob(filepath.Join(store.Dir, "*")); err != nil || len(there) == 0 {
		return err
	}
	var mentions [][]byte
	for _, vms := range []map[string]state.VM{i.s.VMs(), i.s.Previous()} {
		for _, vm := range vms {
			mentions = append(mentions, vm.Input)
		}
	}
	for _, x := range i.wantedStemcells() {
		mentions = append(mentions, []byte(x.SHA256))
	}
	for _, r := range i.s.State.Revisions {
		files, err := i.s.Store.Sources(r.Number)
		if err != nil {
			return err // what it needs is not known
		}
		for _, data := range files {
			mentions = append(mentions, bytes.ToLower(data))
		}
	}
	return store.Keep(func(digest string) bool {
		return slices.ContainsFunc(mentions, func(m []byte) bool { return bytes.Contains(m, []byte(digest)) })
	})
}
