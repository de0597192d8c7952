// Package provider is the Terraform provider of the template local: it makes,
// changes and deletes VMs, disks and published addresses below one folder.
//
//	provider.go, machine.go, disk.go, publication.go, address.go   resources
//	host.go        what these do on the machine, without Terraform's types
//	addresses.go   which address a new VM gets
//	serve.go       how the engine reaches the provider: by reattach, or as a mirror
package provider

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/provider/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// Type begins the names of the provider's resources; Source is
// its address in required_providers. The host name stands for nothing: the
// provider is part of deploy and found in no registry.
const (
	Type   = "localvm"
	Source = "deploy.internal/deploy/localvm"
)

type localProvider struct {
	executable string
}

// localProviderModel is the provider block of the root module.
type localProviderModel struct {
	Dir types.String `tfsdk:"dir"`
}

func (p *localProvider) Metadata(_ context.Context, _ provider.MetadataRequest, r *provider.MetadataResponse) {
	r.TypeName = Type
}

func (p *localProvider) Schema(_ context.Context, _ provider.SchemaRequest, r *provider.SchemaResponse) {
	r.Schema = schema.Schema{
		Description: "VMs that are processes of this machine, and what templates of other VMs need of it. Part of deploy.",
		Attributes: map[string]schema.Attribute{
			"dir": schema.StringAttribute{
				Required:    true,
				Description: "Absolute path of the folder that holds a folder for each VM of the deployment, and nothing else.",
			},
		},
	}
}

func (p *localProvider) Configure(_ context.Context, q provider.ConfigureRequest, r *provider.ConfigureResponse) {
	var m localProviderModel
	r.Diagnostics.Append(q.Config.Get(context.Background(), &m)...)
	if r.Diagnostics.HasError() {
		return
	}
	dir := m.Dir.ValueString()
	if !filepath.IsAbs(dir) {
		r.Diagnostics.AddError("Cannot use the folder of the VMs", fmt.Sprintf("dir is %q and must be an absolute path.", dir))
		return
	}
	// A plan writes nothing, so the folder is made with the first VM.
	r.ResourceData = &host{dir: filepath.Clean(dir), executable: p.executable}
}

func (p *localProvider) Resources(context.Context) []func() resource.Resource {
	return []func() resource.Resource{
		func() resource.Resource { return &machine{} },
		func() resource.Resource { return &disk{} },
		func() resource.Resource { return &publication{} },
		func() resource.Resource { return &address{} },
	}
}

func (p *localProvider) DataSources(context.Context) []func() datasource.DataSource {
	return []func() datasource.DataSource{func() datasource.DataSource { return accelerator{} }}
}

// hostOf returns what Configure of a resource gets; nil while only schemas are asked for.
func hostOf(data any, diagnostics *diag.Diagnostics) *host {
	if data == nil {
		return nil
	}
	h, ok := data.(*host)
	if !ok {
		diagnostics.AddError("Cannot configure the resource", fmt.Sprintf("The provider's data is a %T.", data))
	}
	return h
}
