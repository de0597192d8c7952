package component

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/agent/host/sockets"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/wire"
)

const deadline = 60 * time.Second

// TestMain lets the test binary be a component's program, for what concerns
// signals and the exit status.
func TestMain(m *testing.M) {
	if os.Getenv("COMPONENT_TEST_PROGRAM") != "" {
		os.Exit(Main("sample", func(ctx context.Context, p Process) error {
			var cfg Config
			raw, err := Load(p.ConfigFile, &cfg)
			if err != nil {
				return err
			}
			var routes *Registrar
			c, err := Open(Options{Type: "Sample", Process: p, Config: cfg, Raw: raw,
				Drain: func(ctx context.Context) error { return routes.Close(ctx) }})
			if err != nil {
				return err
			}
			defer c.Close()
			routes = c.NewRegistrar()
			if err := routes.Register(sampleRoute); err != nil {
				return err
			}
			return c.Run(ctx, routes.Run)
		}))
	}
	os.Exit(m.Run())
}

var sampleRoute = wire.Registration{Host: "10.0.0.5", Port: 4000, URIs: []string{"sample.test"}}

// startBus runs a real server on a free port, or on addr.
func startBus(t *testing.T, addr string, change func(*server.Options)) *server.Server {
	t.Helper()
	return componenttest.Bus(t, func(o *server.Options) {
		if addr == "" {
			return
		}
		tcp, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		o.Host, o.Port = tcp.IP.String(), tcp.Port
	}, change)
}

func listen(t *testing.T, s *server.Server, subjects ...string) chan *nats.Msg {
	t.Helper()
	conn, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	messages := make(chan *nats.Msg, 1000)
	for _, subject := range subjects {
		if _, err := conn.ChanSubscribe(subject, messages); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return messages
}

func receive(t *testing.T, messages <-chan *nats.Msg) *nats.Msg {
	t.Helper()
	select {
	case m := <-messages:
		return m
	case <-time.After(deadline):
		t.Fatal("no message came")
		return nil
	}
}

var eventually = componenttest.Eventually

func writeConfig(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start opens and runs a component from a configuration text until the test
// ends, or stop is called.
func start(t *testing.T, text string, change func(*Options), parts ...func(*Component) func(context.Context) error) (c *Component, stop func() error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sample.yml")
	writeConfig(t, file, text)
	o := Options{Type: "Sample", Process: Process{ConfigFile: file, Output: t.Output()}}
	var err error
	if o.Raw, err = Load(file, &o.Config); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&o)
	}
	if c, err = Open(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	var run []func(context.Context) error
	for _, part := range parts {
		run = append(run, part(c))
	}
	go func() {
		result <- c.Run(ctx, run...)
		c.Close()
		close(result)
	}()
	stop = func() error { cancel(); return <-result }
	t.Cleanup(func() { stop() })
	return c, stop
}

func TestConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yml")
	type own struct {
		Config `yaml:",inline"`
		Port   int `yaml:"port"`
	}
	for _, tc := range []struct {
		text    string
		servers string
		problem string
	}{
		{"mbus: nats://a:1\nport: 7", "nats://a:1", ""},
		{"mbus: nats://a:1, nats://b:2\nport: 7", "nats://a:1 nats://b:2", ""},
		{"port: 7\nmbus: [nats://a:1, 'nats://b:2']", "nats://a:1 nats://b:2", ""},
		{"port: 7\nmbus:\n  - nats://a:1\n", "nats://a:1", ""},
		{"port: 7\nnats_uri: nats://a:1", "nats://a:1", ""},
		{"port: 7\nmbus: {a: b}", "", "want a URI"},
		{"port: 7", "", "mbus is missing"},
		{"port: 7\nmbus: '10.0.0.1'", "", "not a URI"},
		{"port: 7\nmbus: nats://a:1\nlogging: {level: loud}", "", `"loud"`},
		{"port: [", "", "cannot read the configuration"},
		{"port:\n !a # a tag without a value", "", "cannot read the configuration"},
		{"mbus: nats://a:secret@b\nport: x", "", "[2:7]"},
	} {
		writeConfig(t, file, tc.text)
		var c own
		_, err := Load(file, &c)
		if err == nil {
			err = c.validate()
		}
		if tc.problem != "" {
			if err == nil || !strings.Contains(err.Error(), tc.problem) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: error %v, want one with %q", tc.text, err, tc.problem)
			}
			continue
		}
		if err != nil || strings.Join(c.servers(), " ") != tc.servers || c.Port != 7 {
			t.Errorf("%q reads as %q, port %d, %v", tc.text, c.servers(), c.Port, err)
		}
	}
}

// TestToldAddress: clones of one image have the same file, and each the address
// that its agent tells it.
func TestToldAddress(t *testing.T) {
	s := startBus(t, "", nil)
	for text, want := range map[string]string{
		"":                        "127.0.0.8",
		"local_route: 127.0.0.1":  "127.0.0.8",
		"local_route: 127.0.0.17": "127.0.0.17", // someone meant it
	} {
		c, _ := start(t, "mbus: "+s.ClientURL()+"\n"+text, func(o *Options) { o.Process.Address = "127.0.0.8" })
		if c.Address() != want {
			t.Errorf("%q: the address is %s, want %s", text, c.Address(), want)
		}
	}
}

// TestIdentity: the component announces itself once its status is served, from
// its own address, and answers discover; varz shows no secret.
func TestIdentity(t *testing.T) {
	s := startBus(t, "", nil)
	announced := listen(t, s, wire.SubjectAnnounce)
	_, stop := start(t, fmt.Sprintf(`
mbus: %s
local_route: 127.0.0.7
index: 3
status: {user: mon, password: tor}
nested: {password: hidden, pass: hidden, keys: hidden, shown: 1, deeper: {service_mbus: hidden, level: 2}}
`, s.ClientURL()), func(o *Options) {
		o.Varz = func() map[string]any { return map[string]any{"requests": 5} }
	})

	about, err := wire.ParseComponent(receive(t, announced).Data)
	if err != nil {
		t.Fatal(err)
	}
	if about.Type != "Sample" || about.Index == nil || *about.Index != 3 || !strings.HasPrefix(about.UUID, "3-") ||
		!strings.HasPrefix(about.Host, "127.0.0.7:") || about.Credentials != [2]string{"mon", "tor"} || about.Uptime != "" {
		t.Errorf("announced %+v", about)
	}
	get := func(path, password string) (int, string) {
		req, _ := http.NewRequest("GET", "http://"+about.Host+path, nil)
		req.SetBasicAuth("mon", password)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(body)
	}
	if status, body := get("/healthz", "tor"); status != 200 || body != "ok\n" {
		t.Errorf("healthz: %d %q", status, body)
	}
	if status, _ := get("/varz", "wrong"); status != 401 {
		t.Errorf("varz without the password: %d", status)
	}
	_, body := get("/varz", "tor")
	var doc struct {
		Requests, Mem int
		Cores         int `json:"num_cores"`
		UUID, Uptime  string
		Config        map[string]any
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Requests != 5 || doc.Mem == 0 || doc.Cores == 0 || doc.UUID != about.UUID || doc.Uptime == "" {
		t.Errorf("varz: %s", body)
	}
	if shown := fmt.Sprint(doc.Config); strings.Contains(shown, "hidden") || strings.Contains(shown, "nats://") ||
		!strings.Contains(shown, "shown:1") || !strings.Contains(shown, "level:2") {
		t.Errorf("config in varz: %s", shown)
	}

	conn, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m, err := conn.Request(wire.SubjectDiscover, nil, deadline)
	if err != nil {
		t.Fatal(err)
	}
	found, err := wire.ParseComponent(m.Data)
	if err != nil || found.UUID != about.UUID || found.Uptime == "" {
		t.Errorf("discovered %+v, %v", found, err)
	}
	clients, err := s.Connz(&server.ConnzOptions{})
	if err != nil {
		t.Fatal(err)
	}
	from := ""
	for _, client := range clients.Conns {
		if strings.HasPrefix(client.Name, "Sample") {
			from = client.IP
		}
	}
	if from != "127.0.0.7" {
		t.Errorf("connects from %q, want the own address", from)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// dialControl returns how an agent reaches the control socket.
func dialControl(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return sockets.Dial(ctx, path)
	}}}
}

func call(t *testing.T, client *http.Client, method, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://control"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, strings.TrimSpace(string(body))
}

func TestControl(t *testing.T) {
	s := startBus(t, "", nil)
	folder := filepath.Join(t.TempDir(), strings.Repeat("long", 20), strings.Repeat("path", 20))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(folder, "sample.control")
	writeConfig(t, socket, "left behind by an earlier process")
	drains := make(chan struct{})
	c, stop := start(t, "mbus: "+s.ClientURL()+"\nlocal_route: 127.0.0.1", func(o *Options) {
		o.Process.Control = socket
		o.Facts = func() map[string]string { return map[string]string{"isolation": "full"} }
		o.Drain = func(ctx context.Context) error {
			select {
			case <-drains:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	client := dialControl(socket)
	defer client.CloseIdleConnections()
	eventually(t, "ready", func() bool { status, _ := call(t, client, "GET", "/ready"); return status == 200 })
	res, err := client.Get("http://control/ready")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got := res.Header.Values("Deploy-Fact"); len(got) != 1 || got[0] != "isolation=full" {
		t.Errorf("facts %q", got)
	}
	if status, body := call(t, client, "POST", "/reload"); status != 200 {
		t.Errorf("reload: %d %s", status, body)
	}
	writeConfig(t, c.options.Process.ConfigFile, "mbus: [")
	if status, body := call(t, client, "POST", "/reload"); status != 500 || !strings.Contains(body, "cannot read the configuration") {
		t.Errorf("reload of a broken file: %d %s", status, body)
	}
	if status, _ := call(t, client, "GET", "/drain"); status != 405 {
		t.Errorf("GET /drain: %d", status)
	}
	answered := make(chan int, 1)
	go func() {
		status, _ := call(t, client, "POST", "/drain")
		answered <- status
	}()
	eventually(t, "not ready", func() bool {
		status, body := call(t, client, "GET", "/ready")
		return status == 503 && body == "draining"
	})
	select {
	case <-answered:
		t.Error("drain answers before the component is drained")
	default:
	}
	close(drains)
	if status := <-answered; status != 200 {
		t.Errorf("drain: %d", status)
	}
	if status, _ := call(t, client, "POST", "/drain"); status != 200 {
		t.Errorf("second drain: %d", status)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
}

// TestReloadServers: a new list of servers is taken, and a connection to a
// server that stays in it is kept.
func TestReloadServers(t *testing.T) {
	a, b, c := startBus(t, "", nil), startBus(t, "", nil), startBus(t, "", nil)
	sample, _ := start(t, "mbus: "+a.ClientURL()+"\nlocal_route: 127.0.0.1", nil)
	at := func(s *server.Server) func() bool {
		return func() bool { return sample.Connected() && sample.Bus().ConnectedAddr() == s.Addr().String() }
	}
	eventually(t, "connected to the first", at(a))
	reload := func(servers ...*server.Server) {
		t.Helper()
		text := "local_route: 127.0.0.1\nmbus:\n"
		for _, s := range servers {
			text += "  - " + s.ClientURL() + "\n"
		}
		writeConfig(t, sample.options.Process.ConfigFile, text)
		if err := sample.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	reload(b, a)
	if !at(a)() || sample.Bus().Stats().Reconnects != 0 {
		t.Error("a connection to a server that stays was dropped")
	}
	a.Shutdown()
	eventually(t, "moved to the second when the first ended", at(b))
	reload(c)
	eventually(t, "moved to the only one in the list", at(c))
}

func TestBusComesLater(t *testing.T) {
	first := startBus(t, "", nil)
	addr := first.Addr().String()
	url := first.ClientURL()
	first.Shutdown()
	first.WaitForShutdown()
	c, _ := start(t, "mbus: "+url+"\nlocal_route: 127.0.0.1", nil)
	if err := c.Ready(); err == nil || !strings.Contains(err.Error(), "waiting for the bus") {
		t.Errorf("ready without a bus: %v", err)
	}
	second := startBus(t, addr, nil)
	eventually(t, "ready", func() bool { return c.Ready() == nil })
	second.Shutdown()
	eventually(t, "bus does not answer", func() bool { return !c.Connected() })
	if err := c.Ready(); err != nil {
		t.Errorf("not ready because the bus is away for a while: %v", err)
	}
}

func TestTLS(t *testing.T) {
	ca, config := authority(t)
	otherCA, _ := authority(t)
	secure := func(o *server.Options) { o.TLSConfig, o.TLS, o.TLSTimeout = config, true, 10 }
	for _, tc := range []struct {
		name, scheme, ca string
		server           func(*server.Options)
		problem          string
	}{
		{"server requires it", "nats", ca, secure, ""},
		{"URI asks for it", "tls", ca, secure, ""},
		{"other authority", "tls", otherCA, secure, "certificate"},
		{"no authority given", "nats", "", secure, "certificate"},
		{"server without it", "nats", ca, nil, "secure connection"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := startBus(t, "", tc.server)
			text := fmt.Sprintf("mbus: %s://%s\nlocal_route: 127.0.0.1\n", tc.scheme, s.Addr())
			if tc.ca != "" {
				text += "ca: " + tc.ca + "\n"
			}
			c, _ := start(t, text, nil)
			if tc.problem == "" {
				eventually(t, "connected", c.Connected)
				if _, err := c.Bus().TLSConnectionState(); err != nil {
					t.Error(err)
				}
				return
			}
			eventually(t, "says why it does not connect", func() bool {
				err := c.Ready()
				return err != nil && strings.Contains(err.Error(), tc.problem)
			})
			if c.Connected() {
				t.Error("connected")
			}
		})
	}
}

// authority makes a CA file and the TLS configuration of a server at 127.0.0.1.
func authority(t *testing.T) (file string, config *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	writeConfig(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return file, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// TestRegistrar: a route is registered at the start, at each router.start and
// in the routers' interval, and withdrawn when the component drains.
func TestRegistrar(t *testing.T) {
	s := startBus(t, "", nil)
	messages := listen(t, s, wire.SubjectRouterRegister, wire.SubjectRouterUnregister)
	router, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer router.Close()
	if _, err := router.Subscribe(wire.SubjectRouterGreet, func(m *nats.Msg) {
		_ = m.Respond([]byte(`{"id":"r","hosts":["127.0.0.1"],"minimumRegisterIntervalInSeconds":1}`))
	}); err != nil {
		t.Fatal(err)
	}
	if err := router.Flush(); err != nil {
		t.Fatal(err)
	}
	var routes *Registrar
	c, _ := start(t, "mbus: "+s.ClientURL()+"\nlocal_route: 127.0.0.1", func(o *Options) {
		o.Drain = func(ctx context.Context) error { return routes.Close(ctx) }
	}, func(c *Component) func(context.Context) error {
		routes = c.NewRegistrar()
		if err := routes.Register(sampleRoute); err != nil {
			t.Fatal(err)
		}
		if err := routes.Register(wire.Registration{Host: "h"}); err == nil {
			t.Error("a registration without a port is taken")
		}
		return routes.Run
	})
	next := func() (string, wire.Registration) {
		t.Helper()
		m := receive(t, messages)
		got, err := wire.ParseRegistration(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		return m.Subject, got
	}
	// At the start, by the interval that greet told, by router.start.
	for range 3 {
		if subject, got := next(); subject != wire.SubjectRouterRegister || got.Port != sampleRoute.Port {
			t.Fatalf("%s %+v", subject, got)
		}
	}
	if routes.every() != time.Second {
		t.Errorf("registers every %v, the router wants 1s", routes.every())
	}
	if err := router.Publish(wire.SubjectRouterStart, []byte(`{"id":"r","version":0.98,"hosts":["127.0.0.1"]}`)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "takes the other router's interval", func() bool { return routes.every() == wire.RegisterInterval })
	if subject, _ := next(); subject != wire.SubjectRouterRegister {
		t.Fatal(subject)
	}
	if err := c.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	for subject := wire.SubjectRouterRegister; subject != wire.SubjectRouterUnregister; {
		subject, _ = next()
	}
	// Nothing may follow the withdrawal: not even the answer to a router's start.
	if err := router.Publish(wire.SubjectRouterStart, []byte(`{"id":"r","hosts":[]}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := router.Request(wire.SubjectDiscover, nil, deadline); err != nil {
		t.Fatal(err)
	}
	if err := c.Bus().Flush(); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-messages:
		t.Errorf("%s after the withdrawal", m.Subject)
	default:
	}
	if err := routes.Register(sampleRoute); err == nil {
		t.Error("a route is taken after the withdrawal")
	}
}

// TestProgram runs a component as a process: SIGHUP reloads, a second process
// with the same pid file does not start, SIGTERM withdraws the route and ends
// it with status 0.
func TestProgram(t *testing.T) {
	s, other := startBus(t, "", nil), startBus(t, "", nil)
	messages := listen(t, s, wire.SubjectAnnounce)
	moved := listen(t, other, wire.SubjectAnnounce, wire.SubjectRouterUnregister)
	folder := t.TempDir()
	file, pid := filepath.Join(folder, "sample.yml"), filepath.Join(folder, "sample.pid")
	text := "mbus: %s\nlocal_route: 127.0.0.1\npid: " + pid + "\nlogging: {level: debug, file: " + filepath.Join(folder, "sample.log") + "}\n"
	writeConfig(t, file, fmt.Sprintf(text, s.ClientURL()))
	program := func(args ...string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), "COMPONENT_TEST_PROGRAM=1", "CLOUD_FOUNDRY_CONFIG_PATH="+folder)
		cmd.Stderr = t.Output()
		return cmd
	}
	first := program("-c", file)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- first.Wait() }()
	defer first.Process.Kill()
	receive(t, messages)
	if content, err := os.ReadFile(pid); err != nil || string(content) != fmt.Sprintf("%d\n", first.Process.Pid) {
		t.Errorf("pid file: %q, %v", content, err)
	}
	second := program() // finds its configuration by the environment
	var complaint strings.Builder
	second.Stderr = &complaint
	if err := second.Run(); err == nil || !strings.Contains(complaint.String(), "is alive") {
		t.Errorf("second process: %v, %s", err, complaint.String())
	}
	writeConfig(t, file, fmt.Sprintf(text, other.ClientURL()))
	if err := first.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	receive(t, moved)
	if err := first.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if m := receive(t, moved); m.Subject != wire.SubjectRouterUnregister {
		t.Errorf("%s, want the route to be withdrawn", m.Subject)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(deadline):
		t.Fatal("SIGTERM does not end the process")
	}
	if _, err := os.Stat(pid); !os.IsNotExist(err) {
		t.Errorf("the pid file stays: %v", err)
	}
}
