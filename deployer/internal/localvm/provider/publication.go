package provider

import (
	"context"
	"fmt"
	"net"

	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// publication is the resource localvm_publish.
type publication struct {
	host *host
}

type publicationModel struct {
	Listen  types.String   `tfsdk:"listen"`
	Targets []types.String `tfsdk:"targets"`
	Running types.Bool     `tfsdk:"running"`
	ID      types.String   `tfsdk:"id"`
}

func (*publication) Metadata(_ context.Context, _ resource.MetadataRequest, r *resource.MetadataResponse) {
	r.TypeName = Type + "_publish"
}

func (*publication) Schema(_ context.Context, _ resource.SchemaRequest, r *resource.SchemaResponse) {
	r.Schema = schema.Schema{
		Description: "An address of this machine whose TCP connections go to the first target that accepts.",
		Attributes: map[string]schema.Attribute{
			"listen": schema.StringAttribute{
				Required: true, Description: "host:port.",
				PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"targets": schema.ListAttribute{Required: true, ElementType: types.StringType, Description: "host:port each."},
			"running": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(true),
				Description: "False if the forwarding has ended. An apply starts it.",
			},
			"id": schema.StringAttribute{
				Computed:      true,
				PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
			},
		},
	}
}

func (p *publication) Configure(_ context.Context, q resource.ConfigureRequest, r *resource.ConfigureResponse) {
	p.host = hostOf(q.ProviderData, &r.Diagnostics)
}

// ValidateConfig finds what can be found before anything is made.
func (*publication) ValidateConfig(ctx context.Context, q resource.ValidateConfigRequest, r *resource.ValidateConfigResponse) {
	var listen types.String
	r.Diagnostics.Append(q.Config.GetAttribute(ctx, path.Root("listen"), &listen)...)
	if r.Diagnostics.HasError() || listen.IsUnknown() {
		return
	}
	_, port, err := net.SplitHostPort(listen.ValueString())
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		r.Diagnostics.AddAttributeError(path.Root("listen"), "Wrong address to publish",
			fmt.Sprintf("%q must be host:port, such as \"127.0.0.1:8080\": %s.", listen.ValueString(), err))
	}
}

func (m *publicationModel) config() localvm.Publication {
	c := localvm.Publication{ID: m.ID.ValueString(), Listen: m.Listen.ValueString(), Targets: []string{}}
	for _, t := range m.Targets {
		c.Targets = append(c.Targets, t.ValueString())
	}
	return c
}

func (m *publicationModel) observe(s publicationState) {
	m.ID = types.StringValue(s.ID)
	m.Running = types.BoolValue(s.Running)
	m.Targets = []types.String{}
	for _, t := range s.Targets {
		m.Targets = append(m.Targets, types.StringValue(t))
	}
}

func (p *publication) Create(ctx context.Context, q resource.CreateRequest, r *resource.CreateResponse) {
	var m publicationModel
	r.Diagnostics.Append(q.Plan.Get(ctx, &m)...)
	if r.Diagnostics.HasError() {
		return
	}
	c := m.config()
	made, err := p.host.createPublication(ctx, c.Listen, c.Targets)
	if err != nil {
		r.Diagnostics.AddError("Cannot publish", err.Error())
		return
	}
	m.observe(made)
	r.Diagnostics.Append(r.State.Set(ctx, &m)...)
}

func (p *publication) Read(ctx context.Context, q resource.ReadRequest, r *resource.ReadResponse) {
	var m publicationModel
	r.Diagnostics.Append(q.State.Get(ctx, &m)...)
	if r.Diagnostics.HasError() {
		return
	}
	found, err := p.host.readPublication(m.Listen.ValueString())
	if gone(err) || err == nil && found.ID != m.ID.ValueString() {
		r.State.RemoveResource(ctx)
		return
	}
	if err != nil {
		r.Diagnostics.AddError("Cannot read a publication", err.Error())
		return
	}
	m.observe(found)
	r.Diagnostics.Append(r.State.Set(ctx, &m)...)
}

func (p *publication) Update(ctx context.Context, q resource.UpdateRequest, r *resource.UpdateResponse) {
	var m publicationModel
	r.Diagnostics.Append(q.Plan.Get(ctx, &m)...)
	if r.Diagnostics.HasError() {
		return
	}
	changed, err := p.host.updatePublication(ctx, m.config())
	if err != nil {
		r.Diagnostics.AddError("Cannot publish", err.Error())
		return
	}
	m.observe(changed)
	r.Diagnostics.Append(r.State.Set(ctx, &m)...)
}

func (p *publication) Delete(ctx context.Context, q resource.DeleteRequest, r *resource.DeleteResponse) {
	var m publicationModel
	r.Diagnostics.Append(q.State.Get(ctx, &m)...)
	if r.Diagnostics.HasError() {
		return
	}
	if err := p.host.deletePublication(ctx, m.Listen.ValueString()); err != nil {
		r.Diagnostics.AddError("Cannot end a publication", err.Error())
	}
}
