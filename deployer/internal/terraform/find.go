package terraform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-version"
)

// EngineEnv names the environment variable that chooses an engine: a path or a
// name on PATH.
const EngineEnv = "DEPLOY_ENGINE"

// Engine is a program that runs Terraform modules.
type Engine struct {
	Path    string
	Name    string // "terraform" or "tofu"
	Version string
}

// FindOptions say where an engine may come from.
type FindOptions struct {
	// CacheDir keeps an engine that had to be built; "": deploy/engines in the
	// user's cache folder.
	CacheDir string
	// NoBuild answers ErrNotBuilt where an engine would be built now.
	NoBuild bool
	// Ask is asked before an engine is built; nil: it is built.
	Ask func() (bool, error)
	// Made is the engine that made the state at hand, "terraform 1.11.4"; "" if there
	// is none yet. That one is looked for first, and another one is refused unless
	// DEPLOY_ENGINE names it.
	Made string
	// Report is called while something takes long; may be nil.
	Report func(message string)
}

// ErrNotBuilt says that an engine would have to be built, and can be.
var ErrNotBuilt = errors.New("no engine is built yet")

// ErrOtherEngine says that the state at hand was made by another engine.
var ErrOtherEngine = errors.New("another engine made the state")

// errUnfit says that a program is no engine for deploy: it is not there, or too old.
var errUnfit = errors.New("unfit")

// Find returns the engine that DEPLOY_ENGINE names; else tofu or terraform
// (1.5 or later) on PATH; else an OpenTofu built earlier; else it builds
// OpenTofu from its Go module, which takes minutes, once. An engine that is on
// PATH and does not answer is an error, no reason to build another.
func Find(ctx context.Context, o FindOptions) (Engine, error) {
	engine, err := find(ctx, o)
	if err == nil && os.Getenv(EngineEnv) == "" {
		err = engine.fits(o.Made)
	}
	if err != nil {
		return Engine{}, err
	}
	return engine, nil
}

// String is "terraform 1.11.4".
func (e Engine) String() string { return e.Name + " " + e.Version }

// fits returns an error if a state that another engine made may not be read by this
// one: engines refuse states of later versions, and the two kinds go ways of their
// own.
func (e Engine) fits(made string) error {
	name, text, _ := strings.Cut(made, " ")
	if made == "" {
		return nil
	}
	was, err := version.NewVersion(text)
	if err != nil {
		return fmt.Errorf("cannot read the version of the engine that made the state, %q: %w", made, err)
	}
	now, err := version.NewVersion(e.Version)
	if err == nil && e.Name == name && !now.LessThan(was) {
		return nil
	}
	return fmt.Errorf("%w: it was %s, and what is found is %s (%s); nothing was done: put %s or a later %s on PATH, or, to change the engine, name this one: %s=%s",
		ErrOtherEngine, made, e, e.Path, text, name, EngineEnv, e.Path)
}

func find(ctx context.Context, o FindOptions) (Engine, error) {
	if chosen := os.Getenv(EngineEnv); chosen != "" {
		engine, err := tryEngine(ctx, chosen)
		if err != nil {
			return Engine{}, fmt.Errorf("cannot use the engine that %s names: %w", EngineEnv, err)
		}
		return engine, nil
	}
	var tried []error
	names := []string{"tofu", "terraform"}
	if strings.HasPrefix(o.Made, "terraform ") {
		slices.Reverse(names)
	}
	for _, name := range names {
		engine, err := tryEngine(ctx, name)
		if err == nil {
			return engine, nil
		}
		tried = append(tried, err)
	}
	for _, err := range tried {
		if !errors.Is(err, errUnfit) {
			return Engine{}, fmt.Errorf("cannot use the engine on PATH: %w; repair it, or name another one in %s", err, EngineEnv)
		}
	}
	if o.CacheDir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return Engine{}, fmt.Errorf("cannot find a folder for an engine: %w", err)
		}
		o.CacheDir = filepath.Join(cache, "deploy", "engines")
	}
	path, err := builtEngine(ctx, o)
	if err == nil {
		var engine Engine
		if engine, err = tryEngine(ctx, path); err == nil {
			return engine, nil
		}
	}
	if errors.Is(err, ErrNotBuilt) {
		return Engine{}, ErrNotBuilt
	}
	return Engine{}, &noEngine{append(tried, err)}
}

// noEngine says why there is no engine, in one line.
type noEngine struct{ why []error }

func (e *noEngine) Error() string {
	var why []string
	for _, err := range e.why {
		why = append(why, err.Error())
	}
	return fmt.Sprintf("cannot make VMs without OpenTofu or Terraform (%s or later): %s; install OpenTofu or Terraform so that it is on PATH, or Go, so that OpenTofu can be built (deploy engine)",
		minEngine, strings.Join(why, "; "))
}

func (e *noEngine) Unwrap() []error { return e.why }

// unfit is why a program is not used as the engine.
type unfit struct{ error }

func (e unfit) Unwrap() error   { return e.error }
func (unfit) Is(err error) bool { return err == errUnfit }

// tryEngine asks a program for its version.
func tryEngine(ctx context.Context, name string) (Engine, error) {
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) {
		return Engine{}, unfit{err}
	}
	if err != nil {
		return Engine{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "version", "-json")
	for key, value := range engineEnv() {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	// In a group of its own: what a terminal sends to ours is for us to act on, and an
	// engine that it ends must not look like one that does not work.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	output, err := cmd.Output()
	if ctx.Err() != nil {
		return Engine{}, fmt.Errorf("cannot ask %s for its version: %w", path, context.Cause(ctx))
	}
	if err != nil {
		return Engine{}, fmt.Errorf("cannot ask %s for its version: %w", path, err)
	}
	var answer struct {
		Version string `json:"terraform_version"` // OpenTofu's too
	}
	if err := json.Unmarshal(output, &answer); err != nil {
		return Engine{}, fmt.Errorf("cannot read the version of %s: %w", path, err)
	}
	found, err := version.NewVersion(answer.Version)
	if err != nil {
		return Engine{}, fmt.Errorf("cannot read the version of %s: %w", path, err)
	}
	if found.LessThan(version.Must(version.NewVersion(minEngine))) {
		return Engine{}, unfit{fmt.Errorf("%s is version %s, %s or later is needed", path, found, minEngine)}
	}
	kind := "terraform"
	if strings.Contains(filepath.Base(path), "tofu") {
		kind = "tofu"
	}
	return Engine{Path: path, Name: kind, Version: found.String()}, nil
}

// engineEnv is the environment that engines run in: ours, for proxies and
// clouds' credentials, without what would change the engine's behaviour under
// us.
func engineEnv() map[string]string {
	env := map[string]string{}
	for _, entry := range os.Environ() {
		key, value, _ := strings.Cut(entry, "=")
		switch {
		case strings.HasPrefix(key, "TF_LOG"), strings.HasPrefix(key, "TF_REATTACH"), strings.HasPrefix(key, "TF_VAR_"),
			strings.HasPrefix(key, "TF_CLI_ARGS"), key == "TF_DATA_DIR", key == "TF_WORKSPACE":
			continue
		case key == "TF_CLI_CONFIG_FILE":
			if _, err := os.Stat(value); err != nil {
				continue // the engine would warn at every call
			}
		}
		env[key] = value
	}
	env["CHECKPOINT_DISABLE"] = "1" // no question for newer versions
	return env
}
