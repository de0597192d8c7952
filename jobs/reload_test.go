package jobs_test

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/clusterworks/deploy/jobs"
	"github.com/clusterworks/deploy/manifests"
)

// reloadable lists, for each job, the properties that the running program takes
// by a reload. Add a property here only if the program's reload applies it.
var reloadable = map[string][]string{
	"cloud_controller":  {"name", "description", "support", "trusted_fronts", "secret", "admins", "admin_password", "allow_registration", "app_uris", "domains", "reserved_hosts", "app_limits", "min_password_length", "update", "default_account_capacity", "builtin_services", "log_level"},
	"dea":               {"when_others_are_full", "log_level"}, // the former is read by the hook that checks
	"dns":               {"load_balancers", "zones", "name_servers", "ttl_s", "instances", "log_level"},
	"guest":             {"name"}, // the agent's: it registers the route
	"health_manager":    {"intervals", "batch_size", "log_level"},
	"hello":             {"greeting", "log_level"},
	"keepalived":        {"addresses", "interface", "router_id", "interval_ms", "check_port"},
	"memcached_gateway": {"log_level"},
	"memcached_node":    {"capacity", "disabled", "log_level"},
	"nats":              {"password"},
	"nginx": {
		"domains", "routers", "router_port", "max_body_mb", "answer_timeout_s", "client_requests", "host_requests", "workers", "access_log",
		"public_tls_port", "front_key", "proxy_protocol_port", "proxy_protocol_tls_port", "trusted_fronts", "certificate", "key", "https_only", "hsts_s", "sites",
		"addresses", "tls_port", "balancing", "keepalive", "gzip", "brotli", "modules", "maintenance", "extra",
	},
	"postgres":      {"database", "user", "password", "allow_from", "require_tls", "settings", "backups"},
	"redis_gateway": {"log_level"},
	"redis_node":    {"capacity", "disabled", "log_level"},
	"router":        {"trace_key", "not_found_redirect", "max_body_mb", "front_key", "trusted_fronts", "trust_everyone", "access_log", "log_level"},
	"stager":        {"log_level"},
	"uaa":           {"controller_secret", "clients", "access_token_life", "refresh_token_life", "rotate_keys", "key_epoch", "trusted_fronts", "log_level"},

	"mysql_gateway":      {"log_level"},
	"mysql_node":         {"disabled", "log_level"},
	"postgresql_gateway": {"log_level"},
	"postgresql_node":    {"disabled", "log_level"},
	"service_broker":     {"log_level"},
	"rabbitmq_gateway":   {"log_level"},
	"rabbitmq_node":      {"capacity", "disabled", "log_level"},
}

// TestReloadOrRestart: a change of any property of any job is in use after the
// apply. Either the program takes it by a reload, or it restarts: by on_change,
// or because its command, a file or restart_on depends on the property.
func TestReloadOrRestart(t *testing.T) {
	seen := 0
	for _, fsys := range []fs.FS{jobs.FS, os.DirFS("../examples/jobs")} {
		entries, err := fs.ReadDir(fsys, ".")
		must(t, err)
		for _, e := range entries {
			if _, err := fs.Stat(fsys, path.Join(e.Name(), "job.hcl")); err != nil {
				continue
			}
			job, diags := manifests.LoadJob(fsys, e.Name())
			mustBeFine(t, diags)
			if len(job.Processes) == 0 {
				continue
			}
			seen++
			taken, listed := reloadable[job.Name]
			if !listed {
				t.Errorf("job %s has no list in reloadable: say which properties its program takes by a reload", job.Name)
			}
			restarts := restarting(t, job)
			for _, p := range job.Properties {
				restart := p.OnChange == "restart" || restarts[p.Name]
				reload := slices.Contains(taken, p.Name)
				switch {
				case !restart && !reload:
					t.Errorf("property %q of job %s: a change is accepted and not in use; set on_change = \"restart\", or list it in reloadable if the program's reload takes it", p.Name, job.Name)
				case p.OnChange == "restart" && reload:
					t.Errorf("property %q of job %s restarts although a reload takes it", p.Name, job.Name)
				}
			}
			for _, name := range taken {
				if job.Property(name) == nil {
					t.Errorf("reloadable has a property %q that job %s does not have", name, job.Name)
				}
			}
		}
	}
	if seen != len(reloadable) {
		t.Errorf("%d jobs, and %d in reloadable", seen, len(reloadable))
	}
}

// restarting returns the properties whose change restarts a process because the
// process is started with them.
func restarting(t *testing.T, job *manifests.Job) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	add := func(expressions ...hcl.Expression) {
		for _, e := range expressions {
			if e == nil {
				continue
			}
			for _, ref := range e.Variables() {
				if name := regexp.MustCompile(`^property\.(\w+)`).FindStringSubmatch(text(ref)); name != nil {
					out[name[1]] = true
				}
			}
		}
	}
	for _, p := range job.Processes {
		add(p.Command, p.Env, p.User, p.Dir, p.RestartOn)
	}
	for _, file := range job.Templates {
		if file.OnChange != "restart" {
			continue
		}
		source, err := fs.ReadFile(job.FS, path.Join("templates", file.Source))
		must(t, err)
		expr, diags := hclsyntax.ParseTemplate(source, file.Source, hcl.InitialPos)
		mustBeFine(t, diags)
		add(expr)
	}
	return out
}

// text writes a reference as "property.port".
func text(t hcl.Traversal) string {
	out := t.RootName()
	for _, step := range t[1:] {
		if attr, ok := step.(hcl.TraverseAttr); ok {
			out += "." + attr.Name
		}
	}
	return out
}
