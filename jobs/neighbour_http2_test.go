package jobs_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Client misuses a connection of HTTP/2.
type http2Client struct {
	*http2.Framer
	ctx    context.Context
	host   string
	stream uint32 // the last one
}

// speakHTTP2 lets do misuse a connection to nginx until it fails or ctx ends.
func (p *platform) speakHTTP2(ctx context.Context, do func(*http2Client) error, host, from string) {
	d := &tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}},
		Config: &tls.Config{InsecureSkipVerify: true, ServerName: host, NextProtos: []string{"h2"}}}
	conn, err := d.DialContext(ctx, "tcp", p.address+":8443")
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var reading sync.WaitGroup
	defer reading.Wait()
	defer conn.Close()
	reading.Go(func() { _, _ = io.Copy(io.Discard, conn) }) // as fast as it comes: only frames hold back
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return
	}
	c := &http2Client{Framer: http2.NewFramer(conn, nil), ctx: ctx, host: host}
	if do(c) == nil {
		<-ctx.Done()
	}
}

// open begins a request. It ends there, or its body follows.
func (c *http2Client) open(method string, ends bool) error {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", method}, {":scheme", "https"}, {":authority", c.host}, {":path", "/"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		if err := e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return err
		}
	}
	if c.stream == 0 {
		c.stream = 1
	} else {
		c.stream += 2
	}
	return c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: ends})
}

// again does something n times, every 20 ms.
func (c *http2Client) again(n int, do func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		for range n {
			if err := do(); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
	}
}

// http2Misbehaviours are those that only HTTP/2 has.
func http2Misbehaviours() []misbehaviour {
	fine := says(okHead + "Content-Length: 0\r\n\r\n")
	// More than a window of HTTP/2; and little enough that it is not the machine that
	// is measured, which carries all of it until its buffers are full.
	long := func(conn net.Conn, in *bufio.Reader) {
		readHead(in)
		_, _ = io.WriteString(conn, okHead+"Content-Length: 300000\r\n\r\n"+strings.Repeat("x", 300000))
		_, _ = io.Copy(io.Discard, in)
	}
	// many opens streams.
	many := func(c *http2Client, method string, ends bool, settings ...http2.Setting) error {
		if err := c.WriteSettings(settings...); err != nil {
			return err
		}
		for range 30 {
			if err := c.open(method, ends); err != nil {
				return err
			}
		}
		return nil
	}
	return []misbehaviour{
		{name: "HTTP/2, streams opened and reset", app: then(""), clients: 4, http2: func(c *http2Client) error {
			if err := c.WriteSettings(); err != nil {
				return err
			}
			return c.again(20, func() error {
				if err := c.open("GET", true); err != nil {
					return err
				}
				return c.WriteRSTStream(c.stream, http2.ErrCodeCancel)
			})
		}},
		{name: "HTTP/2, a head without end", app: fine, clients: 4, http2: func(c *http2Client) error {
			if err := c.WriteSettings(); err != nil {
				return err
			}
			var block bytes.Buffer
			e := hpack.NewEncoder(&block)
			if err := e.WriteField(hpack.HeaderField{Name: "x-more", Value: strings.Repeat("a", 1000), Sensitive: true}); err != nil {
				return err
			}
			if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes()}); err != nil {
				return err
			}
			return c.again(20, func() error { return c.WriteContinuation(1, false, block.Bytes()) })
		}},
		{name: "HTTP/2, pings and settings", app: fine, clients: 4, http2: func(c *http2Client) error {
			return c.again(100, func() error {
				if err := c.WritePing(false, [8]byte{}); err != nil {
					return err
				}
				return c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
			})
		}},
		{name: "HTTP/2, streams without a window", app: long, http2: func(c *http2Client) error {
			return many(c, "GET", true, http2.Setting{ID: http2.SettingInitialWindowSize})
		}},
		{name: "HTTP/2, windows of a byte", app: long, http2: func(c *http2Client) error {
			if err := many(c, "GET", true, http2.Setting{ID: http2.SettingInitialWindowSize}); err != nil {
				return err
			}
			return c.again(1, func() error {
				for stream := uint32(1); stream <= c.stream; stream += 2 {
					if err := c.WriteWindowUpdate(stream, 1); err != nil {
						return err
					}
				}
				return nil
			})
		}},
		{name: "HTTP/2, streams of gRPC that stay open", app: then(""), http2: func(c *http2Client) error {
			if err := many(c, "POST", false); err != nil {
				return err
			}
			return c.again(1, func() error { return c.WriteData(c.stream, false, []byte{0, 0, 0, 0, 0}) })
		}},
		{name: "HTTP/2, empty pieces of a body", app: then(""), clients: 4, http2: func(c *http2Client) error {
			if err := c.WriteSettings(); err != nil {
				return err
			}
			if err := c.open("POST", false); err != nil {
				return err
			}
			return c.again(100, func() error { return c.WriteData(1, false, nil) })
		}},
	}
}
