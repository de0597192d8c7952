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
  type        = string
  description = "Not used: the machines let the operator's own key in"
}

# instances: the machine of each instance, by instance id:
#   { "router/0" = { address = "10.0.0.5", host_key = "ssh-ed25519 AAAA...", ... }, ... }
#   address      where the other machines reach it: an IP address
#   ssh_host     where deploy reaches it; default: address
#   host_key     its SSH host key; default: the first one seen
#   az, disk     its zone; a folder for the instance's persistent disk
#   and what else may stand beside instances, for all:
# ssh_port:    22
# user:        "root"
# private_key: a file, or "agent" (the default): the SSH agent's keys
# agent_dir:   "/var/lib/deploy"
# os, arch:    "linux", "amd64"
variable "settings" {
  type    = any
  default = {}

  validation {
    condition     = length(setsubtract(keys(var.settings), ["instances", "ssh_port", "user", "private_key", "agent_dir", "os", "arch"])) == 0
    error_message = "Infrastructure \"hosts\" has no setting ${join(", ", setsubtract(keys(var.settings), ["instances", "ssh_port", "user", "private_key", "agent_dir", "os", "arch"]))}; it has instances, ssh_port, user, private_key, agent_dir, os and arch."
  }

  validation {
    condition     = can([for id, m in var.settings.instances : keys(m)])
    error_message = "The setting instances of infrastructure \"hosts\" must say which machine each instance has, such as { \"router/0\" = { address = \"10.0.0.5\" } }."
  }

  validation {
    condition     = alltrue([for id in try(keys(var.settings.instances), []) : can(regex("^[^/]+/[0-9]+$", id))])
    error_message = "The setting instances of infrastructure \"hosts\" has a line for what is no instance id: ${join(", ", [for id in try(keys(var.settings.instances), []) : id if !can(regex("^[^/]+/[0-9]+$", id))])}. An id is a group and an index, such as \"router/0\"."
  }

  validation {
    condition = alltrue(flatten([for id, m in try(var.settings.instances, {}) : [for name in try(keys(m), []) :
      contains(["address", "ssh_host", "ssh_port", "user", "private_key", "host_key", "agent_dir", "az", "disk", "os", "arch"], name)
    ]]))
    error_message = "A machine of infrastructure \"hosts\" has no ${join(", ", flatten([for id, m in try(var.settings.instances, {}) : [for name in try(keys(m), []) : "${name} (${id})" if !contains(["address", "ssh_host", "ssh_port", "user", "private_key", "host_key", "agent_dir", "az", "disk", "os", "arch"], name)]]))}; it has address, ssh_host, ssh_port, user, private_key, host_key, agent_dir, az, disk, os and arch."
  }

  validation {
    condition     = alltrue([for id, m in try(var.settings.instances, {}) : can(cidrhost("${m.address}/32", 0)) || can(cidrhost("${m.address}/128", 0))])
    error_message = "A machine of infrastructure \"hosts\" needs an IP address, which its jobs bind and the others connect to; there is none for ${join(", ", [for id, m in try(var.settings.instances, {}) : id if !can(cidrhost("${m.address}/32", 0)) && !can(cidrhost("${m.address}/128", 0))])}. A host name may be its ssh_host."
  }

  validation {
    condition     = length(distinct([for id, m in try(var.settings.instances, {}) : try(m.address, id)])) == length(try(var.settings.instances, {}))
    error_message = "Infrastructure \"hosts\" has the same machine for several instances, and it can be of one only: ${join("; ", [for address, ids in { for id, m in try(var.settings.instances, {}) : try(m.address, id) => id... } : "${address} for ${join(", ", ids)}" if length(ids) > 1])}."
  }

  validation {
    condition = length(distinct([for id, m in try(var.settings.instances, {}) :
      "${try(m.ssh_host, m.address, id)}:${try(m.ssh_port, var.settings.ssh_port, 22)}"
    ])) == length(try(var.settings.instances, {}))
    error_message = "Infrastructure \"hosts\" has several instances behind the same ssh_host and ssh_port: ${join("; ", [for target, ids in { for id, m in try(var.settings.instances, {}) : "${try(m.ssh_host, m.address, id)}:${try(m.ssh_port, var.settings.ssh_port, 22)}" => id... } : "${target} for ${join(", ", ids)}" if length(ids) > 1])}."
  }

  validation {
    condition     = alltrue([for id, m in try(var.settings.instances, {}) : can(regex("^(ssh|ecdsa|sk)-[^ ]+ [A-Za-z0-9+/=]+", trimspace(try(m.host_key, "ssh-x AAAA"))))])
    error_message = "A host_key of infrastructure \"hosts\" must be as in /etc/ssh/ssh_host_ed25519_key.pub, \"ssh-ed25519 AAAA...\" (ssh-keyscan prints it behind the host's name); it is not for ${join(", ", [for id, m in try(var.settings.instances, {}) : id if !can(regex("^(ssh|ecdsa|sk)-[^ ]+ [A-Za-z0-9+/=]+", trimspace(try(m.host_key, "ssh-x AAAA"))))])}."
  }

  validation {
    condition     = alltrue([for dir in concat([try(var.settings.agent_dir, "/a")], [for id, m in try(var.settings.instances, {}) : try(m.agent_dir, "/a")]) : can(regex("^/[^/]", dir))])
    error_message = "The agent_dir of infrastructure \"hosts\" must be an absolute path below /, such as \"/var/lib/deploy\": all of it is the agent's, and is removed with it."
  }
}
