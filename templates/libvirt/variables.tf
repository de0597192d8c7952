# In: the contract's variables, see ../CONTRACT.md.

variable "deployment" {
  type = object({ name = string, id = string })
}

variable "instances" {
  type = map(object({
    group          = string
    index          = number
    az             = string
    cpus           = number
    memory_mb      = number
    disk_gb        = number
    image          = string
    options        = map(string)
    network        = string
    static_address = string
    tags           = map(string)
    ports          = list(object({ port = number, protocol = string, public = bool }))
    user_data      = string
  }))
}

variable "disks" {
  type = map(object({ group = string, index = number, size_gb = number, attached = bool }))
}

variable "ssh_public_key" {
  type = string
}

# image:       the stemcell of VMs whose vm block names none: an absolute path, or a URL
# uri:         "qemu:///system": the libvirt that makes the VMs
# dir:         "/var/lib/libvirt/images": where the deployment's folder of volumes is made, on libvirt's machine
# cidr:        the network's range; default: a /24 of 10.64.0.0/10 that follows from the deployment's id
# gateway:     the first address of the range
# mode:        "nat", "route", "open" or "none", of the network that is made
# network:     a network of libvirt that is there; none is made then, and cidr is its range
# skip:        how many first addresses of such a network are others': 99
# accelerator: "auto": KVM if a VM runs with it, tried with a deadline, else emulation; "kvm"; "emulation"
# boot_seconds: the time that a VM may take until it lets deploy in: 300 with KVM, 900 without
# emulator:    "/usr/bin/qemu-system-x86_64"
# console_dir: "/var/log/libvirt/qemu": where VMs' consoles are kept
variable "settings" {
  type    = any
  default = {}

  validation {
    condition     = length(setsubtract(keys(var.settings), ["accelerator", "boot_seconds", "cidr", "console_dir", "dir", "emulator", "gateway", "image", "mode", "network", "skip", "uri"])) == 0
    error_message = "Infrastructure \"libvirt\" has no setting ${join(", ", setsubtract(keys(var.settings), ["accelerator", "boot_seconds", "cidr", "console_dir", "dir", "emulator", "gateway", "image", "mode", "network", "skip", "uri"]))}; it has accelerator, boot_seconds, cidr, console_dir, dir, emulator, gateway, image, mode, network, skip and uri."
  }

  validation {
    condition     = can(cidrhost(lookup(var.settings, "cidr", "10.64.0.0/24"), 20))
    error_message = "The setting cidr of infrastructure \"libvirt\" must be a range of IPv4 addresses, such as \"10.20.0.0/24\"."
  }

  validation {
    condition     = contains(["auto", "kvm", "emulation"], try(tostring(var.settings.accelerator), can(var.settings.accelerator) ? "" : "auto"))
    error_message = "The setting accelerator of infrastructure \"libvirt\" must be \"auto\", \"kvm\" or \"emulation\"."
  }

  validation {
    condition     = try(tonumber(var.settings.boot_seconds) >= 1, !can(var.settings.boot_seconds))
    error_message = "The setting boot_seconds of infrastructure \"libvirt\" must be a number of seconds, such as 600."
  }

  validation {
    condition     = !can(var.settings.network) || can(var.settings.cidr)
    error_message = "The setting network of infrastructure \"libvirt\" needs the setting cidr beside it: the range of that network."
  }
}
