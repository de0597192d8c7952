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

# network:  "loopback": addresses of this machine's own, in 127.0.0.0/8; "bridge": each VM has a network namespace, with an
#           address on a bridge that this machine has the first address of, as root only
# cidr:     where the VMs' addresses are taken from, "127.40.0.0/16", for a bridge "10.40.0.0/16"
# ssh_port: of every VM, 2222
# isolation: "auto": each VM in PID, mount and, for an ordinary user, user namespaces of its own where the kernel lets us, so that all
#            of it ends with its init; "namespaces": or fail; "none": plain processes of the user
# publish:  { "127.0.0.1:8080" = "lb:8080" }: address here, group and port there
variable "settings" {
  type    = any
  default = {}

  validation {
    condition     = length(setsubtract(keys(var.settings), ["cidr", "isolation", "network", "publish", "ssh_port"])) == 0
    error_message = "Infrastructure \"local\" has no setting ${join(", ", setsubtract(keys(var.settings), ["cidr", "isolation", "network", "publish", "ssh_port"]))}; it has cidr, isolation, network, publish and ssh_port."
  }

  validation {
    condition     = can(cidrhost(lookup(var.settings, "cidr", "127.40.0.0/16"), 1)) && (startswith(try(tostring(var.settings.cidr), "127."), "127.") != (try(var.settings.network, "") == "bridge") || !can(var.settings.cidr))
    error_message = "The setting cidr of infrastructure \"local\" must be a range within 127.0.0.0/8, such as \"127.40.0.0/16\", or with network = \"bridge\" a private one, such as \"10.40.0.0/16\"."
  }

  validation {
    condition     = contains(["bridge", "loopback"], try(tostring(var.settings.network), can(var.settings.network) ? "" : "loopback"))
    error_message = "The setting network of infrastructure \"local\" must be \"loopback\" or \"bridge\"."
  }

  validation {
    condition     = try(var.settings.ssh_port >= 1 && var.settings.ssh_port <= 65535 && floor(var.settings.ssh_port) == var.settings.ssh_port, !can(var.settings.ssh_port))
    error_message = "The setting ssh_port of infrastructure \"local\" must be a port number."
  }

  validation {
    condition     = contains(["auto", "namespaces", "none"], try(tostring(var.settings.isolation), can(var.settings.isolation) ? "" : "auto"))
    error_message = "The setting isolation of infrastructure \"local\" must be \"none\", \"namespaces\" or \"auto\"."
  }

  validation {
    condition = alltrue([for address, target in try(var.settings.publish, {}) :
      can(regex("^.*:[0-9]+$", address)) && can(regex("^[^:]+:[0-9]+$", target))
    ])
    error_message = "The setting publish of infrastructure \"local\" must be a map from \"host:port\" to \"group:port\", such as { \"127.0.0.1:8080\" = \"lb:8080\" }."
  }
}
