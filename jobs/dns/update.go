package dns

import (
	"encoding/base64"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// keyName is the name of the key that signs updates (RFC 8945).
const keyName = "deploy."

// challenge begins the only names whose records may be set: those that prove a name
// to a CA (dns-01, RFC 8555).
const challenge = "_acme-challenge."

const (
	maxTexts = 1000
	// textLife bounds records that nobody has removed. A proof takes seconds.
	textLife = time.Hour
)

// key returns the secret as TSIG has it.
func key(secret string) string { return base64.StdEncoding.EncodeToString([]byte(secret)) }

// texts are the TXT records that were set.
type texts struct {
	mu  sync.Mutex
	all map[string][]text // by name, in lower case
	now func() time.Time
}

type text struct {
	value string
	until time.Time
}

// of returns the records of a name.
func (t *texts) of(name string) (list []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, x := range t.all[name] {
		if t.now().Before(x.until) {
			list = append(list, x.value)
		}
	}
	return list
}

// update applies a DNS update (RFC 2136) and returns its result. Either all of it is
// done or nothing.
func (t *texts) update(z *zones, m *dns.Msg) (rcode int) {
	if len(m.Question) != 1 || m.Question[0].Qtype != dns.TypeSOA || m.Question[0].Qclass != dns.ClassINET {
		return dns.RcodeFormatError
	}
	zone := strings.ToLower(m.Question[0].Name)
	if z.zoneOf(zone) != zone {
		return dns.RcodeNotAuth
	}
	if len(m.Answer) > 0 {
		return dns.RcodeNotImplemented // conditions: who sets proofs needs none
	}
	for _, rr := range m.Ns {
		h := rr.Header()
		name := strings.ToLower(h.Name)
		switch {
		case z.zoneOf(name) != zone:
			return dns.RcodeNotZone
		case !strings.HasPrefix(name, challenge) || h.Rrtype != dns.TypeTXT:
			return dns.RcodeRefused
		case h.Class != dns.ClassINET && h.Class != dns.ClassNONE && h.Class != dns.ClassANY:
			return dns.RcodeFormatError
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire()
	for _, rr := range m.Ns {
		name := strings.ToLower(rr.Header().Name)
		value := ""
		if r, ok := rr.(*dns.TXT); ok {
			value = strings.Join(r.Txt, "")
		}
		without := slices.DeleteFunc(t.all[name], func(x text) bool { return rr.Header().Class == dns.ClassANY || x.value == value })
		if rr.Header().Class == dns.ClassINET {
			if len(t.all) >= maxTexts || len(without) >= maxTexts {
				return dns.RcodeRefused
			}
			without = append(without, text{value, t.now().Add(textLife)})
		}
		if t.all[name] = without; len(without) == 0 {
			delete(t.all, name)
		}
	}
	return dns.RcodeSuccess
}

// expire drops what has outlived textLife. t.mu is held.
func (t *texts) expire() {
	for name, list := range t.all {
		list = slices.DeleteFunc(list, func(x text) bool { return !t.now().Before(x.until) })
		if t.all[name] = list; len(list) == 0 {
			delete(t.all, name)
		}
	}
}
