package network

import (
	"bytes"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestParseDestination(t *testing.T) {
	for _, c := range []struct{ text, inside, outside string }{
		{"10.0.5.0/24", "10.0.5.255:65535", "10.0.6.0:1"},
		{"10.0.5.7 5432", "10.0.5.7:5432", "10.0.5.7:5433"},
		{"fd00:5::/64 8000-8080", "[fd00:5::9]:8080", "[fd00:5::9]:8081"},
		{"169.254.169.254", "169.254.169.254:80", "169.254.169.253:80"},
		{"::ffff:10.1.1.1 5", "10.1.1.1:5", "10.1.1.2:5"},
	} {
		d, err := ParseDestination(c.text)
		if err != nil || !d.has(netip.MustParseAddrPort(c.inside)) || d.has(netip.MustParseAddrPort(c.outside)) {
			t.Errorf("%s is %+v, %v", c.text, d, err)
		}
		if p := (Policy{Address: "203.0.113.1", Allow: []string{c.text}}); !p.reaches(netip.MustParseAddrPort(c.inside)) || p.reaches(netip.MustParseAddrPort(c.outside)) {
			t.Errorf("a policy with %s reaches %s: %v, %s: %v", c.text, c.inside, false, c.outside, true)
		}
	}
	for _, text := range []string{"", "10.0.0.0/33", "host 80", "10.0.0.1:80", "10.0.0.1 0", "10.0.0.1 9-8", "10.0.0.1 80 90", "10.0.0.1 65536", "::ffff:10.0.0.0/104"} {
		if d, err := ParseDestination(text); err == nil {
			t.Errorf("%q is %+v", text, d)
		}
	}
}

// No form of an address of a closed network is open.
func TestClosedNetworks(t *testing.T) {
	p := Policy{Address: "203.0.113.1"}
	rapid.Check(t, func(t *rapid.T) {
		network := rapid.SampledFrom(closed).Draw(t, "network")
		bytes := network.Addr().AsSlice()
		random := rapid.SliceOfN(rapid.Byte(), len(bytes), len(bytes)).Draw(t, "address")
		for i := range len(bytes) * 8 {
			if i >= network.Bits() {
				bytes[i/8] |= random[i/8] & (0x80 >> (i % 8))
			}
		}
		address, _ := netip.AddrFromSlice(bytes)
		if network.Bits() == 96 && network.Addr().Is4In6() {
			return // those of IPv4 are what they are
		}
		port := rapid.Uint16().Draw(t, "port")
		if p.reaches(netip.AddrPortFrom(address, port)) {
			t.Fatalf("%s is reached", address)
		}
		if address.Is4() && p.reaches(netip.AddrPortFrom(netip.AddrFrom16(address.As16()), port)) {
			t.Fatalf("%s is reached as IPv6", address)
		}
	})
	for _, open := range []string{"8.8.8.8:53", "[2606:4700::1111]:443", "203.0.113.9:1"} {
		if !p.reaches(netip.MustParseAddrPort(open)) {
			t.Errorf("%s is not reached", open)
		}
	}
}

func TestNames(t *testing.T) {
	p := Policy{Names: []string{"registry.example", "*.files.example", "mirror.example:8081"}}
	for _, c := range []struct {
		host string
		port uint16
		want bool
	}{
		{"registry.example", 443, true}, {"REGISTRY.example.", 80, true}, {"registry.example", 22, false}, {"a.registry.example", 443, false},
		{"a.files.example", 443, true}, {"a.b.files.example", 443, true}, {"files.example", 443, false}, {".files.example", 443, false},
		{"xfiles.example", 443, false}, {"mirror.example", 8081, true}, {"mirror.example", 443, false}, {"mirror.example", 0, true}, {"", 443, false},
	} {
		if got := p.permits(c.host, c.port); got != c.want {
			t.Errorf("%s:%d is %v", c.host, c.port, got)
		}
	}
	for _, bad := range []string{"", "*", "a b", "https://example.com", "example.com/x", "*.*.example", "example..com", "-x.example", "example.com:x"} {
		if CheckName(bad) == nil {
			t.Errorf("%q is a host", bad)
		}
	}
}

// FuzzHost reads what a program says first.
func FuzzHost(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: registry.example\r\n\r\n"))
	f.Add([]byte("CONNECT registry.example:443 HTTP/1.1\r\nHost: registry.example\r\n\r\n"))
	f.Add([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		host, read, err := hostOf(bytes.NewReader(data))
		if err == nil && (host == "" || !bytes.HasPrefix(data, read)) {
			t.Fatalf("host %q of %q, having read %q", host, data, read)
		}
	})
}

// FuzzQuestion reads what a program sends to name servers.
func FuzzQuestion(f *testing.F) {
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x08registry\x07example\x00\x00\x01\x00\x01"))
	r := &relay{n: &Namespace{policy: Policy{ByName: true, Names: []string{"registry.example"}}}}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !r.mayAsk(data) {
			refusalOf(data)
		}
	})
}
