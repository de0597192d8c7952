package provider

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/boolplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/mapplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"golang.org/x/crypto/ssh"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// machine is the resource localvm_machine.
type machine struct {
	host *host
}

// machineModel is the resource's attributes.
type machineModel struct {
	machineWanted
	machineFound
}

// machineWanted describes what the configuration asks for.
type machineWanted struct {
	Group         types.String `tfsdk:"group"`
	Index         types.Int64  `tfsdk:"index"`
	Beside        types.Bool   `tfsdk:"beside"`
	CIDR          types.String `tfsdk:"cidr"`
	StaticAddress types.String `tfsdk:"static_address"`
	SSHPort       types.Int64  `tfsdk:"ssh_port"`
	SSHPublicKey  types.String `tfsdk:"ssh_public_key"`
	CPUs          types.Int64  `tfsdk:"cpus"`
	MemoryMB      types.Int64  `tfsdk:"memory_mb"`
	Image         types.String `tfsdk:"image"`
	Options       types.Map    `tfsdk:"options"`
	Disk          types.String `tfsdk:"disk"`
	Isolation     types.String `tfsdk:"isolation"`
	Network       types.String `tfsdk:"network"`
	Tags          types.Map    `tfsdk:"tags"`
	Running       types.Bool   `tfsdk:"running"`
}

// machineFound describes what the VM is found to be.
type machineFound struct {
	Level      types.String `tfsdk:"isolation_level"`
	ImageDir   types.String `tfsdk:"image_dir"`
	ID         types.String `tfsdk:"id"`
	Address    types.String `tfsdk:"address"`
	SSHUser    types.String `tfsdk:"ssh_user"`
	SSHHostKey types.String `tfsdk:"ssh_host_key"`
	AgentDir   types.String `tfsdk:"agent_dir"`
	OS         types.String `tfsdk:"os"`
	Arch       types.String `tfsdk:"arch"`
}

func (*machine) Metadata(_ context.Context, _ resource.MetadataRequest, r *resource.MetadataResponse) {
	r.TypeName = Type + "_machine"
}

func (*machine) Schema(_ context.Context, _ resource.SchemaRequest, r *resource.SchemaResponse) {
	computed := func(description string) schema.StringAttribute {
		return schema.StringAttribute{
			Computed: true, Description: description,
			PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
		}
	}
	r.Schema = schema.Schema{
		Description: "A VM: a folder, an address and an init with an SSH server.",
		Attributes: map[string]schema.Attribute{
			"group": schema.StringAttribute{
				Required: true, PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"index": schema.Int64Attribute{
				Required: true, PlanModifiers: []planmodifier.Int64{int64planmodifier.RequiresReplace()},
			},
			"beside": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(false),
				Description:   "True for the second VM of an instance, in a folder of its own.",
				PlanModifiers: []planmodifier.Bool{boolplanmodifier.RequiresReplaceIf(otherSeat, "Replaces the VM if it was made in the other folder.", "")},
			},
			"cidr": schema.StringAttribute{
				Required: true, Description: "Range that the address is taken from.",
				PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplaceIf(
					leavesRange, "Replaces the VM if its address is outside.", "")},
			},
			"static_address": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(""),
				Description: "The address to take, \"\" for any.",
				PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplaceIf(
					leavesAddress, "Replaces the VM if it has another address.", "")},
			},
			"ssh_port": schema.Int64Attribute{
				Required: true, PlanModifiers: []planmodifier.Int64{int64planmodifier.RequiresReplace()},
			},
			"ssh_public_key": schema.StringAttribute{
				Required: true, Description: "Whom the VM lets in, an authorized_keys line.",
			},
			"cpus": schema.Int64Attribute{
				Optional: true, Description: "Recorded, not enforced. Another number replaces the VM.",
				PlanModifiers: []planmodifier.Int64{int64planmodifier.RequiresReplaceIf(
					func(_ context.Context, q planmodifier.Int64Request, r *int64planmodifier.RequiresReplaceIfFuncResponse) {
						r.RequiresReplace = !q.StateValue.IsNull()
					}, changedKnown, "")},
			},
			"memory_mb": schema.Int64Attribute{
				Optional: true, Description: "Recorded, not enforced. Another number replaces the VM.",
				PlanModifiers: []planmodifier.Int64{int64planmodifier.RequiresReplaceIf(
					func(_ context.Context, q planmodifier.Int64Request, r *int64planmodifier.RequiresReplaceIfFuncResponse) {
						r.RequiresReplace = !q.StateValue.IsNull()
					}, changedKnown, "")},
			},
			"image": schema.StringAttribute{
				Optional: true, Description: "Absolute path of a folder that is copied into the VM's when it is made. Another one replaces the VM.",
				PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplaceIf(
					func(_ context.Context, q planmodifier.StringRequest, r *stringplanmodifier.RequiresReplaceIfFuncResponse) {
						r.RequiresReplace = !q.StateValue.IsNull()
					}, changedKnown, "")},
			},
			"options": schema.MapAttribute{
				Optional: true, ElementType: types.StringType, Description: "Recorded. Other options replace the VM.",
				PlanModifiers: []planmodifier.Map{mapplanmodifier.RequiresReplaceIf(
					func(_ context.Context, q planmodifier.MapRequest, r *mapplanmodifier.RequiresReplaceIfFuncResponse) {
						r.RequiresReplace = !q.StateValue.IsNull()
					}, changedKnown, "")},
			},
			"disk": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(""),
				Description:   "Folder of the persistent disk, \"\" if none. A VM that gets or loses one is another VM.",
				PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"isolation": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(localvm.IsolationNone),
				Description: "none, namespaces, or auto: namespaces where the kernel lets us. A change takes effect when the VM is next started.",
			},
			"network": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(localvm.NetworkLoopback),
				Description: "loopback: an address of this machine's own; bridge: a network namespace with an address on a bridge.",
				PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplaceIf(
					func(_ context.Context, q planmodifier.StringRequest, r *stringplanmodifier.RequiresReplaceIfFuncResponse) {
						r.RequiresReplace = cmp.Or(q.StateValue.ValueString(), localvm.NetworkLoopback) != q.PlanValue.ValueString()
					}, "Replaces the VM if it is on the other network.", "")},
			},
			"isolation_level": schema.StringAttribute{Computed: true, Description: "At which level the VM runs: none or namespaces."},
			"tags":            schema.MapAttribute{Optional: true, ElementType: types.StringType},
			"running": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(true),
				Description: "False if the VM is there but its init does not run as configured. An apply starts it.",
			},
			"id":           computed("Another VM has another one."),
			"address":      computed("The VM's own IP address."),
			"ssh_user":     computed("Whom to log in as."),
			"ssh_host_key": computed("In authorized_keys form."),
			"agent_dir":    computed("Folder for the agent."),
			"image_dir":    computed("Folder of the VM's copy of the image, \"\" if there is none."),
			"os":           computed("As in Go."),
			"arch":         computed("As in Go."),
		},
	}
}

// changedKnown: a VM of before these attributes were is not replaced for them.
const changedKnown = "Replaces the VM if it was made with another value."

// otherSeat: a VM of before this attribute was is not replaced for it.
func otherSeat(_ context.Context, q planmodifier.BoolRequest, r *boolplanmodifier.RequiresReplaceIfFuncResponse) {
	r.RequiresReplace = q.StateValue.ValueBool() != q.PlanValue.ValueBool()
}

// seat is which VM is meant.
func (p *machineModel) seat() seat {
	return seat{group: p.Group.ValueString(), index: p.Index.ValueInt64(), beside: p.Beside.ValueBool()}
}

func leavesRange(ctx context.Context, q planmodifier.StringRequest, r *stringplanmodifier.RequiresReplaceIfFuncResponse) {
	var address, static, network types.String
	r.Diagnostics.Append(q.State.GetAttribute(ctx, path.Root("address"), &address)...)
	r.Diagnostics.Append(q.State.GetAttribute(ctx, path.Root("network"), &network)...)
	r.Diagnostics.Append(q.Plan.GetAttribute(ctx, path.Root("static_address"), &static)...)
	a, err := netip.ParseAddr(address.ValueString())
	wanted, err2 := netip.ParsePrefix(q.PlanValue.ValueString())
	r.RequiresReplace = network.ValueString() == localvm.NetworkBridge || static.ValueString() == "" && (err != nil || err2 != nil || !wanted.Contains(a))
}

func leavesAddress(ctx context.Context, q planmodifier.StringRequest, r *stringplanmodifier.RequiresReplaceIfFuncResponse) {
	var address types.String
	r.Diagnostics.Append(q.State.GetAttribute(ctx, path.Root("address"), &address)...)
	wanted := q.PlanValue.ValueString()
	r.RequiresReplace = wanted != "" && wanted != address.ValueString()
}

func (m *machine) Configure(_ context.Context, q resource.ConfigureRequest, r *resource.ConfigureResponse) {
	m.host = hostOf(q.ProviderData, &r.Diagnostics)
}

// ValidateConfig finds what can be found before anything is made.
func (*machine) ValidateConfig(ctx context.Context, q resource.ValidateConfigRequest, r *resource.ValidateConfigResponse) {
	var c machineModel
	r.Diagnostics.Append(q.Config.Get(ctx, &c)...)
	if r.Diagnostics.HasError() {
		return
	}
	if !c.CIDR.IsUnknown() && !c.Network.IsUnknown() {
		cidr, err := checkCIDR(c.Network.ValueString(), c.CIDR.ValueString())
		if err != nil {
			r.Diagnostics.AddAttributeError(path.Root("cidr"), "Wrong cidr", err.Error())
		}
		if s := c.StaticAddress.ValueString(); s != "" && err == nil {
			if _, err := checkStatic(c.Network.ValueString(), cidr, s); err != nil {
				r.Diagnostics.AddAttributeError(path.Root("static_address"), "Wrong static address", err.Error())
			}
		}
	}
	switch c.Network.ValueString() {
	case "", localvm.NetworkLoopback:
	case localvm.NetworkBridge:
		if c.Isolation.ValueString() == localvm.IsolationNone && !c.Isolation.IsUnknown() {
			r.Diagnostics.AddAttributeError(path.Root("isolation"), "Wrong isolation", "A VM on a bridge has namespaces: leave isolation = \"none\" out.")
		}
	default:
		r.Diagnostics.AddAttributeError(path.Root("network"), "Wrong network", "It is loopback or bridge.")
	}
	if image := c.Image.ValueString(); image != "" && !filepath.IsAbs(image) {
		r.Diagnostics.AddAttributeError(path.Root("image"), "Wrong image", fmt.Sprintf(
			"The image of a local VM is a folder, but %q is not the path of one: begin it with \"./\" to take it from the manifest's folder, or with \"/\".", image))
	}
	switch c.Isolation.ValueString() {
	case "", localvm.IsolationNone, localvm.IsolationNamespaces, localvm.IsolationAuto:
	default:
		r.Diagnostics.AddAttributeError(path.Root("isolation"), "Wrong isolation", "It is auto, none or namespaces.")
	}
	if port := c.SSHPort.ValueInt64(); !c.SSHPort.IsUnknown() && (port < 1 || port > 65535) {
		r.Diagnostics.AddAttributeError(path.Root("ssh_port"), "Wrong ssh_port", "It must be between 1 and 65535.")
	}
	if !c.SSHPublicKey.IsUnknown() {
		if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(c.SSHPublicKey.ValueString())); err != nil {
			r.Diagnostics.AddAttributeError(path.Root("ssh_public_key"), "Wrong ssh_public_key", "It is no authorized_keys line: "+err.Error())
		}
	}
}

// ModifyPlan says before a VM is made what is known of it already. Above all,
// the VM that replaces one keeps its address, so that nothing else of the
// deployment changes with it.
func (m *machine) ModifyPlan(ctx context.Context, q resource.ModifyPlanRequest, r *resource.ModifyPlanResponse) {
	if m.host != nil && !q.Plan.Raw.IsNull() && !q.State.Raw.IsNull() {
		var key types.String
		r.Diagnostics.Append(q.State.GetAttribute(ctx, path.Root("ssh_host_key"), &key)...)
		if key.ValueString() == "" { // it has lost its own
			r.Diagnostics.Append(r.Plan.SetAttribute(ctx, path.Root("ssh_host_key"), types.StringUnknown())...)
		}
	}
	if m.host == nil || q.Plan.Raw.IsNull() || !q.State.Raw.IsNull() {
		return // nothing is made
	}
	var p machineModel
	r.Diagnostics.Append(q.Plan.Get(ctx, &p)...)
	if r.Diagnostics.HasError() || p.Group.IsUnknown() || p.Index.IsUnknown() || p.Beside.IsUnknown() || p.CIDR.IsUnknown() || p.StaticAddress.IsUnknown() {
		return
	}
	if cidr, err := netip.ParsePrefix(p.CIDR.ValueString()); p.Network.ValueString() == localvm.NetworkBridge && err == nil {
		if err := localvm.CheckBridge(cidr); err != nil {
			r.Diagnostics.AddAttributeError(path.Root("network"), "Cannot make a bridge", err.Error())
			return
		}
	}
	user, err := userName()
	if err != nil {
		r.Diagnostics.AddError("Cannot describe the VM", err.Error())
		return
	}
	if address := m.host.keptAddress(p.seat(), p.Network.ValueString(), p.CIDR.ValueString()); p.StaticAddress.ValueString() == "" && address != "" {
		r.Diagnostics.Append(r.Plan.SetAttribute(ctx, path.Root("address"), address)...)
	}
	for name, value := range map[string]string{
		"ssh_user": user, "os": runtime.GOOS, "arch": runtime.GOARCH, "agent_dir": m.host.agentDir(p.seat()),
	} {
		r.Diagnostics.Append(r.Plan.SetAttribute(ctx, path.Root(name), value)...)
	}
}

// config returns the configuration that a plan asks for.
func (p *machineModel) config(ctx context.Context, diagnostics *diag.Diagnostics) localvm.Machine {
	c := localvm.Machine{
		ID:            p.ID.ValueString(),
		Group:         p.Group.ValueString(),
		Index:         p.Index.ValueInt64(),
		Beside:        p.Beside.ValueBool(),
		Address:       p.Address.ValueString(),
		SSHPort:       p.SSHPort.ValueInt64(),
		AuthorizedKey: p.SSHPublicKey.ValueString(),
		Disk:          p.Disk.ValueString(),
		Isolation:     p.Isolation.ValueString(),
		Image:         p.Image.ValueString(),
	}
	if p.Network.ValueString() == localvm.NetworkBridge {
		c.Bridge = p.CIDR.ValueString()
	}
	diagnostics.Append(p.Tags.ElementsAs(ctx, &c.Tags, false)...)
	return c
}

// observe puts a VM as it is into the state.
func (p *machineModel) observe(ctx context.Context, h *host, s machineState, diagnostics *diag.Diagnostics) {
	user, err := userName()
	if err != nil {
		diagnostics.AddError("Cannot describe the VM", err.Error())
	}
	p.ID = types.StringValue(s.ID)
	p.Address = types.StringValue(s.Address)
	p.Beside = types.BoolValue(s.Beside)
	p.SSHPort = types.Int64Value(s.SSHPort)
	p.SSHPublicKey = types.StringValue(s.AuthorizedKey)
	p.Disk = types.StringValue(s.Disk)
	p.Isolation = types.StringValue(cmp.Or(s.Isolation, localvm.IsolationNone))
	p.Level = types.StringValue(s.Level)
	p.Network = types.StringValue(localvm.NetworkLoopback)
	if s.Bridge != "" {
		p.Network = types.StringValue(localvm.NetworkBridge)
	}
	p.ImageDir = types.StringValue("")
	if s.Image != "" {
		p.ImageDir = types.StringValue(filepath.Join(h.machineDir(seatOf(s.Machine)), imageFolder))
	}
	p.Running = types.BoolValue(s.Running)
	p.SSHUser = types.StringValue(user)
	p.SSHHostKey = types.StringValue(s.HostKey)
	p.AgentDir = types.StringValue(h.agentDir(seatOf(s.Machine)))
	p.OS = types.StringValue(runtime.GOOS)
	p.Arch = types.StringValue(runtime.GOARCH)
	if len(s.Tags) > 0 || !p.Tags.IsNull() {
		tags, diags := types.MapValueFrom(ctx, types.StringType, s.Tags)
		if s.Tags == nil {
			tags, diags = types.MapValueFrom(ctx, types.StringType, map[string]string{})
		}
		diagnostics.Append(diags...)
		p.Tags = tags
	}
}

func (m *machine) Create(ctx context.Context, q resource.CreateRequest, r *resource.CreateResponse) {
	var p machineModel
	r.Diagnostics.Append(q.Plan.Get(ctx, &p)...)
	c := p.config(ctx, &r.Diagnostics)
	if r.Diagnostics.HasError() {
		return
	}
	var where place
	var err error
	network := p.Network.ValueString()
	if where.cidr, err = checkCIDR(network, p.CIDR.ValueString()); err == nil {
		if static := cmp.Or(p.StaticAddress.ValueString(), c.Address); static != "" { // the latter as planned
			where.static, err = checkStatic(network, where.cidr, static)
		}
	}
	var made machineState
	if err == nil {
		made, err = m.host.createMachine(ctx, c, where)
	}
	if err != nil {
		r.Diagnostics.AddError("Cannot create a VM", err.Error())
		return
	}
	p.observe(ctx, m.host, made, &r.Diagnostics)
	r.Diagnostics.Append(r.State.Set(ctx, &p)...)
}

func (m *machine) Read(ctx context.Context, q resource.ReadRequest, r *resource.ReadResponse) {
	var p machineModel
	r.Diagnostics.Append(q.State.Get(ctx, &p)...)
	if r.Diagnostics.HasError() {
		return
	}
	found, err := m.host.readMachine(p.seat())
	if gone(err) || err == nil && m.host.foreign(p.seat(), found.ID, p.ID.ValueString()) {
		if known, there := m.host.remembered(p.config(ctx, &r.Diagnostics), p.SSHHostKey.ValueString(), p.Level.ValueString()); there {
			found, err = known, nil
		}
	}
	if gone(err) || err == nil && found.ID != p.ID.ValueString() {
		r.State.RemoveResource(ctx)
		return
	}
	if err != nil {
		r.Diagnostics.AddError("Cannot read a VM", err.Error())
		return
	}
	m.host.running(&found, p.Level.ValueString())
	p.observe(ctx, m.host, found, &r.Diagnostics)
	r.Diagnostics.Append(r.State.Set(ctx, &p)...)
}

func (m *machine) Update(ctx context.Context, q resource.UpdateRequest, r *resource.UpdateResponse) {
	var p machineModel
	r.Diagnostics.Append(q.Plan.Get(ctx, &p)...)
	c := p.config(ctx, &r.Diagnostics)
	if r.Diagnostics.HasError() {
		return
	}
	changed, err := m.host.updateMachine(ctx, c)
	if err != nil {
		r.Diagnostics.AddError("Cannot update a VM", err.Error())
		return
	}
	p.observe(ctx, m.host, changed, &r.Diagnostics)
	r.Diagnostics.Append(r.State.Set(ctx, &p)...)
}

func (m *machine) Delete(ctx context.Context, q resource.DeleteRequest, r *resource.DeleteResponse) {
	var p machineModel
	r.Diagnostics.Append(q.State.Get(ctx, &p)...)
	if r.Diagnostics.HasError() {
		return
	}
	if err := m.host.deleteMachine(ctx, p.seat(), p.ID.ValueString()); err != nil {
		r.Diagnostics.AddError("Cannot delete a VM", err.Error())
	}
}
