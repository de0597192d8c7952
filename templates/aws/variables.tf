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

# region:        required
# subnets:       required: the subnet of each zone of the manifest, { z1 = "subnet-0a1b" }; "" is that of instances without a zone
# image:         the AMI of VMs whose vm block names none
# instance_type: "t3.small", of VMs whose vm block has no option instance_type
# ssh_from:      ["0.0.0.0/0"]: from where deploy reaches VMs by SSH
# public_ssh:    false; true: every VM gets an elastic address, by which deploy reaches it
# boot_seconds:  300
variable "settings" {
  type    = any
  default = {}

  validation {
    condition     = length(setsubtract(keys(var.settings), ["boot_seconds", "image", "instance_type", "public_ssh", "region", "ssh_from", "subnets"])) == 0
    error_message = "Infrastructure \"aws\" has no setting ${join(", ", setsubtract(keys(var.settings), ["boot_seconds", "image", "instance_type", "public_ssh", "region", "ssh_from", "subnets"]))}; it has boot_seconds, image, instance_type, public_ssh, region, ssh_from and subnets."
  }
}
