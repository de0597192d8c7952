package terraform

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// OpenTofu as a tool of a Go module of its own: its replace of HCL must not
// reach ours. The names hide the files from the go command, which would take
// the folder for a module and not embed it.
var (
	//go:embed opentofu/engine.mod
	openTofuMod []byte
	//go:embed opentofu/engine.sum
	openTofuSum []byte
)

const (
	openTofuModule  = "github.com/opentofu/opentofu"
	openTofuVersion = "1.12.6" // as in opentofu/engine.mod
	// buildReport is the interval at which a build says that it goes on.
	buildReport = 20 * time.Second
	buildLimit  = time.Hour
)

// builtEngine returns the path of the OpenTofu in the cache, built first if it
// is not there.
func builtEngine(ctx context.Context, o FindOptions) (string, error) {
	folder := engineFolder(o.CacheDir)
	path := filepath.Join(folder, "tofu")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	goCommand, err := exec.LookPath("go")
	if err != nil {
		return "", fmt.Errorf("cannot build OpenTofu: %w", err)
	}
	if o.NoBuild {
		return "", ErrNotBuilt
	}
	if o.Ask != nil {
		if ok, err := o.Ask(); err != nil {
			return "", err
		} else if !ok {
			return "", errors.New("OpenTofu is not built, as you wish")
		}
	}
	report := o.Report
	if report == nil {
		report = func(string) {}
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("cannot build OpenTofu: %w", err)
	}
	unlock, err := waitLock(ctx, filepath.Join(folder, "lock"), func() {
		report("another deploy is building OpenTofu, waiting for it")
	})
	if err != nil {
		return "", fmt.Errorf("cannot build OpenTofu: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil { // the other one's
		return path, nil
	}
	report(fmt.Sprintf("no tofu or terraform on PATH: building OpenTofu %s from its Go module, once; this takes some minutes", openTofuVersion))
	if err := build(ctx, goCommand, folder, path, report); err != nil {
		return "", fmt.Errorf("cannot build OpenTofu %s: %w", openTofuVersion, err)
	}
	return path, nil
}

func engineFolder(cache string) string {
	return filepath.Join(cache, fmt.Sprintf("opentofu-%s-%s_%s", openTofuVersion, runtime.GOOS, runtime.GOARCH))
}

// waitLock takes a file lock, which goes with the process.
func waitLock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for told := false; ; told = true {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = file.Close()
			return nil, err
		}
		if !told {
			waiting()
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func build(ctx context.Context, goCommand, folder, path string, report func(string)) error {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	module, err := os.MkdirTemp(folder, "build-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(module) }()
	for name, data := range map[string][]byte{"go.mod": openTofuMod, "go.sum": openTofuSum} {
		if err := renameio.WriteFile(filepath.Join(module, name), data, 0o644); err != nil {
			return err
		}
	}
	built := filepath.Join(module, "tofu")
	cmd := exec.CommandContext(ctx, goCommand, "build", "-trimpath",
		"-ldflags", "-s -w -X "+openTofuModule+"/version.dev=no", // or it calls itself a development version
		"-o", built, openTofuModule+"/cmd/tofu")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS=", "GOARCH=")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	// The compilers are children of the go command: end them with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second

	started := time.Now()
	finished := make(chan error, 1)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { finished <- cmd.Wait() }()
	tick := time.NewTicker(buildReport)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			report(fmt.Sprintf("still building OpenTofu, for %s", time.Since(started).Round(time.Second)))
			continue
		case err = <-finished:
		}
		break
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(output.String()), "\n")
		return fmt.Errorf("%w: %s", err, strings.Join(lines[max(0, len(lines)-5):], "; "))
	}
	report(fmt.Sprintf("built OpenTofu in %s", time.Since(started).Round(time.Second)))
	return os.Rename(built, path)
}
