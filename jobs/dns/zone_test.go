package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

func testConfig(t testing.TB) Config {
	t.Helper()
	c := Config{
		Internal: "cf.internal", Domains: []string{"example.com", "cf.example.com"}, TTL: 5,
		LoadBalancers: []string{"10.0.0.1", "10.0.0.2", "192.0.2.9"}, Servers: []string{"10.0.0.53", "10.0.1.53"},
		Instances: []Instance{
			{ID: "lb/0", Address: "10.0.0.1"}, {ID: "lb/1", Address: "10.0.0.2"},
			{ID: "router/0", Address: "10.0.0.10"}, {ID: "router/1", Address: "10.0.0.11"}, {ID: "router/5", Address: "10.0.0.15"},
			{ID: "db/0", Address: "fd00::1"}, {ID: "dns/0", Address: "10.0.0.53"}, {ID: "dns/1", Address: "10.0.1.53"},
		},
	}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	return c
}

// asked returns an answer as text: its code, then the data of the answer's records,
// then the types of the authority's.
func asked(z *zones, name, kind string, down ...string) string {
	m := new(dns.Msg)
	z.answer(m, dns.Question{Name: name, Qtype: dns.StringToType[kind], Qclass: dns.ClassINET}, state{
		healthy: func(id string) bool { return !slices.Contains(down, id) },
		texts: func(name string) []string {
			if name == "_acme-challenge.example.com." || name == "_acme-challenge.db.cf.internal." {
				return []string{"proof", strings.Repeat("x", 300)}
			}
			return nil
		},
	})
	out := dns.RcodeToString[m.Rcode]
	if m.Authoritative {
		out += " AA"
	}
	for _, rr := range m.Answer {
		out += " " + strings.TrimPrefix(rr.String(), rr.Header().String())
		if rr.Header().Name != name || rr.Header().Ttl != z.ttl {
			out += fmt.Sprintf(" (%s)", rr.Header())
		}
	}
	for _, rr := range m.Ns {
		out += " / " + rr.Header().Name + " " + dns.TypeToString[rr.Header().Rrtype]
	}
	return out
}

// TestAnswers: what is asked, what there is of it, and how it is said that there is
// none.
func TestAnswers(t *testing.T) {
	z := newZones(testConfig(t), 7)
	for _, tc := range []struct{ name, kind, want string }{
		{"0.router.cf.internal.", "A", "NOERROR AA 10.0.0.10"},
		{"5.Router.CF.internal.", "A", "NOERROR AA 10.0.0.15"},
		{"5.router.cf.internal.", "AAAA", "NOERROR AA / cf.internal. SOA"},
		{"0.db.cf.internal.", "AAAA", "NOERROR AA fd00::1"},
		{"router.cf.internal.", "A", "NOERROR AA 10.0.0.10 10.0.0.15"},
		{"router.cf.internal.", "MX", "NOERROR AA / cf.internal. SOA"},
		{"2.router.cf.internal.", "A", "NXDOMAIN AA / cf.internal. SOA"},
		{"00.router.cf.internal.", "A", "NXDOMAIN AA / cf.internal. SOA"},
		{"x.0.router.cf.internal.", "A", "NXDOMAIN AA / cf.internal. SOA"},
		{"none.cf.internal.", "A", "NXDOMAIN AA / cf.internal. SOA"},
		{"cf.internal.", "A", "NOERROR AA / cf.internal. SOA"},
		{"cf.internal.", "SOA", "NOERROR AA ns0.cf.internal. hostmaster.cf.internal. 7 3600 600 86400 5"},
		{"cf.internal.", "NS", "NOERROR AA ns0.cf.internal. ns1.cf.internal."},
		{"ns1.cf.internal.", "A", "NOERROR AA 10.0.1.53"},
		{"ns2.cf.internal.", "A", "NXDOMAIN AA / cf.internal. SOA"},
		{"router.cf.internal.", "ANY", `NOERROR AA "RFC8482" ""`},
		{"internal.", "A", "REFUSED"},
		{"xcf.internal.", "A", "REFUSED"},
		{"example.org.", "A", "REFUSED"},
		{".", "NS", "REFUSED"},
		{"cf.internal.", "AXFR", "REFUSED"},

		{"example.com.", "A", "NOERROR AA 10.0.0.2 192.0.2.9"},
		{"shop.example.com.", "A", "NOERROR AA 10.0.0.2 192.0.2.9"},
		{"a.b.cf.example.com.", "A", "NOERROR AA 10.0.0.2 192.0.2.9"},
		{"a.b.cf.example.com.", "AAAA", "NOERROR AA / cf.example.com. SOA"},
		{"ns0.example.com.", "A", "NOERROR AA 10.0.0.53"},
		{"_acme-challenge.example.com.", "TXT", `NOERROR AA "proof" "` + strings.Repeat("x", 255) + `" "` + strings.Repeat("x", 45) + `"`},
		{"_acme-challenge.cf.example.com.", "TXT", "NOERROR AA / cf.example.com. SOA"},
		{"_acme-challenge.db.cf.internal.", "A", "NOERROR AA / cf.internal. SOA"},
	} {
		if got := asked(z, tc.name, tc.kind, "lb/0", "router/1"); got != tc.want {
			t.Errorf("%s %s: %s, want %s", tc.name, tc.kind, got, tc.want)
		}
	}
	if got := asked(z, "router.cf.internal.", "A", "router/0", "router/1", "router/5"); got != "NOERROR AA / cf.internal. SOA" {
		t.Errorf("a group without a healthy member: %s", got)
	}
	c := testConfig(t)
	c.NameServers = []string{"NS.example.net"}
	z = newZones(c, 1)
	for name, want := range map[string]string{"ns0.example.com.": "NOERROR AA 10.0.0.1 10.0.0.2 192.0.2.9", "ns0.cf.internal.": "NXDOMAIN AA / cf.internal. SOA"} {
		if got := asked(z, name, "A"); got != want {
			t.Errorf("with name servers elsewhere %s: %s, want %s", name, got, want)
		}
	}
	if got := asked(z, "example.com.", "NS"); got != "NOERROR AA ns.example.net." {
		t.Errorf("NS: %s", got)
	}
}

// TestRoundRobin: each member is first equally often.
func TestRoundRobin(t *testing.T) {
	addresses := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")}
	first := map[string]int{}
	for turn := range 30 {
		list := addressRecords(addresses, dns.TypeA, dns.RR_Header{}, turn)
		if len(list) != 3 {
			t.Fatalf("turn %d: %v", turn, list)
		}
		first[list[0].(*dns.A).A.String()]++
	}
	if first["10.0.0.1"] != 10 || first["10.0.0.2"] != 10 || first["10.0.0.3"] != 10 {
		t.Errorf("%v", first)
	}
}

// TestHealth: silence and bad news take a member out, a bus that is away changes
// nothing, and who has just begun to listen takes silence for no news.
func TestHealth(t *testing.T) {
	h, now := newHealth(), time.Unix(1000, 0)
	check := func(what string, connected bool, want ...string) {
		t.Helper()
		var got []string
		for _, id := range []string{"a/0", "b/0", "c/0"} {
			if h.healthy(id, connected, now) {
				got = append(got, id)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("before the bus", false, "a/0", "b/0", "c/0")
	h.connected(now)
	check("nothing heard yet", true, "a/0", "b/0", "c/0")
	h.heard("a/0", true, now)
	h.heard("b/0", false, now)
	check("one fails", true, "a/0", "c/0")
	now = now.Add(16 * time.Second)
	check("one was never heard of", true, "a/0")
	now = now.Add(20 * time.Second)
	check("all are silent", true)
	h.heard("a/0", true, now)
	now = now.Add(time.Hour)
	check("the bus is away", false, "a/0", "c/0")
	h.connected(now)
	check("it is back", true, "a/0", "c/0")
	now = now.Add(16 * time.Second)
	check("those who were healthy have time", true, "a/0")
	now = now.Add(20 * time.Second)
	check("and then not", true)
	h.forget(map[string]bool{"b/0": true})
	if len(h.last) != 1 {
		t.Errorf("%v", h.last)
	}
}

// TestUpdatesModel: updates do what a list of records says, and touch nothing but
// proofs of our own zones.
func TestUpdatesModel(t *testing.T) {
	z := newZones(testConfig(t), 1)
	rapid.Check(t, func(rt *rapid.T) {
		x := &texts{all: map[string][]text{}, now: func() time.Time { return time.Unix(0, 0) }}
		model := map[string][]string{}
		rt.Repeat(map[string]func(*rapid.T){"update": func(rt *rapid.T) {
			name := rapid.SampledFrom([]string{"_acme-challenge.example.com.", "_ACME-challenge.a.example.com.", "a.example.com.", "_acme-challenge.example.org.", "_acme-challenge.cf.example.com."}).Draw(rt, "name")
			value := rapid.SampledFrom([]string{"one", "two"}).Draw(rt, "value")
			class := rapid.SampledFrom([]uint16{dns.ClassINET, dns.ClassNONE, dns.ClassANY}).Draw(rt, "class")
			m := new(dns.Msg)
			m.SetUpdate("example.com.")
			m.Ns = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: class}, Txt: []string{value}}}
			rcode, lower := x.update(z, m), strings.ToLower(name)
			want := dns.RcodeSuccess
			switch {
			case lower == "_acme-challenge.example.org." || lower == "_acme-challenge.cf.example.com.":
				want = dns.RcodeNotZone
			case lower == "a.example.com.":
				want = dns.RcodeRefused
			default:
				model[lower] = slices.DeleteFunc(model[lower], func(s string) bool { return class == dns.ClassANY || s == value })
				if class == dns.ClassINET {
					model[lower] = append(model[lower], value)
				}
			}
			if rcode != want {
				rt.Fatalf("%s: %s, want %s", name, dns.RcodeToString[rcode], dns.RcodeToString[want])
			}
		}, "": func(rt *rapid.T) {
			for _, name := range []string{"_acme-challenge.example.com.", "_acme-challenge.a.example.com.", "a.example.com.", "_acme-challenge.example.org."} {
				if got := x.of(name); !slices.Equal(got, model[name]) {
					rt.Fatalf("%s has %v, want %v", name, got, model[name])
				}
			}
		}})
	})
	x := &texts{all: map[string][]text{}, now: func() time.Time { return time.Unix(0, 0) }}
	m := new(dns.Msg)
	m.SetUpdate("example.com.")
	m.Ns = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: "_acme-challenge.example.com.", Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{"old"}}}
	x.update(z, m)
	x.now = func() time.Time { return time.Unix(0, 0).Add(textLife) }
	if got := x.of("_acme-challenge.example.com."); len(got) > 0 {
		t.Errorf("a forgotten proof stays: %v", got)
	}
}
