package memcachednode

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/clusterworks/deploy/agent/host/sockets"
)

// The SASL library of a server asks who a client is over a unix socket, in the
// protocol of saslauthd: user, password, service and realm, each after its length in
// two bytes; the answer is OK or NO, after its length. The node answers from its
// records: so no password is in a file of the server, and who is removed is refused at
// once.

const (
	askTime  = 5 * time.Second // that a server has for its question
	maxField = 1024            // bytes of each field
)

// question describes what a server asks.
type question struct{ user, password, service, realm string }

// readQuestion reads one.
func readQuestion(r io.Reader) (question, error) {
	var q question
	for _, field := range []*string{&q.user, &q.password, &q.service, &q.realm} {
		var length uint16
		if err := binary.Read(r, binary.BigEndian, &length); err != nil {
			return question{}, fmt.Errorf("cannot read a server's question: %w", err)
		}
		if length > maxField {
			return question{}, errors.New("cannot read a server's question: a field is too long")
		}
		text := make([]byte, length)
		if _, err := io.ReadFull(r, text); err != nil {
			return question{}, fmt.Errorf("cannot read a server's question: %w", err)
		}
		*field = string(text)
	}
	return q, nil
}

// equal reports whether two passwords are the same, in a time that does not tell how
// much of them is. Nobody has an empty one.
func equal(want, got string) bool {
	return want != "" && subtle.ConstantTimeCompare([]byte(want), []byte(got)) == 1
}

// doors are the sockets on which servers ask, one for each instance: which of them is
// asked says whose users are meant.
type doors struct {
	own    func(path string) error // gives a socket to the servers' user
	admits func(instance, user, password string) bool

	mu     sync.Mutex
	open   map[string]net.Listener
	closed bool
	tasks  sync.WaitGroup
}

const door = "auth" // the socket's name in a server's folder

// serve opens an instance's door, if it is not open.
func (d *doors) serve(ctx context.Context, instance, folder string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errors.New("the node ends")
	}
	if _, is := d.open[instance]; is {
		return nil
	}
	path := filepath.Join(folder, door)
	l, err := sockets.Listen(path)
	if err == nil {
		err = d.own(path)
	}
	if err != nil {
		return fmt.Errorf("cannot open the socket on which a server asks who its clients are: %w", err)
	}
	d.open[instance] = l
	d.tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // it is closed
			}
			d.tasks.Go(func() { d.answer(ctx, conn, instance) })
		}
	})
	return nil
}

func (d *doors) answer(ctx context.Context, conn net.Conn, instance string) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(askTime)) // fails on a closed connection, as reading does
	text := "NO"
	if q, err := readQuestion(conn); err != nil {
		return
	} else if d.admits(instance, q.user, q.password) {
		text = "OK"
	}
	_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...)) // who does not listen refuses
}

// close closes an instance's door.
func (d *doors) close(instance string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l, is := d.open[instance]; is {
		l.Close()
		delete(d.open, instance)
	}
}

// closeAll closes all doors and returns when nobody is answered any more.
func (d *doors) closeAll() {
	d.mu.Lock()
	d.closed = true
	for _, l := range d.open {
		l.Close()
	}
	d.open = map[string]net.Listener{}
	d.mu.Unlock()
	d.tasks.Wait()
}
