package terraform

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// MirrorEnv names the environment variable that says in which folder public
// providers lie, for sites that reach no registry. Its layout is that of
// `terraform providers mirror`, HOST/NAMESPACE/TYPE, or the same without HOST, which
// then stands for the engine's own registry.
const MirrorEnv = "DEPLOY_PROVIDER_MIRROR"

// mirrored are the public providers that a folder holds.
type mirrored struct {
	folder    string
	hosts     bool     // the folder's first level are hosts
	providers []string // "[HOST/]NAMESPACE/TYPE", sorted
}

// findMirror returns the mirror that the environment names, else the one in the
// user's cache folder, else an empty one.
func findMirror() (mirrored, error) {
	folder := os.Getenv(MirrorEnv)
	named := folder != ""
	if !named {
		cache, err := os.UserCacheDir()
		if err != nil {
			return mirrored{}, nil
		}
		folder = filepath.Join(cache, "deploy", "providers")
	}
	folder, err := filepath.Abs(folder)
	if err != nil {
		return mirrored{}, fmt.Errorf("cannot find the mirror of providers: %w", err)
	}
	m, err := readMirror(folder)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return mirrored{}, nil
	}
	if err != nil {
		return m, fmt.Errorf("cannot read the mirror of providers: %w; correct %s, or unset it", err, MirrorEnv)
	}
	if named && len(m.providers) == 0 {
		return m, fmt.Errorf("cannot find providers in %s, which %s names: it must hold NAMESPACE/TYPE/VERSION/OS_ARCH, or what `terraform providers mirror` makes", folder, MirrorEnv)
	}
	return m, nil
}

func readMirror(folder string) (mirrored, error) {
	m := mirrored{folder: folder}
	first, err := os.ReadDir(folder)
	if err != nil {
		return m, err
	}
	for _, entry := range first {
		m.hosts = m.hosts || strings.Contains(entry.Name(), ".") && !strings.HasPrefix(entry.Name(), ".")
	}
	pattern := "*/*"
	if m.hosts {
		pattern = "*.*/*/*"
	}
	found, err := fs.Glob(os.DirFS(folder), pattern)
	if err != nil {
		return m, err
	}
	for _, provider := range found {
		if info, err := os.Stat(filepath.Join(folder, provider)); err == nil && info.IsDir() && !strings.Contains("/"+provider, "/.") {
			m.providers = append(m.providers, provider)
		}
	}
	slices.Sort(m.providers)
	return m, nil
}

// providerLine holds what engines print of a required provider; the host is that of
// their own registry.
var providerLine = regexp.MustCompile(`provider\[([^/\]]+)/mirror/mirror\]`)

// registryOf asks an engine which registry stands in for a provider without a host.
func registryOf(ctx context.Context, engine Engine) (string, error) {
	dir, err := os.MkdirTemp("", "deploy-registry-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	question := "terraform {\n  required_providers {\n    mirror = { source = \"mirror/mirror\" }\n  }\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "main.tf"), []byte(question), 0o600); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, engine.Path, "providers")
	cmd.Dir = dir
	for key, value := range engineEnv() {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	output, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cannot ask %s for its registry: %w: %.300s", engine.Path, err, output)
	}
	found := providerLine.FindSubmatch(output)
	if found == nil {
		return "", fmt.Errorf("cannot read the registry of %s from what `providers` prints: %.300q", engine.Path, output)
	}
	return string(found[1]), nil
}

// linkMirror makes the mirror appear below folder. Engines follow links to archives
// and to the folders of platforms, and no others.
func linkMirror(m mirrored, folder string) error {
	if err := os.RemoveAll(filepath.Dir(folder)); err != nil {
		return err
	}
	link := func(path string) error {
		to := filepath.Join(folder, path)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		return os.Symlink(filepath.Join(m.folder, path), to)
	}
	for _, provider := range m.providers {
		for _, pattern := range []string{"/*.zip", "/*.json", "/*/*_*"} { // packed; what speaks of it; unpacked
			paths, err := fs.Glob(os.DirFS(m.folder), provider+pattern)
			if err != nil {
				return err
			}
			for _, path := range paths {
				if err := link(path); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// useMirror makes the engine take the providers of the mirror from there, and asks
// the registry for no other version of them. It returns the path of the engine's
// settings, and what identifies them; both are "" without a mirror.
func (o *Options) useMirror(ctx context.Context, engine Engine) (config, id string, err error) {
	m, err := findMirror()
	if err != nil || len(m.providers) == 0 {
		return "", "", err
	}
	if _, set := engineEnv()["TF_CLI_CONFIG_FILE"]; set && os.Getenv(MirrorEnv) == "" {
		return "", "", nil // the user's own settings of the engine say where providers come from
	}
	folder, providers := m.folder, m.providers
	if !m.hosts {
		host, err := registryOf(ctx, engine)
		if err != nil {
			return "", "", err
		}
		folder = filepath.Join(o.Dir, publicDir)
		if err := linkMirror(m, filepath.Join(folder, host)); err != nil {
			return "", "", fmt.Errorf("cannot prepare the mirror of providers: %w", err)
		}
		providers = slices.Clone(providers)
		for i := range providers {
			providers[i] = host + "/" + providers[i]
		}
	}
	list := make([]string, 0, len(providers))
	for _, provider := range providers {
		list = append(list, fmt.Sprintf("%q", provider))
	}
	public := strings.Join(list, ", ")
	config = filepath.Join(o.Dir, mirrorFile)
	text := fmt.Sprintf("disable_checkpoint = true\nprovider_installation {\n  filesystem_mirror {\n    path    = %q\n    include = [%s]\n  }\n", folder, public)
	ours := filepath.Join(o.Dir, mirrorDir)
	text += fmt.Sprintf("  filesystem_mirror {\n    path    = %q\n    include = [\"deploy.internal/*/*\"]\n  }\n  direct {\n    exclude = [\"deploy.internal/*/*\", %s]\n  }\n}\n", ours, public)
	if err := os.MkdirAll(ours, 0o700); err != nil {
		return "", "", err
	}
	if err := writeChanged(config, []byte(text)); err != nil {
		return "", "", err
	}
	return config, filesDigest(map[string][]byte{config: []byte(text)})[:12], nil
}
