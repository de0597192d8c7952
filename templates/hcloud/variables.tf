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

# image:        of VMs whose vm block names none: a name, or the id of a snapshot
# server_type:  "cx22", of VMs whose vm block has no option server_type
# locations:    the location of each zone of the manifest, { z1 = "fsn1" }; a zone that is not there is a location, none is "fsn1"
# network_zone: "eu-central"
# cidr:         "10.0.0.0/24": the range of the private network
# ssh_from:     ["0.0.0.0/0", "::/0"]: from where deploy reaches VMs by SSH
# boot_seconds: 300
variable "settings" {
  type    = any
  default = {}

  validation {
    condition     = length(setsubtract(keys(var.settings), ["boot_seconds", "cidr", "image", "locations", "network_zone", "server_type", "ssh_from"])) == 0
    error_message = "Infrastructure \"hcloud\" has no setting ${join(", ", setsubtract(keys(var.settings), ["boot_seconds", "cidr", "image", "locations", "network_zone", "server_type", "ssh_from"]))}; it has boot_seconds, cidr, image, locations, network_zone, server_type and ssh_from."
  }
}
