package network

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Policy says what a program may reach, and on what it is reached.
type Policy struct {
	// Address is the machine's own; on its Ports the program is reached. The program
	// sees this address as its own.
	Address string `json:"address"`
	Ports   []int  `json:"ports,omitempty"`
	// Allow are networks that it may reach although they are private, with ports; see
	// ParseDestination.
	Allow []string `json:"allow,omitempty"`
	// Names, if ByName, are the only hosts that it may reach: by HTTP on port 80 and TLS
	// on port 443, or the port that a name has. "*.example.com" are those below it.
	ByName bool     `json:"by_name,omitempty"`
	Names  []string `json:"names,omitempty"`
}

// Destination is a network with ports.
type Destination struct {
	Prefix      netip.Prefix
	First, Last uint16 // ports
}

// ParseDestination reads "10.0.5.0/24", "10.0.5.7 5432" or "fd00::/8 8000-8080".
func ParseDestination(text string) (Destination, error) {
	fail := func() (Destination, error) {
		return Destination{}, fmt.Errorf("%q is not a destination: it must be a network, with ports if you like, as \"10.0.5.0/24 5432\" or \"10.0.5.7 8000-8080\"", text)
	}
	fields := strings.Fields(text)
	if len(fields) == 0 || len(fields) > 2 {
		return fail()
	}
	d := Destination{First: 1, Last: 65535}
	var err error
	if strings.Contains(fields[0], "/") {
		d.Prefix, err = netip.ParsePrefix(fields[0])
	} else {
		var address netip.Addr
		if address, err = netip.ParseAddr(fields[0]); err == nil {
			address = address.Unmap().WithZone("")
			d.Prefix = netip.PrefixFrom(address, address.BitLen())
		}
	}
	if err != nil || d.Prefix.Addr().Is4In6() {
		return fail()
	}
	d.Prefix = d.Prefix.Masked()
	if len(fields) == 2 {
		first, last, found := strings.Cut(fields[1], "-")
		if !found {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if errA != nil || errB != nil || a == 0 || a > b {
			return fail()
		}
		d.First, d.Last = uint16(a), uint16(b)
	}
	return d, nil
}

func (d Destination) has(to netip.AddrPort) bool {
	return d.Prefix.Contains(to.Addr()) && to.Port() >= d.First && to.Port() <= d.Last
}

// closed are networks that no program reaches unless the policy allows it: the machine
// itself, its neighbours and its cloud's metadata, and all private networks.
var closed = parsePrefixes(
	"0.0.0.0/8", "127.0.0.0/8", "::/96", // the machine itself, in the old form of IPv4 in IPv6, too
	"169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "168.63.129.16/32", "192.0.0.0/24", // neighbours, metadata
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15", "fc00::/7", "fec0::/10", // private
	"224.0.0.0/4", "240.0.0.0/4", "ff00::/8", // to many, and to nobody
	"64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::ffff:0:0/96", // ways to all of these
)

func parsePrefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// Closest reports whether an address is one of a machine's own neighbours or its
// cloud's metadata: nothing that a program is bound to is there.
func Closest(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, prefix := range parsePrefixes("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "168.63.129.16/32", "192.0.0.0/24", "0.0.0.0/8", "::/128") {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// destinations returns what Allow says.
func (p Policy) destinations() ([]Destination, error) {
	list := make([]Destination, 0, len(p.Allow))
	for _, text := range p.Allow {
		d, err := ParseDestination(text)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}

// Validate says what is wrong with a policy.
func (p Policy) Validate() error {
	if _, err := netip.ParseAddr(p.Address); err != nil {
		return fmt.Errorf("cannot make a network: its address: %w", err)
	}
	if _, err := p.destinations(); err != nil {
		return fmt.Errorf("cannot make a network: %w", err)
	}
	for _, name := range p.Names {
		if err := CheckName(name); err != nil {
			return fmt.Errorf("cannot make a network: %w", err)
		}
	}
	return nil
}

// reaches reports whether an address may be reached. The machine's own other addresses
// are not known here; see relay.dial.
func (p Policy) reaches(to netip.AddrPort) bool {
	to = netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())
	if allowed, err := p.destinations(); err == nil {
		for _, d := range allowed {
			if d.has(to) {
				return true
			}
		}
	}
	for _, c := range closed {
		if c.Contains(to.Addr()) {
			return false
		}
	}
	return to.IsValid() && to.Port() != 0 && to.Addr().String() != p.Address
}

// namePattern is "example.com", "*.example.com" or either with ":8080".
var namePattern = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*(:[0-9]{1,5})?$`)

// CheckName says what is wrong with an entry of Names.
func CheckName(entry string) error {
	if !namePattern.MatchString(entry) || len(entry) > 253 {
		return fmt.Errorf("%q is not a host: it must be a name such as \"example.com\", \"*.example.com\" or \"example.com:8080\"", entry)
	}
	return nil
}

// permits reports whether a host may be asked on a port; port 0 asks whether it may on
// any.
func (p Policy) permits(host string, port uint16) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for _, entry := range p.Names {
		name, at, found := strings.Cut(strings.ToLower(entry), ":")
		fits := port == 0 || !found && (port == 80 || port == 443) || found && at == strconv.Itoa(int(port))
		if !fits {
			continue
		}
		if below, wildcard := strings.CutPrefix(name, "*"); name == host || wildcard && strings.HasSuffix(host, below) && len(host) > len(below) {
			return true
		}
	}
	return false
}
