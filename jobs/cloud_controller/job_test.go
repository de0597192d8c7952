package cloudcontroller

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/manifests"
)

func loadManifest(t *testing.T, instances int, properties string) (*manifests.Manifest, hcl.Diagnostics) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cluster.hcl")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `
deployment "cf" {
  domain = "cf.localhost"
}
infrastructure "local" {}
secret "cc" { type = "password" }
vm "small" {
  cpus      = 1
  memory_mb = 512
}
group "nats" {
  instances = 1
  vm        = vm.small
  job "nats" {
    properties { password = "busword" }
  }
}
group "postgres" {
  instances = 1
  vm        = vm.small
  job "postgres" {
    properties { password = "dbword" }
  }
}
group "cc" {
  instances = %d
  vm        = vm.small
  job "cloud_controller" {
    properties {
      external_uri = "api.${deployment.domain}"
      secret       = secret.cc.value
      %s
    }
  }
}
`, instances, properties), 0o600))
	return manifests.Load(os.DirFS(filepath.Dir(file)), filepath.Base(file), manifests.Options{Jobs: os.DirFS("..")})
}

// What job.hcl and its template make of a manifest is what the program takes.
func TestJob(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		properties string
		instances  int
		check      func(t *testing.T, c config.Config)
	}{
		{"", 1, func(t *testing.T, c config.Config) {
			if uri, err := c.DatabaseURI(); err != nil || !strings.HasPrefix(uri, "sqlite:///") {
				t.Errorf("database %s, %v", uri, err)
			}
			if c.AllowRegistration || c.InternalPlaintext || len(c.TrustedFronts) != 0 || c.MinPasswordLength != 8 || c.InternalPort != 9023 || c.AppLimits != config.Defaults().AppLimits || c.DefaultCapacity != config.Defaults().DefaultCapacity {
				t.Errorf("%+v", c)
			}
			if c.Inet != "127.0.0.1" || c.ExternalURI != "api.cf.localhost" || c.Keys.Token != "a secret: \"#{x}\"" || len(c.Peers) != 0 || c.Timeouts.Health.Seconds() != 1 {
				t.Errorf("%+v", c)
			}
		}},
		{`
      database                 = "postgres"
      admins                   = ["Ops@example.com"]
      admin_password           = "p\"assword"
      app_uris                 = { reserved_length = 2 }
      default_account_capacity = { memory = 4096 }
      builtin_services         = { mysql = "tok" }
      domains                  = [{ name = "Shop.example", users = ["A@b.c"] }, { name = "x.example", target = "group" }, { name = "y.example", target = "group", paths = [{ path = "/a" }] }]
      timeouts                 = { health = "250ms" }`, 2, func(t *testing.T, c config.Config) {
			uri, err := c.DatabaseURI()
			if err != nil || !strings.HasPrefix(uri, "postgres://cloud_controller:dbword@127.0.0.1:5432/cloud_controller?sslmode=verify-full&sslrootcert=") {
				t.Errorf("database %s, %v", uri, err)
			}
			if len(c.Peers) != 1 || c.Peers[0] != "127.0.0.2:9024" || c.Admins[0] != "ops@example.com" || c.AdminPassword != `p"assword` || c.AppURIs.ReservedLength != 2 ||
				c.DefaultCapacity != (config.Capacity{Memory: 4096, AppURIs: 4, Services: 16, Apps: 20, Instances: 200, StartsPerMinute: 300}) || c.BuiltinServices["mysql"].Token != "tok" || c.Timeouts.Health.Milliseconds() != 250 ||
				c.Update != (config.Update{Strategy: config.Rolling, MaxInFlight: 3, MinHealthyTime: 6 * time.Second, WatchTime: time.Minute}) {
				t.Errorf("%+v", c)
			}
			want := []config.Domain{{Name: "shop.example", Apps: true, Users: []string{"a@b.c"}}, {Name: "x.example", Users: []string{}}, {Name: "y.example", Apps: true, Users: []string{}}}
			if !reflect.DeepEqual(c.Domains, want) {
				t.Errorf("domains %+v, want %+v", c.Domains, want)
			}
		}},
		{`
      database         = "postgres"
      shared_directory = "/mnt/cf"`, 2, func(t *testing.T, c config.Config) {
			if len(c.Peers) != 0 || c.Directories.Droplets != "/mnt/cf/droplets" || c.Directories.Resources != "/mnt/cf/resources" {
				t.Errorf("%+v, %v", c.Directories, c.Peers)
			}
		}},
	} {
		t.Run(fmt.Sprint(tc.instances, tc.properties), func(t *testing.T) {
			manifest, diags := loadManifest(t, tc.instances, tc.properties)
			fine(t, diags)
			tc.check(t, rendered(t, manifest, tc.instances))
		})
	}
}

func rendered(t *testing.T, manifest *manifests.Manifest, count int) config.Config {
	t.Helper()
	facts := manifests.Facts{
		DeploymentID: "0123456789abcdef0123456789abcdef",
		Instances:    map[string][]manifests.Instance{},
		Secrets:      map[string]cty.Value{"cc": cty.ObjectVal(map[string]cty.Value{"value": cty.StringVal(`a secret: "#{x}"`)})},
		Packages:     map[string]string{"cloud_controller": strings.Repeat("ab", 32)},
		Certificates: map[manifests.CertificateKey]cty.Value{{Group: "cc", Job: "cloud_controller", Name: "bus"}: cty.ObjectVal(map[string]cty.Value{
			"ca": cty.StringVal("CA"), "certificate": cty.StringVal(""), "private_key": cty.StringVal(""),
		})},
	}
	agentDir := t.TempDir()
	for group, n := range map[string]int{"nats": 1, "postgres": 1, "cc": count} {
		for i := range n {
			facts.Instances[group] = append(facts.Instances[group], manifests.Instance{Group: group, Index: i, Address: fmt.Sprintf("127.0.0.%d", i+1), AgentDir: agentDir})
		}
	}
	job := manifest.Group("cc").Jobs[0]
	vars, diags := manifest.JobContext(facts, "cc", 0, job)
	fine(t, diags)
	for _, template := range job.Spec.Templates {
		text, err := os.ReadFile(path.Join("templates", template.Source))
		must(t, err)
		expression, diags := hclsyntax.ParseTemplate(text, template.Source, hcl.InitialPos)
		fine(t, diags)
		file := filepath.Join(agentDir, template.Destination)
		must(t, os.WriteFile(file, []byte(evaluated(t, expression, vars)), os.FileMode(template.Mode)))
		if template.Destination == "cloud_controller.yml" {
			if template.Mode != 0o600 {
				t.Errorf("its mode is %o", template.Mode)
			}
			cfg, _, err := config.Load(file)
			must(t, err)
			return cfg
		}
	}
	t.Fatal("there is no cloud_controller.yml")
	panic("unreachable")
}

func evaluated(t *testing.T, expression hcl.Expression, vars *hcl.EvalContext) string {
	t.Helper()
	value, diags := expression.Value(vars)
	fine(t, diags)
	value, _ = value.UnmarkDeep()
	value, err := convert.Convert(value, cty.String)
	must(t, err)
	return value.AsString()
}

func fine(t *testing.T, diags hcl.Diagnostics) {
	t.Helper()
	if diags.HasErrors() {
		t.Fatal(errors.Join(diags.Errs()...))
	}
}

func TestJobRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		instances        int
		properties, want string
	}{
		{2, ``, "SQLite serves a single controller"},
		{2, `database = "sqlite"`, "SQLite serves a single controller"},
		{1, `database = "mysql"`, `Either "sqlite" or "postgres"`},
		{1, `admins = ["ops@example.com"]`, "admin_password"},
		{1, `admin_password = "seven77"`, "min_password_length"},
		{1, `internal_port = 9022`, "differ from port"},
		{1, `drain_timeout_s = 60`, "at most 40"},
		{1, `external_url = "x"`, "external_uri"},
	} {
		_, diags := loadManifest(t, tc.instances, tc.properties)
		if !diags.HasErrors() || !strings.Contains(errors.Join(diags.Errs()...).Error(), tc.want) {
			t.Errorf("%d instances with %s: %v, want %q", tc.instances, tc.properties, diags, tc.want)
		}
	}
}
