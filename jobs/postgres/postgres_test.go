// Package postgres_test runs the VM's PostgreSQL with what the job renders.
package postgres_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/manifests"
)

const deadline = time.Minute

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustBeFine(t *testing.T, diags hcl.Diagnostics) {
	t.Helper()
	if diags.HasErrors() {
		t.Fatal(errors.Join(diags.Errs()...))
	}
}

// machine is the job on a VM that is a folder and an address.
type machine struct {
	t       *testing.T
	as      *syscall.Credential // who the agent would be; nil: who runs the test
	name    string              // whose name
	dir     string
	port    int
	ca      string // file
	chain   cty.Value
	job     *manifests.GroupJob
	vars    *hcl.EvalContext
	server  *exec.Cmd
	stopped chan error
}

const address = "127.0.0.1"

func newMachine(t *testing.T, as *user.User) *machine {
	t.Helper()
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres"); len(found) == 0 {
		t.Fatal("there is no /usr/lib/postgresql/*/bin/postgres: install Debian's postgresql (make setup does)")
	}
	// /tmp, not t.TempDir: a socket's path is short. What leads to it is closed to
	// everybody else, as a local VM's folder is.
	top, err := os.MkdirTemp("", "pg")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(top)) })
	m := &machine{t: t, dir: filepath.Join(top, "vm")}
	for _, folder := range []string{"jobs/postgres", "data/postgres"} {
		must(t, os.MkdirAll(filepath.Join(m.dir, folder), 0o755))
	}
	if as != nil {
		uid, err := strconv.Atoi(as.Uid)
		must(t, err)
		gid, err := strconv.Atoi(as.Gid)
		must(t, err)
		m.as, m.name = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, as.Username
	}
	l, err := net.Listen("tcp", address+":0")
	must(t, err)
	m.port = l.Addr().(*net.TCPAddr).Port
	must(t, l.Close())
	m.certify(filepath.Join(top, "ca.pem"))
	m.own(top)
	t.Cleanup(m.kill)
	return m
}

// own gives everything below path to whom the agent is.
func (m *machine) own(path string) {
	m.t.Helper()
	if m.as == nil {
		return
	}
	must(m.t, filepath.WalkDir(path, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, int(m.as.Uid), int(m.as.Gid)))
	}))
}

// certify makes a CA and a certificate for the address.
func (m *machine) certify(caFile string) {
	m.t.Helper()
	make := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(m.t, err)
		if parent == nil {
			parent, signer = template, key
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		must(m.t, err)
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caPEM, caKey := make(ca, nil, nil)
	certificate, key := make(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "postgres"}, IPAddresses: []net.IP{net.ParseIP(address)}}, ca, caKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(m.t, err)
	m.ca = caFile
	must(m.t, os.WriteFile(caFile, caPEM, 0o644))
	m.chain = cty.ObjectVal(map[string]cty.Value{
		"ca": cty.StringVal(string(caPEM)), "certificate": cty.StringVal(string(certificate)),
		"private_key": cty.StringVal(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))).Mark(manifests.Sensitive),
	})
}

// render writes the job's files for these properties and activates them.
func (m *machine) render(properties string) (config string) {
	m.t.Helper()
	manifest := `
deployment "cf" {}
infrastructure "local" {}
group "postgres" {
  job "postgres" {
    properties {
      port = ` + strconv.Itoa(m.port) + `
      ` + properties + `
    }
  }
}
`
	found, diags := manifests.Load(fstest.MapFS{"cluster.hcl": {Data: []byte(manifest)}}, "cluster.hcl", manifests.Options{Jobs: os.DirFS("..")})
	mustBeFine(m.t, diags)
	m.job = found.Group("postgres").Jobs[0]
	m.vars, diags = found.JobContext(manifests.Facts{
		Instances:    map[string][]manifests.Instance{"postgres": {{Group: "postgres", Address: address, AgentDir: m.dir}}},
		Certificates: map[manifests.CertificateKey]cty.Value{{Group: "postgres", Job: "postgres", Name: "server"}: m.chain},
	}, "postgres", 0, m.job)
	mustBeFine(m.t, diags)
	config = filepath.Join(m.dir, "jobs", "postgres")
	for _, template := range m.job.Spec.Templates {
		text, err := os.ReadFile(filepath.Join("templates", template.Source))
		must(m.t, err)
		expr, diags := hclsyntax.ParseTemplate(text, template.Source, hcl.InitialPos)
		mustBeFine(m.t, diags)
		must(m.t, os.WriteFile(filepath.Join(config, template.Destination), []byte(m.evaluate(expr)[0]), os.FileMode(template.Mode)))
	}
	m.own(config)
	return config
}

// evaluate gives the text of an expression, or its texts.
func (m *machine) evaluate(expr hcl.Expression) []string {
	m.t.Helper()
	v, diags := expr.Value(m.vars)
	mustBeFine(m.t, diags)
	v, _ = v.UnmarkDeep()
	if v.Type() == cty.String {
		return []string{v.AsString()}
	}
	v, err := convert.Convert(v, cty.List(cty.String))
	must(m.t, err)
	list := []string{}
	for _, s := range v.AsValueSlice() {
		list = append(list, s.AsString())
	}
	return list
}

// command is one of the job's, as the agent runs it.
func (m *machine) command(expr hcl.Expression, arguments ...string) *exec.Cmd {
	m.t.Helper()
	args := append(m.evaluate(expr), arguments...)
	ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
	m.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = m.dir
	cmd.Env = append(os.Environ(), "DEPLOY_STAGED="+filepath.Join(m.dir, "jobs", "postgres"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: m.as}
	return cmd
}

// hook runs the job's hook of a kind and name.
func (m *machine) hook(kind, name string, arguments ...string) (string, error) {
	m.t.Helper()
	for _, h := range m.job.Spec.Hooks {
		if h.Kind == kind && h.Name == name {
			out, err := m.command(h.Command, arguments...).CombinedOutput()
			return string(out), err
		}
	}
	m.t.Fatalf("the job has no %s %s", kind, name)
	return "", nil
}

func (m *machine) mustHook(kind, name string, arguments ...string) string {
	m.t.Helper()
	out, err := m.hook(kind, name, arguments...)
	if err != nil {
		m.t.Fatalf("%s %s: %v\n%s", kind, name, err, out)
	}
	return out
}

// start runs the server until it is healthy.
func (m *machine) start() {
	m.t.Helper()
	m.mustHook("pre_start", "")
	p := m.job.Spec.Processes[0]
	m.server = m.command(p.Command)
	m.server.Stdout, m.server.Stderr = m.t.Output(), m.t.Output()
	must(m.t, m.server.Start())
	m.stopped = make(chan error, 1)
	go func(cmd *exec.Cmd, stopped chan<- error) { stopped <- cmd.Wait() }(m.server, m.stopped)
	for end := time.Now().Add(deadline); m.command(p.Checks[0].Command).Run() != nil; {
		if time.Now().After(end) {
			m.t.Fatal("the server never becomes healthy")
		}
		<-time.After(20 * time.Millisecond)
	}
}

// stop ends the server by the job's signal.
func (m *machine) stop() {
	m.t.Helper()
	if got := m.job.Spec.Processes[0].StopSignal; got != "INT" {
		m.t.Fatalf("stop signal %s", got)
	}
	must(m.t, m.server.Process.Signal(syscall.SIGINT))
	select {
	case err := <-m.stopped:
		must(m.t, err)
	case <-time.After(deadline):
		m.t.Fatal("the server does not end")
	}
	m.server = nil
}

// kill ends what a test has left running.
func (m *machine) kill() {
	if m.server != nil {
		_ = m.server.Process.Kill()
		<-m.stopped
		m.server = nil
	}
}

func (m *machine) psql(login, password, tls, sql string) (string, error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql,
		fmt.Sprintf("host=%s port=%d user=%s dbname=cloud_controller sslmode=%s sslrootcert=%s", address, m.port, login, tls, m.ca))
	cmd.Env = append(os.Environ(), "PGPASSWORD="+password)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// query asks as the platform's components do.
func (m *machine) query(password, sql string) string {
	m.t.Helper()
	out, err := m.psql("cloud_controller", password, "verify-full", sql)
	if err != nil {
		m.t.Fatalf("%s: %v: %s", sql, err, out)
	}
	return out
}

func (m *machine) refused(why, login, password, tls, want string) {
	m.t.Helper()
	out, err := m.psql(login, password, tls, "SELECT 1")
	if err == nil || !strings.Contains(out, want) {
		m.t.Errorf("%s: %v: %s; want %q", why, err, out, want)
	}
}

// TestPostgres: as the agent that is root, whose folders are closed to the
// server's user, and as an agent that is somebody else.
func TestPostgres(t *testing.T) {
	if os.Getuid() != 0 {
		t.Run("own user", func(t *testing.T) { testPostgres(t, nil) })
		return
	}
	t.Run("root", func(t *testing.T) {
		t.Parallel()
		testPostgres(t, nil)
	})
	t.Run("ordinary user", func(t *testing.T) {
		t.Parallel()
		nobody, err := user.Lookup("nobody")
		must(t, err)
		testPostgres(t, nobody)
	})
}

func testPostgres(t *testing.T, as *user.User) {
	m := newMachine(t, as)
	m.render(`
      password = "first"
      settings = { wrok_mem = "1MB" }`)
	if out, err := m.hook("check", ""); err == nil || !strings.Contains(out, "wrok_mem") {
		t.Errorf("check of a parameter that is none: %v: %s", err, out)
	}
	m.render(`
      password = "first"
      settings = { event_source = "it's \\ ours" }`)
	m.mustHook("check", "")
	m.start()

	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.server.Process.Pid))
	must(t, err)
	if bytes.Contains(status, []byte("\nUid:\t0\t")) {
		t.Error("the server runs as root")
	}
	m.query("first", "CREATE TABLE apps (name text); INSERT INTO apps VALUES ('hello')")
	if got := m.query("first", "SHOW event_source"); got != `it's \ ours` {
		t.Errorf("event_source is %s", got)
	}
	m.refused("no TLS", "cloud_controller", "first", "disable", "no encryption")
	m.refused("wrong password", "cloud_controller", "other", "require", "password authentication failed")
	m.refused("superuser", "postgres", "first", "require", "no pg_hba.conf entry")

	// A reload takes a new password, files and parameters; the server stays.
	restartOn := func() string {
		v, diags := m.job.Spec.Processes[0].RestartOn.Value(m.vars)
		mustBeFine(t, diags)
		return v.GoString()
	}
	before := restartOn()
	m.render(`
      password = "second"
      settings = { event_source = "it's \\ ours", work_mem = "7MB" }`)
	if restartOn() != before {
		t.Error("work_mem asks for a restart")
	}
	reload := m.job.Spec.Processes[0].Reload.Command
	if out, err := m.command(reload).CombinedOutput(); err != nil {
		t.Fatalf("reload: %v: %s", err, out)
	}
	m.refused("the password that was", "cloud_controller", "first", "require", "password authentication failed")
	for end := time.Now().Add(deadline); m.query("second", "SHOW work_mem") != "7MB"; {
		if time.Now().After(end) {
			t.Fatal("the reload never comes into effect")
		}
		<-time.After(20 * time.Millisecond)
	}
	m.render(`
      password = "second"
      settings = { max_wal_senders = "3" }`)
	if restartOn() == before {
		t.Error("max_wal_senders asks for no restart")
	}
	if out, err := m.command(reload).CombinedOutput(); err == nil || !strings.Contains(string(out), "max_wal_senders = 3") {
		t.Errorf("reload of what needs a restart: %v: %s", err, out)
	}
	m.render(`password = "second"`)

	// What lives here is databases with tables.
	if out := m.mustHook("census", ""); out != "{\"kind\":\"database\",\"name\":\"cloud_controller (1 tables)\"}\n{\"total\":1}\n" {
		t.Errorf("census says %s", out)
	}

	// Backup and restore, while somebody is connected.
	file := strings.TrimSpace(m.mustHook("errand", "backup"))
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("backup %q: %v, %v", file, info, err)
	}
	m.query("second", "INSERT INTO apps VALUES ('late'); CREATE TABLE later ()")
	connected := make(chan error, 1)
	go func() {
		_, err := m.psql("cloud_controller", "second", "require", "SELECT pg_sleep(600)")
		connected <- err
	}()
	for end := time.Now().Add(deadline); m.query("second", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'") == "0"; {
		if time.Now().After(end) {
			t.Fatal("nobody connects")
		}
		<-time.After(20 * time.Millisecond)
	}
	broken := filepath.Join(m.dir, "broken.dump")
	must(t, os.WriteFile(broken, []byte("PGDMP nothing"), 0o644))
	m.own(broken)
	if out, err := m.hook("errand", "restore", broken); err == nil || !strings.Contains(out, "no backup") {
		t.Errorf("restore of a broken file: %v: %s", err, out)
	}
	if out, err := m.hook("errand", "restore", "missing.dump"); err == nil || !strings.Contains(out, "missing.dump") {
		t.Errorf("restore of a missing file: %v: %s", err, out)
	}
	if got := m.query("second", "SELECT string_agg(name, ' ' ORDER BY name) FROM apps"); got != "hello late" {
		t.Errorf("after restores that failed: %s", got)
	}
	m.mustHook("errand", "restore")
	if err := <-connected; err == nil {
		t.Error("who was connected to what was replaced still is")
	}
	if got := m.query("second", "SELECT string_agg(name, ' ') FROM apps"); got != "hello" {
		t.Errorf("restored: %s", got)
	}
	m.query("second", "INSERT INTO apps VALUES ('again')") // and it is the role's own
	m.mustHook("errand", "restore", filepath.Base(file))
	if got := m.query("second", "SELECT string_agg(name, ' ') FROM apps"); got != "hello" {
		t.Errorf("restored again: %s", got)
	}

	// A fast stop, with somebody connected; then a start, which keeps everything.
	go func() {
		_, err := m.psql("cloud_controller", "second", "require", "SELECT pg_sleep(600)")
		connected <- err
	}()
	m.stop()
	<-connected
	m.start()
	if got := m.query("second", "SELECT string_agg(name, ' ') FROM apps"); got != "hello" {
		t.Errorf("after a stop: %s", got)
	}
	// And a crash.
	m.query("second", "INSERT INTO apps VALUES ('survives')")
	m.kill()
	m.start()
	if got := m.query("second", "SELECT string_agg(name, ' ' ORDER BY name) FROM apps"); got != "hello survives" {
		t.Errorf("after a crash: %s", got)
	}
	m.stop()
}

// TestInit: what cannot be a database cluster is not taken for one, nor removed.
func TestInit(t *testing.T) {
	m := newMachine(t, nil)
	m.render(`password = "first"`)
	main := filepath.Join(m.dir, "data", "postgres", "main")
	must(t, os.Mkdir(main, 0o700))
	if out, err := m.hook("pre_start", ""); err == nil || !strings.Contains(out, "is no database cluster") {
		t.Errorf("an empty folder: %v: %s", err, out)
	}
	must(t, os.WriteFile(filepath.Join(main, "PG_VERSION"), []byte("7.4\n"), 0o644))
	if out, err := m.hook("pre_start", ""); err == nil || !strings.Contains(out, "install postgresql-7.4") {
		t.Errorf("an old version: %v: %s", err, out)
	}
}

// TestInitIsWholeOrNothing: a first pre_start that ends in the middle leaves no
// database cluster in its place, and the next one begins anew.
func TestInitIsWholeOrNothing(t *testing.T) {
	m := newMachine(t, nil)
	config := m.render(`password = "first"`)
	data := filepath.Join(m.dir, "data", "postgres")
	roles := filepath.Join(config, "roles.sql")
	whole, err := os.ReadFile(roles)
	must(t, err)
	must(t, os.WriteFile(roles, append(whole, "\nSELECT cut_short();\n"...), 0o600))
	if out, err := m.hook("pre_start", ""); err == nil || !strings.Contains(out, "cut_short") {
		t.Errorf("with a statement that fails: %v: %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(data, "main")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a database cluster is in its place: %v", err)
	}
	must(t, os.WriteFile(roles, whole, 0o600))
	began := time.Now()
	m.mustHook("pre_start", "")
	t.Logf("made after %v", time.Since(began).Round(10*time.Millisecond))
	if _, err := os.Stat(filepath.Join(data, "making")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was begun is left: %v", err)
	}
	m.start()
	if got := m.query("first", "SHOW fsync"); got != "on" {
		t.Errorf("the server runs with fsync %s", got)
	}
	m.stop()
}
