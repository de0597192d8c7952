package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Bounds on what a program asks of name servers.
const (
	maxQuestions = 64 // at once
	answerWait   = 5 * time.Second
	maxDatagram  = 4096
)

// nameServers returns the machine's, of resolv.conf.
func nameServers() []string {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	var servers []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 1 && fields[0] == "nameserver" {
			if _, err := netip.ParseAddr(fields[1]); err == nil {
				servers = append(servers, net.JoinHostPort(fields[1], "53"))
			}
		}
	}
	return servers
}

// answer passes questions on to the machine's name servers, whichever the program has
// asked.
func (r *relay) answer(ctx context.Context, inside net.PacketConn) {
	defer context.AfterFunc(ctx, func() { inside.Close() })()
	room := make(chan struct{}, maxQuestions)
	buffer := make([]byte, maxDatagram)
	for ctx.Err() == nil {
		size, from, err := inside.ReadFrom(buffer)
		if err != nil {
			continue // too large, or it is the end
		}
		if !r.mayAsk(buffer[:size]) {
			if refusal := refusalOf(buffer[:size]); refusal != nil {
				_, _ = inside.WriteTo(refusal, from)
			}
			continue
		}
		question := append([]byte(nil), buffer[:size]...)
		select {
		case room <- struct{}{}:
			r.work.Go(func() {
				defer func() { <-room }()
				if reply := r.ask(ctx, question); reply != nil {
					_, _ = inside.WriteTo(reply, from) // it asks again
				}
			})
		default: // as if it were lost
		}
	}
}

// mayAsk reports whether a program may ask this: with a policy of names, for these
// only, since a question can carry a secret to whoever answers.
func (r *relay) mayAsk(question []byte) bool {
	var parser dnsmessage.Parser
	header, err := parser.Start(question)
	if err != nil || header.Response {
		return false
	}
	if !r.n.policy.ByName {
		return true
	}
	questions, err := parser.AllQuestions()
	if err != nil || len(questions) != 1 {
		return false
	}
	return r.n.policy.permits(questions[0].Name.String(), 0)
}

// refusalOf returns the answer that a name server does not want to answer, nil if this
// was no question.
func refusalOf(question []byte) []byte {
	var parser dnsmessage.Parser
	header, err := parser.Start(question)
	if err != nil || header.Response {
		return nil
	}
	questions, err := parser.AllQuestions()
	if err != nil {
		return nil
	}
	header.Response, header.RCode = true, dnsmessage.RCodeRefused
	reply, err := (&dnsmessage.Message{Header: header, Questions: questions}).Pack()
	if err != nil {
		return nil
	}
	return reply
}

// ask sends a question to one name server after the other; nil: none answers.
func (r *relay) ask(ctx context.Context, question []byte) []byte {
	dialer := net.Dialer{Timeout: answerWait}
	for _, server := range r.servers {
		conn, err := dialer.DialContext(ctx, "udp", server)
		if err != nil {
			continue
		}
		reply := func() []byte {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(answerWait))
			if _, err := conn.Write(question); err != nil {
				return nil
			}
			buffer := make([]byte, 65535)
			size, err := conn.Read(buffer)
			if err != nil {
				return nil
			}
			return buffer[:size]
		}()
		if reply != nil {
			return reply
		}
	}
	return nil
}

// dialNameServer connects to one of the machine's name servers. With a policy of names
// there is no such connection: its questions are not looked at.
func (r *relay) dialNameServer(ctx context.Context) (*net.TCPConn, []byte, error) {
	if r.n.policy.ByName {
		return nil, nil, errClosed
	}
	err := errors.New("the machine has no name server")
	for _, server := range r.servers {
		dialer := net.Dialer{Timeout: answerWait}
		var conn net.Conn
		if conn, err = dialer.DialContext(ctx, "tcp", server); err == nil {
			return conn.(*net.TCPConn), nil, nil
		}
	}
	return nil, nil, err
}
