package dea

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/confine/warden"
)

// probeTimeout bounds the trial run that finds out what the machine offers.
const probeTimeout = 30 * time.Second

// isolation is what apps get of the machine's means to keep them apart.
type isolation struct {
	namespaces bool
	users      bool             // each instance has a user of its own
	cgroups    *confine.Cgroups // nil: there are none
	lacks      []string         // why it is no more
}

// level is the level that this is.
func (i isolation) level() string {
	switch {
	case i.namespaces && i.cgroups != nil:
		return IsolationFull
	case i.namespaces:
		return IsolationNamespaces
	}
	return IsolationProcesses
}

// findIsolation finds the best that the machine offers, by trying it, and fails
// if that is less than is demanded.
func findIsolation(ctx context.Context, c Config, self []string) (isolation, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var found isolation
	// The same for each run of this DEA, and another than that of others here.
	name := sha256.Sum256([]byte(c.BaseDir))
	cgroups, err := confine.FindCgroups("dea-" + hex.EncodeToString(name[:6]))
	if err == nil {
		found.cgroups = cgroups
	} else {
		found.lacks = append(found.lacks, err.Error())
	}
	try := func(namespaces, users bool) error {
		spec := warden.Spec{Spec: confine.Spec{
			Namespaces: namespaces, Visible: confine.SystemPaths(),
			Limits: confine.Limits{MemoryBytes: 64 << 20, DiskBytes: 64 << 20, OpenFiles: 256, Processes: 64},
		}}
		if users {
			spec.UID, spec.GID = firstUser, firstUser
		}
		trial := "trial-" + randomHex()
		return warden.Probe(ctx, self, recordsFolder(c, trial), filepath.Join(c.BaseDir, "apps", trial), spec)
	}
	if os.Geteuid() == 0 {
		err := try(true, true)
		if err == nil {
			found.namespaces, found.users = true, true
		} else {
			found.lacks = append(found.lacks, err.Error())
		}
	}
	if !found.namespaces {
		if err := try(true, false); err == nil {
			found.namespaces = true
		} else {
			found.lacks = append(found.lacks, err.Error())
		}
	}
	if !found.namespaces && os.Geteuid() == 0 {
		// Root's processes have no limit on their number: with users there is one.
		if err := try(false, true); err == nil {
			found.users = true
		} else {
			found.lacks = append(found.lacks, err.Error())
		}
	}
	if !found.namespaces && !found.users {
		if err := try(false, false); err != nil {
			return isolation{}, fmt.Errorf("cannot run apps on this machine: %w", err)
		}
	}
	if slices.Index(isolationLevels, found.level()) < slices.Index(isolationLevels, c.Isolation) {
		return isolation{}, fmt.Errorf("this machine offers the isolation %q, and %q is demanded: %s; let it offer more, or set isolation to %q",
			found.level(), c.Isolation, strings.Join(found.lacks, "; "), found.level())
	}
	return found, nil
}

// close gives back what nothing is in any more.
func (i isolation) close() {
	if i.cgroups != nil {
		i.cgroups.Close()
	}
}

// varz says what apps have.
func (i isolation) varz() map[string]any {
	cgroups := "none"
	if i.cgroups != nil {
		cgroups = fmt.Sprintf("v%d", i.cgroups.Version())
	}
	return map[string]any{"level": i.level(), "namespaces": i.namespaces, "users": i.users, "cgroups": cgroups, "lacks": i.lacks}
}
