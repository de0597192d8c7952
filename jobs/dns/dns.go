// Package dns is the deployment's name server. In the zone <deployment>.internal
// every instance and every group has a name, a group that of its healthy members; in
// the deployment's domain every name leads to the load balancers. It answers for
// these zones only, and lets the deployer prove them to a CA.
//
// zone.go has the answers, health.go who is healthy, update.go what may be set;
// Server gets questions to them. Messages are github.com/miekg/dns's.
package dns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
)

// heartbeats is the subject on which agents say how their instances are: "heartbeat.router.0".
const heartbeats = "heartbeat.*.*"

// udpSize is the largest answer over UDP that we ask for and give: no packet of it is
// cut into pieces on any usual path.
const udpSize = 1232

// idle is the time that a TCP connection may say nothing.
const idle = 10 * time.Second

// Server is a running name server.
type Server struct {
	file     string
	base     *component.Component
	zones    atomic.Pointer[zones]
	health   *health
	texts    *texts
	key      string
	packets  net.PacketConn
	listener net.Listener
	turn     atomic.Uint32
	asked    [16]atomic.Int64 // by the answer's code
}

// New reads the configuration and takes the ports. Run must follow.
func New(p component.Process) (_ *Server, err error) {
	s := &Server{file: p.ConfigFile, health: newHealth(), texts: &texts{all: map[string][]text{}, now: time.Now}}
	cfg, raw, err := load(p.ConfigFile)
	if err != nil {
		return nil, err
	}
	s.key = cfg.UpdateKey
	s.use(cfg)
	s.base, err = component.Open(component.Options{
		Type: "DNS", Process: p, Config: cfg.Config, Raw: raw, Varz: s.varz, Reload: s.reload,
		Drain: func(context.Context) error { return nil }, // clients ask the next server
	})
	if err != nil {
		return nil, err
	}
	if err := s.listen(cfg.Port); err != nil {
		s.base.Close()
		return nil, err
	}
	return s, nil
}

// listen takes the same port for UDP and TCP.
func (s *Server) listen(port int) error {
	address := net.JoinHostPort(s.base.Address(), strconv.Itoa(port))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("cannot listen for questions: %w; choose a port above 1023 or run as root", err)
	}
	packets, err := net.ListenPacket("udp", listener.Addr().String())
	if err != nil {
		return errors.Join(fmt.Errorf("cannot listen for questions: %w", err), listener.Close())
	}
	s.listener, s.packets = listener, packets
	return nil
}

// Address returns where questions come in.
func (s *Server) Address() string { return s.listener.Addr().String() }

func (s *Server) use(cfg Config) {
	s.zones.Store(newZones(cfg, uint32(time.Now().Unix()))) // grows with each reload
	keep := map[string]bool{}
	for _, in := range cfg.Instances {
		keep[in.ID] = true
	}
	s.health.forget(keep)
}

func (s *Server) reload() error {
	cfg, _, err := load(s.file)
	if err != nil {
		return err
	}
	s.use(cfg)
	return nil
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.base.Close()
	bus := s.base.Bus()
	if _, err := bus.Subscribe(heartbeats, s.heartbeat); err != nil {
		return errors.Join(fmt.Errorf("cannot hear how instances are: %w", err), s.listener.Close(), s.packets.Close())
	}
	s.base.OnConnect(func() { s.health.connected(time.Now()) })
	return s.base.Run(ctx, s.serve(&dns.Server{PacketConn: s.packets}), s.serve(&dns.Server{Listener: s.listener}))
}

// serve returns what serves one socket until its context ends.
func (s *Server) serve(server *dns.Server) func(context.Context) error {
	server.Handler = s
	server.UDPSize = udpSize
	server.ReadTimeout, server.WriteTimeout = idle, idle
	server.IdleTimeout = func() time.Duration { return idle }
	server.MaxTCPQueries = 1000
	server.MsgAcceptFunc = accept
	if s.key != "" {
		server.TsigSecret = map[string]string{keyName: key(s.key)}
	}
	return func(ctx context.Context) error {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		done := make(chan error, 1)
		go func() { done <- server.ActivateAndServe() }()
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
		}
		select {
		case <-started:
		case err := <-done:
			return err
		}
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = server.ShutdownContext(limited) // what takes longer is cut
		return <-done
	}
}

// accept lets updates through, which the library leaves out; answers and pieces of
// messages are dropped.
func accept(h dns.Header) dns.MsgAcceptAction {
	const response = 1 << 15
	opcode := int(h.Bits>>11) & 0xF
	switch {
	case h.Bits&response != 0:
		return dns.MsgIgnore
	case opcode != dns.OpcodeQuery && opcode != dns.OpcodeUpdate:
		return dns.MsgRejectNotImplemented
	case h.Qdcount != 1:
		return dns.MsgReject
	}
	return dns.MsgAccept
}

// ServeDNS answers one message.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = false
	z := s.zones.Load()
	switch {
	case len(q.Question) != 1: // the header says so, and nothing follows
		m.Rcode = dns.RcodeFormatError
	case q.Opcode == dns.OpcodeUpdate:
		m.Rcode = s.update(w, z, q)
	case q.Question[0].Qclass != dns.ClassINET:
		m.Rcode = dns.RcodeRefused
	default:
		now := time.Now()
		z.answer(m, q.Question[0], state{
			healthy: func(id string) bool { return s.health.healthy(id, s.base.Connected(), now) },
			texts:   s.texts.of,
			turn:    int(s.turn.Add(1)),
		})
	}
	size := dns.MinMsgSize
	if o := q.IsEdns0(); o != nil {
		size = max(size, min(int(o.UDPSize()), udpSize))
		m.SetEdns0(udpSize, false)
		if o.Version() != 0 {
			m.Answer, m.Ns, m.Extra = nil, nil, m.Extra[len(m.Extra)-1:]
			m.Rcode = dns.RcodeBadVers
		}
	}
	if w.RemoteAddr().Network() == "udp" {
		m.Truncate(size)
	}
	if t := q.IsTsig(); t != nil && w.TsigStatus() == nil {
		m.SetTsig(t.Hdr.Name, t.Algorithm, 300, time.Now().Unix())
	}
	s.asked[m.Rcode&15].Add(1)
	if err := w.WriteMsg(m); err != nil {
		s.base.Log().Debug("cannot answer", "to", w.RemoteAddr(), "error", err)
	}
}

// update applies an update of who has the key.
func (s *Server) update(w dns.ResponseWriter, z *zones, q *dns.Msg) (rcode int) {
	log := s.base.Log().With("from", w.RemoteAddr())
	t := q.IsTsig()
	if s.key == "" || t == nil || w.TsigStatus() != nil || t.Hdr.Name != keyName || t.Algorithm != dns.HmacSHA256 {
		log.Warn("an update is refused: it has not the right key (property update_key)")
		return dns.RcodeRefused
	}
	rcode = s.texts.update(z, q)
	log.Info("update", "zone", q.Question[0].Name, "records", len(q.Ns), "result", dns.RcodeToString[rcode])
	return rcode
}

// heartbeat takes what an agent says. The bus lets it speak for its own instance
// only, which the subject names.
func (s *Server) heartbeat(m *nats.Msg) {
	parts := strings.Split(m.Subject, ".")
	var beat struct {
		State string `json:"state"`
	}
	if len(parts) != 3 || json.Unmarshal(m.Data, &beat) != nil {
		return
	}
	s.health.heard(parts[1]+"/"+parts[2], beat.State == "running", time.Now())
}

func (s *Server) varz() map[string]any {
	asked := map[string]int64{}
	for code := range s.asked {
		if n := s.asked[code].Load(); n > 0 {
			asked[dns.RcodeToString[code]] = n
		}
	}
	return map[string]any{"answers": asked}
}
