package router

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/procfs"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/wire"
)

// What each proxy of BenchmarkPeers is asked for in a round.
const (
	peerConnections = 64
	peerRequests    = 20_000
	peerRounds      = 3
	peerHost        = "app.example.com"
)

// asPeer makes the test program a bare httputil.ReverseProxy in front of the
// address that it names, or a net/http server that answers by itself.
const (
	asPeer   = "ROUTER_BENCH_PEER"
	constant = "constant"
)

func TestMain(m *testing.M) {
	switch target := os.Getenv(asPeer); target {
	case "":
		os.Exit(m.Run())
	case constant:
		answer := []byte(strings.Repeat("x", 1024))
		servePeer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			w.Header().Set("Content-Length", "1024")
			_, _ = w.Write(answer)
		}))
	default:
		servePeer(reverseProxy(target))
	}
}

func reverseProxy(target string) http.Handler {
	to := &url.URL{Scheme: "http", Host: target}
	return &httputil.ReverseProxy{
		Rewrite:       func(p *httputil.ProxyRequest) { p.SetURL(to); p.Out.Host = p.In.Host; p.SetXForwarded() },
		Transport:     &http.Transport{MaxIdleConnsPerHost: peerConnections, DisableCompression: true},
		FlushInterval: -1,
		BufferPool:    copyBuffers{&buffers{}},
	}
}

// servePeer serves on an address that it prints until its input ends.
func servePeer(h http.Handler) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	panic(http.Serve(l, h))
}

// peer is a proxy, or the backend itself, as a process of its own.
type peer struct {
	name, addr string
	pid        int
	took, cpu  time.Duration
}

// BenchmarkPeers compares the router with nginx, haproxy and a bare
// httputil.ReverseProxy before the same backend, and with a net/http server that
// answers without one: 64 connections, answers of 1 KB,
// all in turns within one run, so that a busy machine is busy for each of them.
// It reports the CPU time of a request against nginx's, and the throughput
// against that of the backend alone.
func BenchmarkPeers(b *testing.B) {
	dir := b.TempDir()
	backend := startNginx(b, dir, "backend", "return 200 '"+strings.Repeat("x", 1024)+"';", "")
	peers := []*peer{
		{name: "backend", addr: backend, pid: nginxPID(b, dir, "backend")},
		startNginxProxy(b, dir, backend),
		startHaproxy(b, dir, backend),
		startPeer(b, "ReverseProxy", backend),
		// The least that anything behind net/http's server costs.
		startPeer(b, "net/http", constant),
		startRouter(b, dir, backend),
	}
	for _, p := range peers {
		ask(b, p, 2000) // warm: connections and pools are there
	}
	for range b.N {
		for range peerRounds {
			for _, p := range peers {
				before, begin := cpuOf(b, p.pid), time.Now()
				ask(b, p, peerRequests)
				p.took += time.Since(begin)
				p.cpu += cpuOf(b, p.pid) - before
			}
		}
	}
	alone, nginx := peers[0], peers[1]
	for _, p := range peers {
		perRequest := float64(p.cpu.Microseconds()) / float64(b.N*peerRounds*peerRequests)
		b.ReportMetric(perRequest, p.name+"-us/req")
		b.ReportMetric(float64(p.cpu)/float64(nginx.cpu), p.name+"-cpu/nginx")
		b.ReportMetric(float64(alone.took)/float64(p.took), p.name+"-rate/backend")
	}
}

// ask sends so many requests over peerConnections connections.
func ask(b *testing.B, p *peer, requests int) {
	b.Helper()
	var clients sync.WaitGroup
	failed := make(chan error, peerConnections)
	for range peerConnections {
		clients.Go(func() {
			if err := askOver(p.addr, peerHost, requests/peerConnections); err != nil {
				failed <- fmt.Errorf("%s: %w", p.name, err)
			}
		})
	}
	clients.Wait()
	select {
	case err := <-failed:
		b.Fatal(err)
	default:
	}
}

func askOver(addr, host string, requests int) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	request := []byte("GET /some/path?with=query HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	in := bufio.NewReader(conn)
	for range requests {
		if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
			return err
		}
		if _, err := conn.Write(request); err != nil {
			return err
		}
		if err := skipAnswer(in); err != nil {
			return err
		}
	}
	return nil
}

// skipAnswer reads an answer with a Content-Length.
func skipAnswer(in *bufio.Reader) error {
	length := -1
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("answers %q", line)
		}
		if len(line) == 2 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); strings.EqualFold(string(name), "Content-Length") {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("answers without Content-Length")
	}
	_, err := in.Discard(length)
	return err
}

// cpuOf returns the CPU time of a process and of its children that live.
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	all, err := procfs.AllProcs()
	if err != nil {
		b.Fatal(err)
	}
	var sum float64
	for _, p := range all {
		stat, err := p.Stat()
		if err == nil && (stat.PID == pid || stat.PPID == pid) {
			sum += stat.CPUTime()
		}
	}
	return time.Duration(sum * float64(time.Second))
}

// run starts a program that is ended with the benchmark.
func run(b *testing.B, cmd *exec.Cmd) {
	b.Helper()
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil && b.Failed() {
			b.Logf("%s: %v\n%s", cmd.Path, err, said.String())
		}
	})
}

func free(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func answers200(b *testing.B, addr string) {
	b.Helper()
	eventually(b, addr+" answers", func() bool { return askOver(addr, peerHost, 1) == nil })
}

// startNginx starts an nginx with two workers, one server with this location.
func startNginx(b *testing.B, dir, name, location, upstream string) string {
	b.Helper()
	addr, prefix := free(b), filepath.Join(dir, name)
	if err := os.Mkdir(prefix, 0o700); err != nil {
		b.Fatal(err)
	}
	text := "daemon off; worker_processes 2; pid nginx.pid; error_log stderr error;\n" +
		"events { worker_connections 1024; }\n" +
		"http { access_log off; keepalive_requests 1000000; client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;\n" +
		upstream + "\nserver { listen " + addr + "; location / { " + location + " } } }\n"
	file := filepath.Join(prefix, "nginx.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	run(b, exec.Command("nginx", "-p", prefix, "-c", file, "-e", "stderr"))
	answers200(b, addr)
	return addr
}

func nginxPID(b *testing.B, dir, name string) int {
	b.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name, "nginx.pid"))
	if err != nil {
		b.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		b.Fatal(err)
	}
	return pid
}

func startNginxProxy(b *testing.B, dir, backend string) *peer {
	b.Helper()
	addr := startNginx(b, dir, "nginx",
		"proxy_pass http://apps; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $host;",
		"upstream apps { server "+backend+"; keepalive 64; keepalive_requests 1000000; }")
	return &peer{name: "nginx", addr: addr, pid: nginxPID(b, dir, "nginx")}
}

func startHaproxy(b *testing.B, dir, backend string) *peer {
	b.Helper()
	addr, file := free(b), filepath.Join(dir, "haproxy.cfg")
	text := "global\n  nbthread 2\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n" +
		"frontend in\n  bind " + addr + "\n  option forwardfor\n  default_backend apps\nbackend apps\n  http-reuse always\n  server one " + backend + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("haproxy", "-db", "-f", file)
	run(b, cmd)
	answers200(b, addr)
	return &peer{name: "haproxy", addr: addr, pid: cmd.Process.Pid}
}

func startPeer(b *testing.B, name, as string) *peer {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), asPeer+"="+as)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	run(b, cmd)
	b.Cleanup(func() { stdin.Close() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return &peer{name: name, addr: strings.TrimSpace(line), pid: cmd.Process.Pid}
}

// startRouter builds the router and starts it as its job does, with a route.
func startRouter(b *testing.B, dir, backend string) *peer {
	b.Helper()
	bus := componenttest.Bus(b)
	conn, err := nats.Connect(bus.ClientURL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	p := startRouterOn(b, dir, "router", bus.ClientURL())
	registerPeer(b, conn, p, backend)
	return p
}

// startRouterOn starts a router on a bus.
func startRouterOn(b *testing.B, dir, name, bus string) *peer {
	b.Helper()
	program := filepath.Join(dir, "router")
	if out, err := exec.Command("go", "build", "-o", program, "./cmd/router").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	addr := free(b)
	host, port, _ := net.SplitHostPort(addr)
	file := filepath.Join(dir, name+".yml")
	if err := os.WriteFile(file, []byte("mbus: "+bus+"\nlocal_route: 127.0.0.1\ninet: "+host+"\nport: "+port+"\nlogging:\n  level: warn\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(program, "-c", file)
	run(b, cmd)
	return &peer{name: name, addr: addr, pid: cmd.Process.Pid}
}

// registerPeer registers peerHost and waits until the router routes it.
func registerPeer(b *testing.B, conn *nats.Conn, p *peer, backend string) {
	b.Helper()
	to, err := net.ResolveTCPAddr("tcp", backend)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	for askOver(p.addr, peerHost, 1) != nil {
		if ctx.Err() != nil {
			b.Fatal("the router does not route")
		}
		publish(b, conn, wire.SubjectRouterRegister, registration(to, peerHost))
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}
