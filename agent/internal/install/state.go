package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/host/damaged"
)

// keepStaged is the number of staged generations that are kept although they were never active.
const keepStaged = 2

// state is generations.json.
type state struct {
	// Active is the generation that the links in jobs/ lead to.
	Active string `json:"active"`
	// Previous holds what a rollback returns to: while an update is pending, the
	// generation that was active before it; afterwards the one before Active.
	Previous string `json:"previous"`
	// Staged have been checked and were not active since, oldest first.
	Staged []string `json:"staged,omitempty"`
	// Pending is the update that has begun and has not ended well.
	Pending *pending `json:"pending,omitempty"`
	// PreStarted are the jobs with a pre_start hook that is not compatible with a
	// rollback and was begun since Previous was active.
	PreStarted []string `json:"pre_started,omitempty"`
	// Mended holds what was changed by hand and made whole again, and may still be
	// loaded as it was: their digests do not tell what these processes owe.
	Mended []api.Drift `json:"mended,omitempty"`
	// Stopped: processes stay stopped until the next update; if they are Held,
	// until an operator starts them.
	Stopped bool `json:"stopped,omitempty"`
	Held    bool `json:"held,omitempty"`
}

type pending struct {
	Target string `json:"target"` // "" for none: everything is removed
	// From holds what was active as it began, if that is what a rollback returns to:
	// an update to what is active already has it, and Previous is older.
	From *string `json:"from,omitempty"`
}

// backTo returns what a rollback returns to, "" for nothing.
func (s state) backTo() string {
	if s.Pending != nil && s.Pending.From != nil {
		return *s.Pending.From
	}
	return s.Previous
}

func (i *Installer) load() error {
	// Without the record it is not known which generation is active. What runs goes
	// on; the next update finds what is as it wants it.
	forgot := func(why string) {
		i.lost = "it is not known what is installed, since " + why
		if i.Damaged != nil {
			i.Damaged(why)
		}
	}
	path := i.path("generations.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		entries, err := os.ReadDir(i.path("generations"))
		if err != nil {
			return fmt.Errorf("cannot look for generations: %w", err)
		}
		if len(entries) > 0 { // else there was none yet
			forgot(path + " was missing")
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read which generation is active: %w", err)
	}
	if err := json.Unmarshal(data, &i.state); err != nil {
		i.state = state{}
		text, err := damaged.SetAside(path, err)
		if err == nil {
			forgot(text)
		}
		return err
	}
	return nil
}

// change alters the state on disk, then in memory.
func (i *Installer) change(edit func(*state)) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	next := i.state
	next.Staged = slices.Clone(i.state.Staged)
	edit(&next)
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(i.path("generations.json"), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot note which generation is active: %w", err)
	}
	i.state = next
	return nil
}

func (i *Installer) snapshot() state {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.state
	s.Staged = slices.Clone(s.Staged)
	return s
}

// Installed returns which generations and packages are there.
func (i *Installer) Installed() api.Installed {
	s := i.snapshot()
	out := api.Installed{Active: s.Active, Previous: s.backTo(), Interrupted: s.Pending != nil, Held: s.Held}
	if s.Active != "" {
		out.Generations = append(out.Generations, api.Generation{Digest: s.Active, State: api.GenerationActive})
	}
	if s.Previous != "" && s.Previous != s.Active {
		out.Generations = append(out.Generations, api.Generation{Digest: s.Previous, State: api.GenerationOld})
	}
	for _, digest := range s.Staged {
		if digest != s.Active && digest != s.Previous {
			out.Generations = append(out.Generations, api.Generation{Digest: digest, State: api.GenerationStaged})
		}
	}
	entries, _ := os.ReadDir(i.path("store")) // an unreadable store is told by the next prepare
	for _, e := range entries {
		if isDigest(e.Name()) {
			out.Store = append(out.Store, e.Name())
		}
	}
	return out
}

// Spec reads a generation that is staged, active or kept; the active one if
// the name is empty.
func (i *Installer) Spec(generation string) (api.Spec, error) {
	var spec api.Spec
	if generation == "" {
		generation = i.snapshot().Active
	}
	if generation == "" {
		return spec, &api.Error{Code: api.CodeNotFound, Message: "cannot read the active generation: there is none"}
	}
	if !safeName(generation) {
		return spec, &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf("cannot read generation %q: not a digest", generation)}
	}
	data, err := os.ReadFile(i.path("generations", generation, "spec.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return spec, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("cannot read generation %s: it is not staged here; prepare it", generation)}
	}
	if err != nil {
		return spec, fmt.Errorf("cannot read generation %s: %w", generation, err)
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return spec, fmt.Errorf("cannot read the spec of generation %s: %w", generation, err)
	}
	if spec.Generation != generation {
		return api.Spec{}, fmt.Errorf("cannot use spec.json of generation %s: it is that of another generation, %q", generation, spec.Generation)
	}
	return spec, nil
}

var (
	digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
)

func isDigest(s string) bool { return digestForm.MatchString(s) }

// safeName tells whether s can be one element of a path.
func safeName(s string) bool { return nameForm.MatchString(s) }
