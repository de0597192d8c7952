// Package firewall makes the rules of nftables that let onto a VM what its deployment
// wants, and nothing else. They are one table, which belongs to one agent; it is
// replaced as a whole, so at no moment half of it holds. Other tables are not touched.
// It is for VMs that are an instance's alone: what a template calls system.
package firewall

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/host/proc"
)

// limit bounds one run of nft.
const limit = 30 * time.Second

// Table is the table of an agent.
type Table struct {
	// Dir is the agent's folder, absolute. firewall.nft in it is what the table holds.
	Dir string
}

// name returns the table's name, another one for each folder.
func (t Table) name() string {
	sum := sha256.Sum256([]byte(t.Dir))
	return "deploy_" + hex.EncodeToString(sum[:4])
}

func (t Table) file() string { return filepath.Join(t.Dir, "firewall.nft") }

// Rules returns the table in nft's language: replies, loopback, ICMP, DHCP and SSH
// are let in; every port for peers and for the ranges that the firewall allows;
// public ports for everybody. Everything else is dropped. Outgoing and forwarded
// packets are not looked at.
func (t Table) Rules(f api.Firewall, peers []string) ([]byte, error) {
	var ranges []netip.Prefix
	for _, text := range slices.Concat(peers, f.Allow) {
		prefix, err := parseRange(text)
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, prefix)
	}
	ports := map[string][]int{"tcp": slices.Clone(f.SSH)}
	for _, p := range f.Public {
		if p.Network != "tcp" && p.Network != "udp" {
			return nil, fmt.Errorf("cannot open port %d: network %q is neither tcp nor udp", p.Number, p.Network)
		}
		ports[p.Network] = append(ports[p.Network], p.Number)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "table inet %s\ndelete table inet %s\ntable inet %s {\n", t.name(), t.name(), t.name())
	b.WriteString("\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n")
	b.WriteString("\t\tct state established,related accept\n\t\tiifname \"lo\" accept\n\t\tmeta l4proto { icmp, ipv6-icmp } accept\n\t\tudp dport { 68, 546 } accept\n")
	for _, network := range []string{"tcp", "udp"} {
		all := ports[network]
		slices.Sort(all)
		for i, p := range all {
			if p < 1 || p > 65535 {
				return nil, fmt.Errorf("cannot open %s port %d: there is no such port", network, p)
			}
			if i == 0 || all[i-1] != p {
				fmt.Fprintf(&b, "\t\t%s dport %d accept\n", network, p)
			}
		}
	}
	slices.SortFunc(ranges, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	for _, r := range slices.Compact(ranges) {
		family := "ip6"
		if r.Addr().Is4() {
			family = "ip"
		}
		fmt.Fprintf(&b, "\t\t%s saddr %s accept\n", family, r)
	}
	b.WriteString("\t}\n}\n")
	return b.Bytes(), nil
}

// parseRange reads an address or a range of addresses.
func parseRange(text string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(text); err == nil && address.Zone() == "" {
		address = address.Unmap()
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("cannot let %q in: it is neither an address nor a range such as 10.0.0.0/8", text)
	}
	return prefix.Masked(), nil
}

// Apply makes the table hold these rules. It refuses if no SSH server listens on a
// port that they leave open: nobody could get back onto the VM to repair it.
func (t Table) Apply(ctx context.Context, f api.Firewall, peers []string) error {
	rules, err := t.Rules(f, peers)
	if err != nil {
		return err
	}
	served := slices.ContainsFunc(f.SSH, proc.Listens)
	if !served {
		return fmt.Errorf("cannot set the firewall: no SSH server listens on the ports %v of this VM, and nobody could log in any more; let it listen there, or take the firewall block out of the manifest", f.SSH)
	}
	// The file is written first: by it an uninstall learns that there is a table.
	if err := renameio.WriteFile(t.file(), rules, 0o644); err != nil {
		return fmt.Errorf("cannot note the firewall's rules: %w", err)
	}
	return t.run(ctx, rules, "-f", "-")
}

// InPlace reports whether the kernel has the table. Somebody may have flushed all rules.
func (t Table) InPlace(ctx context.Context) bool {
	return t.run(ctx, nil, "list", "table", "inet", t.name()) == nil
}

// Remove removes the table, if Apply has ever made it.
func (t Table) Remove(ctx context.Context) error {
	if _, err := os.Stat(t.file()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// nft fails to delete a table that does not exist, so the table is declared first.
	if err := t.run(ctx, fmt.Appendf(nil, "table inet %s\ndelete table inet %s\n", t.name(), t.name()), "-f", "-"); err != nil {
		return err
	}
	if err := os.Remove(t.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the firewall's rules: %w", err)
	}
	return nil
}

// run runs nft, which Debian keeps where an ordinary user's PATH does not look.
func (t Table) run(ctx context.Context, input []byte, args ...string) error {
	program, err := exec.LookPath("nft")
	if err != nil {
		program = "/usr/sbin/nft"
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot set the firewall: there is no program nft on this VM; install it with: apt-get install nftables")
	}
	if err != nil {
		return fmt.Errorf("cannot set the firewall: nft %s: %w: %.500s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
