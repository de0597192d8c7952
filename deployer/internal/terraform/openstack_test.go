//go:build vm

package terraform

import (
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"
)

// TestOpenStackIsValid compares the template with the schema of its real provider, which
// DEPLOY_PROVIDER_MIRROR has (templates/openstack/provider.sh); it asks no cloud.
func TestOpenStackIsValid(t *testing.T) {
	d := newDeployment(t, 1)
	d.options.Template = "openstack"
	d.input.Settings = map[string]cty.Value{"image": cty.StringVal("/tmp/base.qcow2"), "flavor": cty.StringVal("small"), "external": cty.StringVal("public")}
	web := d.input.Instances["web/0"]
	web.Ports = []Port{{Port: 8080, Protocol: "tcp", Public: true}}
	d.input.Instances["web/0"] = web
	d.input.Disks = map[string]DiskInput{"web/0": {Group: "web", SizeGB: 1, Attached: true}}
	d.write()
	defer func() { d.root = nil }() // there is nothing to destroy, and no cloud to ask
	for _, name := range []string{"OS_AUTH_URL", "OS_CLOUD"} {
		t.Setenv(name, "")
	}
	// The first plan finds the engine and brings the provider; then it wants a cloud.
	if _, err := d.Plan(t.Context()); err == nil || !strings.Contains(err.Error(), "auth_url") {
		t.Fatalf("a plan without a cloud: %v", err)
	}
	if out := d.byHand("validate", "-no-color"); !strings.Contains(out, "The configuration is valid") {
		t.Errorf("validate says:\n%s", out)
	}
}
