package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clusterworks/deploy/agent/api"
)

const (
	// syslogPriority is facility daemon (3) and severity informational (6): nobody
	// here knows better (RFC 5424, 6.2.1).
	syslogPriority = 3*8 + 6
	// syslogDatagram keeps a message in one packet of any network that carries
	// IPv6 (RFC 5426, 3.2).
	syslogDatagram = 1180
	// syslogLine is the length at which a longer line is cut for a TCP receiver.
	syslogLine = 16 << 10

	syslogPoll    = 250 * time.Millisecond
	syslogRetry   = 2 * time.Second // after a failure
	syslogTimeout = 10 * time.Second
	// syslogSettle is the age below which lines sent over TCP are sent again if the
	// connection breaks: the server may not have read them.
	syslogSettle = 2 * time.Second
	// syslogChunk is read of one log at a time.
	syslogChunk = 64 << 10
)

// cursor describes how far a log was forwarded.
type cursor struct {
	File string `json:"file"`
	Next int64  `json:"next"`
}

// forwarder sends what processes write to a syslog server, from where it was
// left: each line at least once, over TCP also when the server or the agent was
// away. What had been rotated away meanwhile is lost.
type forwarder struct {
	agent   *Agent
	server  string
	cancel  context.CancelFunc
	done    chan struct{}
	cursors map[string]cursor // by "job/process"
	conn    net.Conn

	// A server that goes away loses what it had not read yet, and nothing says how
	// much that was. settled is how far was forwarded syslogSettle or more ago,
	// recent how far at recentAt.
	settled, recent map[string]cursor
	recentAt        time.Time
}

// parseSyslog reads "udp://host:port", "tcp://host:port" or "host:port", which is
// UDP.
func parseSyslog(server string) (network, address string, err error) {
	if !strings.Contains(server, "://") {
		server = "udp://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return "", "", fmt.Errorf("cannot read the syslog server %q: %w", server, err)
	}
	if u.Scheme != "udp" && u.Scheme != "tcp" || u.Port() == "" || u.Hostname() == "" || u.Path != "" {
		return "", "", fmt.Errorf("cannot use the syslog server %q: use udp://host:port or tcp://host:port", server)
	}
	return u.Scheme, u.Host, nil
}

func (a *Agent) cursorFile() string { return filepath.Join(a.config.Dir, "syslog.json") }

// forward begins to forward.
func (a *Agent) forward(server string) *forwarder {
	ctx, cancel := context.WithCancel(a.ctx)
	f := &forwarder{agent: a, server: server, cancel: cancel, done: make(chan struct{}), cursors: map[string]cursor{}}
	if data, err := os.ReadFile(a.cursorFile()); err == nil {
		if err := json.Unmarshal(data, &f.cursors); err != nil {
			a.config.Log.Warn("logs are forwarded from their beginning", "err", err)
			f.cursors = map[string]cursor{}
		}
	}
	go func() {
		defer close(f.done)
		f.run(ctx)
	}()
	return f
}

// close ends the forwarding and waits for it. f may be nil.
func (f *forwarder) close() {
	if f != nil {
		f.cancel()
		<-f.done
	}
}

func (f *forwarder) run(ctx context.Context) {
	defer f.hangUp()
	f.settled, f.recent, f.recentAt = maps.Clone(f.cursors), maps.Clone(f.cursors), time.Now()
	for told := false; ; {
		pause := syslogPoll
		err := f.round(ctx)
		if ctx.Err() == nil {
			f.settle(err == nil)
		}
		if err != nil && ctx.Err() == nil {
			f.hangUp()
			pause = syslogRetry
			if !told {
				f.agent.config.Log.Warn("cannot forward logs; trying again", "server", f.server, "err", err)
			}
			told = true
		} else if err == nil {
			told = false
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// settle takes note of how far a round came, or after a failed one goes back to
// what surely arrived.
func (f *forwarder) settle(ok bool) {
	now := time.Now()
	network, _, _ := parseSyslog(f.server)
	switch {
	case !ok && network == "tcp" && f.conn != nil:
		f.cursors, f.recent, f.recentAt = maps.Clone(f.settled), maps.Clone(f.settled), now
	case ok && now.Sub(f.recentAt) >= syslogSettle:
		f.settled, f.recent, f.recentAt = f.recent, maps.Clone(f.cursors), now
	}
}

func (f *forwarder) hangUp() {
	if f.conn != nil {
		_ = f.conn.Close() // nothing is awaited from it
		f.conn = nil
	}
}

// round forwards what is new in all logs, and notes how far that was.
func (f *forwarder) round(ctx context.Context) (err error) {
	moved := false
	defer func() {
		if moved {
			err = errors.Join(err, f.save())
		}
	}()
	for _, p := range f.agent.supervisor.Statuses() {
		name := p.Job + "/" + p.Name
		for ctx.Err() == nil {
			at := f.cursors[name]
			chunk, err := f.agent.readLog(api.LogRequest{Job: p.Job, Process: p.Name, File: at.File, Offset: at.Next, Max: syslogChunk})
			if err != nil {
				return err
			}
			whole := bytes.LastIndexByte(chunk.Data, '\n') + 1
			if whole == 0 && len(chunk.Data) == syslogChunk {
				whole = len(chunk.Data) // a line without end
			}
			if whole == 0 {
				break // nothing new, or a line that is being written
			}
			if err := f.send(ctx, p, chunk.Data[:whole]); err != nil {
				return err
			}
			f.cursors[name] = cursor{chunk.File, chunk.Next - int64(len(chunk.Data)-whole)}
			moved = true
		}
	}
	return ctx.Err()
}

// save does not sync: after a crash of the VM some lines are sent again.
func (f *forwarder) save() error {
	data, err := json.Marshal(f.cursors)
	if err != nil {
		return err
	}
	name := f.agent.cursorFile()
	if err := os.WriteFile(name+".new", data, 0o600); err != nil {
		return fmt.Errorf("cannot note how far logs were forwarded: %w", err)
	}
	return os.Rename(name+".new", name)
}

// send sends lines, each as one message.
func (f *forwarder) send(ctx context.Context, p api.ProcessStatus, lines []byte) error {
	network, address, err := parseSyslog(f.server)
	if err != nil {
		return err
	}
	if f.conn == nil {
		dialer := net.Dialer{Timeout: syslogTimeout}
		if f.conn, err = dialer.DialContext(ctx, network, address); err != nil {
			f.conn = nil
			return err
		}
	}
	if network == "tcp" && gone(f.conn) {
		return fmt.Errorf("%s has closed the connection", address)
	}
	if err := f.conn.SetWriteDeadline(time.Now().Add(syslogTimeout)); err != nil {
		return err
	}
	id := f.agent.identityNow()
	most := syslogLine
	if network == "udp" {
		most = syslogDatagram
	}
	for line := range bytes.Lines(lines) {
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			continue
		}
		message := syslogMessage(id, p, time.Now(), line, most)
		if network == "tcp" {
			message = append([]byte(strconv.Itoa(len(message))+" "), message...) // octet counting: RFC 6587, 3.4.1
		}
		if _, err := f.conn.Write(message); err != nil {
			return err
		}
	}
	return nil
}

// gone tells whether the far end has closed a connection on which it never says
// anything: a write would succeed once more, and its lines be lost.
func gone(conn net.Conn) bool {
	if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return true
	}
	_, err := conn.Read(make([]byte, 1))
	var timeout net.Error
	return err != nil && !(errors.As(err, &timeout) && timeout.Timeout())
}

func (a *Agent) identityNow() identity {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.identity
}

// syslogMessage is one message of RFC 5424. The time is that of the forwarding:
// only the process knows when it wrote the line.
func syslogMessage(id identity, p api.ProcessStatus, at time.Time, line []byte, most int) []byte {
	procID := "-"
	if p.PID != 0 {
		procID = strconv.Itoa(p.PID)
	}
	host := strings.ReplaceAll(id.Instance, "/", "-") + "." + id.Deployment
	head := fmt.Sprintf("<%d>1 %s %s %s %s - - ", syslogPriority, at.UTC().Format("2006-01-02T15:04:05.000000Z"),
		syslogName(host, 255), syslogName(p.Job+"/"+p.Name, 48), procID)
	line = bytes.ToValidUTF8(line, []byte("\uFFFD"))
	if room := max(0, most-len(head)); len(line) > room {
		for line = line[:room]; len(line) > 0 && !utf8.Valid(line); {
			line = line[:len(line)-1]
		}
	}
	return append([]byte(head), line...)
}

// syslogName makes a field of printable ASCII without spaces.
func syslogName(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < 33 || r > 126 {
			return '_'
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), most)]
}

// configureSyslog forwards logs to where the identity says, and nowhere else.
func (a *Agent) configureSyslog() {
	a.mu.Lock()
	server, before := a.identity.Syslog, a.forwarder
	a.mu.Unlock()
	if before != nil && before.server == server {
		return
	}
	before.close() // it asks for the identity, so a.mu is free
	var next *forwarder
	if server != "" {
		next = a.forward(server)
	}
	a.mu.Lock()
	a.forwarder = next
	a.mu.Unlock()
}
