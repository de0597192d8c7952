package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// The tests run in a process that has a network of its own, the machine, with a world
// beyond it: neither is the one of who runs the tests.
const modeVariable = "NETWORK_TEST_MODE"

func TestMain(m *testing.M) {
	switch os.Getenv(modeVariable) {
	case "machine":
		os.Exit(m.Run())
	case "program":
		program(os.Args[1:])
		os.Exit(0)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), modeVariable+"=machine")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE}
	}
	runtime.LockOSThread()
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// program returns what is confined: it does what its arguments say and prints the outcome.
func program(args []string) {
	for _, arg := range args {
		verb, what, _ := strings.Cut(arg, "=")
		outcome := func() string {
			switch verb {
			case "dial":
				conn, err := net.DialTimeout("tcp", what, 5*time.Second)
				if err != nil {
					return "denied"
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
				answer, err := io.ReadAll(conn)
				if err != nil || len(answer) == 0 {
					return "denied"
				}
				return string(answer)
			case "udp":
				conn, err := net.DialTimeout("udp", what, time.Second)
				if err != nil {
					return "denied"
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(time.Second))
				if _, err := conn.Write([]byte("x")); err != nil {
					return "denied"
				}
				if _, err := conn.Read(make([]byte, 9)); err != nil {
					return "denied"
				}
				return "heard"
			case "lookup":
				// "SERVER NAME"
				server, name, _ := strings.Cut(what, " ")
				r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, server)
				}}
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				found, err := r.LookupNetIP(ctx, "ip4", name)
				if err != nil {
					return "denied"
				}
				return fmt.Sprint(found)
			case "http":
				// "ADDRESS HOST": whatever is dialled, the host is named.
				at, host, _ := strings.Cut(what, " ")
				request, err := http.NewRequest(http.MethodGet, "http://"+at+"/", nil)
				if err != nil {
					return err.Error()
				}
				request.Host = host
				client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
				response, err := client.Do(request)
				if err != nil {
					return "denied"
				}
				defer response.Body.Close()
				answer, err := io.ReadAll(response.Body)
				if err != nil {
					return "denied"
				}
				return string(answer)
			case "abstract":
				conn, err := net.Dial("unix", "@"+what)
				if err != nil {
					return "denied"
				}
				conn.Close()
				return "reached"
			case "listen":
				l, err := net.Listen("tcp", what)
				if err != nil {
					return err.Error()
				}
				fmt.Println("listens")
				for {
					conn, err := l.Accept()
					if err != nil {
						return err.Error()
					}
					go func() {
						defer conn.Close()
						_, _ = io.Copy(conn, conn)
					}()
				}
			}
			return "?"
		}()
		fmt.Println(arg, "->", outcome)
	}
}

// The world's addresses: public, private, the cloud's metadata.
const (
	public   = "203.0.113.5"
	private  = "10.9.9.9"
	metadata = "169.254.169.254"
	gate     = "203.0.113.1" // the machine's own address
	public6  = "2001:db8::5"
	meta6    = "fd00:ec2::254"
)

// newWorld connects this machine with a world in which each address answers on port 80
// with HTTP, on port 7000 with its name, on UDP 7000 and with DNS.
func newWorld(t *testing.T) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	up := func(name string, addresses ...string) {
		link, err := netlink.LinkByName(name)
		must(err)
		for _, text := range addresses {
			address, err := netlink.ParseAddr(text)
			must(err)
			address.Flags = unix.IFA_F_NODAD
			must(netlink.AddrAdd(link, address))
		}
		must(netlink.LinkSetUp(link))
	}
	up("lo")
	ready, end := make(chan int), make(chan struct{})
	t.Cleanup(func() { close(end) })
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		must(unix.Unshare(unix.CLONE_NEWNET))
		ready <- unix.Gettid()
		<-ready
		up("lo")
		up("world", public+"/24", private+"/32", metadata+"/32", public6+"/64", meta6+"/128")
		for _, host := range []string{public, private, metadata, public6, meta6} {
			for port, serve := range map[string]func(net.Listener){
				"7000": func(l net.Listener) {
					for {
						conn, err := l.Accept()
						if err != nil {
							return
						}
						fmt.Fprint(conn, host)
						conn.Close()
					}
				},
				"80": func(l net.Listener) {
					_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s is %s", r.Host, host) }))
				},
			} {
				l, err := net.Listen("tcp", net.JoinHostPort(host, port))
				must(err)
				go serve(l)
			}
			for port, reply := range map[string]func([]byte) []byte{"7000": func(b []byte) []byte { return b }, "53": answerDNS} {
				c, err := net.ListenPacket("udp", net.JoinHostPort(host, port))
				must(err)
				go func() {
					buffer := make([]byte, 1500)
					for {
						n, from, err := c.ReadFrom(buffer)
						if err != nil {
							return
						}
						if answer := reply(buffer[:n]); answer != nil {
							_, _ = c.WriteTo(answer, from)
						}
					}
				}()
			}
		}
		ready <- 0
		<-end
	}()
	thread := <-ready
	ns, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", thread))
	must(err)
	defer ns.Close()
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "machine"}, PeerName: "world", PeerNamespace: netlink.NsFd(int(ns.Fd()))}))
	up("machine", gate+"/24", "2001:db8::1/64")
	ready <- 0
	<-ready
	link, err := netlink.LinkByName("machine")
	must(err)
	for _, text := range []string{private + "/32", metadata + "/32", meta6 + "/128"} {
		to, err := netlink.ParseIPNet(text)
		must(err)
		must(netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to}))
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
}

// zone holds what the world's name servers know.
var zone = map[string]string{"registry.example.": public, "mirror.registry.example.": private, "rebound.example.": metadata}

func answerDNS(question []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.Additionals = true, nil
	at, ok := zone[q.Name.String()]
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
	} else if q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(at).As4()},
		}}
	}
	reply, err := m.Pack()
	if err != nil {
		return nil
	}
	return reply
}

// enter makes a program's network and starts to carry.
func enter(t *testing.T, p Policy) *Namespace {
	t.Helper()
	n, err := Enter(p)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := n.relay()
	r.servers = []string{net.JoinHostPort(public, "53")}
	r.resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, r.servers[0])
	}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return n
}

// try runs the program in a network and returns what came of each attempt.
func try(t *testing.T, n *Namespace, attempts ...string) map[string]string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", attempts...)
	cmd.Env = append(os.Environ(), modeVariable+"=program")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var err error
	n.Do(func() { err = cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("the program: %v\n%s", err, out.String())
	}
	outcomes := map[string]string{}
	for line := range strings.Lines(out.String()) {
		if attempt, outcome, ok := strings.Cut(strings.TrimSpace(line), " -> "); ok {
			outcomes[attempt] = outcome
		}
	}
	return outcomes
}

// A program reaches the internet and what its policy names, and nothing of the
// machine, its neighbours, other programs or the cloud.
func TestProgramsReachTheirPolicyOnly(t *testing.T) {
	newWorld(t)
	other, err := net.Listen("tcp", gate+":20001") // another app's
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	loopback, err := net.Listen("tcp", "127.0.0.1:9022") // the controller's
	if err != nil {
		t.Fatal(err)
	}
	defer loopback.Close()
	local, err := net.Listen("tcp", "127.74.0.9:4222") // another VM's, with the template local
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	for _, l := range []net.Listener{other, loopback, local} {
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(conn, "reached")
				conn.Close()
			}
		}()
	}
	abstract, err := net.Listen("unix", "@network-test")
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()

	always := map[string]string{
		"dial=" + public + ":7000":                    public,
		"dial=[" + public6 + "]:7000":                 public6,
		"dial=" + metadata + ":80":                    "denied",
		"dial=" + metadata + ":7000":                  "denied",
		"dial=[" + meta6 + "]:7000":                   "denied",
		"dial=[::ffff:" + metadata + "]:7000":         "denied",
		"dial=[64:ff9b::a9fe:a9fe]:7000":              "denied",
		"dial=" + gate + ":20001":                     "denied",
		"dial=127.0.0.1:9022":                         "denied",
		"dial=localhost:9022":                         "denied",
		"dial=0.0.0.0:9022":                           "denied",
		"dial=127.0.0.1:1":                            "denied", // the relay itself
		"udp=" + public + ":7000":                     "denied",
		"udp=" + metadata + ":7000":                   "denied",
		"lookup=" + metadata + ":53 registry.example": "[" + public + "]", // passed on to the machine's name server
		"lookup=192.0.2.1:53 unknown.example":         "denied",
		"abstract=network-test":                       "denied",
	}
	for _, c := range []struct {
		name   string
		policy Policy
		also   map[string]string
	}{
		{"default", Policy{Address: gate}, map[string]string{
			"dial=" + private + ":7000": "denied", "dial=127.74.0.9:4222": "denied",
		}},
		{"with a service", Policy{Address: gate, Allow: []string{private + " 7000", "127.74.0.9 4222"}}, map[string]string{
			"dial=" + private + ":7000": private, "dial=" + private + ":80": "denied", "dial=127.74.0.9:4222": "reached", "dial=127.74.0.9:4223": "denied",
		}},
		{"on local", Policy{Address: "127.74.0.12", Allow: []string{"10.0.0.0/8"}}, map[string]string{
			"dial=" + private + ":7000": private, "dial=127.74.0.9:4222": "denied", "dial=127.74.0.12:12345": "denied",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := enter(t, c.policy)
			var attempts []string
			for _, want := range []map[string]string{always, c.also} {
				for attempt := range want {
					attempts = append(attempts, attempt)
				}
			}
			slices.Sort(attempts)
			got := try(t, n, attempts...)
			for _, attempt := range attempts {
				want, ok := c.also[attempt]
				if !ok {
					want = always[attempt]
				}
				if got[attempt] != want {
					t.Errorf("%s: %q, want %q", attempt, got[attempt], want)
				}
			}
		})
	}
	// The same from the machine, so that what is denied would be there.
	for _, at := range []string{metadata + ":7000", private + ":7000", gate + ":20001", "127.0.0.1:9022", "127.74.0.9:4222", "[" + meta6 + "]:7000"} {
		conn, err := net.DialTimeout("tcp", at, 5*time.Second)
		if err != nil {
			t.Errorf("the machine itself cannot reach %s: %v", at, err)
			continue
		}
		conn.Close()
	}
}

// A program with a policy of names reaches these hosts, wherever it dials, and no
// address that a name may lead to.
func TestProgramsReachNamedHostsOnly(t *testing.T) {
	newWorld(t)
	n := enter(t, Policy{Address: "127.0.0.1", ByName: true, Names: []string{"registry.example", "*.registry.example", "rebound.example"}})
	want := map[string]string{
		"http=" + public + " registry.example":          "registry.example is " + public,
		"http=192.0.2.77 registry.example":              "registry.example is " + public, // not where it was dialled
		"http=" + metadata + " registry.example":        "registry.example is " + public,
		"http=" + public + " other.example":             "denied",
		"http=" + public + " xregistry.example":         "denied",
		"http=" + public + " rebound.example":           "denied", // leads to the metadata
		"http=" + public + " mirror.registry.example":   "denied", // leads into a private network
		"http=" + public + " " + public:                 "denied",
		"dial=" + public + ":7000":                      "denied", // says no name
		"lookup=" + public + ":53 registry.example":     "[" + public + "]",
		"lookup=" + public + ":53 secret.other.example": "denied",
	}
	var attempts []string
	for attempt := range want {
		attempts = append(attempts, attempt)
	}
	for attempt, got := range try(t, n, attempts...) {
		if got != want[attempt] {
			t.Errorf("%s: %q, want %q", attempt, got, want[attempt])
		}
	}
	allowed := enter(t, Policy{Address: "127.0.0.1", ByName: true, Names: []string{"*.registry.example"}, Allow: []string{private}})
	mirror := "http=" + public + " mirror.registry.example"
	if got := try(t, allowed, mirror)[mirror]; got != "mirror.registry.example is "+private {
		t.Errorf("a mirror in a network that is allowed: %q", got)
	}
	none := enter(t, Policy{Address: "127.0.0.1", ByName: true})
	if got := try(t, none, "http="+public+" registry.example")["http="+public+" registry.example"]; got != "denied" {
		t.Errorf("without names: %q", got)
	}
}

// A program is reached on its port, once it listens, through the relay; the way costs
// little.
func TestProgramIsReached(t *testing.T) {
	newWorld(t)
	const port = 20123
	n := enter(t, Policy{Address: gate, Ports: []int{port}})
	at := net.JoinHostPort(gate, strconv.Itoa(port))
	if conn, err := net.DialTimeout("tcp", at, time.Second); err == nil {
		conn.Close()
		t.Fatal("somebody answers before the program listens")
	}
	cmd := exec.Command("/proc/self/exe", "listen=:"+strconv.Itoa(port))
	cmd.Env = append(os.Environ(), modeVariable+"=program")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	n.Do(func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var conn net.Conn
	for end := time.Now().Add(30 * time.Second); ; {
		if conn, err = net.Dial("tcp", at); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		<-time.After(5 * time.Millisecond)
	}
	defer conn.Close()
	payload := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	go func() {
		_, _ = conn.Write(payload)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	back, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(back, payload) {
		t.Fatalf("%d bytes came back of %d: %v", len(back), len(payload), err)
	}
	direct, err := n.dialInside(port)
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	relayed, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer relayed.Close()
	median := func(c net.Conn) time.Duration {
		times := make([]time.Duration, 2000)
		buffer := make([]byte, 64)
		for i := range times {
			begin := time.Now()
			if _, err := c.Write(buffer); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, buffer); err != nil {
				t.Fatal(err)
			}
			times[i] = time.Since(begin)
		}
		slices.Sort(times)
		return times[len(times)/2]
	}
	a, b := median(direct), median(relayed)
	t.Logf("an exchange takes %v directly, %v through the relay: %.1f times", a, b, float64(b)/float64(a))
	if b > 20*a+5*time.Millisecond {
		t.Errorf("an exchange through the relay takes %v, directly %v", b, a)
	}
}
