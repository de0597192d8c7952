package hello_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/examples/jobs/hello"
	"github.com/clusterworks/deploy/jobs"
	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/nats"
	"github.com/clusterworks/deploy/jobs/router"
	"github.com/clusterworks/deploy/manifests"
)

const deadline = 60 * time.Second

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

// cluster is the example, without a deployer: its jobs' files are rendered, and
// the components run in this process, nginx beside it.
type cluster struct {
	t        *testing.T
	manifest *manifests.Manifest
	facts    manifests.Facts
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	m, diags := manifests.Load(os.DirFS("../.."), "hello.hcl", manifests.Options{
		Jobs: jobs.FS, Prefix: "../../",
		OpenRelease: func(r manifests.Release) (fs.FS, error) { return os.DirFS(r.Path), nil },
	})
	mustBeFine(t, diags)
	c := &cluster{t: t, manifest: m, facts: manifests.Facts{
		DeploymentID: "test",
		Secrets:      map[string]cty.Value{"nats": password("very-secret"), "front": password("another-very-secret")},
		Instances:    map[string][]manifests.Instance{},
		Certificates: map[manifests.CertificateKey]cty.Value{},
		Packages:     map[string]string{},
	}}
	net := fmt.Sprintf("127.%d.%d", 100+rand.IntN(100), rand.IntN(250))
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755)) // nginx gives up root in its workers
	authority := newAuthority(t)
	last := 0
	for _, g := range m.Groups {
		for i := range g.Instances {
			last++
			in := manifests.Instance{Group: g.Name, Index: i, Address: fmt.Sprintf("%s.%d", net, last),
				AgentDir: filepath.Join(root, fmt.Sprintf("%s-%d", g.Name, i))}
			c.facts.Instances[g.Name] = append(c.facts.Instances[g.Name], in)
			for _, job := range g.Jobs {
				for _, cert := range job.Spec.Certificates {
					c.facts.Certificates[manifests.CertificateKey{Group: g.Name, Index: i, Job: job.Spec.Name, Name: cert.Name}] =
						authority.certificate(t, in.Address)
				}
				for _, p := range job.Spec.Packages {
					if p.Program != "" {
						c.facts.Packages[p.Program] = strings.Repeat("ab", 32)
					}
				}
			}
		}
	}
	return c
}

// password is the value of a secret of that type.
func password(value string) cty.Value {
	return cty.ObjectVal(map[string]cty.Value{"value": cty.StringVal(value).Mark(manifests.Sensitive)})
}

// render writes the files of an instance's job and returns their folder.
func (c *cluster) render(group string, index int) (config string, vars *hcl.EvalContext, job *manifests.GroupJob) {
	c.t.Helper()
	job = c.manifest.Group(group).Jobs[0]
	vars, diags := c.manifest.JobContext(c.facts, group, index, job)
	mustBeFine(c.t, diags)
	dir := c.facts.Instances[group][index].AgentDir
	name := job.Spec.Name
	config = filepath.Join(dir, "jobs", name)
	for _, folder := range []string{config, filepath.Join(dir, "data", name), filepath.Join(dir, "run", name)} {
		must(c.t, os.MkdirAll(folder, 0o755))
	}
	for _, template := range job.Spec.Templates {
		text, err := fs.ReadFile(job.Spec.FS, "templates/"+template.Source)
		must(c.t, err)
		expr, diags := hclsyntax.ParseTemplate(text, template.Source, hcl.InitialPos)
		mustBeFine(c.t, diags)
		v, diags := expr.Value(vars)
		mustBeFine(c.t, diags)
		v, _ = v.Unmark()
		if strings.Contains(v.AsString(), "very-secret") && template.Mode != 0o600 {
			c.t.Errorf("%s of job %s holds the password and has mode %o", template.Source, name, template.Mode)
		}
		must(c.t, os.WriteFile(filepath.Join(config, template.Destination), []byte(v.AsString()), os.FileMode(template.Mode)))
	}
	return config, vars, job
}

// run runs a component until stop is called or the test ends.
func (c *cluster) run(part func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- part(ctx)
		close(ended)
	}()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Error(err)
		}
	}
	c.t.Cleanup(stop)
	return stop
}

func (c *cluster) process(config, file string) component.Process {
	return component.Process{ConfigFile: filepath.Join(config, file), Output: c.t.Output(), Control: filepath.Join(config, "control")}
}

// leave does what an agent does before it stops a process: drain, then TERM.
func (c *cluster) leave(config string, stop func()) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		folder, err := os.Open(config)
		if err != nil {
			return nil, err
		}
		defer folder.Close()
		var d net.Dialer
		return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/control", folder.Fd()))
	}}, Timeout: deadline}
	defer client.CloseIdleConnections()
	res, err := client.Post("http://control/drain", "", nil)
	if err != nil {
		c.t.Error(err)
		return
	}
	defer res.Body.Close()
	if text, _ := io.ReadAll(res.Body); res.StatusCode != 200 {
		c.t.Errorf("drain: %s", text)
	}
	stop()
}

func (c *cluster) startNATS() {
	config, _, _ := c.render("nats", 0)
	cfg, err := nats.ReadConfig(filepath.Join(config, "nats.yml"))
	must(c.t, err)
	server, err := nats.New(cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
	must(c.t, err)
	c.run(server.Run)
	select {
	case <-server.Ready():
	case <-time.After(deadline):
		c.t.Fatal("nats does not start")
	}
}

func (c *cluster) startRouter(i int) (leave func()) {
	config, _, _ := c.render("router", i)
	file := filepath.Join(config, "router.yml")
	text, err := os.ReadFile(file)
	must(c.t, err)
	traced := strings.Replace(string(text), `trace_key: ""`, `trace_key: "22"`, 1)
	must(c.t, os.WriteFile(file, []byte(traced), 0o600))
	r, err := router.New(c.process(config, "router.yml"))
	must(c.t, err)
	stop := c.run(r.Run)
	c.eventually(fmt.Sprintf("router/%d listens", i), func() bool { return r.Address() != "" })
	return func() { c.leave(config, stop) }
}

func (c *cluster) startHello(i int) (leave func()) {
	config, _, _ := c.render("hello", i)
	h, err := hello.New(c.process(config, "hello.yml"))
	must(c.t, err)
	stop := c.run(h.Run)
	return func() { c.leave(config, stop) }
}

func (c *cluster) startNginx() {
	program := "/usr/sbin/nginx"
	if found, err := exec.LookPath("nginx"); err == nil {
		program = found
	} else if _, err := os.Stat(program); err != nil {
		c.t.Fatal("nginx is neither on PATH nor in /usr/sbin: install Debian's nginx-light")
	}
	_, vars, job := c.render("lb", 0)
	command, diags := job.Spec.Processes[0].Command.Value(vars)
	mustBeFine(c.t, diags)
	var args []string
	for _, v := range command.AsValueSlice() {
		args = append(args, v.AsString())
	}
	cmd := exec.Command(program, args[1:]...)
	cmd.Stderr = c.t.Output()
	must(c.t, cmd.Start())
	c.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
}

func (c *cluster) eventually(what string, condition func() bool) {
	c.t.Helper()
	for end := time.Now().Add(deadline); !condition(); {
		if time.Now().After(end) {
			c.t.Fatalf("never: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// TestClusterServes: the whole example answers, by every instance; and while
// each router and each hello is drained, stopped and started anew under load,
// no request is lost, POSTs included.
func TestClusterServes(t *testing.T) {
	c := newCluster(t)
	c.startNATS()
	var routers, hellos [3]func()
	for i := range 3 {
		hellos[i] = c.startHello(i)
	}
	for i := range 3 {
		routers[i] = c.startRouter(i)
	}
	c.startNginx()
	lb := "http://" + c.facts.Instances["lb"][0].Address + ":8080"

	client := &http.Client{Timeout: deadline, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	ask := func(method string) (int, string, http.Header, error) {
		// The body has no GetBody, so the client never repeats a POST by itself.
		req, err := http.NewRequest(method, lb+"/", io.MultiReader(strings.NewReader("x")))
		if err != nil {
			return 0, "", nil, err
		}
		req.Host = "hello.cf.localhost:8080"
		req.Header.Set("X-Vcap-Trace", "22")
		res, err := client.Do(req)
		if err != nil {
			return 0, "", nil, err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return res.StatusCode, string(body), res.Header, err
	}
	c.eventually("a page", func() bool { status, _, _, err := ask("GET"); return err == nil && status == 200 })
	served := map[string]bool{}
	page := regexp.MustCompile(`^Hello from (hello/\d) of hello, at 127\.[\d.]+\n$`)
	c.eventually("every instance serves", func() bool {
		_, body, header, err := ask("GET")
		must(t, err)
		who := page.FindStringSubmatch(body)
		if who == nil {
			t.Fatalf("page %q", body)
		}
		served[who[1]], served[header.Get("X-Vcap-Router")] = true, true
		return len(served) == 6
	})

	ctx, stopLoad := context.WithCancel(t.Context())
	var count, lost atomic.Int64
	ended := make(chan struct{}, 4)
	for worker := range cap(ended) {
		go func() {
			defer func() { ended <- struct{}{} }()
			for ctx.Err() == nil {
				status, body, _, err := ask([]string{"GET", "POST"}[worker%2])
				if err != nil || status != 200 {
					lost.Add(1)
					t.Errorf("after %d requests: %d %q, %v", count.Load(), status, body, err)
					return
				}
				count.Add(1)
			}
		}()
	}
	for i := range 3 {
		hellos[i]()
		hellos[i] = c.startHello(i)
		routers[i]()
		routers[i] = c.startRouter(i)
	}
	stopLoad()
	for range cap(ended) {
		<-ended
	}
	t.Logf("%d requests, %d lost", count.Load(), lost.Load())
	if count.Load() < 100 {
		t.Errorf("just %d requests: no load", count.Load())
	}
}

type authority struct {
	der  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(crand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &authority{der, cert, key}
}

func (a *authority) certificate(t *testing.T, address string) cty.Value {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: address},
		IPAddresses: []net.IP{net.ParseIP(address)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(crand.Reader, template, a.cert, &key.PublicKey, a.key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	block := func(kind string, der []byte) cty.Value {
		return cty.StringVal(string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
	}
	return cty.ObjectVal(map[string]cty.Value{
		"ca": block("CERTIFICATE", a.der), "certificate": block("CERTIFICATE", der),
		"private_key": block("PRIVATE KEY", private).Mark(manifests.Sensitive),
	})
}
