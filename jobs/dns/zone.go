package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// zones describes what the server answers from: pure, made anew by each reload.
type zones struct {
	internal string   // "cf.internal."
	domains  []string // the same, those below others first
	servers  []string // names of NS records; nil: ns0. of the zone, and so on
	glue     []netip.Addr
	balancer []member
	groups   map[string][]member // by group, in the order of indexes
	ttl      uint32
	serial   uint32
}

// member is an address and the instance that has it, "" if none has.
type member struct {
	instance string
	address  netip.Addr
}

func newZones(c Config, serial uint32) *zones {
	z := &zones{ttl: c.TTL, serial: serial, glue: c.servers, groups: map[string][]member{}}
	if c.Internal != "" {
		z.internal = dns.CanonicalName(c.Internal)
	}
	for _, d := range c.Domains {
		z.domains = append(z.domains, dns.CanonicalName(d))
	}
	slices.SortFunc(z.domains, func(a, b string) int { return dns.CountLabel(b) - dns.CountLabel(a) })
	for _, n := range c.NameServers {
		z.servers = append(z.servers, dns.CanonicalName(n))
	}
	byAddress := map[netip.Addr]string{}
	for _, in := range c.Instances {
		group, _, _ := strings.Cut(in.ID, "/")
		z.groups[group] = append(z.groups[group], member{in.ID, in.address})
		byAddress[in.address] = in.ID
	}
	for _, a := range c.loadBalancers {
		z.balancer = append(z.balancer, member{byAddress[a], a})
	}
	return z
}

// zoneOf returns the zone that a name, in lower case, is in; "" if in none of ours.
func (z *zones) zoneOf(name string) string {
	if z.internal != "" && dns.IsSubDomain(z.internal, name) {
		return z.internal
	}
	for _, d := range z.domains {
		if dns.IsSubDomain(d, name) {
			return d
		}
	}
	return ""
}

// state describes what answers depend on beside the zones.
type state struct {
	healthy func(instance string) bool
	texts   func(name string) []string // TXT records that were set
	turn    int                        // of the round robin
}

// answer fills the reply to a question of class IN.
func (z *zones) answer(m *dns.Msg, q dns.Question, s state) {
	name := strings.ToLower(q.Name)
	zone := z.zoneOf(name)
	switch {
	case zone == "":
		m.Rcode = dns.RcodeRefused // no recursion, and nobody else's names
		return
	case q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR:
		m.Rcode = dns.RcodeRefused
		return
	}
	m.Authoritative = true
	r := z.records(zone, name, s)
	if !r.exists {
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{z.soa(zone, zone)}
		return
	}
	head := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: kind, Class: dns.ClassINET, Ttl: z.ttl}
	}
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA:
		m.Answer = addressRecords(r.addresses, q.Qtype, head(q.Qtype), s.turn)
	case dns.TypeTXT:
		for _, text := range r.texts {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: head(dns.TypeTXT), Txt: pieces(text)})
		}
	case dns.TypeSOA:
		if name == zone {
			m.Answer = []dns.RR{z.soa(zone, q.Name)}
		}
	case dns.TypeNS:
		if name == zone {
			for _, server := range z.nameServers(zone) {
				m.Answer = append(m.Answer, &dns.NS{Hdr: head(dns.TypeNS), Ns: server})
			}
			m.Extra = z.glueOf(zone)
		}
	case dns.TypeANY: // RFC 8482: as little as is allowed
		m.Answer = []dns.RR{&dns.HINFO{Hdr: head(dns.TypeHINFO), Cpu: "RFC8482"}}
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{z.soa(zone, zone)}
	}
}

// records are those of a name, of any type.
type records struct {
	exists    bool
	addresses []netip.Addr
	texts     []string
}

func (z *zones) records(zone, name string, s state) records {
	r := records{texts: s.texts(name)}
	r.exists = len(r.texts) > 0
	relative := strings.TrimSuffix(strings.TrimSuffix(name, zone), ".")
	if address, ok := z.nameServerOf(relative); ok {
		return records{true, []netip.Addr{address}, r.texts}
	}
	if zone != z.internal { // the apex and every name below it
		r.exists, r.addresses = true, healthyOf(z.balancer, s.healthy)
		return r
	}
	if relative == "" {
		r.exists = true
		return r
	}
	labels := strings.Split(relative, ".")
	members, known := z.groups[labels[len(labels)-1]]
	switch {
	case !known:
	case len(labels) == 1:
		r.exists, r.addresses = true, healthyOf(members, s.healthy)
	case len(labels) == 2:
		// An instance has its name whether or not it is healthy: who asks for it means
		// this one.
		id := labels[1] + "/" + labels[0]
		if n := slices.IndexFunc(members, func(m member) bool { return m.instance == id }); n >= 0 {
			r.exists, r.addresses = true, []netip.Addr{members[n].address}
		}
	}
	return r
}

// healthyOf returns the addresses of healthy members. What is no instance, such as a
// virtual address, has nobody who says how it is, and counts as healthy.
func healthyOf(members []member, healthy func(string) bool) (list []netip.Addr) {
	for _, m := range members {
		if m.instance == "" || healthy(m.instance) {
			list = append(list, m.address)
		}
	}
	return list
}

// addressRecords are those of one type, beginning with another one each turn.
func addressRecords(addresses []netip.Addr, kind uint16, head dns.RR_Header, turn int) (list []dns.RR) {
	for _, a := range addresses {
		switch {
		case kind == dns.TypeA && a.Is4():
			list = append(list, &dns.A{Hdr: head, A: a.AsSlice()})
		case kind == dns.TypeAAAA && a.Is6():
			list = append(list, &dns.AAAA{Hdr: head, AAAA: a.AsSlice()})
		}
	}
	if len(list) < 2 {
		return list
	}
	turn %= len(list)
	return append(slices.Clone(list[turn:]), list[:turn]...)
}

func (z *zones) soa(zone, owner string) dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: z.ttl},
		Ns:  z.nameServers(zone)[0], Mbox: "hostmaster." + zone, Serial: z.serial,
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: z.ttl,
	}
}

// nameServers are the names in a zone's NS records; always one at least.
func (z *zones) nameServers(zone string) []string {
	if len(z.servers) > 0 {
		return z.servers
	}
	list := []string{"ns0." + zone}
	for n := 1; n < len(z.glue); n++ {
		list = append(list, fmt.Sprintf("ns%d.%s", n, zone))
	}
	return list
}

// nameServerOf returns the address of "ns0" and its like in any zone.
func (z *zones) nameServerOf(relative string) (netip.Addr, bool) {
	digits, ok := strings.CutPrefix(relative, "ns")
	if !ok || len(z.servers) > 0 {
		return netip.Addr{}, false
	}
	n, err := strconv.Atoi(digits)
	if err != nil || strconv.Itoa(n) != digits || n < 0 || n >= len(z.glue) {
		return netip.Addr{}, false
	}
	return z.glue[n], true
}

func (z *zones) glueOf(zone string) (list []dns.RR) {
	if len(z.servers) > 0 {
		return nil
	}
	for n, a := range z.glue {
		head := dns.RR_Header{Name: fmt.Sprintf("ns%d.%s", n, zone), Class: dns.ClassINET, Ttl: z.ttl, Rrtype: dns.TypeA}
		if a.Is6() {
			head.Rrtype = dns.TypeAAAA
		}
		list = append(list, addressRecords([]netip.Addr{a}, head.Rrtype, head, 0)...)
	}
	return list
}

// pieces cuts a text into the strings of a TXT record, 255 bytes at most each.
func pieces(text string) []string {
	var list []string
	for len(text) > 255 {
		list, text = append(list, text[:255]), text[255:]
	}
	return append(list, text)
}
