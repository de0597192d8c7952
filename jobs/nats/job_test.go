package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/manifests"
)

// load reads a manifest with one group that runs this job.
func load(t *testing.T, password string, port, clusterPort int) (*manifests.Manifest, hcl.Diagnostics) {
	t.Helper()
	manifest := `
deployment "cf" {
  domain = "cf.localhost"
}
infrastructure "local" {}
vm "small" {
  cpus      = 1
  memory_mb = 512
}
group "nats" {
  instances = 1
  vm        = vm.small
  job "nats" {
    properties {
      port         = ` + strconv.Itoa(port) + `
      cluster_port = ` + strconv.Itoa(clusterPort) + `
      password = ` + strconv.Quote(password) + `
    }
  }
}
`
	return manifests.Load(fstest.MapFS{"cluster.hcl": {Data: []byte(manifest)}}, "cluster.hcl", manifests.Options{Jobs: os.DirFS("..")})
}

// What job.hcl and its templates make of a manifest is what the program takes.
func TestJobServes(t *testing.T) {
	t.Parallel()
	for _, count := range []int{1, 3} {
		t.Run(strconv.Itoa(count), func(t *testing.T) { testJobServes(t, count) })
	}
}

func testJobServes(t *testing.T, count int) {
	manifest, diags := load(t, testPassword, componenttest.FreePort(t), componenttest.FreePort(t))
	mustBeFine(t, diags)
	var instances []manifests.Instance
	for n := range count {
		instances = append(instances, manifests.Instance{Group: "nats", Index: n, Address: fmt.Sprintf("127.0.0.%d", n+1)})
	}
	job := manifest.Group("nats").Jobs[0]

	ca := newAuthority(t)
	certificate, key := ca.server(t, "127.0.0.1")
	agentDir := t.TempDir()
	instances[0].AgentDir = agentDir
	vars, diags := manifest.JobContext(manifests.Facts{
		DeploymentID: testDeployment,
		Instances:    map[string][]manifests.Instance{"nats": instances},
		Certificates: map[manifests.CertificateKey]cty.Value{
			{Group: "nats", Job: "nats", Name: "server"}: cty.ObjectVal(map[string]cty.Value{
				"ca":          cty.StringVal(string(ca.pem)),
				"certificate": cty.StringVal(string(certificate)),
				"private_key": cty.StringVal(string(key)).Mark(manifests.Sensitive),
			}),
		},
		Packages: map[string]string{"nats": strings.Repeat("ab", 32)},
	}, "nats", 0, job)
	mustBeFine(t, diags)

	config := filepath.Join(agentDir, "jobs", "nats")
	must(t, os.MkdirAll(config, 0o700))
	for _, template := range job.Spec.Templates {
		text, err := os.ReadFile(path.Join("templates", template.Source))
		must(t, err)
		expression, diags := hclsyntax.ParseTemplate(text, template.Source, hcl.InitialPos)
		mustBeFine(t, diags)
		must(t, os.WriteFile(filepath.Join(config, template.Destination), []byte(evaluate(t, expression, vars)), os.FileMode(template.Mode)))
		if secret := template.Source == "password" || template.Source == "server.key"; secret != (template.Mode == 0o600) {
			t.Errorf("%s has mode %o", template.Source, template.Mode)
		}
	}

	process := job.Spec.Processes[0]
	command, diags := process.Command.Value(vars)
	mustBeFine(t, diags)
	arguments := command.AsValueSlice()
	if got := arguments[0].AsString(); !strings.HasSuffix(got, "/nats") || !strings.HasPrefix(got, agentDir) {
		t.Errorf("program is %s", got)
	}
	cfg, err := ReadConfig(arguments[2].AsString())
	must(t, err)
	if (cfg.Cluster != nil) != (count > 1) {
		t.Errorf("cluster of %d is %+v", count, cfg.Cluster)
	}
	if cfg.Cluster != nil {
		if routes, err := cfg.Cluster.routes(); err != nil || len(routes) != count {
			t.Errorf("routes are %v, %v", routes, err)
		}
	}
	server, err := New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	serving, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- server.Run(serving) }()
	if err := Verify(ctx, cfg); err != nil {
		t.Error(err)
	}
	if target := evaluate(t, process.Checks[0].Target, vars); target != server.Address() {
		t.Errorf("the check asks %s, the server listens on %s", target, server.Address())
	}
	stop()
	must(t, <-done)
}

func TestJobRefusesPassword(t *testing.T) {
	t.Parallel()
	for _, password := range []string{"", "a b", "a@b", "a\nb", "a'b"} {
		if _, diags := load(t, password, 4222, 6222); !diags.HasErrors() {
			t.Errorf("password %q is accepted", password)
		}
	}
}

func evaluate(t *testing.T, expression hcl.Expression, vars *hcl.EvalContext) string {
	t.Helper()
	value, diags := expression.Value(vars)
	mustBeFine(t, diags)
	value, _ = value.UnmarkDeep()
	value, err := convert.Convert(value, cty.String)
	must(t, err)
	return value.AsString()
}

func mustBeFine(t *testing.T, diags hcl.Diagnostics) {
	t.Helper()
	if diags.HasErrors() {
		t.Fatal(errors.Join(diags.Errs()...))
	}
}
