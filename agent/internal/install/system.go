package install

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// aptTimeout bounds one run of apt-get.
const aptTimeout = 5 * time.Minute

// systemPackages sees to it that the VM has the programs of its own package
// manager. The agent installs them itself only on a VM that is its own, as
// root; elsewhere the error names the command.
func (i *Installer) systemPackages(ctx context.Context, report Report, packages []api.SystemPackage) error {
	missing := missingPrograms(packages)
	if len(missing) == 0 {
		return nil
	}
	if i.ManagePackages {
		if apt, err := exec.LookPath("apt-get"); err == nil {
			names := aptNames(missing)
			report.Event("system_packages", "apt-get install "+strings.Join(names, " "))
			if err := aptInstall(ctx, apt, names); err != nil {
				return &api.Error{Code: api.CodeSystemPackage, Message: err.Error()}
			}
			missing = missingPrograms(packages)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var what []string
	for _, p := range missing {
		what = append(what, fmt.Sprintf("%s (package %s)", p.Program, p.Name))
	}
	message := "cannot find on this VM: " + strings.Join(what, ", ")
	if names := aptNames(missing); len(names) > 0 {
		message += "; install with: apt-get install " + strings.Join(names, " ")
	}
	return &api.Error{Code: api.CodeSystemPackage, Message: message}
}

func missingPrograms(packages []api.SystemPackage) []api.SystemPackage {
	var missing []api.SystemPackage
	for _, p := range packages {
		if !programExists(p.Program) {
			missing = append(missing, p)
		}
	}
	return missing
}

// programExists looks on PATH and where Debian keeps daemons, which an ordinary
// user's PATH leaves out.
func programExists(program string) bool {
	if _, err := exec.LookPath(program); err == nil {
		return true
	}
	if filepath.IsAbs(program) {
		return false
	}
	return slices.ContainsFunc([]string{"/usr/sbin", "/sbin", "/usr/local/sbin"}, func(dir string) bool {
		_, err := exec.LookPath(filepath.Join(dir, program))
		return err == nil
	})
}

func aptNames(packages []api.SystemPackage) []string {
	var names []string
	for _, p := range packages {
		names = append(names, p.Apt...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func aptInstall(ctx context.Context, apt string, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, aptTimeout)
	defer cancel()
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, apt, args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		// The lock of another package manager is waited for, not fought over.
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 10 * time.Second
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("cannot run apt-get %s: %w: %s", strings.Join(args, " "), err, strings.Join(lastLines(out, 5), " / "))
		}
		return nil
	}
	install := append([]string{"-y", "-o", "DPkg::Lock::Timeout=120", "--no-install-recommends", "install", "--"}, names...)
	if err := run(install...); err == nil {
		return nil
	}
	// A fresh VM has no package lists yet.
	if err := run("update"); err != nil {
		return err
	}
	return run(install...)
}

// lastLines are the last n lines of text that are not empty.
func lastLines(text []byte, n int) []string {
	lines := strings.FieldsFunc(strings.ToValidUTF8(string(text), "?"), func(r rune) bool { return r == '\n' || r == '\r' })
	return lines[max(0, len(lines)-n):]
}
