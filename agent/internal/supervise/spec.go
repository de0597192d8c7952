package supervise

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/shim"
)

// Rotation of logs: at logBytes, logKeep rotated files are kept.
const (
	logBytes = 10 << 20
	logKeep  = 5
)

// What stops a process that does not say.
const (
	defaultStopSignal = "TERM"
	defaultStopGrace  = 10 * time.Second
)

func stopSignal(p api.Process) string {
	if p.StopSignal == "" {
		return defaultStopSignal
	}
	return p.StopSignal
}

func stopGrace(p api.Process) time.Duration {
	if p.StopGrace <= 0 {
		return defaultStopGrace
	}
	return time.Duration(p.StopGrace) * time.Millisecond
}

// shimSpec returns what the shim shall start, with the folders that it needs made
// and what an earlier start has left of its control socket removed.
func shimSpec(n names, base []string, w wanted) (shim.Spec, error) {
	p := w.Process
	who, err := lookUser(p.User)
	if err != nil {
		return shim.Spec{}, err
	}
	if err := makeFolders(n, who); err != nil {
		return shim.Spec{}, err
	}
	id := rand.Text()
	spec := shim.Spec{
		ID: id, Command: p.Command, Dir: p.Dir, Limits: p.Limits, KillMode: p.KillMode,
		Env:        append(environment(n, base, p, who), shim.ProcessVariable+"="+id),
		StopSignal: stopSignal(p), StopGraceMS: stopGrace(p).Milliseconds(),
		Log: n.log(), LogBytes: logBytes, LogKeep: logKeep,
		Digest: p.Digest, ReloadDigest: p.ReloadDigest, Generation: w.Generation,
	}
	if who != nil {
		spec.User = &who.User
	}
	if spec.Dir == "" {
		spec.Dir = n.data()
	}
	if spec.KillMode == "" {
		spec.KillMode = api.KillGroup
	}
	return spec, nil
}

// environment returns what a process and its commands get, but for the id of the
// start, which comes last there: programs that write their title over their
// environment begin at its front.
func environment(n names, base []string, p api.Process, who *account) []string {
	all := make(map[string]string)
	for _, variable := range base {
		name, value, _ := strings.Cut(variable, "=")
		all[name] = value
	}
	if who != nil {
		all["HOME"], all["USER"], all["LOGNAME"] = who.home, who.name, who.name
	}
	maps.Copy(all, p.Env)
	delete(all, "DEPLOY_CONTROL")
	delete(all, shim.ProcessVariable)
	if p.Control {
		all["DEPLOY_CONTROL"] = n.control()
	}
	env := make([]string, 0, len(all)+1)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		env = append(env, name+"="+all[name])
	}
	return env
}

// account is another user than our own.
type account struct {
	shim.User
	name, home string
}

// lookUser finds the user to run as; nil is our own, which is also the only one
// that an agent without privileges has.
func lookUser(name string) (*account, error) {
	if name == "" || os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("cannot run as user %s: %w", name, err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("cannot run as user %s: its groups: %w", name, err)
	}
	ids := make([]uint32, 0, len(groups)+2)
	for _, text := range append([]string{u.Uid, u.Gid}, groups...) {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("cannot run as user %s: %w", name, err)
		}
		ids = append(ids, uint32(id))
	}
	if ids[0] == 0 {
		return nil, nil
	}
	return &account{shim.User{UID: ids[0], GID: ids[1], Groups: ids[2:]}, name, u.HomeDir}, nil
}

// credential is the account as system calls take it.
func (a *account) credential() *syscall.Credential {
	if a == nil {
		return nil
	}
	return &syscall.Credential{Uid: a.UID, Gid: a.GID, Groups: a.Groups}
}

func makeFolders(n names, who *account) error {
	for _, folder := range []string{n.run(), n.data(), filepath.Dir(n.log())} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return fmt.Errorf("cannot make a folder: %w", err)
		}
	}
	if err := os.Remove(n.control()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the control socket of an earlier start: %w", err)
	}
	if who == nil {
		return nil
	}
	// The user may make sockets and pid files in run/<job>, and, by the sticky
	// bit, not replace what the agent keeps there.
	if err := os.Chown(n.run(), 0, int(who.GID)); err != nil {
		return err
	}
	if err := os.Chmod(n.run(), 0o775|fs.ModeSticky); err != nil {
		return err
	}
	return os.Chown(n.data(), int(who.UID), int(who.GID))
}
