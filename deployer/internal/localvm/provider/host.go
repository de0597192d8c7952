package provider

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// DefaultCIDR and DefaultSSHPort are what templates/local uses where its
// settings say nothing.
const (
	DefaultCIDR    = "127.40.0.0/16"
	DefaultSSHPort = 2222
)

// Folders of a VM that only the provider makes.
const (
	agentFolder = "agent"
	imageFolder = "image"
)

// Folders beside the VMs, whose names have a number.
const (
	disksFolder     = "disks"
	publishedFolder = "published"
)

// host makes, changes and ends what a deployment has on this machine, all of
// it below one folder.
type host struct {
	dir        string
	executable string // runs "local-init" and "local-publish"

	allocating sync.Mutex // from the choice of an address until it stands in a VM's folder

	freeing sync.Mutex
	freed   map[string]string // addresses of the VMs that this run of the engine deleted, by folder
}

func seatOf(c localvm.Machine) seat { return seat{c.Group, c.Index, c.Beside} }

// machineState is a VM as it is.
type machineState struct {
	localvm.Machine
	HostKey string // authorized_keys form
	Level   string // of isolation
	Running bool
}

// place asks for an address: the static one, or the lowest free of a range.
type place struct {
	cidr   netip.Prefix
	static netip.Addr // not valid: any
}

// seat is one of the two VMs that an instance can have: the second is made
// beside the first, which goes later.
type seat struct {
	group  string
	index  int64
	beside bool
}

func (s seat) String() string { return fmt.Sprintf("%s/%d", s.group, s.index) }

func (h *host) machineDir(s seat) string {
	name := fmt.Sprintf("%s-%d", s.group, s.index)
	if s.beside {
		name += "-beside"
	}
	return filepath.Join(h.dir, name)
}

func (h *host) agentDir(s seat) string { return filepath.Join(h.machineDir(s), agentFolder) }

// keptAddress returns what a VM that replaces the one in its place takes over, "" if
// there is none or its address is not within cidr any more.
func (h *host) keptAddress(s seat, network, cidr string) string {
	dir := h.machineDir(s)
	h.freeing.Lock()
	address := h.freed[dir]
	h.freeing.Unlock()
	var c localvm.Machine
	if _, err := localvm.ReadConfig(dir, &c); err == nil {
		address = c.Address
	}
	wanted, err := checkCIDR(network, cidr)
	a, err2 := netip.ParseAddr(address)
	if errors.Join(err, err2) != nil || !wanted.Contains(a) {
		return ""
	}
	return address
}

// folderPrefix begins the ids of everything that ever ran for a folder, so
// that what it left behind is found even when the folder is gone.
func folderPrefix(dir string) string { return "vm-" + localvm.Digest([]byte(dir))[:12] + "-" }

func newID(dir string) (string, error) {
	random := make([]byte, 6)
	if _, err := rand.Read(random); err != nil {
		return "", err
	}
	return folderPrefix(dir) + hex.EncodeToString(random), nil
}

// wipe ends and removes whatever was in a folder, also what an interrupted
// run left that Terraform does not know of.
func wipe(ctx context.Context, dir string) error {
	prefix := folderPrefix(dir)
	if err := localvm.Stop(ctx, dir, func(id string) bool { return strings.HasPrefix(id, prefix) }); err != nil {
		return fmt.Errorf("cannot end what %s left behind: %w", dir, err)
	}
	if err := localvm.Disconnect(dir); err != nil {
		return fmt.Errorf("cannot end what %s left behind: %w", dir, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove %s: %w", dir, err)
	}
	return nil
}

// createMachine makes a VM and starts it; c lacks id and address. When it
// fails nothing is left of it.
func (h *host) createMachine(ctx context.Context, c localvm.Machine, where place) (machineState, error) {
	dir := h.machineDir(seatOf(c))
	err := wipe(ctx, dir)
	if err == nil {
		err = h.fillMachine(ctx, dir, &c, where)
	}
	if err == nil {
		err = h.bootNew(ctx, dir, &c, where)
	}
	var made machineState
	if err == nil {
		made, err = h.readMachine(seatOf(c))
	}
	if err != nil {
		// The context may be the reason for the failure, and there is work to do still.
		return machineState{}, errors.Join(
			fmt.Errorf("cannot create VM %s: %w", seatOf(c), err), wipe(context.WithoutCancel(ctx), dir))
	}
	return made, nil
}

func (h *host) fillMachine(ctx context.Context, dir string, c *localvm.Machine, where place) error {
	for _, folder := range []string{"", localvm.ServicesFolder, agentFolder, localvm.LogFolder} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			return err
		}
	}
	if c.Image != "" {
		if err := copyFolder(ctx, c.Image, filepath.Join(dir, imageFolder)); err != nil {
			return fmt.Errorf("cannot copy the image %s: %w", c.Image, err)
		}
	}
	if err := writeHostKey(dir); err != nil {
		return err
	}
	var err error
	if c.ID, err = newID(dir); err != nil {
		return err
	}
	return nil
}

// bootNew gives a new VM its address and starts it. Someone else may take an
// address between the choice and the start, then the next one is tried.
func (h *host) bootNew(ctx context.Context, dir string, c *localvm.Machine, where place) error {
	lost := map[netip.Addr]bool{}
	for {
		address, err := h.allocate(ctx, dir, c, where, lost)
		if err != nil {
			return err
		}
		err = h.startInit(ctx, dir, *c)
		if errors.Is(err, localvm.ErrAddressInUse) && !where.static.IsValid() {
			lost[address] = true
			continue
		}
		return err
	}
}

// allocate chooses an address and writes it down.
func (h *host) allocate(ctx context.Context, dir string, c *localvm.Machine, where place, lost map[netip.Addr]bool) (netip.Addr, error) {
	h.allocating.Lock()
	defer h.allocating.Unlock()
	taken, err := h.addresses()
	if err != nil {
		return netip.Addr{}, err
	}
	delete(taken, dir)
	unavailable := map[netip.Addr]bool{}
	for owner, a := range taken {
		if a == where.static {
			return netip.Addr{}, fmt.Errorf("cannot use address %s: VM %s has it", a, filepath.Base(owner))
		}
		unavailable[a] = true
	}
	for a := range lost {
		unavailable[a] = true
	}
	if c.Bridge != "" {
		unavailable[localvm.Gateway(where.cidr)] = true
	}
	address := where.static
	try := func(a netip.Addr) error {
		if c.Bridge != "" {
			return localvm.AddressFree(dir, a)
		}
		return canListen(netip.AddrPortFrom(a, uint16(c.SSHPort)).String())
	}
	if address.IsValid() {
		if err := try(address); err != nil {
			return netip.Addr{}, fmt.Errorf("cannot use address %s: %w", address, err)
		}
	} else if address, err = lowestFree(ctx, where.cidr, unavailable, try); err != nil {
		return netip.Addr{}, err
	}
	c.Address = address.String()
	_, err = localvm.WriteConfig(dir, c)
	return address, err
}

// addresses are those of this deployment's VMs, running or not, by folder.
func (h *host) addresses() (map[string]netip.Addr, error) {
	entries, err := os.ReadDir(h.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // there is none before the first VM
		return nil, fmt.Errorf("cannot list VMs: %w", err)
	}
	taken := map[string]netip.Addr{}
	for _, entry := range entries {
		dir := filepath.Join(h.dir, entry.Name())
		var c localvm.Machine
		if _, err := localvm.ReadConfig(dir, &c); err != nil {
			continue // no VM, or one that is being made or is broken: without an address
		}
		if a, err := netip.ParseAddr(c.Address); err == nil {
			taken[dir] = a
		}
	}
	return taken, nil
}

// readMachine returns a VM as it is; see gone for its errors.
func (h *host) readMachine(s seat) (machineState, error) {
	dir := h.machineDir(s)
	var m machineState
	config, err := localvm.ReadConfig(dir, &m.Machine)
	if err != nil {
		return m, err
	}
	signer, err := localvm.ReadHostKey(dir)
	if err != nil {
		return m, err
	}
	m.HostKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	m.Level = isolationOf(dir)
	status, _, alive := localvm.Find(dir)
	m.Running = alive && status.ID == m.ID && status.Listen == m.SSHAddress() && status.Config == config
	return m, nil
}

// gone tells whether an error of reading means that the thing is not there, or
// broken beyond use: then it is made anew.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, localvm.ErrBroken)
}

// updateMachine gives a VM what may change under it and starts it if it does
// not run. c holds id and address as they were created.
func (h *host) updateMachine(ctx context.Context, c localvm.Machine) (machineState, error) {
	dir := h.machineDir(seatOf(c))
	localvm.Await(ctx, localvm.Init, dir, c.ID)
	config, err := localvm.WriteConfig(dir, c)
	if _, _, alive := localvm.Find(dir); err == nil && !alive {
		err = mendHostKey(dir)
	}
	if err == nil {
		s, _, alive := localvm.Find(dir)
		switch {
		case alive && s.ID == c.ID && s.Listen == c.SSHAddress():
			err = localvm.Reload(ctx, localvm.Init, dir, config)
		case alive: // it serves what someone else wrote into its configuration: boot it anew
			if err = localvm.Stop(ctx, dir, func(id string) bool { return id == s.ID || id == c.ID }); err == nil {
				err = h.startInit(ctx, dir, c)
			}
		default:
			err = h.startInit(ctx, dir, c)
		}
	}
	if errors.Is(err, localvm.ErrAddressInUse) {
		err = fmt.Errorf("%w; end what listens on %s", err, c.SSHAddress())
	}
	var m machineState
	if err == nil {
		m, err = h.readMachine(seatOf(c))
	}
	if err != nil {
		return m, fmt.Errorf("cannot update VM %s: %w", seatOf(c), err)
	}
	return m, nil
}

// deleteMachine ends everything of a VM and removes its folder. A folder that
// holds another VM by now stays.
func (h *host) deleteMachine(ctx context.Context, s seat, id string) error {
	dir := h.machineDir(s)
	var c localvm.Machine
	_, err := localvm.ReadConfig(dir, &c)
	if err == nil && c.ID != id && !h.foreign(s, c.ID, id) {
		err = localvm.EndAll(ctx, localvm.ProcessGrace, func() ([]localvm.Process, error) {
			return localvm.ProcessesWith(func(v string) bool { return v == id })
		})
	} else {
		// The engine plans the VM that takes its place once more, after this.
		h.freeing.Lock()
		if h.freed == nil {
			h.freed = map[string]string{}
		}
		h.freed[dir] = c.Address
		h.freeing.Unlock()
		err = wipe(ctx, dir)
	}
	if err != nil {
		return fmt.Errorf("cannot delete VM %s: %w", s, err)
	}
	return nil
}

// userName returns whom VMs let in: everything runs as the current user.
func userName() (string, error) {
	u, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("cannot tell the current user: %w", err)
	}
	return u.Username, nil
}

// RemoveEmpty removes the folder of a deployment's VMs, and those for disks,
// publications and addresses in it, if nothing is left in them. So it does with bridges
// that an interrupted run made.
func RemoveEmpty(dir string) {
	_ = localvm.Disconnect(dir) // what cannot be removed, somebody uses
	for _, folder := range []string{filepath.Join(dir, disksFolder), filepath.Join(dir, publishedFolder), filepath.Join(dir, addressesFolder), dir} {
		_ = os.Remove(folder) // fails if it is not empty, as it shall
	}
}

// publicationState is a publication as it is.
type publicationState struct {
	localvm.Publication
	Running bool
}

func (h *host) publicationDir(listen string) string {
	return filepath.Join(h.dir, publishedFolder, strings.NewReplacer(":", "_", "/", "_").Replace(listen))
}

// createPublication starts to forward an address.
func (h *host) createPublication(ctx context.Context, listen string, targets []string) (publicationState, error) {
	dir := h.publicationDir(listen)
	err := wipe(ctx, dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	c := localvm.Publication{Listen: listen, Targets: targets}
	if err == nil {
		c.ID, err = newID(dir)
	}
	if err == nil {
		_, err = localvm.WriteConfig(dir, c)
	}
	if err == nil {
		err = localvm.Start(ctx, h.executable, localvm.Publish, dir, c.ID, localvm.Space{})
	}
	if errors.Is(err, localvm.ErrAddressInUse) {
		err = fmt.Errorf("%w; end what listens on %s, or publish at another address", err, listen)
	}
	if err != nil {
		return publicationState{}, errors.Join(
			fmt.Errorf("cannot publish %s: %w", listen, err), wipe(context.WithoutCancel(ctx), dir))
	}
	return publicationState{Publication: c, Running: true}, nil
}

// readPublication returns a publication as it is; see gone for its errors.
func (h *host) readPublication(listen string) (publicationState, error) {
	dir := h.publicationDir(listen)
	var p publicationState
	config, err := localvm.ReadConfig(dir, &p.Publication)
	if err != nil {
		return p, err
	}
	s, _, alive := localvm.Find(dir)
	p.Running = alive && s.ID == p.ID && s.Listen == listen && s.Config == config
	return p, nil
}

// updatePublication changes the targets and starts the forwarding again if it
// has ended.
func (h *host) updatePublication(ctx context.Context, c localvm.Publication) (publicationState, error) {
	dir := h.publicationDir(c.Listen)
	config, err := localvm.WriteConfig(dir, c)
	if err == nil {
		if _, _, alive := localvm.Find(dir); alive {
			err = localvm.Reload(ctx, localvm.Publish, dir, config)
		} else {
			err = localvm.Start(ctx, h.executable, localvm.Publish, dir, c.ID, localvm.Space{})
		}
	}
	if err != nil {
		return publicationState{}, fmt.Errorf("cannot publish %s: %w", c.Listen, err)
	}
	return publicationState{Publication: c, Running: true}, nil
}

func (h *host) deletePublication(ctx context.Context, listen string) error {
	if err := wipe(ctx, h.publicationDir(listen)); err != nil {
		return fmt.Errorf("cannot end the publication of %s: %w", listen, err)
	}
	return nil
}

func (h *host) diskDir(group string, index int64) string {
	return filepath.Join(h.dir, disksFolder, fmt.Sprintf("%s-%d", group, index))
}

// startInit starts the init of a VM at the level of isolation that is asked for. A VM
// on a bridge always has namespaces: its network ends with its processes.
func (h *host) startInit(ctx context.Context, dir string, c localvm.Machine) error {
	start := func(namespaces bool) error {
		return localvm.Start(ctx, h.executable, localvm.Init, dir, c.ID, localvm.Space{Namespaces: namespaces, Network: c.Network()})
	}
	if c.Bridge == "" && c.Isolation != localvm.IsolationNamespaces && c.Isolation != localvm.IsolationAuto {
		return start(false)
	}
	err := start(true)
	if errors.Is(err, localvm.ErrNoNamespaces) && c.Bridge == "" && c.Isolation == localvm.IsolationAuto {
		return start(false)
	}
	return err
}

// isolationOf is the level at which a VM runs.
func isolationOf(dir string) string {
	if s := localvm.ReadStatus(dir); s != nil {
		return cmp.Or(s.Isolation, localvm.IsolationNone)
	}
	return localvm.IsolationNone
}
