package parent

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"
)

// The requests that a parent answers.
const (
	opStatus = "status" // is answered once the process was started
	opSignal = "signal" // for the process itself
	opStop   = "stop"   // the signal, and after the grace period KILL
)

// request is one line on the socket, answered by one line.
type request struct {
	Op      string `json:"op"`
	Signal  string `json:"signal,omitempty"`
	GraceMS int64  `json:"grace_ms,omitempty"`
}

// reply answers a request; T is the record of the start.
type reply[T any] struct {
	Error   string `json:"error,omitempty"`
	Started T      `json:"started,omitzero"`
}

// Serve answers requests on the socket for as long as this process lives, each
// with the record of the process's start.
func Serve[T any](p *Parent, socket net.Listener, started T) {
	for {
		conn, err := socket.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "cannot serve:", err)
			time.Sleep(time.Second) // out of descriptors, perhaps: the request waits
			continue
		}
		go answer(p, conn, started)
	}
}

// answer serves one connection, which then stays open until either side ends: its
// end tells the other of ours.
func answer[T any](p *Parent, conn net.Conn, started T) {
	defer conn.Close()
	for lines := bufio.NewReaderSize(conn, 1024); ; {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return
		}
		var r request
		if err = json.Unmarshal(line, &r); err == nil {
			err = p.do(r)
		}
		answer := reply[T]{Started: started}
		if err != nil {
			answer.Error = err.Error()
		}
		data, err := json.Marshal(answer)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(data, '\n')); err != nil {
			return
		}
	}
}

func (p *Parent) do(r request) error {
	if r.Op == opStatus {
		return nil
	}
	if r.Op != opSignal && r.Op != opStop {
		return fmt.Errorf("there is no request %q", r.Op)
	}
	s := p.Signal
	if r.Signal != "" {
		var err error
		if s, err = SignalNumber(r.Signal); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Op == opStop {
		p.asked = true
		return p.stop(s, time.Duration(r.GraceMS)*time.Millisecond)
	}
	if err := p.signal(s, false); err != nil {
		return fmt.Errorf("cannot send signal %s: %w", r.Signal, err)
	}
	return nil
}
