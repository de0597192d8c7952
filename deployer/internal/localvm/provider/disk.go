package provider

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
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
	r.TypeName = Type + "_disk"
}

func (*disk) Schema(_ context.Context, _ resource.SchemaRequest, r *resource.SchemaResponse) {
	r.Schema = schema.Schema{
		Description: "A persistent disk: a folder.",
		Attributes: map[string]schema.Attribute{
			"group": schema.StringAttribute{
				Required: true, Description: "Another group, or index, renames the folder.",
			},
			"index": schema.Int64Attribute{
				Required: true,
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
	var m, was diskModel
	r.Diagnostics.Append(q.Plan.Get(ctx, &m)...)
	r.Diagnostics.Append(q.State.Get(ctx, &was)...)
	if r.Diagnostics.HasError() {
		return
	}
	from, to := d.dir(was), d.dir(m)
	if err := moveFolder(from, to); err != nil {
		r.Diagnostics.AddError("Cannot rename a disk", err.Error())
		return
	}
	m.Path = types.StringValue(to)
	r.Diagnostics.Append(r.State.Set(ctx, &m)...)
}

// moveFolder renames a folder, unless that was done already. It never replaces one
// that holds something.
func moveFolder(from, to string) error {
	if from == to {
		return nil
	}
	_, err := os.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) {
		if _, there := os.Lstat(to); there == nil {
			return nil // an earlier run was ended after it
		}
	}
	if err != nil {
		return err
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) { // only an empty folder
		return fmt.Errorf("%s is there and not empty: %w", to, err)
	}
	return os.Rename(from, to)
}

func (d *disk) dir(m diskModel) string {
	return d.host.diskDir(m.Group.ValueString(), m.Index.ValueInt64())
}

// ModifyPlan says where a disk will be: who has it can then be planned.
func (d *disk) ModifyPlan(ctx context.Context, q resource.ModifyPlanRequest, r *resource.ModifyPlanResponse) {
	if q.Plan.Raw.IsNull() || q.State.Raw.IsNull() || d.host == nil {
		return
	}
	var m, was diskModel
	r.Diagnostics.Append(q.Plan.Get(ctx, &m)...)
	r.Diagnostics.Append(q.State.Get(ctx, &was)...)
	if r.Diagnostics.HasError() || m.Group.IsUnknown() || m.Index.IsUnknown() {
		return
	}
	if !m.Group.Equal(was.Group) || !m.Index.Equal(was.Index) {
		r.Diagnostics.Append(r.Plan.SetAttribute(ctx, path.Root("path"), d.dir(m))...)
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
