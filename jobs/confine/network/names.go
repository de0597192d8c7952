package network

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// Bounds on what is read before it is known whom a program wants.
const (
	maxHello  = 64 << 10
	helloWait = 10 * time.Second
)

var errNoName = errors.New("no host is named")

// requested reads from a connection which host is asked for, by TLS's server name or
// HTTP's Host, and returns what it has read.
func requested(conn net.Conn) (host string, read []byte, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(helloWait)); err != nil {
		return "", nil, err
	}
	host, read, err = hostOf(io.LimitReader(conn, maxHello))
	if err != nil {
		return "", nil, err
	}
	return host, read, conn.SetReadDeadline(time.Time{})
}

// hostOf finds the host in the first bytes of TLS or HTTP.
func hostOf(from io.Reader) (host string, read []byte, err error) {
	var seen bytes.Buffer
	in := bufio.NewReader(io.TeeReader(from, &seen))
	first, err := in.Peek(1)
	if err != nil {
		return "", nil, err
	}
	const handshake = 22 // TLS's type of record
	if first[0] == handshake {
		host = serverName(in)
	} else if request, err := http.ReadRequest(in); err == nil && request.Method != http.MethodConnect {
		host = request.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
	}
	if host == "" {
		return "", nil, errNoName
	}
	return host, seen.Bytes(), nil
}

// serverName reads a TLS client's first message.
func serverName(in io.Reader) (name string) {
	known := errors.New("known")
	_ = tls.Server(onlyReads{in}, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			name = hello.ServerName
			return nil, known
		},
	}).Handshake() // it ends with the error that we gave, or the message's own
	return name
}

// onlyReads is a connection on which nothing is sent.
type onlyReads struct{ from io.Reader }

func (c onlyReads) Read(p []byte) (int, error)       { return c.from.Read(p) }
func (c onlyReads) Write([]byte) (int, error)        { return 0, io.ErrClosedPipe }
func (c onlyReads) Close() error                     { return nil }
func (c onlyReads) LocalAddr() net.Addr              { return nil }
func (c onlyReads) RemoteAddr() net.Addr             { return nil }
func (c onlyReads) SetDeadline(time.Time) error      { return nil }
func (c onlyReads) SetReadDeadline(time.Time) error  { return nil }
func (c onlyReads) SetWriteDeadline(time.Time) error { return nil }
