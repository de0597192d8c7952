// Package names gives a VM its host name, and the names of the deployment's instances
// in /etc/hosts. In that file it owns one block; all else stays as it is. It is for
// VMs that are an instance's alone: what a template calls system.
package names

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/agent/api"
)

// The lines around the block.
const (
	begin = "# BEGIN deploy: the instances of this deployment; what is changed here is written anew"
	end   = "# END deploy"
)

// label matches what a host may be called. Groups may have an underscore.
var label = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*$`)

// mostHost is the longest host name that the kernel takes, in bytes; a label of a name
// in DNS has at most 63.
const mostHost = 63

// Host returns the host name of an instance: router-0 for router/0. Of a group whose name
// is too long it is the beginning, a digest of the whole, and the index.
func Host(instance string) string {
	host := strings.ReplaceAll(instance, "/", "-")
	if len(host) <= mostHost {
		return host
	}
	sum := sha256.Sum256([]byte(instance))
	tail := "-" + hex.EncodeToString(sum[:4]) + host[strings.LastIndexByte(host, '-'):]
	return strings.TrimRight(host[:max(1, mostHost-len(tail))], "-_") + tail
}

// Block returns the lines for /etc/hosts, with the lines around them; nil without
// names. Each instance has the name of its host, with and without the deployment's
// domain, and the name by which the job dns knows it.
func Block(deployment string, list []api.Name) ([]byte, error) {
	if len(list) == 0 {
		return nil, nil
	}
	if !label.MatchString(deployment) {
		return nil, fmt.Errorf("cannot name hosts after the deployment %q: it is no host name", deployment)
	}
	var b bytes.Buffer
	b.WriteString(begin + "\n")
	for _, n := range list {
		group, index, err := api.SplitInstance(n.Instance)
		if err != nil || !label.MatchString(group) {
			return nil, fmt.Errorf("cannot name a host after the instance %q: it is no host name", n.Instance)
		}
		address, err := netip.ParseAddr(n.Address)
		if err != nil || address.Zone() != "" {
			return nil, fmt.Errorf("cannot name the host of %s: %q is no address", n.Instance, n.Address)
		}
		fmt.Fprintf(&b, "%s %s.%s.internal %s %d.%s.%s.internal\n", address, Host(n.Instance), deployment, Host(n.Instance), index, group, deployment)
	}
	b.WriteString(end + "\n")
	return b.Bytes(), nil
}

// Replace returns the file with this block as the only one, at its beginning: the
// first line that has a name counts, and distributions give a host its own name at
// 127.0.1.1. Without a block it only removes. A block whose end is missing is the
// line that begins it, so that no line of others is taken for ours.
func Replace(file, block []byte) []byte {
	var rest []byte
	for len(file) > 0 {
		line, after := cut(file)
		if string(bytes.TrimRight(line, "\r\n")) != begin {
			rest, file = append(rest, line...), after
			continue
		}
		file = after
		if _, behind, found := split(after); found {
			file = behind
		}
	}
	return append(bytes.Clone(block), rest...)
}

// Found returns the first block of a file, nil if it has none.
func Found(file []byte) []byte {
	for at := file; len(at) > 0; {
		line, after := cut(at)
		if string(bytes.TrimRight(line, "\r\n")) == begin {
			if body, _, found := split(after); found {
				return append(bytes.Clone(line), body...)
			}
			return nil
		}
		at = after
	}
	return nil
}

// cut returns the first line with its end, and what is behind it.
func cut(text []byte) (line, after []byte) {
	i := bytes.IndexByte(text, '\n') + 1
	if i == 0 {
		i = len(text)
	}
	return text[:i], text[i:]
}

// split returns the lines up to a block's end with that, and what is behind them. A
// line that begins a block ends the search: the end is another block's.
func split(text []byte) (body, after []byte, found bool) {
	rest := text
	for len(rest) > 0 {
		line, next := cut(rest)
		switch string(bytes.TrimRight(line, "\r\n")) {
		case end:
			return text[:len(text)-len(next)], next, true
		case begin:
			return nil, text, false
		}
		rest = next
	}
	return nil, text, false
}

// Machine is a machine on which names can be set.
type Machine struct {
	Root string // the folder that holds its /etc; "" means /
}

func (m Machine) path(name string) string { return filepath.Join("/", m.Root, "etc", name) }

// Apply gives the machine its host name and the block; without names it removes the
// block and leaves the host name. What is right already is not written.
func (m Machine) Apply(deployment, instance string, list []api.Name) error {
	block, err := Block(deployment, list)
	if err != nil {
		return err
	}
	if len(list) > 0 {
		if err := m.setHost(Host(instance)); err != nil {
			return fmt.Errorf("cannot call this VM %s: %w", Host(instance), err)
		}
	}
	path := m.path("hosts")
	file, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read the names of hosts: %w", err)
	}
	if now := Replace(file, block); !bytes.Equal(now, file) {
		if err := renameio.WriteFile(path, now, 0o644, renameio.WithExistingPermissions()); err != nil {
			return fmt.Errorf("cannot write the names of the deployment's instances: %w", err)
		}
	}
	return nil
}

func (m Machine) setHost(host string) error {
	path := m.path("hostname")
	if now, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(now)) != host {
		if err := renameio.WriteFile(path, []byte(host+"\n"), 0o644); err != nil {
			return err
		}
	}
	if m.Root != "" {
		return nil
	}
	if now, err := os.Hostname(); err != nil || now != host {
		return syscall.Sethostname([]byte(host))
	}
	return nil
}

// InPlace reports whether the machine has its host name and just this block.
func (m Machine) InPlace(deployment, instance string, list []api.Name) bool {
	block, err := Block(deployment, list)
	if err != nil {
		return false
	}
	file, err := os.ReadFile(m.path("hosts"))
	if err != nil || !bytes.Equal(Found(file), block) {
		return false
	}
	host, err := os.ReadFile(m.path("hostname"))
	return err == nil && strings.TrimSpace(string(host)) == Host(instance)
}
