package domains

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// recordTTL is the time for which resolvers may keep a record, seconds: short
// enough to move a domain, long enough not to be asked all the time.
const recordTTL = 300

// Record describes what a public DNS must have for a domain.
type Record struct {
	Zone    string   `json:"zone"` // "shop.example"
	Name    string   `json:"name"` // within the zone; "": the zone itself
	Type    string   `json:"type"` // A or AAAA
	TTL     int      `json:"ttl"`
	Address []string `json:"addresses"`
}

// Records returns those of domains that lead to addresses. Addresses rather than
// names, so that a bare domain has them too. Names in .localhost need none.
func Records(names, addresses []string) []Record {
	var list []Record
	for _, name := range names {
		bare := strings.TrimPrefix(name, "*.")
		if local(bare) {
			continue
		}
		zone, err := publicsuffix.EffectiveTLDPlusOne(bare)
		if err != nil { // a single label, or a public suffix itself
			zone = bare
		}
		within := strings.TrimSuffix(strings.TrimSuffix(name, zone), ".")
		for _, kind := range []string{"A", "AAAA"} {
			r := Record{Zone: zone, Name: within, Type: kind, TTL: recordTTL}
			for _, text := range addresses {
				if a, err := netip.ParseAddr(text); err == nil && a.Unmap().Is4() == (kind == "A") {
					r.Address = append(r.Address, a.Unmap().String())
				}
			}
			if len(r.Address) > 0 {
				list = append(list, r)
			}
		}
	}
	return list
}

// host returns a record's whole name.
func (r Record) host() string {
	if r.Name == "" {
		return r.Zone
	}
	return r.Name + "." + r.Zone
}

// WriteZone writes records in the form of zone files (RFC 1035 5).
func WriteZone(w io.Writer, records []Record) error {
	for _, r := range records {
		for _, address := range r.Address {
			if _, err := fmt.Fprintf(w, "%s.\t%d\tIN\t%s\t%s\n", r.host(), r.TTL, r.Type, address); err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteTerraform writes records as resources of the provider hashicorp/dns, which
// speaks to any server that takes dynamic updates; those of a cloud's provider have
// the same arguments by other names.
func WriteTerraform(w io.Writer, records []Record) error {
	taken := map[string]int{}
	for i, r := range records {
		kind, id := "a", r.host()
		if r.Type == "AAAA" {
			kind = "aaaa"
		}
		id = strings.NewReplacer("*", "all", ".", "_", "-", "_").Replace(id)
		if id[0] >= '0' && id[0] <= '9' {
			id = "_" + id
		}
		if taken[kind+id]++; taken[kind+id] > 1 { // a-b.example beside a.b.example
			id = fmt.Sprintf("%s_%d", id, taken[kind+id])
		}
		blank := "\n"
		if i == 0 {
			blank = ""
		}
		name := ""
		if r.Name != "" {
			name = fmt.Sprintf("  name      = %q\n", r.Name)
		}
		if _, err := fmt.Fprintf(w, "%sresource \"dns_%s_record_set\" \"%s\" {\n  zone      = %q\n%s  addresses = [\"%s\"]\n  ttl       = %d\n}\n",
			blank, kind, id, r.Zone+".", name, strings.Join(r.Address, `", "`), r.TTL); err != nil {
			return err
		}
	}
	return nil
}
