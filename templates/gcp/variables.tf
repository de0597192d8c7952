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

# project, region: required
# zones:        the zone of each zone of the manifest, { z1 = "europe-west1-b" }; "" is that of instances without one, by default REGION-b
# network, subnetwork: "default", "default"
# image:        of VMs whose vm block names none
# machine_type: "e2-small", of VMs whose vm block has no option machine_type
# ssh_from:     ["0.0.0.0/0"]: from where deploy reaches VMs by SSH
# public_ssh:   false; true: every VM gets an address of the internet, by which deploy reaches it
# boot_seconds: 300
variable "settings" {
  type    = any
  default = {}

  validation {
    condition     = length(setsubtract(keys(var.settings), ["boot_seconds", "image", "machine_type", "network", "project", "public_ssh", "region", "ssh_from", "subnetwork", "zones"])) == 0
    error_message = "Infrastructure \"gcp\" has no setting ${join(", ", setsubtract(keys(var.settings), ["boot_seconds", "image", "machine_type", "network", "project", "public_ssh", "region", "ssh_from", "subnetwork", "zones"]))}; it has boot_seconds, image, machine_type, network, project, public_ssh, region, ssh_from, subnetwork and zones."
  }
}
