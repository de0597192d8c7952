package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
)

const deadline = 60 * time.Second

// running is a name server on 127.0.0.1 and a bus on which it hears what the test
// says.
type running struct {
	t      *testing.T
	bus    *server.Server
	conn   *nats.Conn
	server *Server
	file   string
}

func start(t *testing.T, settings string) *running {
	t.Helper()
	r := &running{t: t, bus: componenttest.Bus(t, natstest.Users(t, "dns")), file: filepath.Join(t.TempDir(), "dns.yml")}
	r.configure(settings)
	var err error
	if r.conn, err = nats.Connect(r.bus.ClientURL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.conn.Close)
	if r.server, err = New(component.Process{ConfigFile: r.file, Output: t.Output()}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	componenttest.Eventually(t, "the server hears heartbeats", func() bool {
		r.beat("router/9", "running")
		r.server.health.mu.Lock()
		defer r.server.health.mu.Unlock()
		_, heard := r.server.health.last["router/9"]
		return heard
	})
	return r
}

func (r *running) configure(settings string) {
	r.t.Helper()
	text := "mbus: " + natstest.URI(r.bus, "dns") + "\nlocal_route: 127.0.0.1\nport: 0\ninternal: cf.internal\ndomains: [cf.example.com]\n" +
		"load_balancers: [10.0.0.1]\nservers: [127.0.0.1]\n" + settings
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) beat(instance, state string) {
	r.t.Helper()
	subject := "heartbeat." + strings.ReplaceAll(instance, "/", ".")
	if err := errors.Join(r.conn.Publish(subject, fmt.Appendf(nil, `{"instance":%q,"state":%q}`, instance, state)), r.conn.Flush()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) exchange(network string, m *dns.Msg) *dns.Msg {
	r.t.Helper()
	client := &dns.Client{Net: network, Timeout: deadline, TsigSecret: map[string]string{keyName: key("secret"), "other.": key("secret")}}
	reply, _, err := client.Exchange(m, r.server.Address())
	if err != nil {
		r.t.Fatalf("%s: %v", network, err)
	}
	reply.Compress = true // as it came: Len tells its size
	return reply
}

func question(name string, kind uint16) *dns.Msg {
	m := new(dns.Msg)
	return m.SetQuestion(name, kind)
}

func addresses(m *dns.Msg) (list []string) {
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			list = append(list, a.A.String())
		}
	}
	slices.Sort(list)
	return list
}

// TestServer asks the real server over UDP and TCP: healthy members only, as soon as
// an agent says so; long answers; new files without a restart.
func TestServer(t *testing.T) {
	instances := "instances:\n"
	for n := range 100 {
		instances += fmt.Sprintf("  - {id: many/%d, address: 10.1.0.%d}\n", n, n)
	}
	r := start(t, instances+"  - {id: router/0, address: 10.0.0.10}\n  - {id: router/1, address: 10.0.0.11}\n")
	for _, network := range []string{"udp", "tcp"} {
		m := r.exchange(network, question("router.cf.internal.", dns.TypeA))
		if got := addresses(m); !slices.Equal(got, []string{"10.0.0.10", "10.0.0.11"}) || !m.Authoritative || m.RecursionAvailable || m.Answer[0].Header().Ttl != 5 {
			t.Errorf("%s: %v", network, m)
		}
		if m := r.exchange(network, question("example.org.", dns.TypeA)); m.Rcode != dns.RcodeRefused || len(m.Answer)+len(m.Ns)+len(m.Extra) > 0 {
			t.Errorf("another zone over %s: %v", network, m)
		}
		if m := r.exchange(network, question("none.cf.internal.", dns.TypeA)); m.Rcode != dns.RcodeNameError || len(m.Ns) != 1 || m.Ns[0].Header().Name != "cf.internal." {
			t.Errorf("no such name over %s: %v", network, m)
		}
	}
	r.beat("router/0", "failing")
	componenttest.Eventually(t, "the failed member is left out", func() bool {
		return slices.Equal(addresses(r.exchange("udp", question("router.cf.internal.", dns.TypeA))), []string{"10.0.0.11"})
	})
	r.beat("router/0", "running")
	componenttest.Eventually(t, "it is back", func() bool {
		return len(addresses(r.exchange("udp", question("router.cf.internal.", dns.TypeA)))) == 2
	})

	m := r.exchange("udp", question("many.cf.internal.", dns.TypeA))
	if !m.Truncated || len(addresses(m)) == 100 || m.Len() > dns.MinMsgSize {
		t.Errorf("100 members in 512 bytes: truncated %v, %d, %d bytes", m.Truncated, len(m.Answer), m.Len())
	}
	wide := question("many.cf.internal.", dns.TypeA).SetEdns0(4096, true)
	if m := r.exchange("udp", wide); !m.Truncated || m.IsEdns0() == nil || m.Len() > udpSize || m.Len() < dns.MinMsgSize {
		t.Errorf("with EDNS: %d bytes, %v", m.Len(), m.IsEdns0())
	}
	if m := r.exchange("tcp", question("many.cf.internal.", dns.TypeA)); m.Truncated || len(addresses(m)) != 100 {
		t.Errorf("over TCP: %d", len(m.Answer))
	}
	version := question("router.cf.internal.", dns.TypeA).SetEdns0(1232, false)
	version.IsEdns0().SetVersion(1)
	if m := r.exchange("udp", version); m.Rcode != dns.RcodeBadVers || len(m.Answer) > 0 {
		t.Errorf("EDNS 1: %v", m)
	}
	for name, change := range map[string]func(*dns.Msg){
		"a notify": func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify },
		"status":   func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus },
	} {
		q := question("router.cf.internal.", dns.TypeSOA)
		change(q)
		if m := r.exchange("udp", q); m.Rcode != dns.RcodeNotImplemented {
			t.Errorf("%s: %v", name, m)
		}
	}
	chaos := question("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	if m := r.exchange("udp", chaos); m.Rcode != dns.RcodeRefused {
		t.Errorf("chaos: %v", m)
	}

	r.configure("instances: [{id: router/0, address: 10.0.0.20}]\nttl_s: 1\n")
	if err := r.server.base.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := addresses(r.exchange("udp", question("0.router.cf.internal.", dns.TypeA))); !slices.Equal(got, []string{"10.0.0.20"}) {
		t.Errorf("after the reload: %v", got)
	}
	r.configure("instances: [{id: router/0, address: nowhere}]\n")
	if err := r.server.base.Reload(); err == nil || !strings.Contains(err.Error(), `"nowhere" is no IP address`) {
		t.Errorf("a broken file: %v", err)
	}
	if got := addresses(r.exchange("udp", question("0.router.cf.internal.", dns.TypeA))); !slices.Equal(got, []string{"10.0.0.20"}) {
		t.Errorf("after a broken file: %v", got)
	}
}

// TestUpdates: who has the key sets proofs; nobody else sets anything.
func TestUpdates(t *testing.T) {
	r := start(t, "update_key: secret\n")
	update := func(change func(*dns.Msg)) *dns.Msg {
		m := new(dns.Msg)
		m.SetUpdate("cf.example.com.")
		m.Insert([]dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: "_acme-challenge.www.cf.example.com.", Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 1}, Txt: []string{"proof"}}})
		if change != nil {
			change(m)
		}
		return m
	}
	signed := func(name string) *dns.Msg {
		return update(func(m *dns.Msg) { m.SetTsig(name, dns.HmacSHA256, 300, time.Now().Unix()) })
	}
	txt := func() string {
		m := r.exchange("udp", question("_acme-challenge.www.cf.example.com.", dns.TypeTXT))
		if len(m.Answer) == 0 {
			return ""
		}
		return strings.Join(m.Answer[0].(*dns.TXT).Txt, "")
	}
	if m := r.exchange("tcp", update(nil)); m.Rcode != dns.RcodeRefused {
		t.Errorf("without a key: %v", m)
	}
	if m := r.exchange("tcp", signed("other.")); m.Rcode == dns.RcodeSuccess {
		t.Errorf("another key's name: %v", m)
	}
	wrong := &dns.Client{Net: "tcp", Timeout: deadline, TsigSecret: map[string]string{keyName: key("guess")}}
	if m, _, err := wrong.Exchange(signed(keyName), r.server.Address()); m != nil && m.Rcode == dns.RcodeSuccess {
		t.Errorf("a guessed key: %v, %v", m, err)
	}
	old := update(func(m *dns.Msg) { m.SetTsig(keyName, dns.HmacSHA256, 300, time.Now().Add(-time.Hour).Unix()) })
	stale := &dns.Client{Net: "tcp", Timeout: deadline, TsigSecret: map[string]string{keyName: key("secret")}}
	if m, _, err := stale.Exchange(old, r.server.Address()); m != nil && m.Rcode == dns.RcodeSuccess {
		t.Errorf("an update of an hour ago, sent again: %v, %v", m, err)
	}
	if got := txt(); got != "" {
		t.Fatalf("strangers have set %q", got)
	}
	if m := r.exchange("tcp", signed(keyName)); m.Rcode != dns.RcodeSuccess || m.IsTsig() == nil {
		t.Errorf("with the key: %v", m)
	}
	if got := txt(); got != "proof" {
		t.Errorf("the proof is %q", got)
	}
	gone := update(func(m *dns.Msg) {
		m.Ns[0].Header().Class, m.Ns[0].Header().Ttl = dns.ClassNONE, 0
		m.SetTsig(keyName, dns.HmacSHA256, 300, time.Now().Unix())
	})
	if m := r.exchange("udp", gone); m.Rcode != dns.RcodeSuccess {
		t.Errorf("its removal: %v", m)
	}
	if got := txt(); got != "" {
		t.Errorf("the proof %q stays", got)
	}
}

// TestGarbage: what is no message neither ends the server nor gets more back than it
// sent.
func TestGarbage(t *testing.T) {
	r := start(t, "")
	conn, err := net.Dial("udp", r.server.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	good, err := question("cf.internal.", dns.TypeSOA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		for _, data := range [][]byte{good[:n], append(slices.Clone(good), good[:n]...)} {
			if _, err := conn.Write(data); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Fatal(err)
			}
		}
	}
	answer := slices.Clone(good)
	answer[2] |= 0x80 // it says that it is an answer: two servers could answer each other for ever
	if _, err := conn.Write(answer); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Dial("tcp", r.server.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := silent.Write(binary.BigEndian.AppendUint16(nil, 60000)); err != nil { // it promises much and sends nothing
		t.Fatal(err)
	}
	if m := r.exchange("udp", question("cf.internal.", dns.TypeSOA)); len(m.Answer) != 1 {
		t.Errorf("after garbage: %v", m)
	}
}

// FuzzAnswer: whatever is asked, the answer can be sent, is about the question, and
// says nothing of zones that are not ours.
func FuzzAnswer(f *testing.F) {
	for _, m := range []*dns.Msg{question("0.router.cf.internal.", dns.TypeA), question("example.org.", dns.TypeANY), question(".", dns.TypeNS)} {
		data, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	z := newZones(testConfig(f), 1)
	f.Fuzz(func(t *testing.T, data []byte) {
		q := new(dns.Msg)
		if q.Unpack(data) != nil || len(q.Question) != 1 {
			return
		}
		m := new(dns.Msg)
		m.SetReply(q)
		z.answer(m, q.Question[0], state{healthy: func(string) bool { return true }, texts: func(string) []string { return nil }, turn: 3})
		ours := z.zoneOf(strings.ToLower(q.Question[0].Name)) != ""
		if ours != m.Authoritative && m.Rcode != dns.RcodeRefused || !ours && (m.Rcode != dns.RcodeRefused || len(m.Answer)+len(m.Ns)+len(m.Extra) > 0) {
			t.Fatalf("%v is answered with %v", q, m)
		}
		if _, err := m.Pack(); err != nil {
			t.Fatalf("%v: %v", q, err)
		}
	})
}
