package localvm

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"
)

// Files and folders of a VM, besides those of a daemon.
const (
	HostKeyFile    = "ssh_host_ed25519_key"
	ServicesFolder = "services"
	LogFolder      = "log" // of the boot services
)

// FolderCheck is the interval in which a daemon checks that its folder exists.
const FolderCheck = 2 * time.Second

// Machine is config.json of a VM: the provider writes it, the init reads it.
type Machine struct {
	ID            string            `json:"id"`
	Group         string            `json:"group"`
	Index         int64             `json:"index"`
	Beside        bool              `json:"beside,omitempty"`
	Address       string            `json:"address"`
	SSHPort       int64             `json:"ssh_port"`
	AuthorizedKey string            `json:"authorized_key"`
	Disk          string            `json:"disk,omitempty"`
	Isolation     string            `json:"isolation,omitempty"` // as asked for; "": none
	Bridge        string            `json:"bridge,omitempty"`    // the range of the bridge that it is on; "": none, on the loopback
	Image         string            `json:"image,omitempty"`     // the folder that the VM has a copy of
	Tags          map[string]string `json:"tags,omitempty"`
}

// SSHAddress returns the "host:port" that the init listens on.
func (m Machine) SSHAddress() string {
	return net.JoinHostPort(m.Address, strconv.FormatInt(m.SSHPort, 10))
}

// Network returns the address on its bridge, not valid if it is on none.
func (m Machine) Network() netip.Prefix {
	cidr, err := netip.ParsePrefix(m.Bridge)
	a, err2 := netip.ParseAddr(m.Address)
	if err != nil || err2 != nil {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, cidr.Bits())
}

// ReadHostKey reads the SSH host key in a VM's folder. The error wraps
// fs.ErrNotExist if there is none, ErrBroken if it cannot be parsed.
func ReadHostKey(dir string) (ssh.Signer, error) {
	data, err := os.ReadFile(filepath.Join(dir, HostKeyFile))
	if err != nil {
		return nil, fmt.Errorf("cannot read the host key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("%w: its host key: %w", ErrBroken, err)
	}
	return signer, nil
}

// Publication is config.json of a published address: the provider writes it, the
// forwarder reads it.
type Publication struct {
	ID      string   `json:"id"`
	Listen  string   `json:"listen"`
	Targets []string `json:"targets"`
}
