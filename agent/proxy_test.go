package agent_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net"
	"sync"
	"testing"
)

// proxy passes connections on and cuts the one that carries the n-th message;
// what one read gives is a message.
type proxy struct {
	dial     func() (net.Conn, error)
	listener net.Listener
	work     sync.WaitGroup

	mu    sync.Mutex
	left  int
	cut   bool
	conns map[net.Conn]bool
}

func startProxy(t testing.TB, dial func() (net.Conn, error), n int) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{dial: dial, listener: l, left: n, conns: make(map[net.Conn]bool)}
	p.work.Go(p.accept)
	t.Cleanup(func() { p.close() })
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

// close ends the proxy and tells whether it has cut.
func (p *proxy) close() bool {
	p.listener.Close()
	p.cutAll()
	p.work.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut
}

// cutAll ends all connections of now.
func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := p.dial()
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		p.work.Go(func() { p.pass(client, server) })
		p.work.Go(func() { p.pass(server, client) })
	}
}

func (p *proxy) pass(from, to net.Conn) {
	defer func() {
		from.Close()
		to.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, from)
		delete(p.conns, to)
	}()
	buffer := make([]byte, 256<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil || p.enough() {
			return
		}
	}
}

// enough counts a message.
func (p *proxy) enough() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left--
	if p.left == 0 {
		p.cut = true
	}
	return p.left == 0
}

// strangersKey is the public half of a key that no agent has.
func strangersKey(t testing.TB) crypto.PublicKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}
