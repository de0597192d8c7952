package dea

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/confine/warden"
)

// makeFolders makes the folders of a DEA's base_dir.
func makeFolders(base string) error {
	if err := os.MkdirAll(base, 0o711); err != nil {
		return fmt.Errorf("cannot use base_dir: %w", err)
	}
	for folder, mode := range map[string]os.FileMode{"staged": 0o700, "apps": 0o711, "db": 0o700, "run": 0o700} {
		path := filepath.Join(base, folder)
		if err := os.MkdirAll(path, mode); err != nil {
			return fmt.Errorf("cannot use base_dir: %w", err)
		}
		// Users of instances must come through apps, whoever has made it.
		if err := os.Chmod(path, mode); err != nil {
			return fmt.Errorf("cannot use base_dir: %w", err)
		}
	}
	return nil
}

// survey finds out what the machine offers apps, and fails if that is less than
// the configuration requires.
func survey(ctx context.Context, c Config, cgroups string) (warden.Machine, error) {
	m, err := warden.Survey(ctx, warden.Trial{
		Warden: []string{c.Warden}, Records: filepath.Join(c.BaseDir, "run"), Folder: filepath.Join(c.BaseDir, "apps"),
		User: firstUser, Cgroups: cgroups,
	})
	if err == nil {
		if err = errors.Join(m.Require(c.Isolation), m.RequireNetwork(c.Network)); err != nil {
			m.Close()
		}
	}
	return m, err
}

// CheckIsolation says at which level the machine keeps apps apart, and fails if the
// configuration requires more. It touches no DEA that runs.
func CheckIsolation(ctx context.Context, p component.Process, out io.Writer) error {
	cfg, _, err := load(p.ConfigFile)
	if err != nil {
		return err
	}
	if err := makeFolders(cfg.BaseDir); err != nil {
		return err
	}
	m, err := survey(ctx, cfg, "dea-check-"+component.RandomHex())
	if err != nil {
		return err
	}
	m.Close()
	_, err = fmt.Fprintf(out, "isolation of apps: %s\n", m.Level())
	return err
}
