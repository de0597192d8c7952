package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/nats"
)

// The test binary is the program when this is set.
const beProgram = "DEPLOY_TEST_NATS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(beProgram) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The real process: it serves, -verify tells whether a reload happened, SIGHUP
// reloads, SIGTERM ends it well.
func TestProgram(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	folder := t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	must(t, listener.Close())
	config := filepath.Join(folder, "nats.yml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, `name: nats-0
deployment_id: d1
address: 127.0.0.1
port: %d
store: %[2]s/data
user: nats
password_file: %[2]s/password
ca_file: %[2]s/ca.pem
certificate_file: %[2]s/server.pem
key_file: %[2]s/server.key
max_payload: 8388608
max_store_mb: 16
`, port, folder), 0o600))
	writeCredentials(t, folder, "one")

	var output bytes.Buffer
	server := program(ctx, "-c", config)
	server.Stderr = &output
	must(t, server.Start())
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()

	verified := func(wait string, want bool) {
		t.Helper()
		message, err := program(ctx, "-c", config, "-verify", wait).CombinedOutput()
		if (err == nil) != want {
			t.Fatalf("-verify %s: %v %s", wait, err, message)
		}
	}
	verified("30s", true)
	writeCredentials(t, folder, "two")
	verified("100ms", false)
	must(t, server.Process.Signal(syscall.SIGHUP))
	verified("30s", true)

	// Whose streams are in its files it says also while it runs; the cache is nobody's.
	for _, stream := range []string{"AGENTS/streams/OBJ_packages", "COMPONENTS/streams/orders"} {
		must(t, os.MkdirAll(filepath.Join(folder, "data", "jetstream", stream), 0o700))
	}
	said, err := program(ctx, "-c", config, "-census").Output()
	if want := "{\"kind\":\"stream\",\"name\":\"orders\",\"owner\":\"account COMPONENTS\"}\n{\"total\":1}\n"; err != nil || string(said) != want {
		t.Errorf("census says %q: %v", said, err)
	}

	cfg, err := nats.ReadConfig(config)
	must(t, err)
	must(t, nats.Verify(ctx, cfg))
	must(t, server.Process.Signal(syscall.SIGTERM))
	if err := <-ended; err != nil {
		t.Errorf("server ended with %v: %s", err, &output)
	}
	verified("100ms", false)
	must(t, os.RemoveAll(filepath.Join(folder, "data")))
	if said, err := program(ctx, "-c", config, "-census").Output(); err == nil {
		t.Errorf("without its files the server says %q", said)
	}
}

func program(ctx context.Context, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, os.Args[0], arguments...)
	command.Env = append(os.Environ(), beProgram+"=1")
	return command
}

// writeCredentials fills the folder with a password and a new self-signed
// certificate, which is also its own CA.
func writeCredentials(t *testing.T, folder, password string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	must(t, os.WriteFile(filepath.Join(folder, "password"), []byte(password), 0o600))
	must(t, os.WriteFile(filepath.Join(folder, "ca.pem"), certificate, 0o644))
	must(t, os.WriteFile(filepath.Join(folder, "server.pem"), certificate, 0o644))
	must(t, os.WriteFile(filepath.Join(folder, "server.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
