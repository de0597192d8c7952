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

# cloud:        the entry of clouds.yaml; without it the OS_* variables of the environment
# external:     the network that floating addresses come from; "": there are none
# flavor:       of VMs whose vm block has no option flavor
# image:        of VMs whose vm block names none: a name in Glance, or the path of a stemcell, which is uploaded
# cidr:         "10.0.0.0/24": the range of the network that is made
# ssh_from:     "0.0.0.0/0": from where deploy reaches VMs by SSH
# public_ssh:   false; true: every VM gets a floating address, by which deploy reaches it
# boot_seconds: 300
variable "settings" {
  type    = any
  default = {}

  validation {
    condition     = length(setsubtract(keys(var.settings), ["boot_seconds", "cidr", "cloud", "external", "flavor", "image", "public_ssh", "ssh_from"])) == 0
    error_message = "Infrastructure \"openstack\" has no setting ${join(", ", setsubtract(keys(var.settings), ["boot_seconds", "cidr", "cloud", "external", "flavor", "image", "public_ssh", "ssh_from"]))}; it has boot_seconds, cidr, cloud, external, flavor, image, public_ssh and ssh_from."
  }
}
