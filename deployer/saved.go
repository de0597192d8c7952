package deployer

import (
	"bytes"
	"context"
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
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/clusterworks/deploy/deployer/internal/plan"
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
	World     world                      `json:"world"`
	Plan      *plan.Plan                 `json:"plan"`
}

// world is what a plan was made from, to tell what of it has moved.
type world struct {
	DeploymentID string `json:"deployment_id,omitempty"` // "": never applied
	Epoch        uint64 `json:"epoch"`
	Lease        string `json:"lease,omitempty"`
	// Sources, Variables and Packages are digests of the manifest's files, its
	// jobs and templates; of variables; and of programs.
	Sources   map[string]string        `json:"sources"`
	Variables map[string]string        `json:"variables,omitempty"`
	Packages  map[string]string        `json:"packages,omitempty"`
	Instances map[string]instanceWorld `json:"instances,omitempty"`
}

// instanceWorld is what an agent told.
type instanceWorld struct {
	VM       string `json:"vm"`
	Answers  bool   `json:"answers"`
	Active   string `json:"active,omitempty"`
	Held     bool   `json:"held,omitempty"`
	Drifted  bool   `json:"drifted,omitempty"`
	Settings string `json:"settings,omitempty"` // of the agent: its program and its bus
}

// ErrMoved is returned by the apply of a saved plan that is out of date.
var ErrMoved = errors.New("cannot apply the saved plan: it was made for another world than this one; nothing was touched; plan again")

// IsPlan tells whether a file is a saved plan rather than a manifest.
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
		return nil, fmt.Errorf("cannot use %s: it is no plan of version %d; make it with this deploy (plan --out)", path, savedVersion)
	}
	return &s, nil
}

// Values are the variables that the plan was made with, as far as they are in it.
func (s *SavedPlan) Values() (map[string]cty.Value, error) {
	out := map[string]cty.Value{}
	for name, data := range s.Variables {
		v, err := ctyjson.Unmarshal(data, cty.DynamicPseudoType)
		if err != nil {
			return nil, fmt.Errorf("cannot read the variable %q of the saved plan: %w", name, err)
		}
		out[name] = v
	}
	return out, nil
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

// SavePlan is Plan, with what is needed to apply it later. The manifest's path
// in the configuration must be absolute.
func (d *Deployer) SavePlan(ctx context.Context, q PlanRequest) (*SavedPlan, error) {
	r, p, err := d.planned(ctx, q)
	if err != nil {
		return nil, err
	}
	defer r.close()
	s := &SavedPlan{
		Format: savedFormat, Version: savedVersion, At: r.now.UTC().Truncate(time.Second),
		Manifest: d.config.Manifest, StateDir: d.config.StateDir, Targets: q.Targets,
		Variables: map[string]json.RawMessage{}, Plan: p,
	}
	for name, v := range r.manifest.Variables() {
		if v.Sensitive {
			s.Sensitive = append(s.Sensitive, name)
			continue
		}
		if s.Variables[name], err = ctyjson.Marshal(v.Value, cty.DynamicPseudoType); err != nil {
			return nil, fmt.Errorf("cannot encode the variable %q: %w", name, err)
		}
	}
	slices.Sort(s.Sensitive)
	s.World, err = r.world()
	return s, err
}

// world is what the run found.
func (r *run) world() (world, error) {
	w := world{
		Sources: map[string]string{}, Variables: map[string]string{}, Packages: map[string]string{}, Instances: map[string]instanceWorld{},
	}
	if !r.fresh {
		w.DeploymentID, w.Epoch, w.Lease = r.state.DeploymentID, r.state.Epoch, r.state.Lease
	}
	wanted, err := r.wanted() // reads all templates
	if err != nil {
		return w, err
	}
	for name, f := range r.manifest.Files {
		// Values of variables are compared below.
		if f != nil && !strings.HasPrefix(name, "<") && !slices.Contains(r.config.VarFiles, name) {
			sum := sha256.Sum256(f.Bytes)
			w.Sources[name] = hex.EncodeToString(sum[:])
		}
	}
	for name, v := range r.manifest.Variables() {
		if v.Sensitive && r.fresh {
			continue // there is no key yet, and nothing to protect
		}
		data, err := ctyjson.Marshal(v.Value, cty.DynamicPseudoType)
		if err != nil {
			return w, fmt.Errorf("cannot encode the variable %q: %w", name, err)
		}
		var key []byte
		if !r.fresh {
			key = r.secrets.DigestKey
		}
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "variable\x00%s\x00%s", name, data)
		w.Variables[name] = hex.EncodeToString(mac.Sum(nil))
	}
	for _, x := range wanted {
		for _, p := range x.Spec.Packages {
			w.Packages[p.Name] = p.Digest
		}
	}
	if agent, err := r.agentBlob(); err == nil {
		w.Packages["agent"] = agent.Digest
	}
	for _, id := range r.vmIDs() {
		in := instanceWorld{VM: r.state.VMs[id].ID}
		if inv := r.fleet.inventory(id); inv != nil {
			in.Answers, in.Active, in.Held, in.Drifted = true, inv.Active, inv.Held, len(inv.Drift) > 0
			in.Settings = inv.Agent.Digest + " " + inv.Bus.Digest
		}
		w.Instances[id] = in
	}
	return w, nil
}

// moved says what has moved since a plan was saved, and how the plan that is
// made now differs from it.
func (r *run) moved(saved *SavedPlan, now *plan.Plan) error {
	w, err := r.world()
	if err != nil {
		return err
	}
	was := saved.World
	var out []string
	switch {
	case was.DeploymentID != w.DeploymentID && was.DeploymentID == "":
		out = append(out, "the deployment was applied for the first time since")
	case was.DeploymentID != w.DeploymentID && w.DeploymentID == "":
		out = append(out, "the deployment's state is gone: it was destroyed, or is elsewhere (--state)")
	case was.DeploymentID != w.DeploymentID:
		out = append(out, "the state is that of another deployment")
	case was.Epoch != w.Epoch || was.Lease != w.Lease:
		out = append(out, fmt.Sprintf("deploy has changed something since (epoch %d, now %d)%s", was.Epoch, w.Epoch, r.lastEntry(was.Epoch)))
	}
	out = append(out, differences("", was.Sources, w.Sources)...)
	for _, name := range differing(was.Variables, w.Variables) {
		text := fmt.Sprintf("the variable %q has another value", name)
		if slices.Contains(saved.Sensitive, name) {
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
			what = "does not answer any more: " + r.fleet.reason(id)
		case !a.Answers && b.Answers:
			what = "answers now"
		case a.Active != b.Active:
			what = fmt.Sprintf("runs another generation (%.12s, was %.12s)", b.Active, a.Active)
		case a.Held != b.Held:
			what = "was stopped or started by an operator"
		case a.Drifted != b.Drifted:
			what = "was changed by hand, or is no longer"
		}
		out = append(out, id+" "+what)
	}
	if len(out) == 0 {
		out = saved.Plan.Differences(now)
	}
	if len(out) == 0 {
		return nil
	}
	return fmt.Errorf("%w\n  - %s", ErrMoved, strings.Join(out, "\n  - "))
}

// lastEntry is what the journal says of the first run after an epoch, for people.
func (r *run) lastEntry(after uint64) string {
	history, err := r.store.History()
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

// differing are the keys whose values differ, sorted.
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

// differences says of each key how it differs.
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
