package terraform

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"

	"github.com/clusterworks/deploy/deployer/internal/localvm/provider"
)

// Files in the work folder, besides the engine's own.
const (
	rootFile     = "main.tf.json"
	templateDir  = "template" // a built-in template's files
	planFile     = "plan"
	appliedFile  = "applied.json"
	mirrorDir    = "mirror"
	rcFile       = "terraform.rc" // TF_CLI_CONFIG_FILE of an engine run by hand
	publicDir    = "public"       // a mirror of public providers without hosts, with one
	mirrorFile   = "providers.rc" // the engine's settings where there is such a mirror
	dataDir      = ".terraform"
	initFile     = dataDir + "/deploy-init" // digest of what the last init was for
	engineLock   = ".terraform.lock.hcl"
	moduleName   = "vms"
	outputName   = "instances"
	minEngine    = "1.5.0"
	usesOwnLabel = provider.Source
)

// root is the root module as written.
type root struct {
	digest   string // of the module and of the template, where its files are at hand
	template string // digest of the template alone
	source   string // of the module call
	local    bool   // the template uses our own provider
	input    Input
}

// writeRoot writes the root module and what belongs to it, each file only if
// it differs.
func (o *Options) writeRoot(in Input) (*root, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the work folder: %w", err)
	}
	files, source, err := o.template()
	if err != nil {
		return nil, err
	}
	r := &root{source: source, input: in}
	for _, name := range sortedKeys(files) {
		r.local = r.local || bytes.Contains(files[name], []byte(usesOwnLabel))
	}
	arguments, err := in.arguments()
	if err != nil {
		return nil, err
	}
	arguments["source"] = source
	module := map[string]any{
		"terraform": map[string]any{"required_version": ">= " + minEngine},
		"module":    map[string]any{moduleName: arguments},
		"output":    map[string]any{outputName: map[string]any{"value": "${module." + moduleName + "." + outputName + "}"}},
	}
	if r.local {
		module["terraform"].(map[string]any)["required_providers"] = map[string]any{
			provider.Type: map[string]any{"source": provider.Source},
		}
		module["provider"] = map[string]any{provider.Type: map[string]any{"dir": escape(o.VMs)}}
		if err := o.writeMirror(); err != nil {
			return nil, err
		}
	}
	// Keys come out sorted, so the same input gives the same bytes.
	data, err := json.MarshalIndent(module, "", "  ")
	if err != nil {
		return nil, err
	}
	data = append(data, '\n')
	r.template = filesDigest(files)
	// Moves say how to get there, and no part of what is wanted.
	r.digest = filesDigest(map[string][]byte{rootFile: data, templateDir: []byte(r.template)})
	moved, err := movedBlocks(o.Dir, in)
	if err != nil {
		return nil, err
	}
	if len(moved) > 0 {
		if files == nil {
			return nil, fmt.Errorf("cannot rename a group whose VMs the template %s makes: an engine moves resources of modules at hand only; copy the module to a path, or move them by hand (state mv) in %s", o.Template, o.Dir)
		}
		module["moved"] = moved
		if data, err = json.MarshalIndent(module, "", "  "); err != nil {
			return nil, err
		}
		data = append(data, '\n')
	}
	if err := writeChanged(filepath.Join(o.Dir, rootFile), data); err != nil {
		return nil, err
	}
	return r, nil
}

func filesDigest(files map[string][]byte) string {
	hash := sha256.New()
	for _, name := range sortedKeys(files) {
		_, _ = fmt.Fprintf(hash, "%s %d\n%s", name, len(files[name]), files[name])
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// template resolves the template's name to the source of a module call, and
// returns the module's files if they are at hand. A built-in one is copied into
// the work folder.
func (o *Options) template() (files map[string][]byte, source string, err error) {
	name := o.Template
	isPath := filepath.IsAbs(name) || strings.HasPrefix(name, "./") || strings.HasPrefix(name, "../")
	if isPath {
		if !filepath.IsAbs(name) {
			name = filepath.Join(o.BaseDir, name)
		}
		if name, err = filepath.Abs(name); err != nil {
			return nil, "", err
		}
		if files, err = moduleFiles(os.DirFS(name)); err != nil {
			return nil, "", fmt.Errorf("cannot read the template %s: %w", o.Template, err)
		}
		relative, err := relativeModule(o.Dir, name)
		if err != nil {
			return nil, "", fmt.Errorf("cannot find the template %s from the work folder: %w", o.Template, err)
		}
		return files, relative, nil
	}
	if strings.ContainsAny(name, "/:.") {
		return nil, name, nil // the engine fetches it
	}
	builtIn, err := fs.Sub(o.Templates, name)
	if err == nil {
		files, err = moduleFiles(builtIn)
	}
	if err != nil {
		return nil, "", fmt.Errorf("cannot find the template %q: %w; built in are %s; a path begins with ./ or ../, anything else is a Terraform module source",
			name, err, strings.Join(o.builtIn(), ", "))
	}
	copied := filepath.Join(o.Dir, templateDir)
	for _, file := range sortedKeys(files) {
		path := filepath.Join(copied, filepath.FromSlash(file))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, "", err
		}
		if err := writeChanged(path, files[file]); err != nil {
			return nil, "", err
		}
	}
	there, err := moduleFiles(os.DirFS(copied))
	if err != nil {
		return nil, "", err
	}
	for _, file := range sortedKeys(there) { // left from another template or an older version
		if _, wanted := files[file]; !wanted {
			if err := os.Remove(filepath.Join(copied, filepath.FromSlash(file))); err != nil {
				return nil, "", err
			}
		}
	}
	return files, "./" + templateDir, nil
}

// relativeModule is the module source of a folder. The engine would copy a
// module with an absolute path and miss its changes.
func relativeModule(from, folder string) (string, error) {
	from, err := filepath.EvalSymlinks(from) // the engine sees the real paths
	if err != nil {
		return "", err
	}
	if folder, err = filepath.EvalSymlinks(folder); err != nil {
		return "", err
	}
	relative, err := filepath.Rel(from, folder)
	if err == nil && !strings.HasPrefix(relative, "../") {
		relative = "./" + relative
	}
	return relative, err
}

func (o *Options) builtIn() []string {
	var names []string
	entries, _ := fs.ReadDir(o.Templates, ".")
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names
}

// moduleFiles reads a module with all that lies below it, but for what an
// engine left there.
func moduleFiles(module fs.FS) (map[string][]byte, error) {
	files := map[string][]byte{}
	err := fs.WalkDir(module, ".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != "." && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case !entry.Type().IsRegular() || strings.HasPrefix(entry.Name(), "."):
			return nil
		}
		files[path], err = fs.ReadFile(module, path)
		return err
	})
	if err != nil {
		return nil, err
	}
	for name := range files {
		if !strings.Contains(name, "/") && (strings.HasSuffix(name, ".tf") || strings.HasSuffix(name, ".tf.json")) {
			return files, nil
		}
	}
	return nil, errors.New("the folder holds no .tf file")
}

// writeMirror lets an engine that is run by hand find our provider:
// TF_CLI_CONFIG_FILE=$PWD/terraform.rc terraform init.
func (o *Options) writeMirror() error {
	mirror := filepath.Join(o.Dir, mirrorDir)
	_, changed, err := provider.Mirror(mirror, o.Executable)
	if err != nil {
		return err
	}
	const ours = "deploy.internal/*/*"
	rc := fmt.Sprintf("disable_checkpoint = true\nprovider_installation {\n  filesystem_mirror {\n    path    = %q\n    include = [%q]\n  }\n  direct {\n    exclude = [%q]\n  }\n}\n", mirror, ours, ours)
	if err := writeChanged(filepath.Join(o.Dir, rcFile), []byte(rc)); err != nil {
		return err
	}
	if changed {
		return o.forgetProvider()
	}
	return nil
}

// forgetProvider takes our provider out of the engine's lock file, where a run
// by hand noted the checksum of what is now another executable.
func (o *Options) forgetProvider() error {
	path := filepath.Join(o.Dir, engineLock)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the engine's lock file: %w", err)
	}
	file, diags := hclwrite.ParseConfig(data, path, hcl.InitialPos)
	if diags.HasErrors() {
		return fmt.Errorf("cannot read the engine's lock file: %w", diags)
	}
	block := file.Body().FirstMatchingBlock("provider", []string{provider.Source})
	if block == nil {
		return nil
	}
	file.Body().RemoveBlock(block)
	return writeChanged(path, file.Bytes())
}

// writeChanged replaces a file if it does not hold data already.
func writeChanged(path string, data []byte) error {
	if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, data) {
		return nil
	}
	if err := renameio.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// escape makes the engine read the strings in a JSON value, keys included, as
// they are and not as templates.
func escape(value any) any {
	switch v := value.(type) {
	case string:
		return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(v)
	case []any:
		for i := range v {
			v[i] = escape(v[i])
		}
		return v
	case map[string]any:
		escaped := make(map[string]any, len(v))
		for key, element := range v {
			escaped[escape(key).(string)] = escape(element)
		}
		return escaped
	}
	return value
}

// decodeJSON keeps numbers as they are written.
func decodeJSON(data []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	err := decoder.Decode(&value)
	return value, err
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
