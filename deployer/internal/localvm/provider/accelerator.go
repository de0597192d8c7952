package provider

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// accelerator is the data source localvm_accelerator: whether this machine runs
// VMs by KVM. The device may be there and hang, so a VM is tried.
type accelerator struct{}

type acceleratorModel struct {
	Emulator types.String `tfsdk:"emulator"`
	KVM      types.Bool   `tfsdk:"kvm"`
}

// kvmLimit is the time that a VM of two instructions gets.
const kvmLimit = 5 * time.Second

// kvmProof is the exit status of QEMU when the trial's instructions have run.
const kvmProof = 85

// kvmProgram is a boot sector: out 0xf4, 42, which ends QEMU with twice that and one.
var kvmProgram = []byte{0xb0, 0x2a, 0xe6, 0xf4, 0xf4}

func (accelerator) Metadata(_ context.Context, _ datasource.MetadataRequest, r *datasource.MetadataResponse) {
	r.TypeName = Type + "_accelerator"
}

func (accelerator) Schema(_ context.Context, _ datasource.SchemaRequest, r *datasource.SchemaResponse) {
	r.Schema = schema.Schema{
		Description: "Whether this machine runs VMs by KVM, found by running one.",
		Attributes: map[string]schema.Attribute{
			"emulator": schema.StringAttribute{Required: true, Description: "The QEMU program."},
			"kvm":      schema.BoolAttribute{Computed: true},
		},
	}
}

func (accelerator) Read(ctx context.Context, q datasource.ReadRequest, r *datasource.ReadResponse) {
	var m acceleratorModel
	r.Diagnostics.Append(q.Config.Get(ctx, &m)...)
	if r.Diagnostics.HasError() {
		return
	}
	works, err := kvmWorks(ctx, m.Emulator.ValueString(), "kvm")
	if err != nil {
		r.Diagnostics.AddError("Cannot find out whether KVM works", err.Error())
		return
	}
	m.KVM = types.BoolValue(works)
	r.Diagnostics.Append(r.State.Set(ctx, &m)...)
}

// kvmWorks reports whether a VM runs with the accelerator ("kvm") within kvmLimit.
func kvmWorks(ctx context.Context, emulator, accelerator string) (bool, error) {
	if accelerator == "kvm" {
		if device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
			return false, nil // none, or none for this user
		} else if err := device.Close(); err != nil {
			return false, nil
		}
	}
	dir, err := os.MkdirTemp("", "deploy-kvm-")
	if err != nil {
		return false, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	sector := make([]byte, 512)
	copy(sector, kvmProgram)
	sector[510], sector[511] = 0x55, 0xaa
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, sector, 0o600); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, kvmLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, emulator, "-accel", accelerator, "-M", "pc", "-m", "16", "-nodefaults", "-no-user-config", "-display", "none",
		"-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x01", "-drive", "if=ide,format=raw,readonly=off,file="+disk)
	cmd.WaitDelay = time.Second // one that hangs in the kernel cannot be waited for
	err = cmd.Run()
	exit := (*exec.ExitError)(nil)
	if errors.As(err, &exit) {
		return exit.ExitCode() == kvmProof, nil
	}
	return false, nil // it hangs, or is not there: whoever makes the VM says so
}
