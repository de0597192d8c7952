package warden

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/confine/network"
)

// surveyTimeout bounds the trial runs that find out what the machine offers: a machine
// that is emulated by a busy one takes over half a minute. A hook of five minutes waits for it.
const surveyTimeout = 4 * time.Minute

// Machine describes what a machine offers to keep users' programs apart.
type Machine struct {
	Namespaces bool
	Network    bool             // each program can have a network of its own
	Users      bool             // each program can have a user of its own
	Cgroups    *confine.Cgroups // nil: there are none
	Landlock   int              // version; 0: none
	Lacks      []string         // why it is no more
}

// Trial says how a machine is tried out.
type Trial struct {
	// Warden is the program that wardens are, with its first arguments.
	Warden []string
	// Records and Folder are where records and folders of programs lie.
	Records, Folder string
	// User is one that programs may get, if we are root.
	User int
	// Cgroups is the group of the programs' control groups; the same for each run of
	// a component, and another than that of others here.
	Cgroups string
}

// CgroupName returns a name for the control groups of the component that keeps its
// files in a folder.
func CgroupName(component, folder string) string {
	sum := sha256.Sum256([]byte(folder))
	return component + "-" + hex.EncodeToString(sum[:6])
}

// Survey finds the best that the machine offers, by running a program with it. It
// fails if no program can be run at all, or if the time is up: a slow machine offers no
// less than a quick one.
func Survey(ctx context.Context, t Trial) (found Machine, failed error) {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	m := Machine{Landlock: confine.Landlock()}
	lacks := func(err error) bool {
		if err != nil {
			m.Lacks = append(m.Lacks, err.Error())
		}
		return err != nil
	}
	var err error
	if m.Cgroups, err = confine.FindCgroups(t.Cgroups); lacks(err) {
		m.Cgroups = nil
	}
	if m.Landlock == 0 {
		m.Lacks = append(m.Lacks, "this kernel has no Landlock (Linux 5.19, and \"landlock\" in the kernel's list of security modules)")
	}
	root := os.Geteuid() == 0
	try := func(namespaces, users, ownNetwork bool) error {
		spec := Spec{Spec: confine.Spec{
			Namespaces: namespaces, Visible: confine.SystemPaths(),
			Limits: confine.Limits{MemoryBytes: 64 << 20, DiskBytes: 64 << 20, OpenFiles: 256, Processes: 64},
		}}
		if users {
			spec.UID, spec.GID = t.User, t.User
		}
		if ownNetwork {
			spec.Network = &network.Policy{Address: "127.0.0.1"}
		}
		name := "trial-" + rand.Text()
		return Probe(ctx, t.Warden, filepath.Join(t.Records, name), filepath.Join(t.Folder, name), spec)
	}
	defer func() {
		if ctx.Err() != nil {
			m.Close()
			found, failed = Machine{}, fmt.Errorf("cannot find out in time how this machine can keep users' programs apart: %w; it is too slow or too busy: try again when it has less to do", context.Cause(ctx))
		}
	}()
	for _, offer := range []struct{ namespaces, users bool }{{true, true}, {true, false}, {false, true}, {false, false}} {
		if offer.users && !root {
			continue
		}
		if err = try(offer.namespaces, offer.users, false); !lacks(err) {
			m.Namespaces, m.Users = offer.namespaces, offer.users
			m.Network = m.Namespaces && !lacks(try(true, m.Users, true))
			return m, nil
		}
	}
	m.Close()
	return Machine{}, fmt.Errorf("cannot run programs of users on this machine: %s", strings.Join(m.Lacks, "; "))
}

// Level returns the level that this is.
func (m Machine) Level() string {
	switch {
	case m.Namespaces && m.Users && m.Cgroups != nil:
		return confine.LevelFull
	case m.Namespaces:
		return confine.LevelNamespaces
	}
	return confine.LevelProcesses
}

// Require returns an error, which says what to do, if the machine offers less than
// a level.
func (m Machine) Require(level string) error {
	levels := confine.Levels()
	if slices.Index(levels, m.Level()) >= slices.Index(levels, level) {
		return nil
	}
	advice := "run this VM's agent as root"
	if os.Geteuid() == 0 {
		advice = "run this VM where root may make namespaces and control groups"
	} else if !m.Namespaces {
		advice = "let ordinary users make namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0), or " + advice
	}
	accept := fmt.Sprintf("set the job's property isolation to %q", m.Level())
	if m.Level() == confine.LevelProcesses {
		accept += ", which is for users who trust each other and whom you trust with the deployment's own secrets"
	}
	return fmt.Errorf("this machine keeps users' programs apart by %q only, and the job requires %q: %s; or %s. What it lacks: %s",
		m.Level(), level, advice, accept, strings.Join(m.Lacks, "; "))
}

// The values of the property network of who runs programs.
const (
	NetworkOwn    = "own"    // each program has a network of its own
	NetworkShared = "shared" // all have the machine's
)

// RequireNetwork returns an error, which says what to do, if programs are to have
// networks of their own and the machine lets them not. At the level of processes
// nothing has any.
func (m Machine) RequireNetwork(want string) error {
	if want != NetworkOwn || m.Network || !m.Namespaces {
		return nil
	}
	return fmt.Errorf("this machine gives users' programs no network of their own, and the job requires it: "+
		"let the kernel have network namespaces and nftables with nat, redirect and reject; or set the job's property network to %q, with which an app reaches the ports of the others. What it lacks: %s",
		NetworkShared, strings.Join(m.Lacks, "; "))
}

// Close gives back the control groups that nothing is in.
func (m Machine) Close() {
	if m.Cgroups != nil {
		m.Cgroups.Close()
	}
}

// Varz tells what programs have.
func (m Machine) Varz() map[string]any {
	cgroups := "none"
	if m.Cgroups != nil {
		cgroups = fmt.Sprintf("v%d", m.Cgroups.Version())
	}
	return map[string]any{
		"level": m.Level(), "namespaces": m.Namespaces, "network": m.Network, "users": m.Users, "cgroups": cgroups, "landlock": m.Landlock, "lacks": m.Lacks,
	}
}
