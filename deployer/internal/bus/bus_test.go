package bus

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/pki"
)

const testTimeout = 45 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testServer is a nats-server that admits whoever its CA has signed for.
type testServer struct {
	*natsserver.Server
	ca      *pki.CA
	options *natsserver.Options
}

func startServer(t *testing.T, maxStore int64) *testServer {
	t.Helper()
	s := newServer(t, maxStore)
	s.start(t)
	t.Cleanup(s.stop)
	return s
}

func newServer(t *testing.T, maxStore int64) *testServer {
	t.Helper()
	ca, err := pki.NewCA(rand.Reader, "test", time.Now(), time.Hour)
	must(t, err)
	pair, err := ca.IssueServer(rand.Reader, "nats", nil, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, time.Now(), time.Hour)
	must(t, err)
	certificate, err := tls.X509KeyPair(pair.Certificate, pair.PrivateKey)
	must(t, err)
	clients := x509.NewCertPool()
	clients.AddCert(ca.Certificate)
	options := &natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoSigs: true, NoLog: true,
		TLSConfig:  &tls.Config{Certificates: []tls.Certificate{certificate}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert},
		TLSTimeout: testTimeout.Seconds(),
		JetStream:  true, StoreDir: t.TempDir(), JetStreamMaxMemory: 1,
	}
	s := &testServer{ca: ca, options: options}
	s.limit(t, maxStore)
	return s
}

// limit returns what the server keeps from its next start on, bytes.
func (s *testServer) limit(t *testing.T, maxStore int64) {
	t.Helper()
	s.options.JetStreamMaxStore = maxStore
	s.options.Accounts, s.options.Users = nil, nil
	must(t, s.options.ProcessConfigString(fmt.Sprintf(
		"no_auth_user: a, accounts { A { users: [{user: a, password: a}], jetstream { max_memory: 0, max_store: %d } } }", maxStore)))
}

func (s *testServer) start(t *testing.T) {
	t.Helper()
	server, err := natsserver.NewServer(s.options)
	must(t, err)
	server.Start()
	s.Server = server
	if !server.ReadyForConnections(testTimeout) {
		t.Fatal("NATS server is not ready")
	}
	s.options.Port = server.Addr().(*net.TCPAddr).Port // for a restart
}

func (s *testServer) stop() {
	s.Shutdown()
	s.WaitForShutdown()
}

func (s *testServer) settings(t *testing.T) Settings {
	t.Helper()
	ca, err := s.ca.Pair()
	must(t, err)
	own, err := s.ca.IssueClientPair(rand.Reader, api.DeployerIdentity("d1"), time.Now(), time.Hour)
	must(t, err)
	return Settings{URLs: []string{"tls://" + s.Addr().String()}, CA: ca.Certificate, Certificate: own.Certificate, Key: own.PrivateKey}
}

func (s *testServer) connect(t *testing.T, ctx context.Context) *Bus {
	t.Helper()
	b, err := Connect(ctx, s.settings(t))
	must(t, err)
	t.Cleanup(b.Close)
	return b
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// content is a package of this size, with its digest.
func content(size int) ([]byte, string) {
	data := bytes.Repeat([]byte(fmt.Sprintf("%08d", size)), size/8+1)[:size]
	sum := sha256.Sum256(data)
	return data, hex.EncodeToString(sum[:])
}

func publish(ctx context.Context, b *Bus, size int) (digest string, err error) {
	data, digest := content(size)
	return digest, b.Publish(ctx, digest, int64(size), bytes.NewReader(data))
}

func checkMissing(t *testing.T, ctx context.Context, b *Bus, digests []string, want ...string) {
	t.Helper()
	missing, err := b.Missing(ctx, digests)
	must(t, err)
	if !slices.Equal(missing, want) {
		t.Errorf("missing %v, want %v", missing, want)
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server := startServer(t, 64<<20)
	b := server.connect(t, ctx)
	_, one := content(1_000_000)
	_, two := content(10)
	_, empty := content(0)
	all := []string{two, one, empty}
	checkMissing(t, ctx, b, all, all...)

	for _, size := range []int{1_000_000, 0} {
		_, err := publish(ctx, b, size)
		must(t, err)
	}
	checkMissing(t, ctx, b, all, two)
	// What is there is not read again.
	must(t, b.Publish(ctx, one, 1_000_000, iotest.ErrReader(errors.New("read"))))

	store, err := b.js.ObjectStore(ctx, api.PackageBucket)
	must(t, err)
	data, _ := content(1_000_000)
	if stored, err := store.GetBytes(ctx, one); err != nil || !bytes.Equal(stored, data) {
		t.Errorf("stored %d bytes that differ, %v", len(stored), err)
	}
	status, err := store.Status(ctx)
	must(t, err)
	config := status.(*jetstream.ObjectBucketStatus).StreamInfo().Config
	if config.MaxBytes != 64<<20 || config.Storage != jetstream.FileStorage || config.Replicas != 1 {
		t.Errorf("bucket is %+v", config)
	}
}

func TestPublishRefusesOtherBytes(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := startServer(t, 64<<20).connect(t, ctx)
	data, digest := content(500_000)
	for name, c := range map[string]struct {
		r    io.Reader
		size int64
		want string
	}{
		"other":  {bytes.NewReader(bytes.Replace(data, []byte("5"), []byte("6"), 1)), 500_000, "digest"},
		"short":  {bytes.NewReader(data[:400_000]), 500_000, "400000 bytes"},
		"size":   {bytes.NewReader(data), 500_001, "500000 bytes"},
		"broken": {io.MultiReader(bytes.NewReader(data[:300_000]), iotest.ErrReader(errors.New("disk is gone"))), 500_000, "disk is gone"},
	} {
		if err := b.Publish(ctx, digest, c.size, c.r); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), digest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	checkMissing(t, ctx, b, []string{digest}, digest)
	_, err := publish(ctx, b, 500_000)
	must(t, err)
	checkMissing(t, ctx, b, []string{digest})
}

func TestFullCacheIsEmptied(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := startServer(t, 2<<20).connect(t, ctx)
	one, err := publish(ctx, b, 1_200_000)
	must(t, err)
	two, err := publish(ctx, b, 1_100_000)
	must(t, err)
	checkMissing(t, ctx, b, []string{one, two}, one)
	if _, err := publish(ctx, b, 3_000_000); err == nil || !strings.Contains(err.Error(), "max_store_mb") {
		t.Errorf("a package larger than the cache: %v", err)
	}
	checkMissing(t, ctx, b, []string{one, two}, one)
}

// The cache follows the server's limit, whatever it held before.
func TestBoundFollowsServer(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server := startServer(t, 4<<20)
	for _, c := range []struct {
		limit int64
		size  int
	}{{4 << 20, 3_000_000}, {8 << 20, 5_000_000}, {2 << 20, 1_500_000}, {4 << 20, 1_600_000}} {
		server.stop()
		server.limit(t, c.limit)
		server.start(t)
		b := server.connect(t, ctx)
		digest, err := publish(ctx, b, c.size)
		if err != nil {
			t.Fatalf("limit %d: %v", c.limit, err)
		}
		checkMissing(t, ctx, b, []string{digest})
		stream, err := b.js.Stream(ctx, packageStream)
		must(t, err)
		if bound := stream.CachedInfo().Config.MaxBytes; bound != c.limit {
			t.Errorf("bound is %d, want %d", bound, c.limit)
		}
		b.Close()
	}
}

// A package whose chunks are gone is missing, and published again.
func TestDamagedPackageIsMissing(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := startServer(t, 64<<20).connect(t, ctx)
	digest, err := publish(ctx, b, 500_000)
	must(t, err)
	stream, err := b.js.Stream(ctx, packageStream)
	must(t, err)
	must(t, stream.DeleteMsg(ctx, 2))
	checkMissing(t, ctx, b, []string{digest}, digest)
	_, err = publish(ctx, b, 500_000)
	must(t, err)
	checkMissing(t, ctx, b, []string{digest})
}

// The bus dies in the middle of a package and comes back: the publisher learns
// at once, and the next try works.
func TestPublishSurvivesRestartOfBus(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server := startServer(t, 64<<20)
	b := server.connect(t, ctx)
	data, digest := content(2_000_000)
	r := io.MultiReader(bytes.NewReader(data[:1_000_000]), readerFunc(func([]byte) (int, error) {
		server.stop()
		return 0, io.ErrNoProgress
	}))
	if err := b.Publish(ctx, digest, 2_000_000, r); err == nil {
		t.Error("published to a dead bus")
	}
	if err := b.Publish(ctx, digest, 2_000_000, bytes.NewReader(data)); !errors.Is(err, errLost) {
		t.Errorf("publishing without a bus: %v", err)
	}
	server.start(t)
	// The connection comes back by itself.
	for {
		err := b.Publish(ctx, digest, 2_000_000, bytes.NewReader(data))
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	checkMissing(t, ctx, b, []string{digest})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// agents answers for many instances over one connection of its own.
func agents(t *testing.T, server *testServer) *nats.Conn {
	t.Helper()
	s := server.settings(t)
	certificate, err := tls.X509KeyPair(s.Certificate, s.Key)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(server.ca.Certificate)
	nc, err := nats.Connect(s.URLs[0], nats.Secure(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}}))
	must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func TestInventories(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server := startServer(t, 1<<20)
	b := server.connect(t, ctx)
	nc := agents(t, server)
	const count = 1000
	var instances []string
	for i := range count {
		instance := api.InstanceID("router", i)
		instances = append(instances, instance)
		if i == 7 {
			continue // not connected
		}
		_, err := nc.Subscribe(api.Subject(instance, api.MethodInventory), func(m *nats.Msg) {
			if i == 8 {
				return // silent
			}
			answer, err := json.Marshal(api.Inventory{Instance: instance, Installed: api.Installed{Store: []string{strings.Repeat("0", 1000)}}})
			if err != nil {
				t.Error(err)
			}
			if err := m.Respond(answer); err != nil {
				t.Error(err)
			}
		})
		must(t, err)
	}
	must(t, nc.FlushTimeout(testTimeout))

	// Generous, for a busy machine; only silence makes it wait that long.
	begin := time.Now()
	answers := b.Inventories(ctx, slices.Concat(instances[:8], instances[9:]), testTimeout)
	t.Logf("%d agents were asked in %v", len(answers), time.Since(begin))
	if len(answers) != count-1 {
		t.Errorf("%d answers", len(answers))
	}
	for instance, answer := range answers {
		if instance == instances[7] {
			if !errors.Is(answer.Err, nats.ErrNoResponders) || answer.Inventory != nil {
				t.Errorf("%s: %+v", instance, answer)
			}
			continue
		}
		if answer.Err != nil || answer.Inventory.Instance != instance {
			t.Errorf("%s: %+v", instance, answer)
		}
	}

	const wait = 100 * time.Millisecond
	answer := b.Inventories(ctx, instances[8:9], wait)[instances[8]]
	if !errors.Is(answer.Err, context.DeadlineExceeded) || !strings.Contains(answer.Err.Error(), "within 100ms") {
		t.Errorf("silent: %+v", answer)
	}
}

func TestHeartbeats(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server := startServer(t, 1<<20)
	b := server.connect(t, ctx)
	nc := agents(t, server)

	listening, stop := context.WithCancel(ctx)
	heard := make(chan api.Heartbeat, 100)
	done := make(chan error, 1)
	go func() { done <- b.Heartbeats(listening, func(h api.Heartbeat) { heard <- h }) }()

	send := func(instance string, body any) {
		t.Helper()
		text, err := json.Marshal(body)
		must(t, err)
		must(t, nc.Publish(api.HeartbeatSubject(instance), text))
		must(t, nc.FlushTimeout(testTimeout))
	}
	// Until the subscription is there nobody hears.
	for begun := false; !begun; {
		send("router/0", api.Heartbeat{Instance: "router/0", Sequence: 1})
		select {
		case <-heard:
			begun = true
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("no heartbeat was heard")
		}
	}
	send("router/1", "not a heartbeat")
	send("router/1", api.Heartbeat{Instance: "router/2", Sequence: 2})
	send("router/1", api.Heartbeat{Instance: "router/1", Sequence: 3})
	for {
		h := <-heard
		if h.Sequence == 1 {
			continue
		}
		if h.Instance != "router/1" || h.Sequence != 3 {
			t.Errorf("heard %+v", h)
		}
		break
	}
	stop()
	must(t, <-done)

	go func() { done <- b.Heartbeats(ctx, func(api.Heartbeat) {}) }()
	b.Close()
	if err := <-done; err == nil {
		t.Error("Heartbeats ended well although the connection was closed")
	}
}

func TestConnect(t *testing.T) {
	t.Parallel()
	server := startServer(t, 1<<20)

	t.Run("through a tunnel", func(t *testing.T) {
		s := server.settings(t)
		var dialled []string
		s.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dialled = append(dialled, address)
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		b, err := Connect(testContext(t), s)
		must(t, err)
		b.Close()
		if !slices.Equal(dialled, []string{server.Addr().String()}) {
			t.Errorf("dialled %v", dialled)
		}
	})
	t.Run("the bus has another CA", func(t *testing.T) {
		s := server.settings(t)
		ca, err := pki.NewCA(rand.Reader, "other", time.Now(), time.Hour)
		must(t, err)
		pair, err := ca.Pair()
		must(t, err)
		s.CA = pair.Certificate
		_, err = Connect(testContext(t), s)
		var unknown x509.UnknownAuthorityError
		if !errors.As(err, &unknown) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nobody answers", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer listener.Close()
		accepted := make(chan net.Conn, 1)
		go func() {
			if conn, err := listener.Accept(); err == nil {
				accepted <- conn
			}
		}()
		s := server.settings(t)
		s.URLs = []string{"tls://" + listener.Addr().String()}
		ctx, cancel := context.WithCancel(testContext(t))
		result := make(chan error, 1)
		go func() {
			_, err := Connect(ctx, s)
			result <- err
		}()
		conn := <-accepted
		defer conn.Close()
		begin := time.Now()
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begin); took > connectTimeout-time.Second {
			t.Errorf("gave up only after %v", took)
		}
	})
	t.Run("two of three are silent", func(t *testing.T) {
		s := server.settings(t)
		for range 2 {
			listener, err := net.Listen("tcp", "127.0.0.1:0") // which accepts, and says nothing
			must(t, err)
			defer listener.Close()
			s.URLs = append(s.URLs, "tls://"+listener.Addr().String())
		}
		ctx, cancel := context.WithTimeout(testContext(t), 6*time.Second)
		defer cancel()
		b, err := Connect(ctx, s)
		must(t, err)
		b.Close()
	})
	t.Run("settings", func(t *testing.T) {
		good := server.settings(t)
		for name, s := range map[string]Settings{
			"no URL":        {CA: good.CA, Certificate: good.Certificate, Key: good.Key},
			"plaintext URL": {URLs: []string{"nats://127.0.0.1:1"}, CA: good.CA, Certificate: good.Certificate, Key: good.Key},
			"no CA":         {URLs: good.URLs, Certificate: good.Certificate, Key: good.Key},
			"no key":        {URLs: good.URLs, CA: good.CA, Certificate: good.Certificate},
		} {
			if b, err := Connect(testContext(t), s); err == nil {
				b.Close()
				t.Errorf("%s: connected", name)
			}
		}
	})
}

// A bus of three servers keeps packages three times, as far as its servers are
// there, and serves them without one.
func TestPublishOnThreeServers(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	servers := startCluster(t)
	s := servers[0].settings(t)
	for _, other := range servers[1:] {
		s.URLs = append(s.URLs, "tls://"+other.Addr().String())
	}
	s.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	b, err := Connect(ctx, s)
	must(t, err)
	t.Cleanup(b.Close)

	replicas := func(size, want int) {
		t.Helper()
		var last error
		for {
			digest, err := publish(ctx, b, size)
			if err == nil {
				var stream jetstream.Stream
				if stream, err = b.js.Stream(ctx, packageStream); err == nil && (want == 0 || stream.CachedInfo().Config.Replicas == want) {
					checkMissing(t, ctx, b, []string{digest})
					return
				}
				if err == nil {
					err = fmt.Errorf("%d replicas", stream.CachedInfo().Config.Replicas)
					size++ // the bucket is looked at only when something is to be put into it
				}
			}
			last = err
			select {
			case <-ctx.Done():
				t.Fatalf("%d bytes on %d replicas: %v", size, want, last)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	replicas(1000, 3)
	connected := b.nc.ConnectedAddr()
	gone := slices.IndexFunc(servers, func(s *testServer) bool { return s.Addr().String() != connected })
	servers[gone].stop()
	replicas(2000, 3)
	must(t, b.js.DeleteObjectStore(ctx, api.PackageBucket))
	replicas(3000, 0) // as many as there can be now
	servers[gone].start(t)
	replicas(4000, 3)
}

// startCluster runs three servers that know each other.
func startCluster(t *testing.T) []*testServer {
	t.Helper()
	var servers []*testServer
	var routes []string
	for n := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		routes = append(routes, "nats://"+l.Addr().String())
		s := newServer(t, 64<<20)
		s.options.ServerName = fmt.Sprintf("nats-%d", n)
		s.options.Cluster = natsserver.ClusterOpts{Name: "bus", Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}
		if n > 0 {
			s.ca, s.options.TLSConfig = servers[0].ca, servers[0].options.TLSConfig
		}
		servers = append(servers, s)
		must(t, l.Close())
	}
	for _, s := range servers {
		s.options.Routes = natsserver.RoutesFromStr(strings.Join(routes, ","))
		s.start(t)
		t.Cleanup(s.stop)
	}
	return servers
}
