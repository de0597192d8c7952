package provider

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// addressesFolder holds a folder for each address that is taken.
const addressesFolder = "addresses"

// address is the resource localvm_address: an address of a network that a
// template lays out itself, kept for as long as the resource is there.
type address struct {
	host *host
}

type addressModel struct {
	CIDR    types.String `tfsdk:"cidr"`
	Skip    types.Int64  `tfsdk:"skip"`
	Static  types.String `tfsdk:"static"`
	Address types.String `tfsdk:"address"`
}

func (*address) Metadata(_ context.Context, _ resource.MetadataRequest, r *resource.MetadataResponse) {
	r.TypeName = Type + "_address"
}

func (*address) Schema(_ context.Context, _ resource.SchemaRequest, r *resource.SchemaResponse) {
	replaceText := []planmodifier.String{stringplanmodifier.RequiresReplace()}
	r.Schema = schema.Schema{
		Description: "An address that no other VM of the deployment has.",
		Attributes: map[string]schema.Attribute{
			"cidr": schema.StringAttribute{Required: true, PlanModifiers: replaceText, Description: "The range that addresses are taken from."},
			"skip": schema.Int64Attribute{
				Required: true, PlanModifiers: []planmodifier.Int64{int64planmodifier.RequiresReplace()},
				Description: "How many addresses at the beginning of the range are left out, the range's own not counted.",
			},
			"static":  schema.StringAttribute{Required: true, PlanModifiers: replaceText, Description: "The address to take; \"\": the lowest that is free."},
			"address": schema.StringAttribute{Computed: true, PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()}},
		},
	}
}

func (a *address) Configure(_ context.Context, q resource.ConfigureRequest, r *resource.ConfigureResponse) {
	a.host = hostOf(q.ProviderData, &r.Diagnostics)
}

func (a *address) Create(ctx context.Context, q resource.CreateRequest, r *resource.CreateResponse) {
	var m addressModel
	r.Diagnostics.Append(q.Plan.Get(ctx, &m)...)
	if r.Diagnostics.HasError() {
		return
	}
	taken, err := a.host.takeAddress(ctx, m.CIDR.ValueString(), m.Skip.ValueInt64(), m.Static.ValueString())
	if err != nil {
		r.Diagnostics.AddError("Cannot give a VM an address", err.Error())
		return
	}
	m.Address = types.StringValue(taken)
	r.Diagnostics.Append(r.State.Set(ctx, &m)...)
}

// Read puts a mark that is missing back: the state of the engine says who has the
// address.
func (a *address) Read(ctx context.Context, q resource.ReadRequest, r *resource.ReadResponse) {
	var m addressModel
	r.Diagnostics.Append(q.State.Get(ctx, &m)...)
	if r.Diagnostics.HasError() {
		return
	}
	if err := os.MkdirAll(a.host.addressDir(m.Address.ValueString()), 0o700); err != nil {
		r.Diagnostics.AddError("Cannot keep the address of a VM", err.Error())
	}
}

func (*address) Update(ctx context.Context, q resource.UpdateRequest, r *resource.UpdateResponse) {
	r.State.Raw = q.Plan.Raw // every attribute replaces
}

func (a *address) Delete(ctx context.Context, q resource.DeleteRequest, r *resource.DeleteResponse) {
	var m addressModel
	r.Diagnostics.Append(q.State.Get(ctx, &m)...)
	if r.Diagnostics.HasError() {
		return
	}
	if err := os.Remove(a.host.addressDir(m.Address.ValueString())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.Diagnostics.AddError("Cannot give up the address of a VM", err.Error())
	}
}

func (h *host) addressDir(address string) string {
	return filepath.Join(h.dir, addressesFolder, address)
}

// takeAddress takes the lowest free address of a range after the first skip ones,
// or the static one. Two that ask at once get two.
func (h *host) takeAddress(ctx context.Context, cidr string, skip int64, static string) (string, error) {
	p, err := netip.ParsePrefix(cidr)
	if err != nil || !p.Addr().Is4() {
		return "", fmt.Errorf("cannot read cidr %q: want an IPv4 range such as \"10.20.0.0/24\"", cidr)
	}
	p = p.Masked()
	if err := os.MkdirAll(filepath.Join(h.dir, addressesFolder), 0o700); err != nil {
		return "", err
	}
	take := func(a netip.Addr) error {
		err := os.Mkdir(h.addressDir(a.String()), 0o700)
		if errors.Is(err, fs.ErrExist) {
			return syscall.EADDRINUSE
		}
		return err
	}
	if static != "" {
		a, err := netip.ParseAddr(static)
		if err != nil || !p.Contains(a) {
			return "", fmt.Errorf("cannot use static address %q: it must be within %s", static, p)
		}
		if err := take(a); err != nil {
			return "", fmt.Errorf("cannot use static address %s: another VM of the deployment has it; an apply after that one has got another may", a)
		}
		return a.String(), nil
	}
	left := map[netip.Addr]bool{}
	for a := p.Addr().Next(); skip > 0 && p.Contains(a); a, skip = a.Next(), skip-1 {
		left[a] = true
	}
	for a := p.Addr().Next(); p.Contains(a) && p.Contains(a.Next()); a = a.Next() {
		if left[a] {
			continue
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		err := take(a)
		if err == nil {
			return a.String(), nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return "", err
		}
	}
	return "", fmt.Errorf("cannot find a free address in %s: all are in use; choose a wider cidr", p)
}
