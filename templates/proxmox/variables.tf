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

# image:        the stemcell of VMs whose vm block names none: an absolute path, or a file of the node such as "local:iso/base.img"
# cidr:         required: the range of the bridge's network, whose first addresses are others'
# gateway:      the first address of the range
# skip:         99: how many first addresses are others'
# nodes:        the node of each zone of the manifest, { z1 = "pve1" }; a zone that is not there is a node, none is "pve"
# datastore:    "local-lvm": where disks are
# files:        "local": where images are uploaded to
# snippets:     as files: where user data is put, by SSH
# bridge:       "vmbr0"
# vlan:         the VLAN of the VMs, none by default
# pool:         a resource pool for the VMs
# cpu:          "x86-64-v2-AES", of VMs whose vm block has no option cpu
# insecure:     false; true: any certificate of the API will do
# ssh_user:     "root": who logs in to nodes, with a key of the SSH agent
# boot_seconds: 300
variable "settings" {
  type    = any
  default = {}

  validation {
    condition     = length(setsubtract(keys(var.settings), ["boot_seconds", "bridge", "cidr", "cpu", "datastore", "files", "gateway", "image", "insecure", "nodes", "pool", "skip", "snippets", "ssh_user", "vlan"])) == 0
    error_message = "Infrastructure \"proxmox\" has no setting ${join(", ", setsubtract(keys(var.settings), ["boot_seconds", "bridge", "cidr", "cpu", "datastore", "files", "gateway", "image", "insecure", "nodes", "pool", "skip", "snippets", "ssh_user", "vlan"]))}; it has boot_seconds, bridge, cidr, cpu, datastore, files, gateway, image, insecure, nodes, pool, skip, snippets, ssh_user and vlan."
  }

  validation {
    condition     = can(cidrhost(var.settings.cidr, 20))
    error_message = "Infrastructure \"proxmox\" needs the setting cidr: the range of IPv4 addresses of its network, such as \"10.20.0.0/24\"."
  }
}
