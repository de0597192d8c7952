package acme

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"
)

// updateKey is the name of the key that the deployment's name servers know.
const updateKey = "deploy."

// updatePatience bounds one name server's answer.
const updatePatience = 20 * time.Second

// update sets a record at each of the deployment's name servers, or removes it (RFC
// 2136, signed as in RFC 8945).
func (c *Client) update(ctx context.Context, what, name, value string) error {
	var problems []error
	for _, server := range c.settings.Servers {
		if err := c.updateAt(ctx, server, what, name, value); err != nil {
			problems = append(problems, fmt.Errorf("cannot %s %s at the name server %s: %w", map[string]string{"present": "set", "cleanup": "remove"}[what], name, server, err))
		}
	}
	return errors.Join(problems...)
}

func (c *Client) updateAt(ctx context.Context, server, what, name, value string) error {
	ctx, cancel := context.WithTimeout(ctx, updatePatience)
	defer cancel()
	client := &dns.Client{Net: "tcp", Timeout: updatePatience, TsigSecret: map[string]string{updateKey: base64.StdEncoding.EncodeToString([]byte(c.settings.Key))}}
	zone, err := zoneOf(ctx, client, server, dns.Fqdn(name))
	if err != nil {
		return err
	}
	record := []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: dns.Fqdn(name), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 1}, Txt: []string{value}}}
	m := new(dns.Msg)
	m.SetUpdate(zone)
	if what == "present" {
		m.Insert(record)
	} else {
		m.Remove(record)
	}
	m.SetTsig(updateKey, dns.HmacSHA256, 300, time.Now().Unix())
	reply, _, err := client.ExchangeContext(ctx, m, server)
	switch {
	case err != nil:
		return err
	case reply.Rcode != dns.RcodeSuccess:
		return fmt.Errorf("it answers %s; is its update_key set, and the one that was applied?", dns.RcodeToString[reply.Rcode])
	}
	return nil
}

// zoneOf asks a server which zone a name is in: the owner of the SOA record that it
// answers with.
func zoneOf(ctx context.Context, client *dns.Client, server, name string) (string, error) {
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeSOA)
	reply, _, err := client.ExchangeContext(ctx, m, server)
	if err != nil {
		return "", err
	}
	for _, rr := range append(reply.Answer, reply.Ns...) {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa.Hdr.Name, nil
		}
	}
	return "", fmt.Errorf("it does not answer for that name (%s): add its domain to the zones of job dns", dns.RcodeToString[reply.Rcode])
}
