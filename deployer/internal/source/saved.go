package source

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// savedFormat and savedVersion begin a saved plan.
const (
	savedFormat  = "deploy plan"
	savedVersion = 1
)

// SavedPlan is a plan in a file, with all that it was made from: an apply of it
// does just that, or nothing. It holds no secrets: what is sensitive is redacted
// in the plan, and its digests are keyed.
type SavedPlan struct {
	Format   string    `json:"format"`
	Version  int       `json:"version"`
	At       time.Time `json:"at"`
	Manifest string    `json:"manifest"` // absolute
	StateDir string    `json:"state_dir"`
	Targets  []string  `json:"targets,omitempty"`
	// Variables are the values of the manifest's variables, but for the sensitive
	// ones, which are only named and must be given again.
	Variables map[string]json.RawMessage `json:"variables,omitempty"`
	Sensitive []string                   `json:"sensitive,omitempty"`
	World     World                      `json:"world"`
	Plan      *plan.Plan                 `json:"plan"`
}

// Save returns a plan of a session with what is needed to apply it later. The
// path of the source's manifest must be absolute.
func (s *Source) Save(of *session.Session, world World, p *plan.Plan) (*SavedPlan, error) {
	open, sensitive, err := encodeVariables(of.Manifest)
	return &SavedPlan{
		Format: savedFormat, Version: savedVersion, At: of.Now.UTC().Truncate(time.Second),
		Manifest: s.Manifest, StateDir: s.StateDir, Targets: of.Targets,
		Variables: open, Sensitive: slices.Sorted(maps.Keys(sensitive)), World: world, Plan: p,
	}, err
}

// World holds the facts that a plan was made from, to find out which of them have
// changed.
type World struct {
	DeploymentID string `json:"deployment_id,omitempty"` // "": never applied
	Epoch        uint64 `json:"epoch"`
	Lease        string `json:"lease,omitempty"`
	// Sources, Variables and Packages are digests of the manifest's files, its
	// jobs and templates; of variables; and of programs.
	Sources   map[string]string        `json:"sources"`
	Variables map[string]string        `json:"variables,omitempty"`
	Packages  map[string]string        `json:"packages,omitempty"`
	Instances map[string]InstanceWorld `json:"instances,omitempty"`
}

// InstanceWorld holds what an agent reported.
type InstanceWorld struct {
	VM       string `json:"vm"`
	Answers  bool   `json:"answers"`
	Active   string `json:"active,omitempty"`
	Held     bool   `json:"held,omitempty"`
	Drifted  bool   `json:"drifted,omitempty"`
	Settings string `json:"settings,omitempty"` // of the agent: its program and its bus
}

// ErrMoved is returned by the apply of a saved plan that is out of date.
var ErrMoved = errors.New("cannot apply the saved plan: what it was made from has changed since; nothing was touched; plan again")

// IsPlan reports whether a file is a saved plan rather than a manifest.
func IsPlan(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 64)
	n, _ := f.Read(head) // what cannot be read is no plan
	return bytes.HasPrefix(head[:n], []byte(`{`)) && bytes.Contains(head[:n], []byte(savedFormat))
}

// OpenPlan reads a saved plan.
func OpenPlan(path string) (*SavedPlan, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the saved plan: %w", err)
	}
	var s SavedPlan
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("cannot read the saved plan %s: %w", path, err)
	}
	if s.Format != savedFormat || s.Version != savedVersion || s.Plan == nil {
		return nil, fmt.Errorf("cannot use %s: it is not a plan of version %d; make one with this deploy (plan --out)", path, savedVersion)
	}
	return &s, nil
}

// Values returns the variables that the plan was made with, without the
// sensitive ones.
func (s *SavedPlan) Values() (map[string]cty.Value, error) {
	return decodeVariables(s.Variables, "the saved plan")
}

// Write saves the plan, readable by its owner only.
func (s *SavedPlan) Write(path string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("cannot encode the plan: %w", err)
	}
	if err := renameio.WriteFile(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot save the plan: %w", err)
	}
	return nil
}

// World returns what a session found. instances are what the agents reported.
func (p *Packages) World(wanted []plan.Wanted, instances map[string]InstanceWorld) (World, error) {
	w := World{Sources: map[string]string{}, Variables: map[string]string{}, Packages: map[string]string{}, Instances: instances}
	var key []byte
	if !p.s.Fresh {
		w.DeploymentID, w.Epoch, w.Lease = p.s.State.DeploymentID, p.s.State.Epoch, p.s.State.Lease
		key = p.s.Secrets.DigestKey
	}
	for name, f := range p.s.Manifest.Files {
		// Values of variables are compared below.
		if f != nil && !strings.HasPrefix(name, "<") && !slices.Contains(p.source.VarFiles, name) {
			sum := sha256.Sum256(f.Bytes)
			w.Sources[name] = hex.EncodeToString(sum[:])
		}
	}
	variables, sensitive, err := encodeVariables(p.s.Manifest)
	if err != nil {
		return w, err
	}
	if !p.s.Fresh { // else there is no key yet, and nothing to protect
		maps.Copy(variables, sensitive)
	}
	for name, data := range variables {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "variable\x00%s\x00%s", name, data)
		w.Variables[name] = hex.EncodeToString(mac.Sum(nil))
	}
	for _, x := range wanted {
		for _, program := range x.Spec.Packages {
			w.Packages[program.Name] = program.Digest
		}
	}
	if agent, err := p.Agent(); err == nil {
		w.Packages["agent"] = agent.Digest
	}
	return w, nil
}

// Moved returns ErrMoved with what has changed since the plan was saved, or how
// the plan that is made now differs from it; nil if nothing has. reason tells why
// an instance does not answer.
func (s *SavedPlan) Moved(w World, now *plan.Plan, store state.Store, reason func(instance string) string) error {
	was := s.World
	var out []string
	switch {
	case was.DeploymentID != w.DeploymentID && was.DeploymentID == "":
		out = append(out, "the deployment was applied for the first time since")
	case was.DeploymentID != w.DeploymentID && w.DeploymentID == "":
		out = append(out, "the deployment's state is gone: it was destroyed, or is elsewhere (--state)")
	case was.DeploymentID != w.DeploymentID:
		out = append(out, "the state is that of another deployment")
	case was.Epoch != w.Epoch || was.Lease != w.Lease:
		out = append(out, fmt.Sprintf("deploy has changed something since (epoch %d, now %d)%s", was.Epoch, w.Epoch, lastEntry(store, was.Epoch)))
	}
	out = append(out, differences("", was.Sources, w.Sources)...)
	for _, name := range differing(was.Variables, w.Variables) {
		text := fmt.Sprintf("the variable %q has another value", name)
		if slices.Contains(s.Sensitive, name) {
			text += "; it is sensitive, so the plan file does not hold it: give it again"
		}
		out = append(out, text)
	}
	out = append(out, differences("package ", was.Packages, w.Packages)...)
	for _, id := range differing(was.Instances, w.Instances) {
		a, b := was.Instances[id], w.Instances[id]
		what := "has another configuration of its agent"
		switch {
		case a.VM == "":
			what = "has a VM now"
		case b.VM == "":
			what = "has no VM any more"
		case a.VM != b.VM:
			what = "has another VM"
		case a.Answers && !b.Answers:
			what = "does not answer any more: " + reason(id)
		case !a.Answers && b.Answers:
			what = "answers now"
		case a.Active != b.Active:
			what = fmt.Sprintf("runs another generation (%.12s, was %.12s)", b.Active, a.Active)
		case a.Held != b.Held:
			what = "was stopped or started by an operator"
		case a.Drifted != b.Drifted:
			what = "was changed by hand, or no longer exists"
		}
		out = append(out, id+" "+what)
	}
	if len(out) == 0 {
		out = s.Plan.Differences(now)
	}
	if len(out) == 0 {
		return nil
	}
	return fmt.Errorf("%w\n  - %s", ErrMoved, strings.Join(out, "\n  - "))
}

// lastEntry returns what the journal says of the first run after an epoch, for
// people.
func lastEntry(store state.Store, after uint64) string {
	history, err := store.History()
	if err != nil {
		return ""
	}
	for _, e := range history {
		if e.Epoch > after {
			return fmt.Sprintf(": %s by %s at %s", e.What, e.Who, e.At.Local().Format(time.DateTime))
		}
	}
	return ""
}

// differing returns the keys whose values differ, sorted.
func differing[V comparable](was, now map[string]V) []string {
	all := maps.Clone(was)
	if all == nil {
		all = map[string]V{}
	}
	maps.Copy(all, now)
	var out []string
	for _, key := range slices.Sorted(maps.Keys(all)) {
		a, had := was[key]
		b, has := now[key]
		if had != has || a != b {
			out = append(out, key)
		}
	}
	return out
}

// differences returns how each key differs.
func differences(kind string, was, now map[string]string) []string {
	var out []string
	for _, key := range differing(was, now) {
		what := "changed"
		if _, had := was[key]; !had {
			what = "is new"
		} else if _, has := now[key]; !has {
			what = "is gone"
		}
		out = append(out, kind+key+" "+what)
	}
	return out
}
