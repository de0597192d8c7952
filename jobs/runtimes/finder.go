package runtimes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Path is the place where executables are looked for that are given by name: the system's
// folders, not those of whoever started this process, since other users' apps
// are to run them.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// checkTimeout bounds a check; a virtual machine that starts on a busy disk needs
// its time. A failed check counts for failedFor, so that messages cannot make a
// machine do nothing but check.
const (
	checkTimeout = 20 * time.Second
	failedFor    = 10 * time.Second
	// outputLimit is the number of bytes of an executable's output that are looked at.
	outputLimit = 64 << 10
)

// Runtime is one that was found.
type Runtime struct {
	Path   string // the executable, absolute; "" if the runtime needs none
	Output string // first line of what it printed about its version
}

// Finder finds runtimes on this machine. A runtime that was found is not checked
// again as long as neither its description nor its executable changes. Its zero
// value is ready; it may be used by several goroutines.
type Finder struct {
	mu    sync.Mutex
	known map[string]*check
}

// check describes what is known of one description.
type check struct {
	mu      sync.Mutex // held while it is checked: others wait for the answer
	checked time.Time
	stamp   stamp
	found   Runtime
	err     error
}

// stamp tells one state of an executable from another.
type stamp struct {
	path     string
	size     int64
	modified time.Time
}

// Find looks for a runtime as the DEA's contract describes: the executable is
// run with its version flag, in an environment with HOME and PATH only, and what
// it prints has to match. An error says what is missing.
func (f *Finder) Find(ctx context.Context, info wire.RuntimeInfo) (Runtime, error) {
	if info.Executable == "" {
		if info.VersionOutput != "" || info.AdditionalChecks != "" {
			return Runtime{}, fmt.Errorf("cannot check runtime %s: it has no executable", info.Name)
		}
		return Runtime{}, nil
	}
	path, err := lookUp(info.Executable)
	if err != nil {
		return Runtime{}, fmt.Errorf("runtime %s is not on this machine: %w", info.Name, err)
	}
	stat, err := os.Stat(path)
	if err != nil {
		return Runtime{}, fmt.Errorf("runtime %s is not on this machine: %w", info.Name, err)
	}
	now := stamp{path, stat.Size(), stat.ModTime()}

	key := strings.Join([]string{info.Executable, info.VersionFlag, info.VersionOutput, info.AdditionalChecks}, "\x00")
	f.mu.Lock()
	if f.known == nil {
		f.known = map[string]*check{}
	}
	c := f.known[key]
	if c == nil {
		c = &check{}
		f.known[key] = c
	}
	f.mu.Unlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.checked.IsZero() && c.stamp == now && (c.err == nil || time.Since(c.checked) < failedFor) {
		return c.found, c.err
	}
	found, err := inspect(ctx, path, info)
	if ctx.Err() != nil {
		return Runtime{}, fmt.Errorf("cannot check runtime %s: %w", info.Name, context.Cause(ctx))
	}
	c.checked, c.stamp, c.found, c.err = time.Now(), now, found, err
	return found, err
}

// lookUp is exec.LookPath over Path.
func lookUp(name string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			return "", fmt.Errorf("its executable %q is neither a name nor an absolute path", name)
		}
		return name, executable(name)
	}
	for _, folder := range filepath.SplitList(Path) {
		if file := filepath.Join(folder, name); executable(file) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("there is no program %s in %s", name, Path)
}

func executable(file string) error {
	stat, err := os.Stat(file)
	switch {
	case err != nil:
		return err
	case !stat.Mode().IsRegular() || stat.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("%s is not a program", file)
	}
	return nil
}

func inspect(ctx context.Context, path string, info wire.RuntimeInfo) (Runtime, error) {
	pattern, err := regexp.Compile(info.VersionOutput)
	if err != nil {
		return Runtime{}, fmt.Errorf("cannot check runtime %s: its version_output: %w", info.Name, err)
	}
	flag := info.VersionFlag
	if flag == "" {
		flag = "-v"
	}
	output, err := run(ctx, path, flag)
	if err != nil {
		return Runtime{}, fmt.Errorf("runtime %s does not work: %w", info.Name, err)
	}
	first, _, _ := strings.Cut(output, "\n")
	if !pattern.MatchString(output) {
		return Runtime{}, fmt.Errorf("runtime %s is another one here: %s %s prints %q, which does not match %q", info.Name, path, flag, first, info.VersionOutput)
	}
	if info.AdditionalChecks != "" {
		checked, err := run(ctx, path, strings.Fields(info.AdditionalChecks)...)
		if err != nil {
			return Runtime{}, fmt.Errorf("runtime %s does not work: %w", info.Name, err)
		}
		if !strings.Contains(checked, "true") {
			return Runtime{}, fmt.Errorf("runtime %s fails its additional check: %s %s prints %q", info.Name, path, info.AdditionalChecks, checked)
		}
	}
	return Runtime{Path: path, Output: first}, nil
}

// run returns what a program prints, standard error included. Its exit status
// says nothing: some print their version and fail.
func run(ctx context.Context, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	home, err := os.MkdirTemp("", "runtime-check-")
	if err != nil {
		return "", fmt.Errorf("cannot run %s: %w", path, err)
	}
	defer os.RemoveAll(home)
	var output limited
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + Path}
	cmd.Dir = home
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s %s did not end within %v", path, strings.Join(args, " "), checkTimeout)
	case err != nil && !errors.As(err, &exit):
		return "", fmt.Errorf("cannot run %s: %w", path, err)
	}
	return output.String(), nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := outputLimit - l.Len(); room > 0 {
		_, _ = l.Buffer.Write(p[:min(room, len(p))]) // never fails
	}
	return len(p), nil
}
