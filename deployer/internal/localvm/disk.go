package localvm

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// disk is the resource localvm_disk: a folder that outlives VMs.
type disk struct {
	host *host
}

type diskModel struct {
	Group  types.String `tfsdk:"group"`
	Index  types.Int64  `tfsdk:"index"`
	SizeGB types.Int64  `tfsdk:"size_gb"`
	Path   types.String `tfsdk:"path"`
}

func (*disk) Metadata(_ context.Context, _ resource.MetadataRequest, r *resource.MetadataResponse) {
	r.TypeName = ProviderType + "_disk"
}

func (*disk) Schema(_ context.Context, _ resource.SchemaRequest, r *resource.SchemaResponse) {
	r.Schema = schema.Schema{
		Description: "A persistent disk: a folder.",
		Attributes: map[string]schema.Attribute{
			"group": schema.StringAttribute{
				Required: true, PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"index": schema.Int64Attribute{
				Required: true, PlanModifiers: []planmodifier.Int64{int64planmodifier.RequiresReplace()},
			},
			"size_gb": schema.Int64Attribute{Required: true, Description: "Recorded, not enforced."},
			"path": schema.StringAttribute{
				Computed:      true,
				PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
			},
		},
	}
}

func (d *disk) Configure(_ context.Context, q resource.ConfigureRequest, r *resource.ConfigureResponse) {
	d.host = hostOf(q.ProviderData, &r.Diagnostics)
}

func (d *disk) Create(ctx context.Context, q resource.CreateRequest, r *resource.CreateResponse) {
	var m diskModel
	r.Diagnostics.Append(q.Plan.Get(ctx, &m)...)
	if r.Diagnostics.HasError() {
		return
	}
	// One that is there although Terraform does not know of it may hold data
	// that someone misses: it is taken over.
	dir := d.host.diskDir(m.Group.ValueString(), m.Index.ValueInt64())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		r.Diagnostics.AddError("Cannot create a disk", err.Error())
		return
	}
	m.Path = types.StringValue(dir)
	r.Diagnostics.Append(r.State.Set(ctx, &m)...)
}

func (d *disk) Read(ctx context.Context, q resource.ReadRequest, r *resource.ReadResponse) {
	var m diskModel
	r.Diagnostics.Append(q.State.Get(ctx, &m)...)
	if r.Diagnostics.HasError() {
		return
	}
	dir := d.host.diskDir(m.Group.ValueString(), m.Index.ValueInt64())
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		r.State.RemoveResource(ctx)
		return
	} else if err != nil {
		r.Diagnostics.AddError("Cannot read a disk", err.Error())
		return
	}
	m.Path = types.StringValue(dir)
	r.Diagnostics.Append(r.State.Set(ctx, &m)...)
}

func (d *disk) Update(ctx context.Context, q resource.UpdateRequest, r *resource.UpdateResponse) {
	var m diskModel
	r.Diagnostics.Append(q.Plan.Get(ctx, &m)...)
	if !r.Diagnostics.HasError() {
		r.Diagnostics.Append(r.State.Set(ctx, &m)...)
	}
}

func (d *disk) Delete(ctx context.Context, q resource.DeleteRequest, r *resource.DeleteResponse) {
	var m diskModel
	r.Diagnostics.Append(q.State.Get(ctx, &m)...)
	if r.Diagnostics.HasError() {
		return
	}
	if err := os.RemoveAll(d.host.diskDir(m.Group.ValueString(), m.Index.ValueInt64())); err != nil {
		r.Diagnostics.AddError("Cannot delete a disk", err.Error())
	}
}
